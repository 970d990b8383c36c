//! A session as another process takes it over. Imports its parent.
//! Always: what a client subscribed to, may do and has used up of its limits is the same in both; where the other
//! process wants more of a client than this one did, the client has to show it first.

use serde::{Deserialize, Serialize};

use super::context::Context;
use super::rights::{Rights, SavedRights};
use super::{Dialect, Encoding, Own, Place, Session, Subscription, messages};
use crate::dialect::autosdlc;
use crate::server::dialect_autosdlc::client_registry::{ClientSubscription, Directory};
use crate::server::tick::Tick;

/// One client's subscriptions and rights.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedSession {
    encoding: Encoding,
    subscriptions: Vec<Subscription>,
    unnamed: u32,
    own: Option<SavedOwn>,
    /// What it asked for, where an operator may ask about that.
    #[serde(default)]
    asked: Vec<ClientSubscription>,
    /// Whether the subscriptions' filters are exactly the client's.
    #[serde(default)]
    is_exact: bool,
}

/// Returns subscriptions of an AutoSDLC client whose filters were saved as texts, which have no form for its wildcards, with
/// filters made anew from what the client asked for.
fn made_anew(saved: Vec<Subscription>, asked: &[ClientSubscription]) -> Vec<Subscription> {
    let mut all: Vec<Subscription> = Vec::with_capacity(saved.len());
    for subscription in saved {
        let name = subscription.name.to_string();
        if all.last().is_some_and(|last| last.name.is(&name)) {
            // One of the filters that stand one behind the other under one name.
            continue;
        }
        let asked = asked.iter().rev().find(|asked| asked.id() == name);
        match asked.and_then(|asked| autosdlc::filters_of(asked.config())) {
            Some(filters) => {
                all.extend(filters.into_iter().map(|filter| Subscription { filter, ..subscription.clone() }));
            }
            None => all.push(subscription),
        }
    }
    all
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedOwn {
    place: Place,
    is_deaf_to_itself: bool,
    rights: SavedRights,
}

impl Session {
    pub(crate) fn save(&self, tick: Tick, directory: &Directory) -> SavedSession {
        let own = self.own.as_deref().map(|Own { place, is_deaf_to_itself, rights, .. }| SavedOwn {
            place: place.clone(),
            is_deaf_to_itself: *is_deaf_to_itself,
            rights: rights.save(tick),
        });
        let subscriptions = self.subscriptions.to_vec();
        let asked = directory.of_number(self.client());
        let (encoding, unnamed) = (self.encoding, self.unnamed);
        SavedSession { encoding, subscriptions, unnamed, own, asked, is_exact: true }
    }

    pub(crate) fn restored(saved: SavedSession, cx: &Context<'_>) -> Self {
        let SavedSession { encoding, mut subscriptions, unnamed, own, asked, is_exact } = saved;
        if !is_exact && encoding.dialect() == Dialect::Autosdlc {
            subscriptions = made_anew(subscriptions, &asked);
        }
        let is_plain = own.is_none();
        let (place, is_deaf_to_itself, rights) = match own {
            Some(SavedOwn { place, is_deaf_to_itself, rights }) => (place, is_deaf_to_itself, rights),
            None => (Place::default(), false, SavedRights::default()),
        };
        let rights = Rights::restored(rights, cx);
        let own = (!is_plain || rights.are_special())
            .then(|| Box::new(Own { place, is_deaf_to_itself, rights, ..Own::default() }));
        cx.shared.metrics.subscriptions.inc_by(subscriptions.len() as i64);
        messages::came_over(encoding, subscriptions.iter().map(|s| &s.filter), cx.recorder());
        let mut restored = Self { subscriptions: subscriptions.into(), unnamed, encoding, own };
        restored.recount();
        restored.mark_all();
        cx.shared.directory.take_over(restored.client(), asked);
        restored
    }

    /// Asks for what it is subscribed to, once more.
    pub(crate) fn resume(&self, cx: &mut Context<'_>) {
        if !self.subscriptions.is_empty() {
            self.tell_interest(cx);
        }
        self.look_in_time(cx);
    }
}
