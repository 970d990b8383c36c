//! Client protocols: the bytes of an event in each encoding, and clients' messages as commands. One file per dialect.
//!
//! Invariants:
//! - No I/O and no clock here.
//! - An encoding that is shared by many clients depends on the event alone.
//! - Every message becomes a [`ClientMessage`], regardless of its bytes.
//!
//! Adding a dialect takes its file, its rows in `table`, and its names in `encoding` and `name`.

#[cfg(feature = "dialects")]
mod agentos;
#[cfg(feature = "dialects")]
pub(crate) mod autosdlc;
pub(crate) mod cloudevents;
pub(crate) mod codes;
mod command;
mod concat;
#[cfg(feature = "schema")]
mod documents;
mod encoding;
pub(crate) mod envelope;
mod event_keys;
pub(crate) mod fast_path;
mod frame_template;
mod gap;
#[cfg(feature = "dialects")]
mod gathering;
#[cfg(feature = "dialects")]
mod hive;
pub(crate) mod infer_attributes;
pub(crate) mod keys;
pub(crate) mod lean;
mod merged;
mod name;
pub(crate) mod native;
pub(crate) mod observe;
mod on_lag;
pub(crate) mod protocol;
mod publish_terms;
mod sequence;
pub(crate) mod sse_bridge;
pub(crate) mod stream;
mod table;
mod uuid;
mod wire;
mod words;

pub(crate) use codes::{CLOSE_POLICY, CLOSE_RESTART, CLOSE_TRY_LATER, ErrorCode, HttpFault};
pub(crate) use command::{
    ClientError, ClientMessage, Command, Incoming, ListUpdate, LogEnded, Opening, OwnChannel, PastEnd,
    PastStart, Place, Refusal, RefusingLog, Reply, ReplyTag, Stamp, Subscribe, Update, UpdateCounts,
};
pub(crate) use concat::{Concat, ConcatTarget};
#[cfg(feature = "schema")]
pub(crate) use documents::DocumentSchemas;
pub(crate) use encoding::Encoding;
#[cfg(any(test, fuzzing))]
pub(crate) use event_keys::Others;
pub(crate) use gap::{GapNotice, Missed};
pub(crate) use infer_attributes::Complete;
pub(crate) use merged::MergedPayload;
pub use name::{Dialect, ParseDialectError};
pub(crate) use observe::{Observed, Observers, Watch};
pub(crate) use on_lag::OnLag;
pub(crate) use publish_terms::{ExpectedLast, check_dedupe_name};
pub(crate) use sequence::SequenceEncoder;
pub(crate) use wire::{KindLimits, WireProtocol};
pub(crate) use words::{shortened, split_entity};
