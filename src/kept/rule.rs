//! Rules of retention: which events are kept, in which log, and how much of each.

use std::borrow::Cow;
use std::time::Duration;

use crate::event::{Attribute, Event};
use crate::filter::{ENTITY, Filter, FilterError};

/// Attribute by which events are kept: each of its values has its own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RetainBy {
    /// The stream.
    Stream,
    /// The channel.
    Channel,
    /// The entity, as `kind:id`. An event that lacks one of them, or whose kind has a colon, is not kept.
    Entity,
    /// The execution.
    Execution,
    /// The correlation.
    Correlation,
    /// The type.
    Type,
}

impl RetainBy {
    /// Every attribute by which events can be kept.
    pub const ALL: [Self; 6] =
        [Self::Stream, Self::Channel, Self::Entity, Self::Execution, Self::Correlation, Self::Type];

    /// Returns the name in settings and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entity => "entity",
            Self::Stream => Attribute::Stream.name(),
            Self::Channel => Attribute::Channel.name(),
            Self::Execution => Attribute::Execution.name(),
            Self::Correlation => Attribute::Correlation.name(),
            Self::Type => Attribute::Type.name(),
        }
    }

    /// Returns the attribute, or `None` for entities, which have two.
    pub(super) const fn attribute(self) -> Option<Attribute> {
        match self {
            Self::Stream => Some(Attribute::Stream),
            Self::Channel => Some(Attribute::Channel),
            Self::Execution => Some(Attribute::Execution),
            Self::Correlation => Some(Attribute::Correlation),
            Self::Type => Some(Attribute::Type),
            Self::Entity => None,
        }
    }

    /// Returns the number that stands for the attribute in a filter's sets.
    pub(super) fn about(self) -> u8 {
        self.attribute().map_or(ENTITY, |attribute| attribute.index() as u8)
    }

    /// Returns the event's value; `None` if it has none.
    pub(super) fn value_of(self, event: &Event) -> Option<Cow<'_, str>> {
        if let Some(attribute) = self.attribute() {
            return event.attribute(attribute).map(Cow::Borrowed);
        }
        let (kind, id) = event.entity()?;
        let is_whole = !kind.is_empty() && !id.is_empty() && !kind.contains(':');
        is_whole.then(|| Cow::Owned(format!("{kind}:{id}")))
    }

    /// Returns whether a filter's conditions on the attribute allow this value.
    pub(super) fn accepts(self, filter: &Filter, value: &str) -> bool {
        match (self.attribute(), value.split_once(':')) {
            (Some(attribute), _) => !filter.refuses(attribute, value),
            (None, Some((kind, id))) => !filter.refuses_entity(kind, id),
            (None, None) => false,
        }
    }
}

/// Rule of retention: which events are kept, and how much of each log.
///
/// ```
/// use fanwire::server::{RetainBy, RetainRule};
///
/// let rule = RetainRule::new("stream=run-*", RetainBy::Stream)?.end(["run.finished", "run.failed"]);
/// assert_eq!((rule.events, rule.matching()), (10_000, "stream=run-*"));
/// # Ok::<(), fanwire::filter::FilterError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetainRule {
    text: Box<str>,
    filter: Filter,
    /// `by`: the attribute by which events are kept.
    pub by: RetainBy,
    /// `events`: maximum number of events of a log. Default: 10,000.
    pub events: usize,
    /// `bytes`: maximum size of a log, in bytes: those of its events' attributes, payloads and trace contexts, and 32 for each
    /// event. Default: 8 MiB.
    pub bytes: usize,
    /// `for`: time after its last event for which a log is kept. Default: 1 h.
    pub keep_for: Duration,
    /// `end`: types of the events that end a log. Default: none.
    pub end: Vec<String>,
}

impl RetainRule {
    /// Creates a rule with the default limits, which keeps events that this filter's text matches. In addition to the usual
    /// wildcards, an asterisk next to other characters stands for any characters: `stream=run-*`.
    ///
    /// # Errors
    ///
    /// Fails if the text is no filter.
    pub fn new(matching: &str, by: RetainBy) -> Result<Self, FilterError> {
        Ok(Self {
            text: matching.into(),
            filter: matching.parse::<Filter>()?.with_runs(),
            by,
            events: 10_000,
            bytes: 8 << 20,
            keep_for: Duration::from_secs(3600),
            end: Vec::new(),
        })
    }

