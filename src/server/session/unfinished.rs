//! Work that a session has begun and not ended, because the turn's budget was spent: it goes on before the next message is read.
//!
//! Invariants:
//! - The client is not read meanwhile, so there is one at a time, and nothing of the session changes behind its back.
//! - Each step is charged, so that a client with many subscriptions does not hold its loop.

use super::context::Context;
use super::interest::Touched;
use super::{Session, Subscribe};
use crate::dialect::{Asked, Reply, native};
use crate::feed::Conflation;
use crate::filter::Filter;

/// Work on all subscriptions, some of which are done.
#[derive(Debug)]
pub(super) enum Unfinished {
    Narrowing(Narrowing),
    Listing(Listing),
}

/// A client that has shown another token, whose subscriptions are not all narrowed by it yet.
#[derive(Debug)]
pub(super) struct Narrowing {
    /// Filter of what it could see before.
    pub(super) saw: Filter,
    /// Index of the first subscription that is still to be narrowed.
    pub(super) next: usize,
    /// Message that has the token.
    pub(super) asked: Asked,
    /// Subscription that waited for the token.
    pub(super) waiting: Option<Box<Subscribe>>,
}

/// A client that has asked what it is subscribed to.
#[derive(Debug)]
pub(super) struct Listing {
    asked: Asked,
    /// Index of the first subscription that is still to be written.
    next: usize,
    /// Answer as far as it is written.
    text: String,
}

/// Instructions for a byte of a list of subscriptions.
const LIST_INSTRUCTIONS: usize = 15;

impl Unfinished {
    /// Returns the bytes that it takes beside its own struct.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Narrowing(narrowing) => narrowing.saw.held_bytes(),
            Self::Listing(listing) => listing.text.capacity(),
        }
    }
}

impl Session {
    /// Returns whether it has to [`go_on`](Self::go_on) before it takes another message.
    pub(crate) fn is_busy(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.unfinished.is_some())
    }

    /// Goes on with what is unfinished, as far as the budget reaches.
    pub(crate) fn go_on(&mut self, cx: &mut Context<'_>) {
        let Some(own) = &mut self.own else { return };
        let left = match own.unfinished.take() {
            None => return,
            Some(Unfinished::Narrowing(narrowing)) => self.go_on_narrowing(narrowing, cx),
            Some(Unfinished::Listing(listing)) => self.go_on_listing(listing, cx),
        };
        self.keep(left);
    }

    /// Begins to narrow all subscriptions from `narrowing.next` on, and ends it if the budget reaches so far.
    pub(super) fn begin_narrowing(&mut self, narrowing: Narrowing, cx: &mut Context<'_>) {
        let left = self.go_on_narrowing(narrowing, cx);
        self.keep(left);
    }

    /// Begins to answer a `list_subscriptions`, and ends it if the budget reaches so far.
    pub(super) fn begin_listing(&mut self, asked: Asked, cx: &mut Context<'_>) {
        let text = String::from(r#"{"subscriptions":["#);
        let left = self.go_on_listing(Listing { asked, next: 0, text }, cx);
        self.keep(left);
    }

    fn keep(&mut self, left: Option<Unfinished>) {
        if left.is_some() {
            self.own.get_or_insert_default().unfinished = left;
        }
    }

    /// Narrows some more subscriptions by the token that was shown last; what a client may see of what it asked for can
    /// be another then. When all are, the token is acknowledged.
    fn go_on_narrowing(&mut self, mut narrowing: Narrowing, cx: &mut Context<'_>) -> Option<Unfinished> {
        /// Subscriptions in one effect, so that it is not begun with more than the turn can end.
        const AT_ONCE: usize = 16;
        while narrowing.next < self.subscriptions.len() {
            if cx.budget.is_spent() {
                return Some(Unfinished::Narrowing(narrowing));
            }
            let next = (narrowing.next + AT_ONCE).min(self.subscriptions.len());
            let fresh = narrowing.next..next;
            let removed = self.subscriptions[fresh.clone()].iter().map(|s| Touched {
                wish: s.wish,
                filter: s.filter.and(&narrowing.saw),
                was: Some(Conflation::from(s.on_lag)),
                to: None,
            });
            let removed: Vec<Touched> = removed.collect();
            let units: u32 = self.subscriptions[fresh.clone()].iter().map(|s| s.weight + 1).sum();
            cx.budget.spend(units);
            self.tell_change(removed, fresh, 0, cx);
            narrowing.next = next;
        }
        let Narrowing { asked, waiting, .. } = narrowing;
        self.reply(&Reply::Authenticated, &asked, cx);
        if let Some(subscribe) = waiting {
            self.subscribe_unasked(*subscribe, cx);
        }
        self.look_in_time(cx);
        None
    }

    /// Writes some more subscriptions. When all are written, the list is sent.
    fn go_on_listing(&mut self, mut listing: Listing, cx: &mut Context<'_>) -> Option<Unfinished> {
        while let Some(s) = self.subscriptions.get(listing.next) {
            if cx.budget.is_spent() {
                return Some(Unfinished::Listing(listing));
            }
            if listing.next > 0 {
                listing.text.push(',');
            }
            let before = listing.text.len();
            native::describe(&s.name.to_string(), &s.filter, &mut listing.text);
            cx.budget.spend_bytes(listing.text.len() - before, LIST_INSTRUCTIONS);
            listing.next += 1;
        }
        listing.text.push_str("]}");
        self.reply(&Reply::Response(&listing.text), &listing.asked, cx);
        None
    }
}
