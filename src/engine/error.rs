//! Errors of an engine and of its log.
//!
//! Invariant: the kind of an error determines the reaction. Only errors that may pass are retried, and only errors
//! about an event are reported to its publisher as such.

use std::fmt;

/// Reason why an engine does not start, or why an operation of its log failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// The address names no engine of this build.
    Unsupported {
        /// Scheme of the address.
        scheme: String,
    },
    /// The address is malformed.
    Url(String),
    /// The log was created with another number of shards. All nodes of one name need the same number.
    Shards {
        /// Shards of the log.
        log: usize,
        /// Shards of this node.
        node: usize,
    },
    /// The log can't be reached or did not answer. The operation is retried. The log may or may not have the data that
    /// was sent.
    Unreachable(String),
    /// The log answers but accepts nothing now: it is out of memory or disk space, read-only, or has too few replicas.
    /// The operation is retried.
    TakesNothing(String),
    /// The log can't tell whether it has an earlier batch that was not answered, because it lost its record of it. The batch
    /// is not sent again, and its publishers receive the error.
    InDoubt(String),
    /// The event is longer than the log can ever accept. It is refused immediately and never retried.
    TooLarge {
        /// Size of the event in the log, in bytes.
        bytes: u64,
        /// Maximum size that the log accepts, in bytes.
        limit: u64,
    },
    /// The log can never accept the event, for a reason other than its length. It is refused immediately and never
    /// retried.
    Unfit(String),
    /// The log has changed its kind, for example because a NATS server was restarted without JetStream. The node is
    /// not ready until the log is back.
    OtherKind(String),
    /// The log keeps nothing, as NATS without JetStream, and there are rules of retention. The node is not ready.
    KeepsNothing,
    /// The log began another epoch because it lost some or all of its events. The operation had no effect; appender and
    /// follower attach again.
    OtherEpoch,
}

impl EngineError {
    /// Returns whether the log can never accept the given events.
    pub(crate) const fn is_about_the_event(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Unfit(_))
    }

    /// Returns the reason for `/readyz`.
    pub(crate) const fn status(&self) -> &'static str {
        match self {
            Self::TakesNothing(_) => "the log takes nothing",
            Self::OtherKind(_) => "the log is not of the kind that it was",
            Self::Shards { .. } => "the log has another number of shards",
            Self::KeepsNothing => "the log keeps nothing, and retain needs one that does",
            _ => "the log can't be reached",
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The malformed part may be a password.
            Self::Unsupported { scheme } if !is_scheme(scheme) => f.write_str(
                "the engine's address has no scheme: expected redis://HOST:PORT, nats://HOST:PORT or file://FOLDER",
            ),
            Self::Unsupported { scheme } => {
                let others = match (cfg!(feature = "redis"), cfg!(feature = "nats")) {
                    (true, true) => "redis://, nats://",
                    (true, false) => "redis://",
                    (false, true) => "nats://",
                    (false, false) => "",
                };
                let or = if others.is_empty() { "" } else { " or " };
                write!(f, "no engine for `{scheme}://` in this build: use {others}{or}file://, or none")
            }
            Self::Url(error) => write!(f, "the engine's address can't be read: {error}"),
            Self::Shards { log, node } => {
                write!(
                    f,
                    "the log has {log} shards and this node has {node}: all nodes of one name need the same"
                )
            }
            Self::Unreachable(error) => write!(f, "the log can't be reached: {error}"),
            Self::TakesNothing(error) => write!(f, "the log takes nothing: {error}"),
            Self::InDoubt(error) => write!(f, "the log may have the events or not: {error}"),
            Self::TooLarge { bytes, limit } => {
                write!(f, "the event has {bytes} bytes and the log takes at most {limit}")
            }
            Self::Unfit(error) => write!(f, "the log can't take the event: {error}"),
            Self::OtherKind(error) => write!(f, "the log is not of the kind that it was: {error}"),
            Self::KeepsNothing => f.write_str(
                "the log keeps nothing, so there can be no kept logs: use NATS with JetStream, Redis or files, or leave out retain",
            ),
            Self::OtherEpoch => f.write_str("the log began another epoch"),
        }
    }
}

/// Returns whether a text can be the scheme of an address, and is too short to be a secret.
fn is_scheme(text: &str) -> bool {
    (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

impl std::error::Error for EngineError {}
