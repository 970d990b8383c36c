//! `DELETE /events`: removes kept logs on request.
//!
//! Always:
//! - A purge removes whole logs, so it needs a grant that allows its holder to see every event that they may contain.
//! - A request that is refused purges nothing.

use std::sync::Arc;

use serde_json::json;

use super::query::{self, FilterQuery};
use super::{Answer, RouteOutcome};
use crate::dialect::{ClientError, ErrorCode, HttpFault};
use crate::kept::implies;
use crate::server::auth::Grant;
use crate::server::session::effect::{Effect, PurgeAnswer};

impl Answer<'_, '_> {
    /// Purges the kept logs that the query names.
    pub(super) fn purge(&mut self) -> RouteOutcome {
        let grant = match self.require_right("purging kept logs", Grant::purges) {
            Ok(grant) => grant,
            Err(refusal) => return refusal,
        };
        if self.cx.shared.engine.is_some() {
            return self.error(HttpFault::NoPurge, "with an engine nothing can be purged yet", &[]);
        }
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
        let (responder, shared) = (self.responder(), Arc::clone(self.cx.shared));
        let answer = PurgeAnswer(Box::new(move |purged| match purged {
            Some(purged) => {
                let body = json!({ "logs": purged.logs, "events": purged.events });
                responder.write(200, &[], &body.to_string())
            }
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
}
