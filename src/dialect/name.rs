//! The dialects by name, as options and configuration write them.

use std::fmt;
use std::str::FromStr;

use super::words::shortened;

/// A client protocol: the messages that a client sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// Fanwire's own, which is FCC's: `{type, payload, message_id, timestamp, correlation_id}`.
    Native,
    /// AgentOS's event stream: the bare envelope v1, with every event from the moment of connecting.
    #[cfg(feature = "dialects")]
    Agentos,
    /// Hive's streaming: `{"action": …}` in, `{"type": "event", "event": …}` out.
    #[cfg(feature = "dialects")]
    Hive,
    /// AutoSDLC's messages: `{id, type, timestamp, data, metadata}`, subscriptions by resource.
    #[cfg(feature = "dialects")]
    Autosdlc,
    /// GatheRing's channels by path: `{type, data, timestamp, channel}`. A client's message goes to the other clients.
    #[cfg(feature = "dialects")]
    Gathering,
}

impl Dialect {
    /// Every dialect of this build. All but the native one need the feature `dialects`.
    pub const ALL: &'static [Self] = &[
        Self::Native,
        #[cfg(feature = "dialects")]
        Self::Agentos,
        #[cfg(feature = "dialects")]
        Self::Hive,
        #[cfg(feature = "dialects")]
        Self::Autosdlc,
        #[cfg(feature = "dialects")]
        Self::Gathering,
    ];

    /// Returns the name in options and configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            #[cfg(feature = "dialects")]
            Self::Agentos => "agentos",
            #[cfg(feature = "dialects")]
            Self::Hive => "hive",
            #[cfg(feature = "dialects")]
            Self::Autosdlc => "autosdlc",
            #[cfg(feature = "dialects")]
            Self::Gathering => "gathering",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Dialects of the feature `dialects`.
const OPTIONAL: [&str; 4] = ["agentos", "hive", "autosdlc", "gathering"];

/// Error: a word names no dialect of this build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseDialectError(String);

impl ParseDialectError {
    /// Returns whether the word names a dialect that this build lacks.
    pub(crate) fn is_optional(&self) -> bool {
        !cfg!(feature = "dialects") && OPTIONAL.contains(&&*self.0)
    }
}

impl fmt::Display for ParseDialectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_optional() {
            let name = &self.0;
            return write!(f, "dialect {name} is not in this build: compile it with the feature `dialects`");
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialect_that_the_build_lacks_is_refused_with_its_features_name() {
        for name in OPTIONAL {
            match name.parse::<Dialect>() {
                Ok(dialect) => assert_eq!(dialect.name(), name),
                Err(error) => {
                    assert!(
                        !cfg!(feature = "dialects") && error.to_string().contains("`dialects`"),
                        "{error}"
                    );
                }
            }
        }
        let error = "elsewhere".parse::<Dialect>().expect_err("no dialect");
        assert!(error.to_string().starts_with("'elsewhere' is no dialect: native"), "{error}");
    }
}
