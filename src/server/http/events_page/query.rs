//! The request for a page, and why there may be none.

use crate::engine::EngineError;
use crate::event::{Position, Timestamp};
use crate::filter::Filter;
use crate::kept::TooManyLogs;

/// Query of a page.
#[derive(Clone, Debug)]
pub(crate) struct EventsQuery {
    pub(crate) filter: Filter,
    pub(crate) is_desc: bool,
    pub(crate) limit: usize,
    /// Place after which the page begins, or before which with `is_desc`; `None` for the beginning, or the end.
    pub(crate) place: Option<Position>,
    /// Time of the oldest wanted event.
    pub(crate) since: Option<Timestamp>,
}

/// Thread that makes a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageMaker {
    /// A loop, within a turn.
    Loop,
    /// A worker: it looks at the first event whatever that costs.
    Worker,
}

/// Reason why there is no page.
#[derive(Debug)]
pub(crate) enum NoPage {
    TooManyLogs(TooManyLogs),
    /// The engine's log can't be read now.
    Engine(EngineError),
}

impl From<TooManyLogs> for NoPage {
    fn from(error: TooManyLogs) -> Self {
        Self::TooManyLogs(error)
    }
}

impl From<EngineError> for NoPage {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}
