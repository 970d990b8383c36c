//! The ring: bounded, overwriting, many publishers, any number of readers. All `unsafe` of the crate is in
//! this room.
//!
//! Imports `sync` and the eventcount (`park`). Nothing here knows what an event is: a [`Cargo`] says how an
//! item becomes the words of a slot. `slots` is one shard, `bytes` its bound in bytes, `seats` the registry of
//! readers, `access` who publishes and reads, `batch` what is published at once.
//!
//! # Layout
//! ```text
//! Core ── rings (one a shard) ── head         next sequence to claim                    own line
//!  │                             slots        stamp | word 0 | word 1 ...               whole lines
//!  │                             given_up     one word a slot, written only in trouble
//!  │                             weight       what the items weigh, roughly                own line
//!  │                             floor        what is below was let go of early            own line
//!  ├──── seats (one a reader) ── pin          the run that its reader looks at          own line
//!  │                             bed          where its reader sleeps                   own line
//!  └──── orphans                 evicted bodies whose publisher is gone
//! ```
//! A slot's stamp says which sequence `s` it shows: `2s + 1` while that is written, `2s + 2` once it is
//! published. A new ring looks as if the lap before the first had been published. All words of a slot are
//! atomics, so a reader that is overtaken reads a mixture, not undefined behaviour, and rejects it at the
//! second look at the stamp.
//!
//! An item is carried in one of two ways: [`Plain`] copies it into the words; [`Shared`] keeps the count of
//! an `Arc` in word 0 (its *body*) and a copy of what readers ask most in the others.
//!
//! # Invariants
//! - I1 `slot(s)` is inside the ring: slots are a power of two, the index is masked.
//! - I2 A slot is written only by the publisher of the one sequence whose turn it is: the lap before was
//!   published, or all laps since the one published last were given up. Sequences are claimed once
//!   (`fetch_add`), a publisher gives up only its own, and never touches the slot afterwards.
//! - I3 Word 0 of a published slot of a shared cargo holds one count of its body, or is 0 where that was let go
//!   of (I8). Overwriting moves that count to the evicting publisher's retired list, under the sequence that the
//!   slot showed.
//! - I4 A body on a retired list is released only after a fence behind its eviction, and a look at all
//!   pins that found none over its sequence.
//! - I5 A reader follows word 0 only of a slot whose stamp it found right *after* the fence behind its
//!   pin, and only while the pin stands.
//! - I6 Seats are only appended, and live as long as the core.
//! - I7 No reader looks below the sequence that a ring began with: slots of the lap before it look published, and
//!   hold nothing. The cursor, through which all readers come, tells what is below as a gap.
//! - I8 A ring over its bound in bytes raises its floor; the word 0 of a published slot below the floor may then be
//!   exchanged for 0 by anybody with a pin over its sequence, and is that one's count (the stamp stays as it is). A
//!   publisher that overwrites takes the count by an exchange too where it sees the floor above the sequence
//!   shown; where it does not, E11 keeps the others off. Two exchanges never take one count, and a count never
//!   belongs to another body than was read: its address is not used again while the pin stands. A reader that
//!   finds 0 has been lapped.
//!
//! # Orderings
//! - E1 publish: `stamp = even` (release) -> reader's first load of the stamp (acquire).
//! - E2 overwrite seen: `stamp = odd` (relaxed), release fence, words (relaxed) -> words (relaxed), acquire
//!   fence, second load of the stamp (relaxed). A reader that got one new word sees at least the odd stamp.
//! - E3 slot handed on: `stamp = even` (release) -> the next publisher's load (acquire): it overwrites, and
//!   takes the body of, a finished slot. The claim itself orders nothing (relaxed): it makes a sequence
//!   unique, which any read-modify-write does, and everything written under it is published by the stamp.
//! - E4 pin before body: pin, `SeqCst` fence, stamp -> (overwritten stamp), `SeqCst` fence, pins. Either the
//!   reader sees the overwritten stamp, or the reclaimer sees the pin. The same fences show the reclaimer
//!   every seat that could matter: it was appended and taken before the pin was set.
//! - E5 unpin: `pin = idle` or the next run (release) -> reclaimer's load of the pin (acquire): the last
//!   look at the body comes before its release.
//! - E6 sleep and E8 waker: see `park`.
//! - E7 seat handed on: `taken = false` (release) -> the next reader's exchange (acquire).
//! - E9 given up: the record (release) -> the record (acquire): who proceeds on it never meets the
//!   publisher that gave up, and a reader that skips on it skips what was claimed.
//! - E11 floor: the floor, `SeqCst` or heavy fence, stamp -> stamp (odd, or published), light fence, the floor.
//!   Either who raised the floor sees the stamp and leaves the slot alone (it is being overwritten) or for its
//!   publisher (it is not there yet), or that publisher sees the floor: it exchanges (I8), or takes out what it
//!   has just published.
//! - E10 closed: the flag (release) -> reader's load (acquire): a reader that sees it sees all events.
//!
//! # What can wait
//! Readers never hold up a publisher. One step of `publish` can wait for another *publisher*: one that the
//! scheduler stopped between its two stamps while the others published a whole ring. After a bounded
//! number of yields the sequence is given up (I2) and a new one claimed; readers report the hole as a gap
//! of one. Only where a second publisher is stopped on the same slot, at the same step a lap later, are
//! those behind it held until it runs again. Everything else in `publish` is wait-free.

mod access;
mod batch;
mod bytes;
mod cargo;
mod cells;
mod gated;
mod prefetch;
mod seats;
mod slots;

pub(crate) use access::{Core, Reader, Writer};
pub(crate) use batch::Batch;
pub(crate) use bytes::Bound;
pub(crate) use cargo::{Cargo, Plain, Shared};
pub(crate) use cargo::{HEADER_WORDS, Handle};
pub(crate) use gated::{Claim, Gated, GatedReader, Waiting};
pub(crate) use slots::{End, Peek, Ring};

/// An event's number in its shard.
type Sequence = u64;

/// Sequences that one pin covers.
pub(crate) const RUN: u64 = if cfg!(loom) { 1 } else { 64 };

/// How many sequences ahead a publisher asks for the lines that it is going to write.
const AHEAD: u64 = 8;

/// A pin, and the name of a retired body: the shard above the low bits of the sequence. Cut sequences that
/// collide (2^48 events apart) only hold a body longer.
const SEQUENCE_BITS: u32 = 48;

/// The most shards a core can have.
pub(crate) const SHARDS_MAX: usize = 1024;

fn place_word(shard: usize, sequence: Sequence) -> u64 {
    (shard as u64) << SEQUENCE_BITS | sequence & ((1 << SEQUENCE_BITS) - 1)
}

/// Whether a body is in the run that a pin covers.
fn is_pinned(pin: u64, place: u64) -> bool {
    let same_shard = (pin ^ place) >> SEQUENCE_BITS == 0;
    same_shard && place.wrapping_sub(pin) & ((1 << SEQUENCE_BITS) - 1) < RUN
}
