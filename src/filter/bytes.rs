//! Storage of a filter's canonical bytes: in place if they are few, else shared by all handles.
//!
//! A personal channel takes 13 bytes, which would be a block of 48 on the heap. Two words hold either form, because the
//! shared one stores its length next to its count: each client has a handle in its session and one in the matcher.

use std::fmt;

use triomphe::ThinArc;

/// Maximum number of bytes in place.
const IN_PLACE: usize = 14;

#[derive(Clone)]
pub(super) enum FilterBytes {
    InPlace(u8, [u8; IN_PLACE]),
    Shared(ThinArc<(), u8>),
}

const _: () = assert!(size_of::<FilterBytes>() == 16, "each subscription and each class has one");

impl FilterBytes {
    pub(super) const EMPTY: Self = Self::InPlace(0, [0; IN_PLACE]);

    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut in_place = [0; IN_PLACE];
        match in_place.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Self::InPlace(bytes.len() as u8, in_place)
            }
            None => Self::Shared(ThinArc::from_header_and_slice((), bytes)),
        }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::InPlace(len, bytes) => &bytes[..usize::from(*len)],
            Self::Shared(shared) => &shared.slice,
        }
    }

    /// Returns the memory outside the struct, in bytes, if no other handle shares it: the bytes, a count, the length, and
    /// the allocator's header and rounding.
    #[cfg(feature = "server")]
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::InPlace(..) => 0,
            Self::Shared(shared) => shared.slice.len() + 32,
        }
    }
}

impl Default for FilterBytes {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for FilterBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_length_read_back() {
        for len in 0..40u8 {
            let bytes: Vec<u8> = (0..len).collect();
            let kept = FilterBytes::new(&bytes);
            assert_eq!((kept.as_slice(), kept.clone().as_slice()), (&*bytes, &*bytes));
            assert_eq!(matches!(kept, FilterBytes::InPlace(..)), bytes.len() <= IN_PLACE);
        }
    }
}
