//! Subscribes functions to a bus: [`Bus::on`] and [`Bus::on_sync`].

use super::Bus;
use super::handler::{HandlerGuard, HandlerId};
use super::item::Item;

impl<T: Item> Bus<T> {
    /// Calls `handler` for every event that the filter lets through, from now on, in a thread of its own. A slow
    /// handler delays neither publishers nor other handlers. If it falls behind by a whole ring, it continues with
    /// newer events ([`HandlerGuard::missed`]).
    ///
    /// A panic, of the handler or of the filter's function, is caught and counted, and the handler continues with the
    /// next event.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn on(&self, filter: impl Into<T::Filter>, handler: impl FnMut(&T) + Send + 'static) -> HandlerGuard {
        self.0.handlers.start(self.subscribe_uncounted(filter.into()), handler)
    }

    /// Calls `handler` for every event that the filter lets through, from now on, in the publishing thread, before
    /// `publish` returns. `publish` returns how many such handlers took the event. Meant for effects that must have
    /// happened when `publish` returns; otherwise prefer [`on`](Self::on). Allocates; blocks only while another thread
    /// adds or removes a handler.
    ///
    /// A panic, of the handler or of the filter's function, is caught and counted. Handlers may publish and
    /// unsubscribe. Two events published by different threads may reach a handler in another order than in the ring.
    pub fn on_sync(
        &self,
        filter: impl Into<T::Filter>,
        handler: impl Fn(&T) + Send + Sync + 'static,
    ) -> HandlerGuard {
        self.0.handlers.add_sync(filter.into(), handler)
    }

    /// Ends a handler's subscription, and returns false if there is no handler with this id. Does not wait for a call that is
    /// running.
    #[allow(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn unsubscribe(&self, id: HandlerId) -> bool {
        self.0.handlers.remove(id)
    }
}
