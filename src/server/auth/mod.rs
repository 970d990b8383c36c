//! Who may come in, and what they may see and do.
//!
//! Imports `codec`, `event`, `filter`. [`Auth`] is what a server asks: it turns a token, an API key or a ticket
//! into a [`Grant`], and says when a grant has ended. Always: a credential is in no error, log line or count; an
//! answer to a bad one does not say more than its holder can know.

#![cfg_attr(
    not(feature = "auth"),
    allow(
        dead_code,
        unused_imports,
        unreachable_pub,
        reason = "without the feature nobody can be given a grant"
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
pub use config::{AnonymousConfig, AuthConfig, AuthError, JwtConfig, Secret};
pub(crate) use grant::{Grant, SavedGrant};
#[cfg(feature = "auth")]
pub(crate) use guard::Auth;
#[cfg(feature = "auth")]
pub use make::{ApiKey, SigningKey, SigningKeyError};
#[cfg(not(feature = "auth"))]
pub(crate) use open::Auth;
pub(crate) use revocation::{Notice, Revocation};

/// What a request shows of who sends it: a grant, nothing, or something that is no good.
pub(crate) type Shown = Result<Option<Arc<Grant>>, Denied>;

/// The key of sealed places, for a successor.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedSeal([u8; 32]);

impl fmt::Debug for SavedSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SavedSeal(..)")
    }
}

/// Why there is no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTicket {
    /// The subject has as many as it may; the next one can be had in so many seconds.
    Share {
        /// Its share.
        max: usize,
        /// Until its oldest ends.
        seconds: u64,
    },
    /// All are out, and held by many subjects with few each; or the system has no random bits.
    Full,
}

/// Why somebody is not let in, or let out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No token, where one is needed.
    Missing,
    /// Not a token that any key vouches for, or not for this server.
    Invalid(Fault),
    Expired,
    NotYet,
    Revoked,
    /// A ticket that is unknown, used or too old.
    Ticket,
}

/// What is wrong with a token. For counts; the one who sent it is told `Invalid token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed,
    TooLong,
    /// No key could have made it: another algorithm, or another key's id.
    Key,
    Signature,
    Audience,
    Issuer,
    NoExpiry,
    /// A claim is of another kind than it should be.
    Claims,
    /// Its patterns are more than a filter may hold.
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
            Self::Ticket => ErrorCode::InvalidTicket,
        }
    }

    /// A short fixed name, for metrics.
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

    /// The answer's header that says what is wanted (RFC 6750, 3).
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
            // The words of the Hive and GatheRing documents.
            Self::Invalid(_) => "Invalid token",
            Self::Expired => "Token expired",
            Self::NotYet => "Token is not valid yet",
            Self::Revoked => "Token was revoked",
            Self::Ticket => "Ticket is unknown, used or too old",
        })
    }
}

/// The lines of a file that say something, with their numbers: not the empty ones, nor those that start with `#`.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let said = |line: &str| !line.is_empty() && !line.starts_with('#');
    text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())).filter(move |(_, line)| said(line))
}
