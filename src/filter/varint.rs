//! Lengths as LEB128, and byte strings prefixed with such a length.

pub(super) fn write_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// Reads a length. Returns `None` at the end, and for a truncated or overlong number, which
/// [`encode`](super::encoding::encode) never writes.
#[inline]
pub(super) fn read_length(rest: &mut &[u8]) -> Option<usize> {
    let (&byte, after) = rest.split_first()?;
    if byte < 0x80 {
        *rest = after;
        return Some(usize::from(byte));
    }
    read_long_length(rest)
}

fn read_long_length(rest: &mut &[u8]) -> Option<usize> {
    let mut length = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(length);
        }
    }
    None
}

pub(super) fn read_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = read_length(rest)?;
    take(rest, length)
}

#[inline]
pub(super) fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}
