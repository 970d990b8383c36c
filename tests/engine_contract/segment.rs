//! Effects of a machine's crash, or of a fast clock, on a segment of the log in files.
//!
//! This code follows the format in the engine's docs: `"fanwire1" | frame | epoch u64 | boot u64 | safe u8 | ...`. A
//! frame is a length, its checksum and the checksum of the content.

use std::path::Path;

const MAGIC: usize = 8;
const FRAME: usize = 12;
const HEAD: usize = MAGIC + FRAME;

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    let length = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(length.try_into().expect("four bytes")) as usize)
}

fn rewrite_head(path: &Path, change: impl FnOnce(&mut [u8], &mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("readable");
    let length = length_at(&bytes, MAGIC).expect("a head");
    let mut rest = bytes.split_off(HEAD + length);
    change(&mut bytes[HEAD..], &mut rest);
    let sum = checksum(&bytes[HEAD..]);
    bytes[MAGIC + 8..HEAD].copy_from_slice(&sum);
    bytes.extend(rest);
    std::fs::write(path, bytes).expect("writable");
}

/// Marks the segment as written in another boot of the machine.
fn of_another_boot(head: &mut [u8]) {
    head[8] ^= 0x55;
}

/// Cuts off the last whole records of a segment from another boot of the machine, as a crash does if the newest
/// writes were not synced.
pub(crate) fn lose_tail(path: &Path) {
    rewrite_head(path, |head, rest| {
        of_another_boot(head);
        let mut ends = vec![0];
        while let Some(length) = length_at(rest, *ends.last().expect("one"))
            && let end = ends.last().expect("one") + FRAME + length
            && end <= rest.len()
        {
            ends.push(end);
        }
        rest.truncate(ends[ends.len().saturating_sub(6)]);
    });
}

/// Sets the segment's epoch to tomorrow, and marks it as written in another boot of the machine.
pub(crate) fn put_ahead(path: &Path) {
    rewrite_head(path, |head, _| {
        of_another_boot(head);
        let epoch = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
        head[..8].copy_from_slice(&(epoch + 86_400_000_000).to_le_bytes());
    });
}
