//! How items become the words of a slot, and are looked at there.
//!
//! Imports `sync`. Always: what word 0 owns is given back once (I3).
#![allow(unsafe_code, reason = "turns counts into words and back; the invariants are the room's")]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr;

use bytemuck::{Pod, Zeroable};

use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Words beside the body in a slot of a [`Shared`] cargo.
pub(crate) const HEADER_WORDS: usize = if cfg!(loom) { 1 } else { 6 };

/// How items of one kind become the words of a slot, and are looked at there.
///
/// # Safety
/// `SHARED` is true exactly if word 0 of an image owns something that `release_all` gives back.
pub unsafe trait Cargo: Send + Sync + 'static {
    /// What is published.
    type Item: Clone + Send + Sync + 'static;
    /// What a slot holds.
    type Image: Pod + Send + Sync;
    /// Whether word 0 owns something.
    const SHARED: bool;

    /// What the item of an image weighs, in bytes of its body; 0 where there is none.
    fn weight(image: &Self::Image) -> u64;

    /// Gives the item up to an image.
    fn pack(item: Self::Item) -> Self::Image;

    /// Looks at the item of an image.
    ///
    /// # Safety
    /// The image came from `pack`, and has not been released.
    unsafe fn look<R>(image: &Self::Image, look: impl FnOnce(&Self::Item) -> R) -> R;

    /// Gives back what these words 0 own, each as it comes from the iterator; all are taken from it.
    ///
    /// # Safety
    /// Each word came from `pack`, and is not used again.
    unsafe fn release_all(words: impl Iterator<Item = u64>);
}

/// Items that are carried as they are.
#[derive(Debug)]
pub struct Plain<T>(PhantomData<T>);

// SAFETY: a copy owns nothing.
unsafe impl<T: Pod + Send + Sync> Cargo for Plain<T> {
    type Item = T;
    type Image = T;
    const SHARED: bool = false;

    #[inline(always)]
    fn weight(_: &T) -> u64 {
        0
    }

    #[inline(always)]
    fn pack(item: T) -> T {
        item
    }

    #[inline(always)]
    unsafe fn look<R>(image: &T, look: impl FnOnce(&T) -> R) -> R {
        look(image)
    }

    unsafe fn release_all(_: impl Iterator<Item = u64>) {}
}

/// A handle of a counted body.
pub(crate) trait Handle: Clone + Send + Sync + 'static {
    /// What the handles share.
    type Body: Send + Sync + 'static;

    /// The count in this handle.
    fn into_arc(self) -> Arc<Self::Body>;
    /// The handle of a count.
    fn from_arc(body: Arc<Self::Body>) -> Self;
    /// Whether the body may be used again. Asked when it is published, because then its lines are near.
    fn is_reusable(&self) -> bool {
        false
    }
    /// Lets go of these handles, whose bodies are reusable. Best without a look at the bodies, which have been out
    /// of every near cache for a lap.
    fn recycle_all(handles: impl Iterator<Item = Self>) {
        handles.for_each(drop);
    }
    /// What its body weighs: the bytes that it holds. Never changes while it is published.
    fn weight(&self) -> u64;
    /// A copy of what readers ask most, kept in the slot. The last word is the weight's.
    fn header(&self) -> [u64; HEADER_WORDS];
}

/// Items whose body stays where it is.
#[derive(Debug)]
pub struct Shared<H>(PhantomData<H>);

/// In word 0, beside the address: the body may be used again.
const REUSABLE: u64 = 1;

/// The body's address in a word 0.
#[inline(always)]
fn body_of<H: Handle>(word: u64) -> *const H::Body {
    const { assert!(align_of::<H::Body>() > REUSABLE as usize, "the lowest bit is free") };
    ptr::with_exposed_provenance((word & !REUSABLE) as usize)
}

// SAFETY: `pack` moves one count into word 0, `release_all` takes it out.
unsafe impl<H: Handle> Cargo for Shared<H> {
    type Item = H;
    type Image = [u64; 1 + HEADER_WORDS];
    const SHARED: bool = true;

    #[inline(always)]
    fn weight(image: &Self::Image) -> u64 {
        image[HEADER_WORDS]
    }

    #[inline(always)]
    fn pack(item: H) -> Self::Image {
        let (header, weight) = (item.header(), item.weight());
        let reusable = u64::from(item.is_reusable()) * REUSABLE;
        let mut image = [0; 1 + HEADER_WORDS];
        image[0] = Arc::into_raw(item.into_arc()).expose_provenance() as u64 | reusable;
        image[1..].copy_from_slice(&header);
        image[HEADER_WORDS] = weight;
        image
    }

    #[inline(always)]
    unsafe fn look<R>(image: &Self::Image, look: impl FnOnce(&H) -> R) -> R {
        let body = body_of::<H>(image[0]);
        // SAFETY: by contract the count in word 0 stands, so the body lives. The handle made of it here is
        // never dropped, so that count is neither taken nor given back.
        let item = ManuallyDrop::new(H::from_arc(unsafe { Arc::from_raw(body) }));
        look(&item)
    }

    unsafe fn release_all(words: impl Iterator<Item = u64>) {
        H::recycle_all(words.filter_map(|word| {
            // SAFETY: by contract the count in this word came from `pack`, and is taken once.
            let item = H::from_arc(unsafe { Arc::from_raw(body_of::<H>(word)) });
            (word & REUSABLE != 0).then_some(item)
        }));
    }
}

/// Word 0 of an image: what it owns, if it owns anything.
#[inline(always)]
pub(super) fn word_0(image: &impl Pod) -> u64 {
    bytemuck::bytes_of(image).first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// Writes an image to words, relaxed: E2's fence before them and E1's stamp behind them order it.
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

/// Reads an image from words, relaxed: E1's stamp before them and E2's fence behind them order it.
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
