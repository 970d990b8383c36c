//! Frames of the current batch: each event's frame once per encoding, and each feed's list of the frames that it gets.
//!
//! Feeds that neither compress nor conflate use the log's frames. A lone member that is caught up is written from the
//! log, and its feed stores nothing. In all other cases the feed copies its frames into blocks.
//!
//! Invariants:
//! - A list has its frames in the order of their events.
//! - The log is emptied when every list was taken, so it keeps no frame from one batch to the next.

use bytes::Bytes;

use super::frame::{FrameKind, FrameSource, MERGE_FRAME_BYTES_MAX, count_frame};
use crate::dialect::Encoding;
use crate::event::{ENCODINGS_MAX, Event, EventId};
use crate::metrics::Metrics;

/// End of a list.
const END: u32 = u32::MAX;

/// Maximum size of an encoding's small frames in one batch, in bytes. Larger batches keep each further frame by itself.
const LOG_BYTES_MAX: usize = 1 << 30;

/// Maximum capacity that a table keeps from batch to batch, in bytes. Growing again costs little in comparison with a
/// large batch.
const KEPT_BYTES_MAX: usize = 8 * 1024;

/// Storage of a frame in the log.
#[derive(Debug)]
enum LogStorage {
    /// Bytes of the encoding's log.
    Log { start: u32, end: u32 },
    /// Bytes of a large frame, or of a frame that the event caches for other loops.
    Own(FrameSource),
}

/// A frame in the log.
#[derive(Debug)]
pub(super) struct LoggedFrame {
    pub(super) id: EventId,
    pub(super) kind: FrameKind,
    storage: LogStorage,
}

/// Frames of one encoding.
#[derive(Debug, Default)]
struct EncodingLog {
    /// Small frames, back to back.
    bytes: Vec<u8>,
    frames: Vec<LoggedFrame>,
    /// Number of the event that was encoded last, and its frame.
    newest: (u32, u32),
}

/// Entry of a list.
#[derive(Clone, Copy, Debug)]
struct FrameLink {
    frame: u32,
    next: u32,
}

/// Frames of one feed in the log, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameList {
    first: u32,
    last: u32,
    pub(super) len: u32,
}

impl Default for FrameList {
    fn default() -> Self {
        Self { first: END, last: END, len: 0 }
    }
}

/// Frames of a list as one stretch of bytes.
#[derive(Debug)]
pub(super) enum Gathered {
    /// A single frame.
    Frame(u32),
    /// Frames that lie next to each other in the encoding's log.
    Range(u32, u32),
    /// Frames that were copied into the log's buffer.
    Copied,
}

/// Frames of the current batch.
#[derive(Debug, Default)]
pub(super) struct FrameLog {
    encodings: [EncodingLog; ENCODINGS_MAX],
    /// Encodings with frames, as bits.
    used: u32,
    links: Vec<FrameLink>,
    /// Number of lists that are not empty.
    lists: usize,
    /// Buffer for scattered frames of a list.
    scratch: Vec<u8>,
}

impl FrameLog {
    /// Returns the frame of the event with this number, and encodes it the first time. With `keeps`, the event caches
    /// the frame for other loops.
    pub(super) fn frame(
        &mut self,
        encoding: Encoding,
        (event, id, number): (&Event, EventId, u32),
        keeps: bool,
        metrics: &Metrics,
    ) -> u32 {
        let log = &mut self.encodings[encoding.slot()];
        if log.newest.0 == number {
            return log.newest.1;
        }
        let storage = if keeps {
            keep_frame(event, encoding, &mut self.scratch, metrics);
            LogStorage::Own(FrameSource::Shared(event.clone()))
        } else if event.payload().len() < MERGE_FRAME_BYTES_MAX && log.bytes.len() < LOG_BYTES_MAX {
            let start = log.bytes.len();
            encoding.put(event, event.position(), &mut log.bytes);
            count_frame(metrics, log.bytes.len() - start);
            LogStorage::Log { start: start as u32, end: log.bytes.len() as u32 }
        } else {
            let bytes = encoding.encode(event, event.position());
            count_frame(metrics, bytes.len());
            LogStorage::Own(FrameSource::Owned(bytes))
        };
        log.newest = (number, log.frames.len() as u32);
        log.frames.push(LoggedFrame { id, kind: FrameKind::Required, storage });
        self.used |= 1 << encoding.slot();
        log.newest.1
    }

