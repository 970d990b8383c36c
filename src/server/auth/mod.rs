//! Authentication and authorization of clients.
//!
//! [`Auth`] turns a token, an API key or a ticket into a [`Grant`], and reports when a grant has ended.
//!
//! Invariants:
//! - No error, log line or metric contains a credential.
//! - The reply to an invalid credential reveals nothing that its holder does not know.

#![cfg_attr(
    not(feature = "auth"),
    allow(
        dead_code,
        unused_imports,
        unreachable_pub,
        reason = "without the feature no client can have a grant"
    )
)]

#[cfg(feature = "auth")]
mod api_keys;
mod claims;
#[cfg(feature = "auth")]
mod config;
mod credential;
mod grant;
#[cfg(feature = "auth")]
mod guard;
#[cfg(feature = "auth")]
mod jwt;
#[cfg(feature = "auth")]
mod make;
#[cfg(not(feature = "auth"))]
mod open;
mod revocation;
#[cfg(feature = "auth")]
mod seal;
#[cfg(feature = "auth")]
mod signatures;
mod template;
#[cfg(all(test, feature = "auth"))]
mod tests;
#[cfg(feature = "auth")]
mod ticket;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dialect::ErrorCode;

pub use claims::{Claims, PublishRight};
#[cfg(feature = "auth")]
pub use config::{AnonymousConfig, AuthConfig, AuthError, GrantConfig, JwtConfig, Secret};
pub(crate) use grant::{Grant, SavedGrant};
#[cfg(feature = "auth")]
pub(crate) use guard::Auth;
#[cfg(feature = "auth")]
pub use make::{ApiKey, SigningKey, SigningKeyError};
#[cfg(not(feature = "auth"))]
pub(crate) use open::Auth;
pub(crate) use revocation::{Notice, Revocation};
#[cfg(all(feature = "auth", feature = "config-file"))]
pub(crate) use template::Template;

/// Outcome of a request's credential: a grant, no credential, or an invalid one.
pub(crate) type Shown = Result<Option<Arc<Grant>>, Denied>;

/// Key of sealed positions, for a successor process.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedSeal([u8; 32]);

impl fmt::Debug for SavedSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SavedSeal(..)")
    }
}

/// Reason why no ticket is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTicket {
    /// The subject has used up its share of tickets.
    Share {
        /// Size of the share.
        max: usize,
        /// Time until its oldest ticket expires.
        seconds: u64,
    },
    /// All tickets are taken, by many subjects with few each; or the system provides no random bits.
    Full,
}

/// Reason why a client is refused, or disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The request has no token and needs one.
    Missing,
    /// No key signed the token, or the token is not for this server.
    Invalid(Fault),
    Expired,
    NotYet,
    Revoked,
    /// The configuration changed the rights of tokens. The client connects again, perhaps with the same token.
    Outdated,
    /// The ticket is unknown, used or expired.
    Ticket,
}

/// Fault of a token, for metrics. The client receives `Invalid token` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed,
    TooLong,
    /// No key can have signed it: another algorithm, or another key's id.
    Key,
    Signature,
    Audience,
    Issuer,
    NoExpiry,
    /// A claim has the wrong type.
    Claims,
    /// The claims have more patterns than a filter may hold.
    Grant,
}

impl Denied {
    /// Returns the error code for clients.
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::Missing => ErrorCode::AuthRequired,
            Self::Invalid(_) => ErrorCode::InvalidToken,
            Self::Expired => ErrorCode::TokenExpired,
            Self::NotYet => ErrorCode::TokenNotYetValid,
            Self::Revoked => ErrorCode::TokenRevoked,
            Self::Outdated => ErrorCode::RightsChanged,
            Self::Ticket => ErrorCode::InvalidTicket,
        }
    }

    /// Returns a short fixed name, for metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Invalid(fault) => match fault {
                Fault::Malformed => "token_malformed",
                Fault::TooLong => "token_too_long",
                Fault::Key => "token_key",
                Fault::Signature => "token_signature",
                Fault::Audience => "token_audience",
                Fault::Issuer => "token_issuer",
                Fault::NoExpiry => "token_without_exp",
                Fault::Claims => "token_claims",
                Fault::Grant => "token_grant",
            },
            other => other.code().name(),
        }
    }

    /// Returns the response header that demands authentication (RFC 6750, 3).
    pub(crate) const fn challenge(self) -> (&'static str, &'static str) {
        let value = match self {
            Self::Missing => r#"Bearer realm="fanwire""#,
            _ => r#"Bearer realm="fanwire", error="invalid_token""#,
        };
        ("WWW-Authenticate", value)
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "Authentication required",
            // Text of the Hive and GatheRing documents.
            Self::Invalid(_) => "Invalid token",
            Self::Expired => "Token expired",
            Self::NotYet => "Token is not valid yet",
            Self::Revoked => "Token was revoked",
            Self::Outdated => "Rights have changed: connect again",
            Self::Ticket => "Ticket is unknown, used or too old",
        })
    }
}

/// Returns the lines of a file with their numbers, without empty lines and those that start with `#`.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let has_content = |line: &str| !line.is_empty() && !line.starts_with('#');
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim()))
        .filter(move |(_, line)| has_content(line))
}
