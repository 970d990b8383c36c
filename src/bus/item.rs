//! Items that a bus can carry: events, or plain values of the embedder's own.
//!
//! Invariant: an item is complete before a sequence is claimed for it.

use std::fmt;
use std::sync::Arc as Count;

use bytemuck::Pod;

use super::ring::{Counted, HEADER_WORDS, Handle, Inline, SlotCodec};
use crate::event::{self, Attribute, Event, EventId};
use crate::filter::Filter;
use crate::sync::Arc;

/// A value that a [`Bus`](super::Bus) carries: [`Event`]; any plain value of fixed size (`bytemuck::Pod`), which is copied into
/// the ring and out of it without an allocation; or any other value in a [`SharedValue`](super::SharedValue) handle.
///
/// This trait cannot be implemented outside this crate. Derive `Pod` and `Zeroable` for a type, or make a bus
/// [`of`](super::Bus::of) it.
pub trait Item: Clone + Send + Sync + Sized + 'static {
    /// Filter of a subscription: [`Filter`] for events, [`Predicate`] for plain values.
    type Filter: Clone + Default + Send + Sync + Unpin + 'static;

    #[doc(hidden)]
    type Codec: SlotCodec<Item = Self>;

    /// Returns whether a subscription with this filter wants the item.
    fn is_wanted(&self, filter: &Self::Filter) -> bool;

    /// Returns whether this filter is known to want every item. False if an evaluation would have to tell.
    #[doc(hidden)]
    #[inline]
    #[must_use]
    fn wants_all(_: &Self::Filter) -> bool {
        false
    }

    /// Whether items supply an ordering key.
    #[doc(hidden)]
    const KEYED: bool = false;

    /// Returns the ordering key: items with equal keys share a shard and stay in order.
    #[doc(hidden)]
    #[inline]
    fn ordering_key(&self) -> u64 {
        0
    }

    #[doc(hidden)]
    #[inline]
    #[must_use]
    fn into_publishable(self) -> Self {
        self
    }

    /// Returns another handle, or a copy. Not `clone`: that of a plain value may be the embedder's own code.
    #[doc(hidden)]
    #[must_use]
    fn duplicate(&self) -> Self;

    /// Sets the item's id. Values without an id ignore it.
    #[doc(hidden)]
    #[inline]
    fn set_id(&self, _: EventId) {}
}

impl Item for Event {
    type Filter = Filter;
    type Codec = Counted<Self>;
    const KEYED: bool = true;

    #[inline]
    fn is_wanted(&self, filter: &Filter) -> bool {
        filter.matches(self)
    }

    /// Returns the hash of the stream, or of the source if there is none.
    #[inline]
    fn ordering_key(&self) -> u64 {
        let hash = |attribute: Attribute| self.signature().0[attribute.index()];
        let stream = hash(Attribute::Stream);
        u64::from(if stream != 0 { stream } else { hash(Attribute::Source) })
    }

    #[inline]
    fn into_publishable(self) -> Self {
        Event::into_publishable(self)
    }

    #[inline]
    fn duplicate(&self) -> Self {
        self.clone()
    }

    #[inline]
    fn set_id(&self, id: EventId) {
        Event::set_id(self, id);
    }
}

impl Handle for Event {
    type Body = event::EventBody;
    const REUSES: bool = true;

    #[inline]
    fn into_arc(self) -> Arc<event::EventBody> {
        Event::into_arc(self)
    }

    #[inline]
    fn from_arc(body: Arc<event::EventBody>) -> Self {
        Event::from_arc(body)
    }

    #[inline]
    fn is_reusable(&self) -> bool {
        Event::is_reusable(self)
    }

    #[inline]
    fn recycle_all(handles: impl Iterator<Item = Self>) {
        Event::recycle_all(handles);
    }

    #[inline]
    fn weight(&self) -> u64 {
        Event::weight(self)
    }

    /// Returns the attributes' hashes and the time.
    #[inline]
    fn header(&self) -> [u64; HEADER_WORDS] {
        let mut header = [0; HEADER_WORDS];
        for (word, pair) in header.iter_mut().zip(self.signature().0.chunks_exact(2)) {
            *word = u64::from(pair[0]) | u64::from(pair[1]) << 32;
        }
        if let Some(time) = header.get_mut(Attribute::COUNT / 2) {
            *time = self.timestamp().0 as u64;
        }
        header
    }
}

impl<T: Pod + Send + Sync> Item for T {
    type Filter = Predicate<T>;
    type Codec = Inline<T>;

    #[inline]
    fn wants_all(filter: &Predicate<T>) -> bool {
        filter.is_all()
    }

    #[inline]
    fn is_wanted(&self, filter: &Predicate<T>) -> bool {
        filter.wants(self)
    }

    #[inline]
    fn duplicate(&self) -> Self {
        *self
    }
}

/// Filter of a subscription to values: all of them, or those for which a function returns true.
///
/// ```
/// # use fanwire::{Bus, Predicate};
/// let bus = Bus::builder().carrying::<u64>().build()?;
/// let all = bus.subscribe(Predicate::all());
/// let even = bus.subscribe(|n: &u64| n % 2 == 0);
/// # Ok::<(), fanwire::bus::BusConfigError>(())
/// ```
pub struct Predicate<T>(Option<PredicateFn<T>>);

type PredicateFn<T> = Count<dyn Fn(&T) -> bool + Send + Sync>;

impl<T> Predicate<T> {
    /// Selects all values.
    #[must_use]
    pub fn all() -> Self {
        Self(None)
    }

    /// Returns whether it was made by [`all`](Self::all).
    #[inline]
    pub(super) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether the value is selected.
    #[inline]
    pub(super) fn wants(&self, value: &T) -> bool {
        self.0.as_ref().is_none_or(|predicate| predicate(value))
    }
}

impl<T, F: Fn(&T) -> bool + Send + Sync + 'static> From<F> for Predicate<T> {
    fn from(predicate: F) -> Self {
        Self(Some(Count::new(predicate)))
    }
}

impl<T> Clone for Predicate<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Predicate<T> {
    fn default() -> Self {
        Self::all()
    }
}

impl<T> fmt::Debug for Predicate<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Predicate(some)" } else { "Predicate(all)" })
    }
}