    /// Forgets which events were encoded last, before their numbers start again.
    pub(super) fn forget_numbers(&mut self) {
        self.encodings.iter_mut().for_each(|log| log.newest = (0, 0));
    }

    /// Adds a gap notice for one feed.
    pub(super) fn gap(&mut self, encoding: Encoding, frame: Bytes, id: EventId) -> u32 {
        let log = &mut self.encodings[encoding.slot()];
        let storage = LogStorage::Own(FrameSource::Owned(frame));
        log.frames.push(LoggedFrame { id, kind: FrameKind::Gap, storage });
        self.used |= 1 << encoding.slot();
        log.frames.len() as u32 - 1
    }

    /// Appends a frame to a feed's list and returns `true` if it is the first.
    pub(super) fn push(&mut self, list: &mut FrameList, frame: u32) -> bool {
        let at = self.links.len() as u32;
        self.links.push(FrameLink { frame, next: END });
        list.len += 1;
        let before = std::mem::replace(&mut list.last, at);
        if let Some(before) = self.links.get_mut(before as usize) {
            before.next = at;
            return false;
        }
        list.first = at;
        self.lists += 1;
        true
    }

    /// Returns the frames of a list with their bytes.
    pub(super) fn frames(
        &self,
        encoding: Encoding,
        list: FrameList,
    ) -> impl Iterator<Item = (&LoggedFrame, &[u8])> + Clone {
        let log = &self.encodings[encoding.slot()];
        self.indices(list).map(move |index| {
            let frame = &log.frames[index as usize];
            (frame, log.bytes_of(frame, encoding))
        })
    }

    fn indices(&self, list: FrameList) -> impl Iterator<Item = u32> + Clone {
        let mut at = list.first;
        std::iter::from_fn(move || {
            let link = self.links.get(at as usize)?;
            at = link.next;
            Some(link.frame)
        })
    }

    /// Returns the id of the newest frame of a list.
    pub(super) fn newest(&self, encoding: Encoding, list: FrameList) -> Option<EventId> {
        let link = self.links.get(list.last as usize)?;
        Some(self.encodings[encoding.slot()].frames[link.frame as usize].id)
    }

