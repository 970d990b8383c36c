//! Why there is no such engine, or why a log did not do what was asked.
//!
//! Imports nothing of ours. Always: the kind of an error says what is done about it. Only what may go away by itself is
//! tried again, and only what is wrong with an event is told its publisher as such.

use std::fmt;

/// Why there is no such engine, or why a log did not do what was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// The address names no engine that this build has.
    Unsupported {
        /// The part before `://`.
        scheme: String,
    },
    /// The address can't be read.
    Url(String),
    /// The log was made for another number of shards; all nodes of one name have the same.
    Shards {
        /// What the log has.
        log: usize,
        /// What this node has.
        node: usize,
    },
    /// The log can't be reached, or did not answer; it is tried again. What was sent may be in the log or not.
    Unreachable(String),
    /// The log answers, and takes nothing now: it is out of memory or space, read-only, or has too few replicas. It is
    /// tried again.
    TakesNothing(String),
    /// The log can't say whether it has what was sent before and not answered: what it would know that by is lost. It is not
    /// sent again; its publishers are told.
    InDoubt(String),
    /// The event is longer than the log can ever take. It is refused at once and not tried again.
    TooLarge {
        /// Bytes of the event as it stands in the log.
        bytes: u64,
        /// Bytes that the log takes.
        limit: u64,
    },
    /// The log can never take the event, for another reason than its length. It is refused at once and not tried again.
    Unfit(String),
    /// The log is not of the kind that it was, as where a server was restarted without what keeps it. The node is not
    /// ready until it is.
    OtherKind(String),
    /// The log began another life: it lost what it had, or a part. Nothing of what was asked was done; appender and
    /// follower attach anew.
    OtherEpoch,
}

impl EngineError {
    /// Returns whether the log can never take what it was given.
    pub(crate) const fn is_about_the_event(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Unfit(_))
    }

    /// Returns why the node is not ready, for `/readyz`.
    pub(crate) const fn status(&self) -> &'static str {
        match self {
            Self::TakesNothing(_) => "the log takes nothing",
            Self::OtherKind(_) => "the log is not of the kind that it was",
            Self::Shards { .. } => "the log has another number of shards",
            _ => "the log can't be reached",
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What stands before a slip may be a password.
            Self::Unsupported { scheme } if !is_scheme(scheme) => f.write_str(
                "the engine's address is none: expected redis://HOST:PORT, nats://HOST:PORT or file://FOLDER",
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
            Self::OtherEpoch => f.write_str("the log began another life"),
        }
    }
}

/// Whether a text can be the scheme of an address, and is short enough to be no secret.
fn is_scheme(text: &str) -> bool {
    (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

impl std::error::Error for EngineError {}
