//! `DELETE /events`: removes kept logs on request.
//!
//! Always:
//! - A purge removes whole logs, so it needs a grant that allows its holder to see every event that they may contain.
//! - A request that is refused purges nothing.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::query::{self, FilterQuery};
use super::{Answer, RouteOutcome};
use crate::dialect::{ClientError, ErrorCode, HttpFault};
use crate::engine::Refused;
use crate::kept::{LogName, PurgedLogs, implies, purge_record};
use crate::server::auth::Grant;
use crate::server::session::effect::{Effect, Made, PurgeAnswer, Work};
use crate::server::tick::{Tick, ticks};
use crate::server::workers::LaneLimits;

/// Workers' lane for purges in an engine's log.
const PURGES: &str = "purges";

/// Maximum number of purges that wait for a worker, and of those that wait for the engine's log.
const PURGES_WAITING_MAX: usize = 32;
const PURGES_AT_ONCE: usize = 4;

/// Time in addition to the engine's that a client waits for its purge.
const PURGE_TICKS: Tick = 50;

impl Answer<'_, '_> {
    /// Purges the kept logs that the query names.
    pub(super) fn purge(&mut self) -> RouteOutcome {
        let grant = match self.require_right("purging kept logs", Grant::purges) {
            Ok(grant) => grant,
            Err(refusal) => return refusal,
        };
        if let Err(error) = query::check(self.request, &FilterQuery::NAMES) {
            return self.error(ErrorCode::InvalidQuery, &error, &[]);
        }
        let filter = match FilterQuery::read(self.request) {
            Ok(filter) => filter,
            Err(error) => return self.bad_query(&error),
        };
        let filter = match self.allowed(filter, grant.as_deref()) {
            Ok(filter) => filter,
            Err(refusal) => return refusal,
        };
        self.cx.budget.spend_bytes(filter.members_count(), 100);
        let named = match self.cx.shared.kept.lock() {
            Some(logs) => logs.named_to_purge(&filter),
            None => Err("no rule keeps events (retain), so there is no log to purge".to_owned()),
        };
        let names = match named {
            Ok(names) => names,
            Err(error) => return self.bad_query(&ClientError::new(ErrorCode::InvalidQuery, error)),
        };
        if grant.is_some_and(|grant| !implies(&filter, grant.filter())) {
            return self
                .forbidden("beyond what the token allows: all events of these logs, which go as a whole");
        }
        if self.cx.shared.engine.is_some() {
            return self.purge_in_log(&names);
        }
        let (responder, shared) = (self.responder(), Arc::clone(self.cx.shared));
        let answer = PurgeAnswer(Box::new(move |purged| match purged {
            Some(purged) => responder.write(200, &[], &body_of(purged)),
            None => {
                shared.metrics.fault(HttpFault::PurgeBusy.label());
                let error = "events from before this request are not in the kept logs yet: try again";
                responder.error(HttpFault::PurgeBusy, error, &[("Retry-After", "1")])
            }
        }));
        // Answers keep the order of the requests.
        self.cx.hold_input();
        self.cx.effects.push(Effect::Purge { names, answer });
        self.outcome()
    }

    /// Purges these logs in the engine's log, where the purge has its place among the events of all nodes. A worker waits until
    /// this node has read it.
    fn purge_in_log(&mut self, names: &[LogName]) -> RouteOutcome {
        let shared = Arc::clone(self.cx.shared);
        let (Some(record), Some(engine)) = (purge_record(names, self.cx.now), &shared.engine) else {
            return self.outcome();
        };
        let (accept_timeout, asked) = (engine.accept_timeout(), Instant::now());
        let patience = ticks(2 * accept_timeout) + PURGE_TICKS;
        let responder = self.responder();
        let limits = LaneLimits {
            threads: PURGES_AT_ONCE,
            waiting: PURGES_WAITING_MAX,
            bytes: self.cx.config.lane_bytes(),
        };
        let bytes = record.len();
        let busy = {
            let (shared, responder) = (Arc::clone(&shared), responder.clone());
            move || {
                shared.metrics.fault(HttpFault::PurgeBusy.label());
                let error = "other purges wait for the engine's log: try again";
                responder.error(HttpFault::PurgeBusy, error, &[("Retry-After", "1")])
            }
        };
        let late = busy.clone();
        let job = Box::new(move || {
            // A purge that the client no longer waits for is not begun.
            if asked.elapsed() >= accept_timeout {
                return Made::Answer(late());
            }
            let refused = match shared.engine.as_ref().map(|engine| engine.append_other(record)) {
                Some(Ok(id)) => {
                    let purged = shared.kept.lock().and_then(|logs| logs.purged_by(id));
                    // Unknown only if thousands of entries came after it at once.
                    let purged = purged.unwrap_or_default();
                    tracing::info!(%id, logs = purged.logs, events = purged.events, "kept logs purged");
                    return Made::Answer(responder.write(200, &[], &body_of(purged)));
                }
                Some(Err(refused)) => refused,
                None => Refused::Closed,
            };
            shared.metrics.fault(refused.code().name());
            let wait: &[(&str, &str)] = if refused.may_pass_later() { &[("Retry-After", "1")] } else { &[] };
            Made::Answer(responder.error(refused.code(), &refused.text(), wait))
        });
        let instead = Box::new(move |_| busy());
        self.work(Work { lane: PURGES.to_owned(), limits, patience, bytes, job, instead })
    }
}

/// Returns the body of the answer to a purge.
fn body_of(purged: PurgedLogs) -> String {
    json!({ "logs": purged.logs, "events": purged.events }).to_string()
}
