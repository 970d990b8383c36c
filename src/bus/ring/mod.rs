//! The overwriting ring (many publishers, any number of readers) and the lossless ring. All `unsafe` code of the crate
//! is in this room.
//!
//! The rings know nothing about events: a [`SlotCodec`] says how an item becomes the words of a slot. `slots` is one
//! shard, `bound` its bound in bytes and `bytes` how the ring holds to it. `registry` lists the participants (readers, and publishers that need a pin or
//! wait for space) and `pin` keeps bodies alive while a reader uses them. `ring_set` holds the shards of a bus;
//! `writer`, `reader` and `reclaim` publish to them, read them and release what was overwritten (`retired`). `batch` collects items
//! before sequences are claimed, and `gated` is the lossless ring.
//!
//! # Layout
//! ```text
//! RingSet ── shards (one ring each) ── head      next sequence to claim                  own line
//!  │                                   slots     stamp | word 0 | word 1 ...             whole lines
//!  │                                   given_up  one word per slot, written when a sequence is given up
//!  │                                   weight    weight of the items, approximately      own line
//!  │                                   floor     items below it were released early      own line
//!  ├─── registry (participants) ────── sequence  the reader's pin                        own line
//!  │                                   waiter    where the reader sleeps                 own line
//!  └─── orphans                        evicted bodies of publishers that are gone
//! ```
//! A slot's stamp says which sequence `s` the slot shows: `2s + 1` while the slot is being written, `2s + 2` once it is
//! published. A new ring looks as if the lap before the first had been published. All words of a slot are atomics, so a
//! reader that is overtaken reads a mixture, not undefined behaviour, and rejects it at the second look at the stamp.
//!
//! There are two codecs: [`Inline`] copies an item into the words; [`Counted`] keeps the count of an `Arc` in word 0 (the
//! item's *body*) and a copy of the most requested fields in the others.
//!
//! # Invariants
//! - I1 `slot(s)` is inside the ring: the number of slots is a power of two, and the index is masked.
//! - I2 A slot is written only by the publisher of the one sequence whose turn it is: the lap before was published, or
//!   all laps since the last published one were given up. Sequences are claimed once (`fetch_add`). A publisher gives up
//!   only its own sequence, and never touches the slot afterwards.
//! - I3 Word 0 of a published slot of a counted codec holds one count of its body, or is 0 where the body was released
//!   early (I8). Overwriting moves that count to the evicting publisher's retired list, under the sequence that the slot
//!   showed.
//! - I4 A body on a retired list is released only after a fence that follows its eviction, and after a look at all pins
//!   that found none over its sequence.
//! - I5 A reader follows word 0 only of a slot whose stamp it found right *after* the fence that follows its pin, and
//!   only while the pin is held.
//! - I6 Participants are only appended, and live as long as the ring set.
//! - I7 No reader looks below the first sequence of a ring: slots of the lap before it look published and hold nothing.
//!   All readers go through the cursor, which reports anything below as a gap.
//! - I8 A ring over its bound in bytes raises its floor. Any thread with a pin over the sequence may then exchange the
//!   word 0 of a published slot below the floor for 0, and owns that count (the stamp stays as it is). A publisher that
//!   overwrites the slot also takes the count by an exchange if it sees the floor above the sequence shown; if it does
//!   not, E11 keeps other threads away. Two exchanges never take one count, and a count never belongs to another body
//!   than the one that was read: its address is not used again while the pin is held. A reader that finds 0 has been
//!   lapped.
//!
//! # Orderings
//! - E1 publish: `stamp = even` (release) -> reader's first load of the stamp (acquire).
//! - E2 overwrite seen: `stamp = odd` (relaxed), release fence, words (relaxed) -> words (relaxed), acquire fence, second
//!   load of the stamp (relaxed). A reader that got one new word sees at least the odd stamp.
//! - E3 slot handed on: `stamp = even` (release) -> the next publisher's load (acquire): it overwrites, and takes the body
//!   of, a finished slot. The claim itself orders nothing (relaxed): it makes a sequence unique, which any
//!   read-modify-write does, and the stamp publishes everything written under it.
//! - E4 pin before body: pin, `SeqCst` fence, stamp -> (overwritten stamp), `SeqCst` fence, pins. Either the reader sees
//!   the overwritten stamp, or the reclaimer sees the pin. These fences also show the reclaimer every participant that
//!   could matter: it was appended and registered before the pin was set.
//! - E5 unpin: `pin = idle` or the next pin (release) -> reclaimer's load of the pin (acquire): the last look at the body
//!   comes before its release.
//! - E6 sleep and E8 waker: see `event_count`.
//! - E7 participant handed on: `in_use = false` (release) -> the next owner's exchange (acquire).
//! - E9 given up: the record (release) -> the record (acquire): a publisher that proceeds on it never meets the publisher
//!   that gave up, and a reader that skips on it skips a sequence that was claimed.
//! - E10 closed: a ring's end, then the bit in its head (release) -> a look at the head that finds the bit, acquire fence,
//!   the end. All ends, then the flag (release) -> reader's load (acquire): a reader that sees the flag sees the end of each
//!   shard. Sequences below it may still be written; their publishers call `notify` as always, also if they give up.
//! - E11 floor: the floor, `SeqCst` or heavy fence, stamp -> stamp (odd, or published), light fence, the floor. Either the
//!   thread that raised the floor sees the stamp and leaves the slot alone (it is being overwritten) or to its publisher
//!   (it is not there yet), or that publisher sees the floor: it exchanges (I8), or takes out the item that it has just
//!   published.
//!
//! # Waiting
//! Readers never hold up a publisher. One step of `publish` can wait for another *publisher*: one that the scheduler
//! stopped between its two stamps while the others published a whole ring. After a bounded number of yields the
//! sequence is given up (I2) and a new one claimed; readers report the hole as a gap of one. Only if a second publisher
//! is stopped on the same slot, at the same step a lap later, do the publishers after it wait until it runs again.
//! Everything else in `publish` is wait-free.

mod batch;
mod bound;
mod bytes;
mod cells;
mod gated;
mod pin;
mod prefetch;
mod reader;
mod reclaim;
mod registry;
mod retired;
mod ring_set;
mod slot_codec;
mod slots;
mod writer;

pub(crate) use batch::Batch;
pub(crate) use bound::Bound;
pub(crate) use gated::{Claim, Gated, GatedReader, SpaceWaiter};
pub(crate) use pin::{PIN_SPAN, SHARDS_MAX};
pub(crate) use reader::RingReader;
pub(crate) use ring_set::RingSet;
pub(crate) use slot_codec::{Counted, Inline, SlotCodec};
pub(crate) use slot_codec::{HEADER_WORDS, Handle};
pub(crate) use slots::{Peek, Ring, VisitEnd};
pub(crate) use writer::RingWriter;

/// Number of an item in its shard.
type Sequence = u64;

/// Number of sequences by which a publisher prefetches the lines that it is going to write.
const AHEAD: u64 = 8;
