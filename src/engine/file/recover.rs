//! Recovery: reads the segments that an earlier process left, cuts off the incomplete end, and decides whether the
//! epoch continues.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::Path;

use super::super::error::EngineError;
use super::super::log::{EPOCH_MAX, SEQUENCE_MAX};
use super::open_segment::{LogSegment, broken, cut, path_of};
use super::segment::{SegmentHead, SegmentItem, SegmentReader};
use crate::event::{Sequence, Timestamp};

/// Returns a number that identifies this boot of the machine. Writes that were not synchronized survive until the next
/// boot.
pub(super) fn boot() -> u64 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// State of the log according to its files.
pub(super) struct Recovered {
    pub(super) segments: VecDeque<LogSegment>,
    pub(super) number: u64,
    pub(super) epoch: u64,
    pub(super) next: Vec<Sequence>,
}

/// Reads all segments, and cuts off an incomplete record at the end of the last.
pub(super) fn recover(folder: &Path, shards: usize, boot: u64) -> Result<Recovered, EngineError> {
    let fault = |error: &io::Error| broken(folder, "reading", error);
    let mut numbers: Vec<u64> = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| fault(&error))? {
        let name = entry.map_err(|error| fault(&error))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
        numbers.extend(number.filter(|number| *number < u64::MAX));
    }
    numbers.sort_unstable();
    let last = numbers.last().copied();
    let mut found = Recovered {
        segments: VecDeque::new(),
        number: last.map_or(1, |last| last + 1),
        epoch: 0,
        next: vec![0; shards],
    };
    // True if events that clients saw may be missing.
    let mut may_lack = false;
    let mut is_disordered = false;
    for number in numbers {
        let path = path_of(folder, number);
        let read = read_segment(&path).map_err(|error| broken(&path, "reading", &error))?;
        let Some(SegmentContents { head, bytes, item, next }) = read else {
            // The file may have been created just before a crash. It is renamed, not removed, so that the operator can
            // inspect it.
            tracing::warn!(path = %path.display(), "no segment of the engine's log: it is put aside");
            let length = path.metadata().map_err(|error| broken(&path, "reading", &error))?.len();
            may_lack = length > SegmentHead::bytes(shards);
            fs::rename(&path, path.with_extension("broken"))
                .map_err(|error| broken(&path, "renaming", &error))?;
            continue;
        };
        if head.next.len() != shards {
            return Err(EngineError::Shards { log: head.next.len(), node: shards });
        }
        // A segment that begins before the end of its predecessor would give ids twice.
        let is_in_order = head.epoch > found.epoch
            || (head.epoch == found.epoch
                && found.next.iter().zip(&head.next).all(|(end, first)| end <= first));
        if !is_in_order {
            tracing::warn!(path = %path.display(), "a segment of the engine's log does not follow the one before it");
        }
        is_disordered |= !is_in_order;
        // Later segments state their own sequences: events missing here appear as a hole.
        may_lack = match item {
            SegmentItem::End => false,
            SegmentItem::Broken => true,
            _ => !head.is_safe && (head.boot != boot || boot == 0),
        };
        if item == SegmentItem::Broken {
            tracing::warn!(path = %path.display(), at = bytes, "a record of the engine's log is damaged");
        }
        if matches!(item, SegmentItem::Torn | SegmentItem::Broken) && Some(number) == last {
            cut(&path, bytes).map_err(|error| broken(&path, "cutting", &error))?;
        }
        found.epoch = found.epoch.max(head.epoch);
        if next == head.next {
            // Nothing was appended to it, and the next segment states the same places.
            fs::remove_file(&path).map_err(|error| broken(&path, "removing", &error))?;
        } else {
            found.segments.push_back(LogSegment { path, epoch: head.epoch, bytes, next: head.next });
        }
        found.next = next;
    }
    may_lack |= is_disordered;
    if may_lack || found.epoch == 0 {
        let now = Timestamp::now().0 as u64;
        if may_lack {
            tracing::warn!("the engine's log may have lost events that clients saw: another epoch begins");
        }
        (found.epoch, found.next) = (now.max(found.epoch + 1), vec![0; shards]);
    }
    Ok(found)
}

/// Contents of a segment.
pub(super) struct SegmentContents {
    pub(super) head: SegmentHead,
    /// Size of its complete records in bytes, what follows them, and the places after them.
    pub(super) bytes: u64,
    pub(super) item: SegmentItem,
    pub(super) next: Vec<Sequence>,
}

pub(super) fn read_segment(path: &Path) -> io::Result<Option<SegmentContents>> {
    let Some((head, mut reader)) = SegmentReader::open(BufReader::new(File::open(path)?))? else {
        return Ok(None);
    };
    // No log reaches these numbers: nothing could follow them.
    if head.epoch > EPOCH_MAX || head.next.iter().any(|next| *next > SEQUENCE_MAX) {
        return Ok(None);
    }
    let mut next = head.next.clone();
    let item = loop {
        match reader.next()? {
            SegmentItem::Record => {
                for (shard, _) in reader.events() {
                    if let Some(next) = next.get_mut(usize::from(shard)) {
                        *next += 1;
                    }
                }
            }
            item => break item,
        }
    };
    Ok(Some(SegmentContents { head, bytes: reader.end, item, next }))
}
