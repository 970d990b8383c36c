//! Keeps the memory sum of a client's subscriptions up to date as they change.

use super::Session;
use super::context::Context;
use super::pending::Unfinished;
use super::subscription::SessionSubscription;
use super::weight::Weight;
use crate::dialect::{ClientError, ErrorCode, Subscribe};
use crate::server::auth::Grant;

impl Session {
    fn is_narrowed(&self) -> bool {
        self.grant().is_some()
    }

    /// Returns the memory of the subscriptions. The sum is stored from the second one on: most clients have one.
    pub(super) fn weight(&self) -> Weight {
        match (self.subscriptions.len(), &self.own) {
            (2.., Some(own)) => own.weight,
            _ => self.counted(),
        }
    }

    fn counted(&self) -> Weight {
        let narrowed = self.is_narrowed();
        self.subscriptions.iter().fold(Weight::default(), |sum, one| {
            let Weight { all, own } = Weight::of(one, narrowed);
            Weight { all: sum.all + all, own: sum.own + own }
        })
    }

    /// Computes the sum again, after all subscriptions have changed.
    pub(super) fn recount(&mut self) {
        if self.subscriptions.len() > 1 {
            let weight = self.counted();
            self.own.get_or_insert_default().weight = weight;
        }
    }

    /// Adds the newest subscription to the sum.
    pub(super) fn count_newest(&mut self) {
        let narrowed = self.is_narrowed();
        match self.subscriptions.as_slice() {
            [] | [_] => {}
            [_, _] => self.recount(),
            [.., newest] => {
                let Weight { all, own } = Weight::of(newest, narrowed);
                let sum = &mut self.own.get_or_insert_default().weight;
                *sum = Weight { all: sum.all + all, own: sum.own + own };
            }
        }
    }

    /// Returns the memory of the subscription at an index, if it is stored as a part of the sum.
    pub(super) fn weight_at(&self, at: usize) -> Weight {
        if self.subscriptions.len() < 2 {
            return Weight::default();
        }
        Weight::of(&self.subscriptions[at], self.is_narrowed())
    }

    /// Counts a subscription that has changed, and took `before`.
    pub(super) fn count_changed(&mut self, before: Weight, at: usize) {
        let Weight { all, own } = self.weight_at(at);
        self.count_gone(before);
        if self.subscriptions.len() > 1
            && let Some(sum) = self.own.as_mut().map(|own| &mut own.weight)
        {
            *sum = Weight { all: sum.all + all, own: sum.own + own };
        }
    }

    /// Subtracts removed subscriptions from the sum.
    pub(super) fn count_gone(&mut self, gone: Weight) {
        if let Some(own) = &mut self.own {
            let Weight { all, own: apart } = own.weight;
            own.weight = Weight { all: all.saturating_sub(gone.all), own: apart.saturating_sub(gone.own) };
        }
    }

    /// Returns the memory of one subscription.
    pub(super) fn weight_of(subscription: &SessionSubscription, narrowed: bool) -> Weight {
        Weight::of(subscription, narrowed)
    }

    /// Returns the heap memory of the session, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let spilled = if self.subscriptions.spilled() {
            self.subscriptions.capacity() * size_of::<SessionSubscription>()
        } else {
            0
        };
        let own = self.own.as_ref().map_or(0, |own| size_of_val(&**own) + 16);
        let grant = self.grant().map_or(0, Grant::held_bytes);
        let unfinished = self.own.as_ref().and_then(|own| own.unfinished.as_ref());
        let unfinished = unfinished.map_or(0, Unfinished::held_bytes);
        spilled + own + grant + unfinished + self.own_weight()
    }

    fn own_weight(&self) -> usize {
        let narrowed = self.is_narrowed();
        match (self.subscriptions.len(), &self.own) {
            (2.., Some(own)) => own.weight.own,
            _ => self.subscriptions.iter().map(|subscription| Weight::own_of(subscription, narrowed)).sum(),
        }
    }

    /// Returns the memory of the subscriptions in the loop's tables, in bytes, if no other connection shares it.
    pub(crate) fn table_bytes(&self) -> usize {
        let Weight { all, own } = self.weight();
        all - own
    }

    /// Checks that there is room for a new subscription.
    pub(super) fn check_weight(&self, subscribe: &Subscribe, cx: &Context<'_>) -> Result<(), ClientError> {
        let filters = std::iter::once(&subscribe.filter).chain(&subscribe.or);
        let config = subscribe.config.as_ref().map_or(0, |config| config.get().len());
        let name = subscribe.subscription_id.as_ref().map_or(0, String::len);
        self.check_bytes_held(filters.map(Weight::of_filter).sum::<usize>() + config + name, cx)
    }

    /// Checks that there is room for this many more bytes.
    pub(super) fn check_bytes_held(&self, asked: usize, cx: &Context<'_>) -> Result<(), ClientError> {
        let max = cx.config.subscription_bytes();
        let listed =
            if self.client() == 0 { 0 } else { cx.shared.clients.observers.held_bytes_of(self.client()) };
        if self.weight().all + listed + asked > max {
            let text = format!(
                "subscriptions take more than the {max} bytes that one client may: unsubscribe from some"
            );
            return Err(ClientError::new(ErrorCode::SubscriptionsTooLarge, text));
        }
        Ok(())
    }
}