    /// Sets the types of the events that end a log.
    #[must_use]
    pub fn end(mut self, types: impl IntoIterator<Item: Into<String>>) -> Self {
        self.end = types.into_iter().map(Into::into).collect();
        self
    }

    /// Returns the text of the filter.
    #[must_use]
    pub fn matching(&self) -> &str {
        &self.text
    }

    /// Returns whether another rule keeps the same events by the same attribute.
    pub(super) fn keeps_as(&self, other: &Self) -> bool {
        self.by == other.by && self.filter == other.filter
    }

    /// Returns the filter.
    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Returns whether an event ends its log.
    pub(super) fn is_end(&self, event: &Event) -> bool {
        self.end.iter().any(|end| end == event.event_type())
    }

    /// Returns the fault of the rule and its remedy, if it has one.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.filter.is_nothing() {
            return Some("match: no event can match".to_owned());
        }
        if self.events == 0 || self.bytes == 0 {
            return Some("events and bytes: a log of nothing keeps nothing; leave the rule out".to_owned());
        }
        if self.keep_for.is_zero() {
            return Some(
                "for: 0 keeps nothing; leave the rule out, or give a time such as \"1h\"".to_owned(),
            );
        }
        if self.end.len() > END_TYPES_MAX {
            return Some(format!("end: {} types, and {END_TYPES_MAX} is the limit", self.end.len()));
        }
        self.end.iter().find_map(|end| match end.as_str() {
            "" => Some("end: an event's type is never empty".to_owned()),
            end if end.contains('*') => {
                Some(format!("end: `{end}` is a pattern; give each type by its name"))
            }
            end if self.filter.refuses(Attribute::Type, end) => Some(format!(
                "end: match excludes the type `{end}`, so it would end no log; widen match, or leave it out"
            )),
            _ => None,
        })
    }
}

/// Maximum number of types that end a log.
const END_TYPES_MAX: usize = 64;

/// Rules of retention, and the limits of all kept logs together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetainConfig {
    /// `retain`: rules. The first that matches an event applies. Default: none, nothing is kept.
    pub rules: Vec<RetainRule>,
    /// `retain_max_logs`: maximum number of logs. Beyond it, the least recently written one is evicted. Default:
    /// 10,000.
    pub max_logs: usize,
    /// `retain_max_bytes`: maximum memory of all logs together, in bytes. Beyond it, the least recently written one is
    /// evicted. Default: 256 MiB.
    pub max_bytes: usize,
    /// `retain_max_logs_read`: maximum number of logs that one request reads from the start. Beyond it, the request
    /// fails. Default: 100.
    pub max_logs_read: usize,
    /// `retain_read_timeout`: with an engine, maximum time for reading the engine's log at start, to make the logs again. Events
    /// that are not read then are missing from the logs. Default: 1 min.
    pub read_timeout: Duration,
}

impl RetainConfig {
    /// Returns the fault of the rules and its remedy, if they have one. `engine` has the number of shards of the
    /// engine's log if there is one, and whether a node reads only what its clients want.
    pub(crate) fn fault(&self, engine: Option<(usize, bool)>) -> Option<String> {
        if let Some((shards, by_interest)) = engine.filter(|_| !self.rules.is_empty()) {
            if by_interest {
                let what = "retain: with engine_by_interest a node does not read every event, so it can keep no log: leave out one of the two";
                return Some(what.to_owned());
            }
            if shards > 1 {
                let what = "retain: with an engine kept logs need one shard, because nodes see no common order over several: set bus.shards = 1 (and another engine_name if the log has more shards), or leave out the rules";
                return Some(what.to_owned());
            }
        }
        self.rules.iter().find_map(|rule| Some(format!("retain {}: {}", rule.matching(), rule.fault()?)))
    }
}

impl Default for RetainConfig {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            max_logs: 10_000,
            max_bytes: 256 << 20,
            max_logs_read: 100,
            read_timeout: Duration::from_secs(60),
        }
    }
}
