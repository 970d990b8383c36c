//! Events, as a bus carries them. An [`Event`] has attributes for routing, a time, and a JSON payload.
//!
//! Always:
//! - An event is complete and immutable before it is published.
//! - Two things are added later, each once: its id, by the bus, and the frames encoded from it.

mod attribute;
mod body;
mod builder;
#[cfg(feature = "server")]
mod frames;
mod handle;
pub(crate) mod json;
pub(crate) mod json_path;
#[cfg(feature = "server")]
pub(crate) mod packed;
#[cfg(feature = "server")]
mod pointer;
mod pool;
mod position;
pub(crate) mod signature;
mod time;
mod trace;

pub use attribute::Attribute;
pub(crate) use body::EventBody;
#[cfg(feature = "server")]
pub(crate) use builder::may_be_attribute;
pub use builder::{ATTRIBUTE_BYTES_MAX, EventBuilder, EventError};
#[cfg(feature = "server")]
pub(crate) use frames::{ENCODINGS_MAX, held_frame_bytes, limit_frames, may_keep_frame};
pub use handle::Event;
pub use json::JsonError;
#[cfg(feature = "server")]
pub(crate) use pointer::StringPointer;
#[cfg(feature = "server")]
pub(crate) use position::Since;
pub use position::{EventId, ParseEventIdError, Position, Sequence};
pub use time::{ParseTimestampError, Timestamp};
