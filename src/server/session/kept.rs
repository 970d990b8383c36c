//! Checks of kept logs before a stream or subscription begins.
//!
//! Always: a filter is checked in the form in which it becomes interest, so nothing beyond the client's grant is
//! revealed.

use super::context::Context;
use super::effect::Effect;
use crate::dialect::{ClientError, ErrorCode};
use crate::event::{EventId, Since};
use crate::filter::Filter;
use crate::kept::place_after;
use crate::server::shared::resume::marks;

/// Number of logs or names looked at for a unit of work: about 100 instructions each, once for the check and once for
/// the reader.
pub(crate) const LOOKS_A_UNIT: usize = 5;

/// Checks that these filters name and match no more logs than one request may read from the start.
pub(crate) fn check_from_start(filters: &[Filter], cx: &mut Context<'_>) -> Result<(), ClientError> {
    let Some(logs) = cx.shared.kept.lock() else { return Ok(()) };
    cx.budget.spend(u32::try_from(logs.looks(filters) / LOOKS_A_UNIT + 1).unwrap_or(u32::MAX));
    logs.matched(filters, cx.now)
        .map(drop)
        .map_err(|error| ClientError::new(ErrorCode::TooManyLogs, error.to_string()))
}

/// Checks that the log that these filters name exists, for a client that does not want to wait for it. Filters that do
/// not name exactly one log always pass.
pub(crate) fn check_absent(filters: &[Filter], cx: &Context<'_>) -> Result<(), ClientError> {
    let ([filter], Some(logs)) = (filters, cx.shared.kept.lock()) else { return Ok(()) };
    let Some(name) = logs.single(filter).filter(|_| !logs.is_reading()) else { return Ok(()) };
    if logs.head(&name, cx.now).is_some() {
        return Ok(());
    }
    let text = format!("no log of {} {} is kept", name.by.name(), name.value);
    Err(ClientError::new(ErrorCode::NoSuchLog, text))
}

/// Requests a report of the logs that a new subscription names and that have ended, if any rule ends logs.
pub(crate) fn report_ended(subscription: &str, cx: &mut Context<'_>) {
    if cx.shared.kept.lock_with_ends().is_some() {
        cx.effects.push(Effect::ReportEnded { subscription: subscription.into() });
    }
}

/// Returns whether a client that resumes after this place has received the ends of all logs that its filter names, and
/// the filter selects no others.
pub(crate) fn has_received_ends(filter: &Filter, since: &Since, cx: &Context<'_>) -> bool {
    let Some(logs) = cx.shared.kept.lock() else { return false };
    let named = logs.named_with_end(filter);
    if !named.is_closed {
        return false;
    }
    let marks = marks(cx.shared, since);
    let has_received = |end: EventId| {
        let is_after =
            |mark: &EventId| mark.shard == end.shard && place_after(*mark) > (end.epoch, end.sequence);
        marks.iter().any(is_after)
    };
    logs.have_ended(&named.names, cx.now, |end| has_received(end.id))
}
