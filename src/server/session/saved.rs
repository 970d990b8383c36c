//! Saved form of a session, for another process.
//!
//! Always: a client's subscriptions, rights and used limits are the same in both processes. If the other process
//! requires more credentials, the client has to send them first.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::context::Context;
use super::rights::{Rights, SavedRights};
use super::{Encoding, Own, Place, Session, SessionSubscription};
use crate::dialect::{Observed, Observers};
use crate::filter::Filter;
use crate::server::tick::Tick;

/// Subscriptions and rights of one client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedSession {
    encoding: Encoding,
    subscriptions: Vec<SessionSubscription>,
    unnamed: u32,
    own: Option<SavedOwn>,
    /// The dialect's record of the client, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<Box<RawValue>>,
    /// Whether the subscriptions' filters are exactly the client's.
    #[serde(default)]
    is_exact: bool,
}

/// Returns subscriptions that were saved as texts, with filters rebuilt from the dialect's record of the client: the
/// text form cannot express the patterns of every dialect.
fn made_again(saved: Vec<SessionSubscription>, kept: &[(String, Vec<Filter>)]) -> Vec<SessionSubscription> {
    let mut all: Vec<SessionSubscription> = Vec::with_capacity(saved.len());
    for subscription in saved {
        let name = subscription.name.to_string();
        if all.last().is_some_and(|last| last.name.is(&name)) {
            // Another filter of the same subscription.
            continue;
        }
        match kept.iter().rev().find(|(id, _)| *id == name) {
            Some((_, filters)) => {
                let with =
                    |filter: &Filter| SessionSubscription { filter: filter.clone(), ..subscription.clone() };
                all.extend(filters.iter().map(with));
            }
            None => all.push(subscription),
        }
    }
    all
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedOwn {
    place: Place,
    #[serde(rename = "is_deaf_to_itself")]
    is_own_source_muted: bool,
    rights: SavedRights,
}

impl Session {
    pub(crate) fn save(&self, tick: Tick, observers: &Observers) -> SavedSession {
        let own = self.own.as_deref().map(|Own { place, is_own_source_muted, rights, .. }| SavedOwn {
            place: place.clone(),
            is_own_source_muted: *is_own_source_muted,
            rights: rights.save(tick),
        });
        let subscriptions = self.subscriptions.to_vec();
        let asked = self.encoding.protocol().keep(observers, self.client());
        let (encoding, unnamed) = (self.encoding, self.unnamed);
        SavedSession { encoding, subscriptions, unnamed, own, asked, is_exact: true }
    }

    pub(crate) fn restored(saved: SavedSession, cx: &Context<'_>) -> Self {
        let SavedSession { encoding, mut subscriptions, unnamed, own, asked, is_exact } = saved;
        if let Some(kept) = asked.as_deref().filter(|_| !is_exact) {
            subscriptions = made_again(subscriptions, &encoding.protocol().filters_of(kept));
        }
        let is_plain = own.is_none();
        let (place, is_own_source_muted, rights) = match own {
            Some(SavedOwn { place, is_own_source_muted, rights }) => (place, is_own_source_muted, rights),
            None => (Place::default(), false, SavedRights::default()),
        };
        let rights = Rights::restored(rights, cx);
        let own = (!is_plain || rights.are_special())
            .then(|| Box::new(Own { place, is_own_source_muted, rights, ..Own::default() }));
        cx.shared.metrics.subscriptions.inc_by(subscriptions.len() as i64);
        let mut restored = Self { subscriptions: subscriptions.into(), unnamed, encoding, own };
        restored.recount();
        restored.mark_all();
        let mut filters = restored.subscriptions.iter().map(|s| &s.filter);
        restored.observe(Observed::TakenOver { kept: asked.as_deref(), filters: &mut filters }, cx);
        restored
    }

    /// Requests the events of the subscriptions again.
    pub(crate) fn resume(&self, cx: &mut Context<'_>) {
        if !self.subscriptions.is_empty() {
            self.emit_interest(cx);
        }
        self.schedule_deadline(cx);
    }
}
