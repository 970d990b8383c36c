//! Tickets: a token's rights in a text that is good once and for a short time, for URLs.
//!
//! An `EventSource` can send no header, and what stands in a URL ends up in logs and histories. Imports its
//! siblings. Always: a ticket that was used, or is too old, opens nothing; there are at most so many.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::grant::Grant;

#[derive(Debug)]
struct Entry {
    grant: Arc<Grant>,
    /// Microseconds since 1970.
    until: i64,
}

/// The tickets that are out, by their hashes: the table is not to hold what opens a door.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    entries: HashMap<[u8; 32], Entry>,
}

impl Tickets {
    /// Makes a ticket that is good until then. `None`: too many are out.
    pub(super) fn make(&mut self, grant: Arc<Grant>, now: i64, until: i64, max: usize) -> Option<String> {
        if self.entries.len() >= max {
            self.entries.retain(|_, entry| entry.until > now);
            if self.entries.len() >= max {
                return None;
            }
        }
        let ticket = random_text()?;
        self.entries.insert(Sha256::digest(&ticket).into(), Entry { grant, until });
        Some(ticket)
    }

    /// Uses a ticket up.
    pub(super) fn take(&mut self, ticket: &str, now: i64) -> Option<Arc<Grant>> {
        let hash: [u8; 32] = Sha256::digest(ticket).into();
        let entry = self.entries.remove(&hash)?;
        (entry.until > now).then_some(entry.grant)
    }
}

/// 256 random bits as 43 characters that need no escape anywhere. `None` where the system has none to give.
pub(super) fn random_text() -> Option<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::claims::Claims;
    use super::*;

    fn grant() -> Arc<Grant> {
        Arc::new(Grant::new(&Claims::default(), None, 0).expect("a grant"))
    }

    #[test]
    fn a_ticket_is_good_once_and_not_for_long() {
        let mut tickets = Tickets::default();
        let one = tickets.make(grant(), 0, 100, 10).expect("room");
        let two = tickets.make(grant(), 0, 100, 10).expect("room");
        assert_ne!(one, two);
        assert!(tickets.take("another", 1).is_none());
        assert!(tickets.take(&one, 1).is_some());
        assert!(tickets.take(&one, 1).is_none(), "used");
        assert!(tickets.take(&two, 100).is_none(), "too old");
    }

    #[test]
    fn there_are_so_many_at_the_most_and_old_ones_make_room() {
        let mut tickets = Tickets::default();
        for _ in 0..3 {
            assert!(tickets.make(grant(), 0, 100, 3).is_some());
        }
        assert!(tickets.make(grant(), 99, 200, 3).is_none());
        assert!(tickets.make(grant(), 100, 200, 3).is_some());
        assert_eq!(tickets.entries.len(), 1);
    }
}