    /// Returns the frames of a list as one stretch of at most `max` bytes. Returns `None` if they are longer, or if the
    /// list has several frames and one of them is large.
    pub(super) fn gather(&mut self, encoding: Encoding, list: FrameList, max: usize) -> Option<Gathered> {
        if list.len == 1 {
            let frame = self.links[list.first as usize].frame;
            let gathered = Gathered::Frame(frame);
            return (self.bytes(encoding, &gathered).len() <= max).then_some(gathered);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let gathered = self.gather_into(&mut scratch, encoding, list, max);
        self.scratch = scratch;
        gathered
    }

    fn gather_into(
        &self,
        scratch: &mut Vec<u8>,
        encoding: Encoding,
        list: FrameList,
        max: usize,
    ) -> Option<Gathered> {
        scratch.clear();
        let log = &self.encodings[encoding.slot()];
        // Pending stretch of the log, which is not copied yet.
        let (mut from, mut to) = (0, 0);
        for index in self.indices(list) {
            let frame = &log.frames[index as usize];
            match frame.storage {
                LogStorage::Log { start, end } if start == to && to > from => to = end,
                LogStorage::Log { start, end } => {
                    scratch.extend_from_slice(&log.bytes[from as usize..to as usize]);
                    (from, to) = (start, end);
                }
                LogStorage::Own(_) => {
                    scratch.extend_from_slice(&log.bytes[from as usize..to as usize]);
                    (from, to) = (0, 0);
                    let bytes = log.bytes_of(frame, encoding);
                    if bytes.len() > MERGE_FRAME_BYTES_MAX {
                        return None;
                    }
                    scratch.extend_from_slice(bytes);
                }
            }
            if scratch.len() + (to - from) as usize > max {
                return None;
            }
        }
        if scratch.is_empty() {
            return Some(Gathered::Range(from, to));
        }
        scratch.extend_from_slice(&log.bytes[from as usize..to as usize]);
        Some(Gathered::Copied)
    }

    /// Returns the bytes that were gathered last.
    pub(super) fn bytes(&self, encoding: Encoding, gathered: &Gathered) -> &[u8] {
        let log = &self.encodings[encoding.slot()];
        match *gathered {
            Gathered::Frame(index) => log.bytes_of(&log.frames[index as usize], encoding),
            Gathered::Range(from, to) => &log.bytes[from as usize..to as usize],
            Gathered::Copied => &self.scratch,
        }
    }

    /// Empties a list after its frames were written or copied. With the last list, the log is emptied too.
    pub(super) fn take(&mut self, list: &mut FrameList) {
        if std::mem::take(list).len == 0 {
            return;
        }
        self.lists -= 1;
        if self.lists > 0 {
            return;
        }
        clear(&mut self.links);
        clear(&mut self.scratch);
        while self.used != 0 {
            let log = &mut self.encodings[self.used.trailing_zeros() as usize];
            clear(&mut log.bytes);
            clear(&mut log.frames);
            self.used &= self.used - 1;
        }
    }

    /// Returns the capacity of the tables, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let bytes_of =
            |log: &EncodingLog| log.bytes.capacity() + log.frames.capacity() * size_of::<LoggedFrame>();
        self.links.capacity() * size_of::<FrameLink>()
            + self.scratch.capacity()
            + self.encodings.iter().map(bytes_of).sum::<usize>()
    }
}

impl EncodingLog {
    fn bytes_of<'a>(&'a self, frame: &'a LoggedFrame, encoding: Encoding) -> &'a [u8] {
        match &frame.storage {
            LogStorage::Log { start, end } => &self.bytes[*start as usize..*end as usize],
            LogStorage::Own(source) => source.bytes(encoding),
        }
    }
}

impl LoggedFrame {
    /// Returns the frame's own bytes, if it is not one of the log's small frames.
    pub(super) fn own_bytes(&self, encoding: Encoding) -> Option<Bytes> {
        match &self.storage {
            LogStorage::Log { .. } => None,
            LogStorage::Own(source) => Some(source.bytes(encoding).clone()),
        }
    }
}

/// Returns the frame that the event caches. Encodes and counts it the first time.
pub(super) fn shared_frame<'a>(event: &'a Event, encoding: Encoding, metrics: &Metrics) -> &'a Bytes {
    let encode = |event: &Event| {
        let frame = encoding.encode(event, event.position());
        count_frame(metrics, frame.len());
        frame
    };
    event.frame(encoding.slot(), encode)
}

/// Makes the event cache its frame. Encodes it in `scratch`, because a new vector would grow beyond the frame's size, and the
/// allocator would have to shrink it.
fn keep_frame(event: &Event, encoding: Encoding, scratch: &mut Vec<u8>, metrics: &Metrics) {
    if event.payload().len() >= MERGE_FRAME_BYTES_MAX {
        shared_frame(event, encoding, metrics);
        return;
    }
    event.frame(encoding.slot(), |event| {
        scratch.clear();
        encoding.put(event, event.position(), scratch);
        count_frame(metrics, scratch.len());
        Bytes::copy_from_slice(scratch)
    });
}

/// Clears a table, and frees it if it is large.
fn clear<T>(table: &mut Vec<T>) {
    table.clear();
    if table.capacity() * size_of::<T>() > KEPT_BYTES_MAX {
        *table = Vec::new();
    }
}
