//! Tickets: a token's rights in a text for URLs that is valid once and for a short time.
//!
//! An `EventSource` can't send a header, and URLs end up in logs and histories.
//!
//! Invariants:
//! - A used or expired ticket is invalid.
//! - The number of tickets is bounded, and each subject has a bounded share. When all are taken, the subject with the most tickets
//!   makes room for a subject with few.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::NoTicket;
use super::grant::Grant;

/// Divisor of all tickets that gives one subject's share: a tenth.
const SHARES: usize = 10;

type Hash = [u8; 32];

#[derive(Debug)]
struct Entry {
    grant: Arc<Grant>,
    /// Microseconds since 1970.
    until: i64,
}

/// Unused tickets, by their hashes, so that the table holds no valid credential.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    entries: HashMap<Hash, Entry>,
    /// Tickets by subject, oldest first. Used ones stay until they are the oldest, or make up half of the list.
    of_subjects: HashMap<Box<str>, VecDeque<(Hash, i64)>>,
    /// Memory of the grants, in bytes.
    grant_bytes: usize,
}

/// Returns the share of one subject, if there may be `max` tickets.
pub(super) const fn share_of(max: usize) -> usize {
    let share = max.div_ceil(SHARES);
    if share == 0 { 1 } else { share }
}

impl Tickets {
    /// Issues a ticket that is valid until `until`, in microseconds since 1970.
    pub(super) fn make(
        &mut self,
        grant: Arc<Grant>,
        now: i64,
        until: i64,
        max: usize,
    ) -> Result<String, NoTicket> {
        let subject: Box<str> = grant.subject().into();
        let own = self.settle(&subject, now);
        let share = share_of(max);
        if own >= share {
            let oldest =
                self.of_subjects.get(&subject).and_then(VecDeque::front).map_or(now, |(_, end)| *end);
            let seconds = ((oldest - now).max(0) as u64).div_ceil(1_000_000).max(1);
            return Err(NoTicket::Share { max: share, seconds });
        }
        if self.entries.len() >= max {
            self.forget_old(now);
        }
        if self.entries.len() >= max {
            self.make_room(own, now)?;
        }
        let ticket = random_text().ok_or(NoTicket::Full)?;
        let hash: Hash = Sha256::digest(&ticket).into();
        self.grant_bytes += grant.held_bytes();
        self.entries.insert(hash, Entry { grant, until });
        self.of_subjects.entry(subject).or_default().push_back((hash, until));
        Ok(ticket)
    }

    /// Uses a ticket, and returns its grant if it was valid.
    pub(super) fn take(&mut self, ticket: &str, now: i64) -> Option<Arc<Grant>> {
        let hash: Hash = Sha256::digest(ticket).into();
        let entry = self.remove(&hash)?;
        (entry.until > now).then_some(entry.grant)
    }

    /// Returns the memory of the table, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let each = size_of::<(Hash, Entry)>() + size_of::<(Hash, i64)>() + 64;
        self.entries.len() * each + self.of_subjects.len() * 64 + self.grant_bytes
    }

    fn remove(&mut self, hash: &Hash) -> Option<Entry> {
        let entry = self.entries.remove(hash)?;
        self.grant_bytes -= entry.grant.held_bytes();
        Some(entry)
    }

    /// Removes a subject's expired and used tickets, and returns how many are left.
    fn settle(&mut self, subject: &str, now: i64) -> usize {
        let Some(mut own) = self.of_subjects.remove(subject) else { return 0 };
        own.retain(|(hash, until)| {
            if *until <= now {
                self.remove(hash);
            }
            *until > now && self.entries.contains_key(hash)
        });
        let count = own.len();
        if count > 0 {
            self.of_subjects.insert(subject.into(), own);
        }
        count
    }

    fn forget_old(&mut self, now: i64) {
        let subjects: Vec<Box<str>> = self.of_subjects.keys().cloned().collect();
        for subject in subjects {
            self.settle(&subject, now);
        }
    }

    /// Removes the oldest ticket of the subject with the most, if it has at least two more than `own`.
    fn make_room(&mut self, own: usize, now: i64) -> Result<(), NoTicket> {
        let most = self.of_subjects.iter().max_by_key(|(_, its)| its.len());
        let Some((subject, _)) = most.filter(|(_, its)| its.len() >= own + 2) else {
            return Err(NoTicket::Full);
        };
        let subject = subject.clone();
        let oldest = self.of_subjects.get_mut(&subject).and_then(VecDeque::pop_front);
        if let Some((hash, _)) = oldest {
            self.remove(&hash);
        }
        self.settle(&subject, now);
        Ok(())
    }
}

