//! Finds a client's address if proxies are in between.
//!
//! Always: a forwarding header counts only as far as trusted proxies wrote it. Without trusted proxies, the socket's
//! peer is the client.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::codec::http::Request;

/// Range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    address: IpAddr,
    /// Number of leading bits that all addresses share.
    bits: u8,
}

/// Error: the text is not a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseAddressRangeError;

impl fmt::Display for ParseAddressRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected an address or a range, as 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32")
    }
}

impl std::error::Error for ParseAddressRangeError {}

impl FromStr for AddressRange {
    type Err = ParseAddressRangeError;

    fn from_str(text: &str) -> Result<Self, ParseAddressRangeError> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.trim().parse().map_err(|_| ParseAddressRangeError)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), |bits| bits.trim().parse().map_err(|_| ParseAddressRangeError))?;
        if bits <= all { Ok(Self { address, bits }) } else { Err(ParseAddressRangeError) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl AddressRange {
    /// Returns whether an address is in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(of), IpAddr::V4(other)) => {
                let rest = 32 - u32::from(self.bits);
                u32::from(of).checked_shr(rest) == u32::from(other).checked_shr(rest)
            }
            (IpAddr::V6(of), IpAddr::V6(other)) => {
                let rest = 128 - u32::from(self.bits);
                u128::from(of).checked_shr(rest) == u128::from(other).checked_shr(rest)
            }
            _ => false,
        }
    }
}

/// Returns whether an address is that of a trusted proxy.
pub(crate) fn is_trusted(address: IpAddr, trusted: &[AddressRange]) -> bool {
    trusted.iter().any(|range| range.contains(address))
}

/// Returns the address of a request's client. If the peer is a trusted proxy, that is the last address of
/// `X-Forwarded-For` that is not one; otherwise the peer.
pub(crate) fn client_of(request: &Request, peer: IpAddr, trusted: &[AddressRange]) -> IpAddr {
    let mut client = peer;
    // Each proxy appends its own peer to the list it received, in the same line or in another.
    let lines: Vec<&str> = request
        .headers()
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"))
        .map(|h| h.1)
        .collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        if !is_trusted(client, trusted) {
            break;
        }
        // An unreadable entry ends the chain: the proxy that passed it on is the last known address.
        let Some(before) = read(hop.trim()) else { break };
        client = before;
    }
    client
}

/// Parses an address as proxies write it, optionally with a port.
fn read(hop: &str) -> Option<IpAddr> {
    let plain = hop.parse().ok();
    let bracketed = || hop.strip_prefix('[')?.split_once(']')?.0.parse().ok();
    let with_port = || hop.rsplit_once(':')?.0.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4);
    plain.or_else(bracketed).or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{HttpLimits, parse_request};

    fn range(text: &str) -> AddressRange {
        text.parse().expect(text)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn a_range_contains_the_addresses_with_its_prefix() {
        for (of, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("192.168.1.128/25", "192.168.1.200", "192.168.1.100"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("127.0.0.0/8", "::ffff:127.0.0.1", "::1"),
        ] {
            assert!(range(of).contains(ip(inside)), "{inside} in {of}");
            assert!(!range(of).contains(ip(outside)), "{outside} in {of}");
        }
        assert!(range("0.0.0.0/0").contains(ip("8.8.8.8")) && !range("0.0.0.0/0").contains(ip("::1")));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "proxy", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
        assert_eq!(range(" 10.0.0.0 / 8 ").to_string(), "10.0.0.0/8");
    }

    #[test]
    fn a_client_is_where_the_last_trusted_proxy_saw_it() {
        let trusted = [range("10.0.0.0/8"), range("::1")];
        for (peer, headers, client) in [
            ("203.0.113.9", "X-Forwarded-For: 1.1.1.1\r\n", "203.0.113.9"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "X-Forwarded-For: 198.51.100.7\r\n", "198.51.100.7"),
            // Addresses that the client wrote itself come first, and do not count.
            ("10.0.0.1", "X-Forwarded-For: 1.1.1.1, 198.51.100.7\r\n", "198.51.100.7"),
            ("10.0.0.1", "x-forwarded-for: 1.1.1.1, 198.51.100.7,10.0.0.2\r\n", "198.51.100.7"),
            ("10.0.0.1", "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 10.0.0.2\r\n", "198.51.100.7"),
            ("10.0.0.1", "X-Forwarded-For: 198.51.100.7:4711\r\n", "198.51.100.7"),
            ("::1", "X-Forwarded-For: [2001:db8::7]:4711\r\n", "2001:db8::7"),
            ("::1", "X-Forwarded-For: 2001:db8::7\r\n", "2001:db8::7"),
            ("10.0.0.1", "X-Forwarded-For: 1.1.1.1, unknown, 10.0.0.2\r\n", "10.0.0.2"),
            ("10.0.0.1", "X-Forwarded-For:\r\n", "10.0.0.1"),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: t\r\n{headers}\r\n");
            let (request, _) =
                parse_request(text.as_bytes(), &HttpLimits::default()).expect("valid").expect("whole");
            assert_eq!(client_of(&request, ip(peer), &trusted), ip(client), "{peer} {headers}");
            assert_eq!(client_of(&request, ip(peer), &[]), ip(peer), "nobody is trusted");
        }
    }
}
