//! Engine addresses: which log an address names, its servers, and how an address is shown without its secrets.
//!
//! Invariant: a malformed address is never repeated in an error or a log line, because the malformed part may be a
//! password.

use super::error::EngineError;

/// Maximum length of a URL scheme, in bytes.
const SCHEME_MAX: usize = 16;

/// Kinds of logs in this build, by the scheme of the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    #[cfg(feature = "redis")]
    Redis,
    #[cfg(feature = "nats")]
    Nats,
    File,
}

impl Scheme {
    /// Returns whether this kind of log takes the events of a publication one by one.
    pub(super) fn appends_singly(self) -> bool {
        match self {
            #[cfg(feature = "nats")]
            Self::Nats => true,
            _ => false,
        }
    }

    /// Returns the kind of server that a scheme names, if this build has a client for it.
    fn named(scheme: &str) -> Option<Self> {
        match scheme {
            #[cfg(feature = "redis")]
            "redis" | "rediss" | "unix" => Some(Self::Redis),
            #[cfg(feature = "nats")]
            "nats" | "tls" => Some(Self::Nats),
            _ => None,
        }
    }

    /// Returns the scheme of an address, or of several addresses separated by commas, which must all have one kind.
    pub(super) fn of(url: &str) -> Result<Self, EngineError> {
        if url.starts_with("file://") {
            return Ok(Self::File);
        }
        let mut first = None;
        for address in url.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            let Some((name, _)) = split(address) else {
                return Err(EngineError::Unsupported { scheme: String::new() });
            };
            let Some(scheme) = Self::named(name) else {
                return Err(EngineError::Unsupported { scheme: name.to_owned() });
            };
            if *first.get_or_insert(scheme) != scheme {
                return Err(EngineError::Url("the servers of one log are of one kind".to_owned()));
            }
        }
        first.ok_or_else(|| EngineError::Url("an address is SCHEME://HOST:PORT".to_owned()))
    }
}

/// Returns an error if this build has no engine for the address. An empty address needs none.
#[cfg(any(feature = "config-file", test))]
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    if url.is_empty() { Ok(()) } else { Scheme::of(url).map(drop).map_err(|error| error.to_string()) }
}

/// Returns the addresses of the servers that an engine's address lists.
#[cfg(any(feature = "redis", feature = "nats"))]
pub(super) fn addresses(url: &str) -> impl Iterator<Item = &str> {
    url.split(',').map(str::trim).filter(|address| !address.is_empty())
}

/// Returns an address without user, password and query.
pub(super) fn shown(url: &str) -> String {
    if url.starts_with("file://") {
        return url.to_owned();
    }
    url.split(',').map(shown_one).collect::<Vec<_>>().join(",")
}

/// Splits an address after its scheme; `None` if it has no valid scheme.
fn split(url: &str) -> Option<(&str, &str)> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let (scheme, rest) = url.trim().split_once("://")?;
    (scheme.len() <= SCHEME_MAX && scheme.chars().all(is_plain)).then_some((scheme, rest))
}

fn shown_one(url: &str) -> String {
    match split(url) {
        Some((scheme, rest)) => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{}", host.split(['?', '#']).next().unwrap_or_default())
        }
        None => "(not an address)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_in_an_address_is_reported_without_its_secrets() {
        let urls = [
            "nats//u:s3cret@h",
            "u:s3cret@h:4222",
            "nats:/u:s3cret@h",
            "s3cret",
            "u:s3cret@nats://h",
            ",",
            " ",
        ];
        for url in urls {
            let error = check_url(url).expect_err(url);
            assert!(!error.contains("s3cret"), "{error}");
            assert!(!shown(url).contains("s3cret"), "{}", shown(url));
        }
        let error = check_url("ftp://u:s3cret@h").expect_err("there is no such engine");
        assert!(error.contains("`ftp://`") && !error.contains("s3cret"), "{error}");
    }
}