/// Returns 256 random bits as 43 characters that need no escaping, or `None` if the system provides no random bits.
pub(super) fn random_text() -> Option<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::claims::Claims;
    use super::*;

    fn grant(subject: &str) -> Arc<Grant> {
        let claims = Claims { sub: Some(subject.to_owned()), ..Claims::default() };
        Arc::new(Grant::new(&claims, None, 0, &Arc::default()).expect("a grant"))
    }

    #[test]
    fn a_ticket_is_good_once_and_not_for_long() {
        let mut tickets = Tickets::default();
        let one = tickets.make(grant("a"), 0, 100, 20).expect("room");
        let two = tickets.make(grant("a"), 0, 100, 20).expect("room");
        assert_ne!(one, two);
        assert!(tickets.take("another", 1).is_none());
        assert!(tickets.take(&one, 1).is_some());
        assert!(tickets.take(&one, 1).is_none(), "used");
        assert!(tickets.take(&two, 100).is_none(), "too old");
        assert_eq!(tickets.grant_bytes, 0);
    }

    #[test]
    fn there_are_so_many_at_the_most_and_old_ones_make_room() {
        let mut tickets = Tickets::default();
        for subject in ["a", "b", "c"] {
            assert!(tickets.make(grant(subject), 0, 100, 3).is_ok());
        }
        assert_eq!(tickets.make(grant("d"), 99, 200, 3), Err(NoTicket::Full));
        assert!(tickets.make(grant("d"), 100, 200, 3).is_ok());
        assert_eq!((tickets.entries.len(), tickets.of_subjects.len()), (1, 1));
    }

    #[test]
    fn one_subject_has_its_share_and_others_are_served() {
        let mut tickets = Tickets::default();
        let made: Vec<String> =
            (0..10).map(|_| tickets.make(grant("greedy"), 0, 30_000_000, 100).expect("its share")).collect();
        let refused = tickets.make(grant("greedy"), 10_500_000, 50_000_000, 100);
        assert_eq!(refused, Err(NoTicket::Share { max: 10, seconds: 20 }));
        assert!(tickets.make(grant("honest"), 10_500_000, 50_000_000, 100).is_ok());
        // Used tickets no longer count.
        assert!(tickets.take(&made[3], 11_000_000).is_some());
        assert!(tickets.make(grant("greedy"), 11_000_000, 50_000_000, 100).is_ok());
        assert!(tickets.make(grant("greedy"), 30_000_000, 60_000_000, 100).is_ok(), "the first nine ended");
    }

    #[test]
    fn a_subject_with_few_tickets_gets_one_although_the_limit_is_reached() {
        let mut tickets = Tickets::default();
        assert!(tickets.make(grant("g0"), 0, 100, 20).is_ok());
        for number in 1..20 {
            assert!(tickets.make(grant(&format!("g{}", number % 10)), 0, 100, 20).is_ok(), "{number}");
        }
        assert_eq!(tickets.entries.len(), 20);
        let before = tickets.held_bytes();
        assert!(tickets.make(grant("honest"), 1, 100, 20).is_ok());
        assert_eq!(tickets.entries.len(), 20);
        assert!(tickets.held_bytes() <= before + 256);
    }
}
