//! Sealed positions, for clients that see only a part of the events.
//!
//! A position counts the events of all tenants. So a client with a narrowing grant receives positions outside its own
//! events in a form that only servers with the key can read. It sends them back to resume.
//!
//! Invariants:
//! - Two sealed positions do not reveal whether they are equal: each has random bits of its own.
//! - Sealed positions of one kind and number of shards have one length.
//! - A text that was not sealed with this key, or was changed, is rejected.

use std::fmt::Write as _;

use hmac::digest::Key;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use super::config::Secret;
use crate::event::{EventId, Position, Since};

type Hash = [u8; 32];

/// Random bytes of each seal.
const SALT: usize = 8;
/// Bytes of the authentication tag. The key stream is derived from the tag.
const PROOF: usize = 16;
/// Bytes in one block of the key stream.
const BLOCK: usize = 32;

/// Key of sealed positions.
#[derive(Clone)]
pub(super) struct Seal {
    key: Hash,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(..)")
    }
}

impl Seal {
    /// Derives the key from the secrets that sign tokens, so that all nodes with these secrets read each other's seals. Returns
    /// `None` without secrets.
    pub(super) fn of_secrets<'a>(secrets: impl Iterator<Item = (&'static str, &'a Secret)>) -> Option<Self> {
        let mut hash = Sha256::new_with_prefix(b"fanwire: sealed places");
        let mut any = false;
        for (name, secret) in secrets {
            any = true;
            hash.update(name);
            hash.update((secret.bytes().len() as u64).to_be_bytes());
            hash.update(secret.bytes());
        }
        any.then(|| Self { key: hash.finalize().into() })
    }

    /// Returns a random key, or `None` if the system provides no random bits.
    pub(super) fn random() -> Option<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).ok()?;
        Some(Self { key })
    }

    /// Returns the key of a predecessor process.
    pub(super) const fn restored(key: Hash) -> Self {
        Self { key }
    }

    /// Returns the key's bytes, for a successor process.
    pub(super) const fn key(&self) -> Hash {
        self.key
    }

    fn mac(&self, purpose: u8, parts: &[&[u8]]) -> Hash {
        // HMAC pads a short key with zeros (RFC 2104).
        let mut key = Key::<Hmac<Sha256>>::default();
        key[..self.key.len()].copy_from_slice(&self.key);
        let mut mac = Hmac::<Sha256>::new(&key);
        mac.update(&[purpose]);
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn proof(&self, salt: &[u8], plain: &[u8]) -> [u8; PROOF] {
        let mut proof = [0; PROOF];
        proof.copy_from_slice(&self.mac(0, &[salt, plain])[..PROOF]);
        proof
    }

    /// Encrypts or decrypts, with the key stream.
    fn mask(&self, salt: &[u8], proof: &[u8], text: &mut [u8]) {
        for (block, number) in text.chunks_mut(BLOCK).zip(0u64..) {
            let stream = self.mac(1, &[salt, proof, &number.to_be_bytes()]);
            block.iter_mut().zip(stream).for_each(|(byte, mask)| *byte ^= mask);
        }
    }

    /// Returns a position in a form that only this key can read. `random` makes it differ from all other sealed
    /// positions.
    pub(super) fn seal(&self, since: &Since, random: u64) -> Since {
        let mut body = match since {
            Since::Event(id) => encode_words(&[u64::from(id.shard), id.epoch, id.sequence]),
            Since::Position(position) => {
                let mut all = vec![u64::MAX, position.epoch()];
                all.extend_from_slice(position.sequences());
                encode_words(&all)
            }
            Since::Sealed(_) => return since.clone(),
        };
        let mut salt = [0; SALT];
        if getrandom::fill(&mut salt).is_err() {
            salt = random.to_be_bytes();
        }
        let proof = self.proof(&salt, &body);
        self.mask(&salt, &proof, &mut body);
        let mut text = String::with_capacity(1 + 2 * (SALT + PROOF + body.len()));
        text.push(Since::SEALED);
        for byte in salt.iter().chain(&proof).chain(&body) {
            // Writing to a `String` does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        Since::Sealed(text.into())
    }

    /// Returns the position in a sealed text.
    pub(super) fn open(&self, text: &str) -> Option<Since> {
        let hex = text.strip_prefix(Since::SEALED)?.as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let bytes = hex.chunks(2).map(|pair| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        });
        let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
        let (salt, rest) = bytes.split_at_checked(SALT)?;
        let (proof, body) = rest.split_at_checked(PROOF)?;
        let mut body = body.to_vec();
        self.mask(salt, proof, &mut body);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&self.proof(salt, &body)[..], proof)) {
            return None;
        }
        let mut all = body.chunks_exact(8).map(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            u64::from_be_bytes(bytes)
        });
        match (all.next()?, all.next()?) {
            (u64::MAX, epoch) => Some(Since::Position(Position::new(epoch, all))),
            (shard, epoch) => {
                let shard = u16::try_from(shard).ok()?;
                Some(Since::Event(EventId { epoch, shard, sequence: all.next()? }))
            }
        }
    }
}

