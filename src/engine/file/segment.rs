//! The bytes of a segment: a head, then a record for each batch of events, then perhaps the mark of an orderly end.
//!
//! Imports the engine's `Record`. No files: anything that reads. Always:
//! - a record is whole, or it is none: its checksum covers all of it, and a batch is one record;
//! - whatever the bytes are, reading them ends, takes memory for no more than is there, and says where the last
//!   whole record ends.
//!
//! ```text
//! head    "fanwire1" | frame | epoch u64 | boot u64 | safe u8 | shards u16 | next u64 each
//! record  frame | events: shard u16, length u32, JSON
//! frame   length u32 | checksum u32 of the length | checksum u32 of what follows
//! end     ff ff ff ff | "the end."
//! ```
//! Numbers are little-endian, checksums CRC-32. The length has one of its own, so that a record which was not written
//! to its end is told from one that was damaged.

use std::io::{self, Read};

use super::super::log::Record;
use crate::event::Sequence;

const MAGIC: &[u8; 8] = b"fanwire1";

/// What is there in place of a record when the log was closed in order.
pub(super) const END: &[u8; FRAME] = b"\xff\xff\xff\xffthe end.";

/// Bytes of a record: more than any body that a server takes.
pub(super) const RECORD_BYTES_MAX: usize = 1 << 31;

/// Bytes before a record's events.
const FRAME: usize = 12;

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub(super) epoch: u64,
    /// Which run of the machine wrote it; 0 where that is not known.
    pub(super) boot: u64,
    /// Nothing was accepted that was not safe from a crash of the machine.
    pub(super) is_safe: bool,
    /// The sequence of the first event of each shard in it or behind it.
    pub(super) next: Vec<Sequence>,
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Puts length and checksum in the place that was left for them.
fn seal(out: &mut [u8]) {
    let (frame, body) = out.split_at_mut(FRAME);
    let length = (body.len() as u32).to_le_bytes();
    frame[..4].copy_from_slice(&length);
    frame[4..8].copy_from_slice(&checksum(&length).to_le_bytes());
    frame[8..].copy_from_slice(&checksum(body).to_le_bytes());
}

impl SegmentHead {
    /// How long it is for so many shards.
    pub(super) const fn bytes(shards: usize) -> u64 {
        (MAGIC.len() + FRAME + 19 + 8 * shards) as u64
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[0; FRAME]);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.boot.to_le_bytes());
        out.push(u8::from(self.is_safe));
        out.extend_from_slice(&(self.next.len() as u16).to_le_bytes());
        for next in &self.next {
            out.extend_from_slice(&next.to_le_bytes());
        }
        seal(&mut out[MAGIC.len()..]);
        out
    }

    fn from_body(mut body: &[u8]) -> Option<Self> {
        let epoch = u64::from_le_bytes(take(&mut body)?);
        let boot = u64::from_le_bytes(take(&mut body)?);
        let [is_safe] = take(&mut body)?;
        let shards = u16::from_le_bytes(take(&mut body)?);
        let next = (0..shards).map(|_| take(&mut body).map(u64::from_le_bytes)).collect::<Option<_>>()?;
        body.is_empty().then_some(Self { epoch, boot, is_safe: is_safe == 1, next })
    }
}

fn take<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = body.split_first_chunk()?;
    *body = rest;
    Some(*first)
}

/// Returns how long a record of these is.
pub(super) fn record_bytes(records: &[Record]) -> u64 {
    FRAME as u64 + records.iter().map(|record| record.json.len() as u64 + 6).sum::<u64>()
}

/// Makes one record of a batch; `out` is cleared first. False where it would be too long.
pub(super) fn write_record(records: &[Record], out: &mut Vec<u8>) -> bool {
    out.clear();
    out.extend_from_slice(&[0; FRAME]);
    if record_bytes(records) > RECORD_BYTES_MAX as u64 {
        return false;
    }
    for Record { shard, json } in records {
        out.extend_from_slice(&shard.to_le_bytes());
        out.extend_from_slice(&(json.len() as u32).to_le_bytes());
        out.extend_from_slice(json.as_bytes());
    }
    seal(out);
    true
}

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SegmentItem {
    /// A whole record; [`SegmentReader::events`] has its events.
    Record,
    /// The log was closed here, in order.
    End,
    /// Nothing more.
    Nothing,
    /// Less than a record: it was being written when all ended.
    Torn,
    /// It was written, and is something else now.
    Broken,
}

/// Reads a segment.
pub(super) struct SegmentReader<R> {
    from: R,
    body: Vec<u8>,
    /// Where the last whole record ended.
    pub(super) end: u64,
}

impl<R: Read> SegmentReader<R> {
    /// Reads the head; `None` where there is no whole one.
    pub(super) fn open(mut from: R) -> io::Result<Option<(SegmentHead, Self)>> {
        let mut magic = [0; MAGIC.len()];
        if read_up_to(&mut from, &mut magic)? < magic.len() || magic != *MAGIC {
            return Ok(None);
        }
        let mut reader = Self { from, body: Vec::new(), end: MAGIC.len() as u64 };
        let item = reader.next()?;
        let head = SegmentHead::from_body(&reader.body).filter(|_| item == SegmentItem::Record);
        Ok(head.map(|head| (head, reader)))
    }

