//! `fanwire check --health`: reports whether the server of this configuration is ready.
//!
//! Always: the check changes nothing on the server. The exit code is 0 if the server accepts streams, and 1 if it does
//! not or cannot be reached. The server's certificate is not verified: nothing secret is sent, and the certificate is
//! seldom for the address that this machine uses.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use fanwire::config::Config;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::{Value, json};

use super::error::CliError;

/// Time limit of each read and write.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Size limit of an answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Asks the server whether it is ready, and prints the result.
pub(super) fn check(config: &Config, as_json: bool) -> Result<(), CliError> {
    let scheme = if config.server.tls.is_on() { "https" } else { "http" };
    let url = format!("{scheme}://{}/readyz", config.listen);
    let (ready, status) = match ask(config) {
        Ok((200, status)) => (true, status),
        Ok((_, status)) => (false, status),
        Err(error) => (false, format!("not reachable: {error}")),
    };
    if as_json {
        anstream::println!("{}", json!({ "ready": ready, "status": status, "url": url }));
    } else if ready {
        anstream::println!("{url}: {status}");
    }
    if ready { Ok(()) } else { Err(CliError::new(format!("{url}: {status}"))) }
}

/// Returns the status of the answer, and the server's word for its state.
fn ask(config: &Config) -> io::Result<(u16, String)> {
    let addr = reachable(&config.listen)?;
    let tcp = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    tcp.set_read_timeout(Some(TIMEOUT))?;
    tcp.set_write_timeout(Some(TIMEOUT))?;
    let answer = if config.server.tls.is_on() {
        let connection = ClientConnection::new(Arc::new(trusting_any()?), ServerName::from(addr.ip()));
        exchange(StreamOwned::new(connection.map_err(io::Error::other)?, tcp), addr)?
    } else {
        exchange(tcp, addr)?
    };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or(io::ErrorKind::InvalidData)?;
    let report = serde_json::from_str::<Value>(body).ok();
    let status_text = report.as_ref().and_then(|body| body["status"].as_str()).map(str::to_owned);
    Ok((status, status_text.unwrap_or_else(|| format!("status {status}"))))
}

fn exchange(mut stream: impl Read + Write, addr: SocketAddr) -> io::Result<String> {
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Returns the address by which this machine reaches a server that listens on `listen`.
fn reachable(listen: &str) -> io::Result<SocketAddr> {
    let mut addr = listen.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    if addr.port() == 0 {
        return Err(io::Error::other("port 0 means any free port: give the actual one with --listen"));
    }
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(addr)
}

/// Returns a TLS configuration that accepts every certificate.
fn trusting_any() -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.dangerous();
    Ok(config.with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_reached_by_this_machines_own() {
        for (listen, want) in
            [("0.0.0.0:8765", "127.0.0.1:8765"), ("[::]:8765", "[::1]:8765"), ("127.0.0.2:1", "127.0.0.2:1")]
        {
            assert_eq!(reachable(listen).expect(listen), want.parse().expect("an address"));
        }
        assert!(reachable("127.0.0.1:0").is_err());
    }
}
