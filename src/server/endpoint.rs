//! Paths of the server and the dialect that each of them speaks.
//!
//! Invariants:
//! - If several endpoints match a path, the one configured last serves it.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use crate::dialect::{Dialect, ParseDialectError};

/// A path at which a dialect is served.
///
/// A segment in braces stands for any one segment: `/ws/circles/{name}`. In a dialect with channels it is the channel,
/// or a part of it (see [`channel`](Self::channel)).
///
/// ```
/// # use fanwire::server::{Dialect, Endpoint};
/// # use fanwire::ServerConfig;
/// let mut config = ServerConfig::default();
/// config.endpoints.push(Endpoint::new("/stream", Dialect::Hive));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    path: String,
    dialect: Dialect,
    channel: String,
}

/// Placeholder of the channel in a template.
const SLOT: &str = "{}";

impl Endpoint {
    /// Serves `dialect` at `path`, which starts with `/` and has at most one segment in braces.
    pub fn new(path: impl Into<String>, dialect: Dialect) -> Self {
        Self { path: path.into(), dialect, channel: SLOT.to_owned() }
    }

    /// Sets the channel of clients at this path, for dialects with channels. `{}` stands for the request's value of the
    /// segment in braces. Default: `{}`.
    pub fn channel(mut self, template: impl Into<String>) -> Self {
        self.channel = template.into();
        self
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the reason why no endpoint can have this path, if there is one.
    pub(crate) fn fault(&self) -> Option<String> {
        let path = &self.path;
        (path == "/runs" || path.starts_with("/runs/")).then(|| {
            format!(
                "endpoint {path}: paths under /runs are those of POST /runs/{{stream}}: choose another path"
            )
        })
    }

    /// Returns the endpoint's dialect.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Returns the endpoints of every server, unless others replace them.
    pub(crate) fn usual() -> &'static [Self] {
        static USUAL: LazyLock<Vec<Endpoint>> = LazyLock::new(|| {
            Vec::from([
                Endpoint::new("/ws", Dialect::Native),
                #[cfg(feature = "dialects")]
                Endpoint::new("/ws/events", Dialect::Agentos),
                #[cfg(feature = "dialects")]
                Endpoint::new("/hive", Dialect::Hive),
                #[cfg(feature = "dialects")]
                Endpoint::new("/autosdlc", Dialect::Autosdlc),
                #[cfg(feature = "dialects")]
                Endpoint::new("/ws/circles/{name}", Dialect::Gathering),
                #[cfg(feature = "dialects")]
                Endpoint::new("/ws/workspaces/{id}", Dialect::Gathering).channel("workspace-{}"),
                #[cfg(feature = "dialects")]
                Endpoint::new("/ws/agents/{id}", Dialect::Gathering).channel("agent-{}"),
            ])
        });
        &USUAL
    }

    /// Returns the channel that a path names, if this endpoint serves the path.
    pub(crate) fn matches(&self, path: &str) -> Option<String> {
        let mut here = path.split('/');
        let mut found = "";
        for wanted in self.path.split('/') {
            let segment = here.next()?;
            if wanted.starts_with('{') && wanted.ends_with('}') && !segment.is_empty() {
                found = segment;
            } else if wanted != segment {
                return None;
            }
        }
        // Escaped slashes in a segment do not separate segments.
        here.next().is_none().then(|| self.channel.replace(SLOT, found))
    }
}

/// An endpoint of another system, so that its clients find Fanwire at the path of their own server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preset {
    /// Fanwire itself: native at `/ws`.
    Native,
    /// FCC: native at `/ws/events`.
    Fcc,
    /// AgentOS: `/ws/events`.
    #[cfg(feature = "dialects")]
    Agentos,
    /// Hive: `/`.
    #[cfg(feature = "dialects")]
    Hive,
    /// AutoSDLC: `/ws`.
    #[cfg(feature = "dialects")]
    Autosdlc,
    /// GatheRing: `/ws/circles/{name}`.
    #[cfg(feature = "dialects")]
    Gathering,
}

