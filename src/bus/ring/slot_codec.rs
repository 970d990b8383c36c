//! Conversion between items and the words of a slot.
//!
//! Invariant: what word 0 owns is given back once (I3).
#![allow(unsafe_code, reason = "turns counts into words and back; the invariants are the room's")]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr;

use bytemuck::{Pod, Zeroable};

use super::super::panics::catch_panic;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Number of words in addition to the body in a slot of a [`Counted`] codec.
pub(crate) const HEADER_WORDS: usize = if cfg!(loom) { 1 } else { 6 };

/// Converts items of one kind to the words of a slot and back.
///
/// # Safety
/// `COUNTED` is true exactly if word 0 of an image owns something that `release_all` gives back.
pub unsafe trait SlotCodec: Send + Sync + 'static {
    /// Item that is published.
    type Item: Clone + Send + Sync + 'static;
    /// Contents of a slot.
    type Image: Pod + Send + Sync;
    /// Whether word 0 owns a count.
    const COUNTED: bool;

    /// Returns the weight of an image's item, in bytes of its body; 0 if there is none.
    fn weight(image: &Self::Image) -> u64;

    /// Converts an item to an image, which owns what the item owned.
    fn pack(item: Self::Item) -> Self::Image;

    /// Calls `look` with the item of an image.
    ///
    /// # Safety
    /// The image came from `pack`, and has not been released.
    unsafe fn with_item<R>(image: &Self::Image, look: impl FnOnce(&Self::Item) -> R) -> R;

    /// Gives back what these words 0 own, each as it comes from the iterator; takes all of them.
    ///
    /// # Safety
    /// Each word came from `pack`, and is not used again.
    unsafe fn release_all(words: impl Iterator<Item = u64>);
}

/// Codec of plain values: the slot holds a copy.
#[derive(Debug)]
pub struct Inline<T>(PhantomData<T>);

// SAFETY: a copy owns nothing.
unsafe impl<T: Pod + Send + Sync> SlotCodec for Inline<T> {
    type Item = T;
    type Image = T;
    const COUNTED: bool = false;

    #[inline(always)]
    fn weight(_: &T) -> u64 {
        0
    }

    #[inline(always)]
    fn pack(item: T) -> T {
        item
    }

    #[inline(always)]
    unsafe fn with_item<R>(image: &T, look: impl FnOnce(&T) -> R) -> R {
        look(image)
    }

    unsafe fn release_all(_: impl Iterator<Item = u64>) {}
}

/// Handle of a counted body.
pub(crate) trait Handle: Clone + Send + Sync + 'static {
    /// Value that the handles share.
    type Body: Send + Sync + 'static;
    /// Whether bodies may be used again. Their alignment is above 1 then.
    const REUSES: bool = false;

    /// Returns the count in this handle.
    fn into_arc(self) -> Arc<Self::Body>;
    /// Makes a handle of a count.
    fn from_arc(body: Arc<Self::Body>) -> Self;
    /// Returns whether the body may be used again. Called when it is published, because its lines are in cache then.
    fn is_reusable(&self) -> bool {
        false
    }
    /// Drops these handles, whose bodies are reusable. Should not touch the bodies, which have been out of every near
    /// cache for a lap.
    fn recycle_all(handles: impl Iterator<Item = Self>) {
        handles.for_each(drop);
    }
    /// Returns the weight of the handle's body: the bytes that it holds. Never changes while it is published.
    fn weight(&self) -> u64;
    /// Returns a copy of the most requested fields, kept in the slot. The last word is overwritten with the weight.
    fn header(&self) -> [u64; HEADER_WORDS];
}

/// Codec of handles: the slot holds one count of the body.
#[derive(Debug)]
pub struct Counted<H>(PhantomData<H>);

/// Flag in word 0, next to the address: the body may be used again.
const REUSABLE: u64 = 1;

/// Returns the body's address in a word 0.
#[inline(always)]
fn body_of<H: Handle>(word: u64) -> *const H::Body {
    const { assert!(!H::REUSES || align_of::<H::Body>() > REUSABLE as usize, "the lowest bit is free") };
    let address = if H::REUSES { word & !REUSABLE } else { word };
    ptr::with_exposed_provenance(address as usize)
}

