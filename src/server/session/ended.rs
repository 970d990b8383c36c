//! The ends of kept logs that a session's subscriptions name.
//!
//! Always: each end is reported once to a subscription. The subscription is over when all logs that it names have
//! ended, if it selects no others.

use std::ops::Range;
use std::sync::Arc;

use super::Session;
use super::context::Context;
use super::subscription::SessionSubscription;
use crate::dialect::{LogEnded, Stamp};
use crate::event::Position;
use crate::kept::{KeptLogs, LogEnd, LogName};

/// Ends of logs to report to a client.
#[derive(Debug)]
pub(crate) struct LogsEnded<'a> {
    pub(crate) ends: &'a [Arc<LogEnd>],
    /// Subscription to report to; `None` for each that names the log.
    pub(crate) subscription: Option<&'a str>,
    /// Whether later events were queued for the client before, so that the place of the end is not the client's place.
    pub(crate) is_late: bool,
    /// Whether all logs that an event stream names have ended.
    pub(crate) is_over: bool,
}

impl LogEnd {
    /// Returns the report for a subscription, which may be over with it, or for a stream with an empty id.
    pub(crate) fn report<'a>(&'a self, subscription_id: &'a str, is_over: bool) -> LogEnded<'a> {
        LogEnded {
            subscription_id,
            by: self.name.by.name(),
            value: &self.name.value,
            last_event_id: self.id,
            complete: self.complete,
            is_over,
        }
    }
}

/// Returns whether a client at this position has passed the end of a log.
fn has_passed(position: &Position, end: &LogEnd) -> bool {
    let next = position.sequences().get(usize::from(end.id.shard));
    position.epoch() == end.id.epoch && next.is_some_and(|next| *next > end.id.sequence)
}

impl Session {
    /// Returns the range of the filters of the subscription whose first filter is at this place.
    fn subscription_at(&self, first: usize) -> Range<usize> {
        let one = &self.subscriptions[first];
        let count = self.subscriptions[first..].iter().take_while(|s| s.is_part_of(one)).count();
        first..first + count
    }

    /// Returns the names of the logs with an end that a subscription names.
    pub(crate) fn named_logs(&self, id: &str, logs: &KeptLogs) -> Vec<LogName> {
        let parts = &self.subscriptions[self.named(id)];
        parts.iter().flat_map(|part| logs.named_with_end(&self.interest(part)).names).collect()
    }

    /// Reports ends to the client, and ends the subscriptions that are over.
    pub(crate) fn logs_ended(&mut self, ended: &LogsEnded<'_>, cx: &mut Context<'_>) {
        let mut over: Vec<String> = Vec::new();
        for end in ended.ends {
            let mut first = 0;
            while first < self.subscriptions.len() {
                let range = self.subscription_at(first);
                first = range.end;
                let parts = &self.subscriptions[range];
                let id = parts[0].name.to_string();
                let is_asked = ended.subscription.is_none_or(|subscription| subscription == id);
                if !is_asked || over.contains(&id) {
                    continue;
                }
                let Some(is_over) = self.is_over(parts, &end.name, cx) else { continue };
                let stamp = Stamp { random: cx.rng.next_u128(), now: cx.now, position: None };
                if let Some(frame) = self.encoding.protocol().log_end(&end.report(&id, is_over), &stamp) {
                    cx.send(frame);
                }
                if is_over {
                    over.push(id);
                }
            }
        }
        for id in over {
            let gone = self.forget(self.named(&id), cx);
            if self.subscriptions.is_empty() {
                self.emit_interest(cx);
            } else {
                self.emit_change(gone, 0..0, 0, cx);
            }
        }
    }

    /// Returns whether all logs that a subscription names have ended, and it selects no others; `None` if it does not
    /// name this one.
    fn is_over(&self, parts: &[SessionSubscription], name: &LogName, cx: &mut Context<'_>) -> Option<bool> {
        let logs = cx.shared.kept.lock()?;
        cx.budget.spend(parts.iter().map(|part| part.weight / 4).sum());
        let named: Vec<_> = parts.iter().map(|part| logs.named_with_end(&self.interest(part))).collect();
        if !named.iter().any(|named| named.names.contains(name)) {
            return None;
        }
        let position = cx.view.position();
        let has_passed = |end: &LogEnd| position.as_ref().is_some_and(|position| has_passed(position, end));
        Some(named.iter().all(|named| named.is_closed && logs.have_ended(&named.names, cx.now, has_passed)))
    }
}
