//! Kept streams: logs of events by rule, one for each value of an attribute, with a beginning, lives and an end.
//!
//! A rule says which events are kept and by which attribute. The loops record each event once, in the order in which they
//! read all shards; with an engine its follower records them, in the order of the engine's log. Readers then get a log from its
//! beginning, page by page.
//!
//! Invariants:
//! - No I/O, no clock and no threads: the caller passes the time, and holds the lock.
//! - A log is evicted from its front only, or as a whole. A log whose beginning may be missing is reported as
//!   incomplete.
//! - All logs together stay within their limits, and one call does a bounded amount of work.

mod admission;
mod cursor;
mod filters;
mod follow_state;
mod followed;
#[cfg(test)]
mod followed_tests;
mod log;
mod lost;
mod mark;
mod named;
mod packed;
mod page;
mod part;
mod purge;
mod recent;
mod refusal;
mod rule;
mod seen;
mod store;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use admission::refuse_all_unkept;
pub(crate) use cursor::{KeptContent, KeptCursor, KeptItem};
pub(crate) use followed::SentPublication;
pub(crate) use log::{LogEnd, LogName, ShardPlace, place_after};
pub(crate) use lost::PurgedLogs;
pub(crate) use mark::purge_record;
pub(crate) use named::{excludes, implies};
pub(crate) use page::{OrderPlace, OrderRange, order_place};
pub(crate) use part::{KeptPart, PartEvent};
pub(crate) use refusal::LogRefusal;
pub use rule::{RetainBy, RetainConfig, RetainRule};
pub(crate) use store::{KeptLogs, TooManyLogs};
