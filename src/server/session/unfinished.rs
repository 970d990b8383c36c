//! Work of a session that the turn's budget interrupted. It continues before the next message is read.
//!
//! Invariants:
//! - The client is not read until the work is done, so there is at most one at a time, and the session does not change
//!   during it.
//! - Each step is charged, so that a client with many subscriptions does not block its loop.

use super::Session;
use super::context::Context;
use super::effect::Effect;
use super::pending::{Listing, Narrowing, Resuming, Unfinished};
use super::subscription::AffectedFilter;
use crate::dialect::{ClientError, Reply, ReplyTag, Subscribe, native};
use crate::event::Since;
use crate::feed::Conflation;
use crate::filter::Filter;

/// Instructions for one byte of a list of subscriptions.
const LIST_INSTRUCTIONS: usize = 17;

/// Instructions for one byte of a list that is joined from several filters.
const JOIN_INSTRUCTIONS: usize = 50;

impl Session {
    /// Returns whether [`proceed`](Self::proceed) must run before another message is read.
    pub(crate) fn is_busy(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.unfinished.is_some())
    }

    /// Continues unfinished work, as far as the budget allows.
    pub(crate) fn proceed(&mut self, cx: &mut Context<'_>) {
        let Some(own) = &mut self.own else { return };
        let left = match own.unfinished.take() {
            None => return,
            Some(Unfinished::Narrowing(narrowing)) => self.continue_narrowing(narrowing, cx),
            Some(Unfinished::Listing(listing)) => self.continue_listing(listing, cx),
            // The loop has not applied the effect that waits.
            Some(resuming @ Unfinished::Resuming(_)) if cx.budget.is_spent() => Some(resuming),
            Some(Unfinished::Resuming(resuming)) => {
                self.resume_with(resuming, cx);
                None
            }
        };
        self.keep(left);
    }

    /// Keeps a request whose event the loop has not read yet, until it has read it. Its reply, and the past that it asks for,
    /// are then those of a place after the event.
    pub(super) fn await_read(&mut self, since: Since, resuming: Resuming, cx: &mut Context<'_>) {
        self.keep(Some(Unfinished::Resuming(resuming)));
        cx.effects.push(Effect::AwaitRead(since));
        cx.hold_input();
    }

    /// Adds a subscription as [`subscribe`](Self::subscribe) does, once the loop has read the event after which it resumes.
    pub(super) fn subscribe_when_read(
        &mut self,
        subscribe: Box<Subscribe>,
        tag: Option<&ReplyTag>,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        let Some(since) = subscribe.since.as_ref().filter(|since| cx.is_ahead(since)).cloned() else {
            return self.subscribe(*subscribe, tag, cx);
        };
        self.await_read(since, Resuming::Subscribe(subscribe, tag.cloned()), cx);
        Ok(())
    }

    /// Executes a request that has waited.
    fn resume_with(&mut self, resuming: Resuming, cx: &mut Context<'_>) {
        match resuming {
            Resuming::Subscribe(subscribe, tag) => {
                if let Err(error) = self.subscribe(*subscribe, tag.as_ref(), cx) {
                    self.fail(&error, tag.as_ref().unwrap_or(&ReplyTag::None), cx);
                }
            }
            Resuming::Refill(since, tag) => self.execute_refill(since, &tag, cx),
        }
    }

    /// Starts to narrow all subscriptions from `narrowing.next` on. Finishes if the budget allows it.
    pub(super) fn begin_narrowing(&mut self, narrowing: Narrowing, cx: &mut Context<'_>) {
        let left = self.continue_narrowing(narrowing, cx);
        self.keep(left);
    }

    /// Starts to respond to a `list_subscriptions`. Finishes if the budget allows it.
    pub(super) fn begin_listing(&mut self, tag: ReplyTag, cx: &mut Context<'_>) {
        let text = String::from(r#"{"subscriptions":["#);
        let left = self.continue_listing(Listing { tag, next: 0, text }, cx);
        self.keep(left);
    }

    fn keep(&mut self, left: Option<Unfinished>) {
        if left.is_some() {
            self.own.get_or_insert_default().unfinished = left;
        }
    }

    /// Narrows some more subscriptions by the new token, because it may change what the client sees of them.
    /// Acknowledges the token after the last one.
    fn continue_narrowing(&mut self, mut narrowing: Narrowing, cx: &mut Context<'_>) -> Option<Unfinished> {
        /// Number of subscriptions in one effect. A larger effect might take more than a turn.
        const AT_ONCE: usize = 16;
        while narrowing.next < self.subscriptions.len() {
            if cx.budget.is_spent() {
                return Some(Unfinished::Narrowing(narrowing));
            }
            let next = (narrowing.next + AT_ONCE).min(self.subscriptions.len());
            let fresh = narrowing.next..next;
            let removed = self.subscriptions[fresh.clone()].iter().map(|s| AffectedFilter {
                wish: s.wish,
                filter: if s.empty_lists() == 0 { s.filter.and(&narrowing.saw) } else { Filter::nothing() },
                was: Some(Conflation::from(s.on_lag)),
                to: None,
            });
            let removed: Vec<AffectedFilter> = removed.collect();
            let units: u32 = self.subscriptions[fresh.clone()].iter().map(|s| s.weight + 1).sum();
            cx.budget.spend(units);
            self.emit_change(removed, fresh, 0, cx);
            narrowing.next = next;
        }
        let Narrowing { tag, waiting, .. } = narrowing;
        self.reply(&Reply::Authenticated, &tag, cx);
        if let Some(subscribe) = waiting {
            self.subscribe_by_path(subscribe, cx);
        }
        self.schedule_deadline(cx);
        None
    }

    /// Writes some more subscriptions. Sends the list after the last one.
    fn continue_listing(&mut self, mut listing: Listing, cx: &mut Context<'_>) -> Option<Unfinished> {
        while let Some(s) = self.subscriptions.get(listing.next) {
            if cx.budget.is_spent() {
                return Some(Unfinished::Listing(listing));
            }
            if listing.next > 0 {
                listing.text.push(',');
            }
            let before = listing.text.len();
            // A subscription with a long list has several filters.
            let parts = self.subscriptions[listing.next..].iter().take_while(|part| part.is_part_of(s));
            let count = parts.clone().count();
            let filter = Filter::joined(parts.map(|part| &part.filter));
            native::describe(&s.name.to_string(), &filter, s.empty_lists(), &mut listing.text);
            let each = if count > 1 { LIST_INSTRUCTIONS + JOIN_INSTRUCTIONS } else { LIST_INSTRUCTIONS };
            cx.budget.spend_bytes(listing.text.len() - before, each);
            listing.next += count;
        }
        listing.text.push_str("]}");
        self.reply(&Reply::Response(&listing.text), &listing.tag, cx);
        None
    }
}