impl Preset {
    /// All presets of this build. All but the first two need the feature `dialects`.
    pub const ALL: &'static [Self] = &[
        Self::Native,
        Self::Fcc,
        #[cfg(feature = "dialects")]
        Self::Agentos,
        #[cfg(feature = "dialects")]
        Self::Hive,
        #[cfg(feature = "dialects")]
        Self::Autosdlc,
        #[cfg(feature = "dialects")]
        Self::Gathering,
    ];

    /// Returns the name in options and configuration: the dialect's, unless another system speaks the native one.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fcc => "fcc",
            _ => self.path_and_dialect().1.name(),
        }
    }

    const fn path_and_dialect(self) -> (&'static str, Dialect) {
        match self {
            Self::Native => ("/ws", Dialect::Native),
            Self::Fcc => ("/ws/events", Dialect::Native),
            #[cfg(feature = "dialects")]
            Self::Agentos => ("/ws/events", Dialect::Agentos),
            #[cfg(feature = "dialects")]
            Self::Hive => ("/", Dialect::Hive),
            #[cfg(feature = "dialects")]
            Self::Autosdlc => ("/ws", Dialect::Autosdlc),
            #[cfg(feature = "dialects")]
            Self::Gathering => ("/ws/circles/{name}", Dialect::Gathering),
        }
    }

    /// Returns the path and dialect of the system's clients.
    #[must_use]
    pub fn endpoint(self) -> Endpoint {
        let (path, dialect) = self.path_and_dialect();
        Endpoint::new(path, dialect)
    }

    /// Returns the preset of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|preset| preset.name() == name)
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(preset) = Self::named(text) {
            return Ok(preset);
        }
        // The dialect's error names the feature that a build lacks.
        if let Err(error) = text.parse::<Dialect>()
            && error.is_optional()
        {
            return Err(error.to_string());
        }
        let names: Vec<&str> = Self::ALL.iter().map(|preset| preset.name()).collect();
        Err(format!("`{text}` is none of {}", names.join(", ")))
    }
}

impl Preset {
    /// Returns true if clients of this system are pages opened from files, with the origin `null`.
    pub(crate) const fn has_file_pages(self) -> bool {
        match self {
            #[cfg(feature = "dialects")]
            Self::Agentos => true,
            _ => false,
        }
    }
}

/// `PATH=DIALECT`, as options write it; `PATH=DIALECT=CHANNEL` with a template for the channel.
impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, '=').map(str::trim);
        let path = parts.next().filter(|path| path.starts_with('/'));
        let (Some(path), Some(dialect)) = (path, parts.next()) else {
            return Err(format!("`{text}` is no endpoint: as /stream=hive"));
        };
        let endpoint =
            Self::new(path, dialect.parse().map_err(|error: ParseDialectError| error.to_string())?);
        Ok(match parts.next() {
            Some(channel) => endpoint.channel(channel),
            None => endpoint,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.path, self.dialect)?;
        if self.channel == SLOT { Ok(()) } else { write!(f, "={}", self.channel) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_in_braces_is_the_channel() {
        let circle = Endpoint::new("/ws/circles/{name}", Dialect::Gathering);
        assert_eq!(circle.matches("/ws/circles/dev-team").as_deref(), Some("dev-team"));
        for other in ["/ws/circles", "/ws/circles/", "/ws/circles/a/b", "/ws/circle/a", ""] {
            assert_eq!(circle.matches(other), None, "{other}");
        }
        let workspace = Endpoint::new("/ws/workspaces/{id}", Dialect::Gathering).channel("workspace-{}");
        assert_eq!(workspace.matches("/ws/workspaces/7").as_deref(), Some("workspace-7"));
        assert_eq!(Endpoint::new("/", Dialect::Hive).matches("/").as_deref(), Some(""));
    }

    #[test]
    fn an_endpoint_prints_as_it_reads() {
        for text in ["/stream=hive", "/w/{id}=gathering=workspace-{}"] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "/stream", "stream=hive", "/stream=elsewhere"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
