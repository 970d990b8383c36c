//! The dialects by name, as options and configuration write them.

use std::fmt;
use std::str::FromStr;

use super::command::shortened;

/// A client protocol: the messages that a client sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// Fanwire's own, which is FCC's: `{type, payload, message_id, timestamp, correlation_id}`.
    Native,
    /// AgentOS's event stream: the bare envelope v1, with every event from the moment of connecting.
    Agentos,
    /// Hive's streaming: `{"action": …}` in, `{"type": "event", "event": …}` out.
    Hive,
    /// AutoSDLC's messages: `{id, type, timestamp, data, metadata}`, subscriptions by resource.
    Autosdlc,
    /// GatheRing's channels by path: `{type, data, timestamp, channel}`. A client's message goes to the other clients.
    Gathering,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: &'static [Self] =
        &[Self::Native, Self::Agentos, Self::Hive, Self::Autosdlc, Self::Gathering];

    /// Returns the name in options and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Agentos => "agentos",
            Self::Hive => "hive",
            Self::Autosdlc => "autosdlc",
            Self::Gathering => "gathering",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseDialectError(String);

impl fmt::Display for ParseDialectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Dialect::ALL.iter().map(|dialect| dialect.name()).collect();
        write!(f, "'{}' is no dialect: {}, or fcc, which is native", shortened(&self.0), names.join(", "))
    }
}

impl std::error::Error for ParseDialectError {}

impl FromStr for Dialect {
    type Err = ParseDialectError;

    fn from_str(text: &str) -> Result<Self, ParseDialectError> {
        let name = if text == "fcc" { "native" } else { text };
        let known = Self::ALL.iter().find(|dialect| dialect.name() == name);
        known.copied().ok_or_else(|| ParseDialectError(text.to_owned()))
    }
}