    /// Goes on where a record begins, behind so many bytes.
    pub(super) fn at(from: R, end: u64) -> Self {
        Self { from, body: Vec::new(), end }
    }

    /// Goes to the next record.
    pub(super) fn next(&mut self) -> io::Result<SegmentItem> {
        let mut frame = [0; FRAME];
        match read_up_to(&mut self.from, &mut frame)? {
            0 => return Ok(SegmentItem::Nothing),
            FRAME => {}
            _ => return Ok(SegmentItem::Torn),
        }
        if frame == *END {
            self.end += FRAME as u64;
            return Ok(SegmentItem::End);
        }
        let number = |at: usize| frame[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        let (length, sum) = (number(0) as usize, number(8));
        if checksum(&frame[..4]) != number(4) {
            return Ok(SegmentItem::Broken);
        }
        self.body.clear();
        // As it comes: a length that is wrong must not take memory for it.
        let read = (&mut self.from).take(length as u64).read_to_end(&mut self.body)?;
        if read < length {
            return Ok(SegmentItem::Torn);
        }
        if checksum(&self.body) != sum {
            return Ok(SegmentItem::Broken);
        }
        self.end += (FRAME + length) as u64;
        Ok(SegmentItem::Record)
    }

    /// The events of the record: shard and JSON.
    pub(super) fn events(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let mut body = self.body.as_slice();
        std::iter::from_fn(move || {
            let shard = u16::from_le_bytes(take(&mut body)?);
            let length = u32::from_le_bytes(take(&mut body)?) as usize;
            let (json, rest) = body.split_at_checked(length)?;
            body = rest;
            Some((shard, json))
        })
    }
}

/// Fills the buffer, or reads to the end; how much that was.
fn read_up_to(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match from.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(shard: u16, json: &str) -> Record {
        Record { shard, json: json.to_owned() }
    }

    /// A segment of these batches, and where each ends.
    fn segment(batches: &[Vec<Record>]) -> (Vec<u8>, Vec<u64>) {
        let head = SegmentHead { epoch: 7, boot: 1, is_safe: true, next: vec![0, 5] };
        let mut bytes = head.to_bytes();
        let mut ends = vec![bytes.len() as u64];
        let mut one = Vec::new();
        for batch in batches {
            assert!(write_record(batch, &mut one));
            bytes.extend_from_slice(&one);
            ends.push(bytes.len() as u64);
        }
        (bytes, ends)
    }

    /// The batches that a segment has, each as shards and texts; how it ends, and where.
    type All = (Vec<Vec<(u16, String)>>, SegmentItem, u64);

    fn read(bytes: &[u8]) -> Option<All> {
        let (head, mut reader) = SegmentReader::open(bytes).expect("no I/O")?;
        assert_eq!(head.next, [0, 5]);
        let mut batches = Vec::new();
        loop {
            let item = reader.next().expect("no I/O");
            if item != SegmentItem::Record {
                return Some((batches, item, reader.end));
            }
            let events =
                reader.events().map(|(shard, json)| (shard, String::from_utf8_lossy(json).into_owned()));
            batches.push(events.collect());
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let (mut bytes, ends) =
            segment(&[vec![record(0, "{}"), record(1, "")], vec![record(1, r#"{"a":1}"#)]]);
        let (batches, item, end) = read(&bytes).expect("a head");
        assert_eq!(batches[0], [(0, "{}".to_owned()), (1, String::new())]);
        assert_eq!((batches.len(), item, end), (2, SegmentItem::Nothing, ends[2]));
        bytes.extend_from_slice(END);
        assert_eq!(read(&bytes).map(|(_, item, _)| item), Some(SegmentItem::End));
        // A file system may leave zeros where nothing was written.
        bytes.truncate(ends[2] as usize);
        bytes.extend_from_slice(&[0; 100]);
        assert_eq!(read(&bytes).map(|(_, item, end)| (item, end)), Some((SegmentItem::Broken, ends[2])));
    }

    fn batches() -> impl Strategy<Value = Vec<Vec<Record>>> {
        let event = (0..2u16, "[a-z{}:\"]{0,40}").prop_map(|(shard, json)| record(shard, &json));
        prop::collection::vec(prop::collection::vec(event, 1..4), 1..8)
    }

    proptest! {
        #[test]
        fn a_cut_anywhere_leaves_the_whole_records_before_it(batches in batches(), cut in any::<prop::sample::Index>()) {
            let (bytes, ends) = segment(&batches);
            let cut = cut.index(bytes.len() + 1);
            let whole = ends.iter().filter(|end| **end <= cut as u64).count();
            match read(&bytes[..cut]) {
                None => prop_assert_eq!(whole, 0),
                Some((read, item, end)) => {
                    prop_assert_eq!((read.len() + 1, end), (whole, ends[whole - 1]));
                    let clean = ends.contains(&(cut as u64));
                    prop_assert_eq!(item, if clean { SegmentItem::Nothing } else { SegmentItem::Torn });
                }
            }
        }

        #[test]
        fn a_byte_that_changed_ends_it_there(
            batches in batches(), at in any::<prop::sample::Index>(), bit in 0..8u32
        ) {
            let (mut bytes, ends) = segment(&batches);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let whole = ends.iter().filter(|end| **end <= at as u64).count();
            let read = read(&bytes).map_or(0, |(read, ..)| read.len() + 1);
            prop_assert_eq!(read, whole);
        }
    }
}
