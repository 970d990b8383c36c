//! Values of any type on a bus: each slot holds one count of the value.
//!
//! Always: a value is dropped once, by the last holder: the ring or a reader.

use std::fmt;
use std::ops::Deref;

use super::item::{Item, Predicate};
use super::ring::{Counted, HEADER_WORDS, Handle};
use crate::sync::Arc;

/// Handle of a value of any type, as a bus carries it and readers get it. It derefs to the value.
///
/// Plain values (`bytemuck::Pod`) are copied into the ring and need no handle. A value of any other type is allocated
/// once when it is published, and all readers share it. A ring that overwrites can't hold such a value itself: a
/// publisher would drop it while a reader looks at it.
///
/// The value is dropped by the thread that releases it last: a reader, or a publisher that overwrites. A panic of its
/// `Drop` in a publisher is caught.
///
/// ```
/// use fanwire::{Bus, Delivery};
///
/// enum Quote {
///     Trade { symbol: String, price: f64 },
///     Halt(String),
/// }
///
/// let bus = Bus::of::<Quote>();
/// let mut trades = bus.subscribe(|quote: &Quote| matches!(quote, Quote::Trade { .. }));
/// bus.publish(Quote::Halt("XYZ".to_owned()));
/// bus.publish(Quote::Trade { symbol: "ABC".to_owned(), price: 1.5 });
/// let Delivery::Event(quote) = trades.try_recv()? else { panic!("nothing was missed") };
/// assert!(matches!(&*quote, Quote::Trade { symbol, price } if symbol == "ABC" && *price > 1.0));
/// # Ok::<(), fanwire::bus::TryRecvError>(())
/// ```
pub struct SharedValue<V>(Arc<V>);

impl<V> SharedValue<V> {
    /// Creates the handle of a value. Allocates.
    #[must_use]
    pub fn new(value: V) -> Self {
        Self(Arc::new(value))
    }

    /// Returns the value's `Arc`, at no cost.
    #[must_use]
    pub fn into_arc(self) -> Arc<V> {
        self.0
    }
}

impl<V: Send + Sync + 'static> Item for SharedValue<V> {
    type Filter = Predicate<V>;
    type Codec = Counted<Self>;

    #[inline]
    fn wants_all(filter: &Predicate<V>) -> bool {
        filter.is_all()
    }

    #[inline]
    fn is_wanted(&self, filter: &Predicate<V>) -> bool {
        filter.wants(self)
    }

    #[inline]
    fn duplicate(&self) -> Self {
        self.clone()
    }
}

impl<V: Send + Sync + 'static> Handle for SharedValue<V> {
    type Body = V;

    #[inline]
    fn into_arc(self) -> Arc<V> {
        self.0
    }

    #[inline]
    fn from_arc(body: Arc<V>) -> Self {
        Self(body)
    }

    /// Returns the size of the value and its counts; without the data that it points to.
    #[inline]
    fn weight(&self) -> u64 {
        (size_of::<V>() + 2 * size_of::<usize>()) as u64
    }

    #[inline]
    fn header(&self) -> [u64; HEADER_WORDS] {
        [0; HEADER_WORDS]
    }
}

/// A value that can be published to a bus of `T`: a `T`, or, on a bus of [`SharedValue`] values, the value itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a bus of `{T}` carries",
    note = "a bus of plain values or events takes those, and a bus made by `of::<V>()` takes `V` or `SharedValue<V>`"
)]
pub trait IntoItem<T: Item> {
    /// Converts itself to the item.
    fn into_item(self) -> T;
}

impl<T: Item> IntoItem<T> for T {
    #[inline]
    fn into_item(self) -> T {
        self
    }
}

impl<V: Send + Sync + 'static> IntoItem<SharedValue<V>> for V {
    #[inline]
    fn into_item(self) -> SharedValue<V> {
        SharedValue::new(self)
    }
}

impl<V> Clone for SharedValue<V> {
    #[inline]
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V> Deref for SharedValue<V> {
    type Target = V;

    #[inline]
    fn deref(&self) -> &V {
        &self.0
    }
}

impl<V> AsRef<V> for SharedValue<V> {
    fn as_ref(&self) -> &V {
        self
    }
}

impl<V> From<V> for SharedValue<V> {
    fn from(value: V) -> Self {
        Self::new(value)
    }
}

impl<V> From<Arc<V>> for SharedValue<V> {
    fn from(value: Arc<V>) -> Self {
        Self(value)
    }
}

impl<V: PartialEq> PartialEq for SharedValue<V> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<V: Eq> Eq for SharedValue<V> {}

impl<V: fmt::Debug> fmt::Debug for SharedValue<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
