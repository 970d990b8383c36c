//! The format of a segment: a head, one record for each batch of events, and a mark if the log was closed in order.
//!
//! Invariants:
//! - A record is complete or invalid: its checksum covers all of it, and a batch is one record.
//! - Reading any bytes terminates, takes no more memory than there are bytes, and reports where the last complete
//!   record ends.
//!
//! ```text
//! head    "fanwire1" | frame | epoch u64 | boot u64 | safe u8 | shards u16 | next u64 each
//! record  frame | events: shard u16, length u32, JSON
//! frame   length u32 | checksum u32 of the length | checksum u32 of what follows
//! end     ff ff ff ff | "the end."
//! ```
//! Numbers are little-endian, checksums CRC-32. The length has a checksum of its own, so that an incomplete record can be distinguished from a damaged one.

use std::io::{self, Read};

use super::super::log::Record;
use crate::event::Sequence;

const MAGIC: &[u8; 8] = b"fanwire1";

/// Mark in place of a record, written when the log is closed in order.
pub(super) const END: &[u8; FRAME] = b"\xff\xff\xff\xffthe end.";

/// Maximum size of a record, in bytes: more than any request body that a server accepts.
pub(super) const RECORD_BYTES_MAX: usize = 1 << 31;

/// Size of the frame before a record's events, in bytes.
const FRAME: usize = 12;

/// Head of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub(super) epoch: u64,
    /// Boot of the machine that wrote it; 0 if unknown.
    pub(super) boot: u64,
    /// Whether every event was synchronized before its publisher was answered.
    pub(super) is_safe: bool,
    /// Next sequence of each shard at the start of this segment.
    pub(super) next: Vec<Sequence>,
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Fills in the length and the checksums.
fn seal(out: &mut [u8]) {
    let (frame, body) = out.split_at_mut(FRAME);
    let length = (body.len() as u32).to_le_bytes();
    frame[..4].copy_from_slice(&length);
    frame[4..8].copy_from_slice(&checksum(&length).to_le_bytes());
    frame[8..].copy_from_slice(&checksum(body).to_le_bytes());
}

impl SegmentHead {
    /// Returns the size of a head for this many shards, in bytes.
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

/// Returns the size of a record of these events, in bytes.
pub(super) fn record_bytes(records: &[Record]) -> u64 {
    FRAME as u64 + records.iter().map(|record| record.json.len() as u64 + 6).sum::<u64>()
}

/// Clears `out` and writes a batch to it as one record. Returns false if the record would be too long.
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

/// Next item of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SegmentItem {
    /// Complete record; [`SegmentReader::events`] returns its events.
    Record,
    /// Mark: the log was closed here, in order.
    End,
    /// End of the file.
    Nothing,
    /// Incomplete record: it was being written when the process ended.
    Torn,
    /// Damaged record.
    Broken,
}

/// Reader of a segment.
pub(super) struct SegmentReader<R> {
    from: R,
    body: Vec<u8>,
    /// Offset of the end of the last complete record.
    pub(super) end: u64,
}

impl<R: Read> SegmentReader<R> {
    /// Reads the head; `None` if it is not complete.
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

    /// Continues at a record that begins at this offset.
    pub(super) fn at(from: R, end: u64) -> Self {
        Self { from, body: Vec::new(), end }
    }

    /// Reads the next record.
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
        // Grows with the data: a wrong length must not allocate.
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

    /// Returns the shard and JSON of each event of the record.
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

/// Fills the buffer or reads to the end. Returns the number of bytes read.
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

    /// Returns a segment of these batches, and the end of each.
    fn segment(batches: &[Vec<Record>]) -> (Vec<u8>, Vec<u64>) {
        let head = SegmentHead { epoch: 7, boot: 1, is_safe: true, next: vec![0, 5] };
        let mut bytes = head.to_bytes();
        let mut ends = vec![bytes.len() as u64];
        let mut record = Vec::new();
        for batch in batches {
            assert!(write_record(batch, &mut record));
            bytes.extend_from_slice(&record);
            ends.push(bytes.len() as u64);
        }
        (bytes, ends)
    }

    /// Batches of a segment, each as shards and texts; the item at its end, and the offset.
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
        // A file system may leave zeros after the last write.
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