fn encode_words(all: &[u64]) -> Vec<u8> {
    all.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Vec<Since> {
        vec![
            Since::Event(EventId { epoch: 7, shard: 3, sequence: u64::MAX }),
            Since::Event(EventId { epoch: u64::MAX, shard: 0, sequence: 0 }),
            Since::Position(Position::new(9, [5])),
            Since::Position(Position::new(9, 0..40)),
        ]
    }

    #[test]
    fn a_sealed_position_is_read_by_its_key_only() {
        let (one, other) = (Seal::restored([1; 32]), Seal::restored([2; 32]));
        for place in places() {
            let text = one.seal(&place, 0).to_string();
            assert_eq!(one.open(&text), Some(place));
            assert_eq!(other.open(&text), None);
            assert!(
                text.parse().is_ok_and(|read: Since| read == Since::Sealed(text.as_str().into())),
                "{text}"
            );
        }
    }

    #[test]
    fn a_seal_reveals_nothing_of_its_position_not_even_equality() {
        let seal = Seal::restored([1; 32]);
        let text = |sequence| {
            let place = Since::Position(Position::new(9, [sequence]));
            seal.seal(&place, 0).to_string()
        };
        assert_ne!(text(5), text(5), "equal positions would be recognized");
        assert_eq!(text(5).len(), text(u64::MAX).len());
    }

    #[test]
    fn a_changed_text_is_rejected() {
        let seal = Seal::restored([1; 32]);
        let text = seal.seal(&places()[2], 0).to_string();
        for at in 1..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(seal.open(&String::from_utf8(bytes).expect("ASCII")), None, "{at}");
        }
        for text in ["", "~", "~0", "~zz", &text[1..], &text[..text.len() - 2], &format!("{text}00"), "~é"] {
            assert_eq!(seal.open(text), None, "{text}");
        }
    }

    #[test]
    fn nodes_with_the_same_secrets_have_the_same_key() {
        let seal =
            |name, text: &str| Seal::of_secrets([(name, &Secret::new(text))].into_iter()).map(|s| s.key());
        assert_eq!(seal("HS256", "a"), seal("HS256", "a"));
        assert_ne!(seal("HS256", "a"), seal("HS384", "a"));
        assert_ne!(seal("HS256", "a"), seal("HS256", "b"));
        assert!(Seal::of_secrets(std::iter::empty()).is_none());
    }

    /// The expected bytes come from Python's `hmac.new(b"\x0b" * 32, b"\x00ab", "sha256")`.
    #[test]
    fn the_mac_is_hmac() {
        let seal = Seal::restored([0x0b; 32]);
        let mac = seal.mac(0, &[b"a", b"b"]);
        assert_eq!(mac[..8], [0x6f, 0x7c, 0x33, 0x2d, 0x8a, 0x24, 0x0d, 0xac]);
        assert_eq!(mac[28..], [0xfa, 0xea, 0x90, 0xe8]);
    }
}