// SAFETY: `pack` moves one count into word 0, `release_all` takes it out.
unsafe impl<H: Handle> SlotCodec for Counted<H> {
    type Item = H;
    type Image = [u64; 1 + HEADER_WORDS];
    const COUNTED: bool = true;

    #[inline(always)]
    fn weight(image: &Self::Image) -> u64 {
        image[HEADER_WORDS]
    }

    #[inline(always)]
    fn pack(item: H) -> Self::Image {
        let (header, weight) = (item.header(), item.weight());
        let reusable = if H::REUSES { u64::from(item.is_reusable()) * REUSABLE } else { 0 };
        let mut image = [0; 1 + HEADER_WORDS];
        image[0] = Arc::into_raw(item.into_arc()).expose_provenance() as u64 | reusable;
        image[1..].copy_from_slice(&header);
        image[HEADER_WORDS] = weight;
        image
    }

    #[inline(always)]
    unsafe fn with_item<R>(image: &Self::Image, look: impl FnOnce(&H) -> R) -> R {
        let body = body_of::<H>(image[0]);
        // SAFETY: by contract the count in word 0 is still held, so the body lives. The handle made of it here is
        // never dropped, so that count is neither taken nor given back.
        let item = ManuallyDrop::new(H::from_arc(unsafe { Arc::from_raw(body) }));
        look(&item)
    }

    unsafe fn release_all(words: impl Iterator<Item = u64>) {
        if !H::REUSES {
            for word in words {
                // SAFETY: by contract the count in this word came from `pack`, and is taken once.
                drop_value(H::from_arc(unsafe { Arc::from_raw(body_of::<H>(word)) }));
            }
            return;
        }
        H::recycle_all(words.filter_map(|word| {
            // SAFETY: by contract the count in this word came from `pack`, and is taken once.
            let item = H::from_arc(unsafe { Arc::from_raw(body_of::<H>(word)) });
            (word & REUSABLE != 0).then_some(item)
        }));
    }
}

/// Drops a handle. The last one drops the embedder's value. A panic of that drop is caught, because other values wait
/// for their release.
fn drop_value<H: Handle>(item: H) {
    if cfg!(loom) {
        // A model must see its own panics.
        drop(item);
    } else {
        catch_panic(move || drop(item));
    }
}

/// Returns word 0 of an image: the count that it owns, if any.
#[inline(always)]
pub(super) fn word_0(image: &impl Pod) -> u64 {
    bytemuck::bytes_of(image).first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// Writes an image to words, relaxed: E2's fence before them and E1's stamp after them order it.
#[inline(always)]
pub(super) fn store_image<'a, I: Pod>(image: &I, word: impl Fn(usize) -> &'a AtomicU64) {
    let bytes = bytemuck::bytes_of(image);
    let whole = bytes.chunks_exact(8);
    let rest = whole.remainder();
    for (index, chunk) in whole.enumerate() {
        let value = u64::from_ne_bytes(chunk.try_into().expect("chunks of eight"));
        // E2.
        word(index).store(value, Ordering::Relaxed);
    }
    if !rest.is_empty() {
        let mut value = [0; 8];
        value[..rest.len()].copy_from_slice(rest);
        // E2.
        word(bytes.len() / 8).store(u64::from_ne_bytes(value), Ordering::Relaxed);
    }
}

/// Reads an image from words, relaxed: E1's stamp before them and E2's fence after them order it.
#[inline(always)]
pub(super) fn load_image<'a, I: Pod + Zeroable>(word: impl Fn(usize) -> &'a AtomicU64) -> I {
    let mut image = I::zeroed();
    let bytes = bytemuck::bytes_of_mut(&mut image);
    let last = bytes.len() / 8;
    let mut whole = bytes.chunks_exact_mut(8);
    for (index, chunk) in whole.by_ref().enumerate() {
        // E2.
        chunk.copy_from_slice(&word(index).load(Ordering::Relaxed).to_ne_bytes());
    }
    let rest = whole.into_remainder();
    if !rest.is_empty() {
        // E2.
        let value = word(last).load(Ordering::Relaxed).to_ne_bytes();
        rest.copy_from_slice(&value[..rest.len()]);
    }
    image
}
