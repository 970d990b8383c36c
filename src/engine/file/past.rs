//! Reads kept events of a log in files, starting from index points noted during earlier reads.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::error::EngineError;
use super::super::log::{LogEntry, LogSpan, Past};
use super::open_segment::{LogSegment, broken};
use super::segment::{SegmentItem, SegmentReader};
use super::shared::FileShared;
use crate::event::{EventId, Sequence};
use crate::sync::lock;

/// Bytes of a segment between two index points.
const MARK_BYTES: u64 = 128 << 10;

/// Reader of a log's segments.
pub(super) struct FilePast {
    shared: Arc<FileShared>,
    /// Index points of the segments that were read.
    marks: HashMap<PathBuf, Vec<IndexPoint>>,
}

/// Offset in a segment, with the sequences that begin there.
#[derive(Clone, Debug)]
struct IndexPoint {
    at: u64,
    next: Vec<Sequence>,
}

/// State of one read over the segments.
struct SpanRead<'a> {
    span: LogSpan,
    events: usize,
    bytes: usize,
    take: &'a mut dyn FnMut(LogEntry<'_>),
}

impl SpanRead<'_> {
    fn is_full(&self) -> bool {
        self.events >= self.span.max_events || self.bytes >= self.span.max_bytes
    }
}

impl FilePast {
    pub(super) fn new(shared: &Arc<FileShared>) -> Self {
        Self { shared: Arc::clone(shared), marks: HashMap::new() }
    }

    /// Reads a segment up to the end of its complete records.
    fn read_segment(&mut self, segment: &LogSegment, wanted: &mut SpanRead<'_>) -> io::Result<()> {
        let shard = usize::from(wanted.span.shard);
        let mut file = File::open(&segment.path)?;
        let marks = self.marks.entry(segment.path.clone()).or_default();
        if marks.is_empty() {
            let Some((head, reader)) = SegmentReader::open(BufReader::new((&file).take(segment.bytes)))?
            else {
                return Ok(());
            };
            marks.push(IndexPoint { at: reader.end, next: head.next });
        }
        let is_first = segment.epoch == wanted.span.epoch;
        let before = |mark: &IndexPoint| {
            is_first && mark.next.get(shard).is_some_and(|next| *next <= wanted.span.from)
        };
        let nearest = marks.partition_point(before).saturating_sub(1);
        let Some(IndexPoint { at, mut next }) = marks.get(nearest).cloned() else { return Ok(()) };
        file.seek(SeekFrom::Start(at))?;
        let mut reader = SegmentReader::at(BufReader::new(file.take(segment.bytes.saturating_sub(at))), at);
        while !wanted.is_full() {
            let start = reader.end;
            if marks.last().is_some_and(|last| start >= last.at + MARK_BYTES) {
                marks.push(IndexPoint { at: start, next: next.clone() });
            }
            if reader.next()? != SegmentItem::Record {
                return Ok(());
            }
            for (number, json) in reader.events() {
                let Some(next) = next.get_mut(usize::from(number)) else { continue };
                let id = EventId { epoch: segment.epoch, shard: number, sequence: *next };
                *next += 1;
                let is_wanted = number == wanted.span.shard
                    && (id.epoch, id.sequence) >= (wanted.span.epoch, wanted.span.from);
                // A record is always read in full; the rest of its events is returned with the next page.
                if is_wanted && !wanted.is_full() {
                    wanted.events += 1;
                    wanted.bytes += json.len();
                    (wanted.take)(LogEntry { id, json });
                }
            }
        }
        Ok(())
    }

    fn forget_marks(&mut self, segments: &[LogSegment]) {
        if self.marks.len() > segments.len() {
            let is_there = |path: &Path| segments.iter().any(|segment| segment.path == *path);
            self.marks.retain(|path, _| is_there(path));
        }
    }
}

impl Past for FilePast {
    fn read(&mut self, span: LogSpan, take: &mut dyn FnMut(LogEntry<'_>)) -> Result<(), EngineError> {
        let segments: Vec<LogSegment> = {
            let state = lock(&self.shared.state);
            state.segments.iter().chain(state.open.as_ref().map(|open| &open.segment)).cloned().collect()
        };
        self.forget_marks(&segments);
        let shard = usize::from(span.shard);
        // The last segment that begins at or before the place. Segments of later epochs all follow.
        let begins_before = |segment: &LogSegment| {
            let next = segment.next.get(shard).copied().unwrap_or_default();
            (segment.epoch, next) <= (span.epoch, span.from)
        };
        let first = segments.partition_point(begins_before).saturating_sub(1);
        let mut wanted = SpanRead { span, events: 0, bytes: 0, take };
        for segment in segments.iter().skip(first).filter(|segment| segment.epoch >= span.epoch) {
            match self.read_segment(segment, &mut wanted) {
                // The file was removed: the missing events appear as a hole.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(broken(&segment.path, "reading", &error)),
                Ok(()) => {}
            }
            if wanted.is_full() {
                break;
            }
        }
        Ok(())
    }
}
