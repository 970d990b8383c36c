//! Queue of joins and leaves to publish: in order, at a bounded pace, until the bus or the log has them.
//!
//! Invariants:
//! - At most one piece of news waits for one user in one channel. A join and a leave that were not published cancel out.
//! - News that the log refused is published again, before newer news, so that no watcher keeps a user that has left.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::server::tick::Tick;

/// Ticks before news that the log refused is published again.
const RETRY_TICKS: Tick = 10;

/// Arrival of a user in a channel, or departure from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) joined: bool,
    pub(crate) channel: Box<str>,
    pub(crate) user: Arc<str>,
}

/// News to publish.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<(u64, News)>,
    /// Number of the waiting piece for each user in each channel. Pieces in `waiting` with another number are void.
    valid: HashMap<(Box<str>, Arc<str>), u64>,
    number: u64,
    /// Whether a batch is being published. One batch at a time keeps the order.
    is_publishing: bool,
    /// Earliest tick of the next batch.
    not_before: Tick,
    /// Tick of the last batch.
    taken_at: Tick,
    /// Number of pieces taken in that tick.
    taken: usize,
    bytes: usize,
}

fn bytes_of(news: &News) -> usize {
    2 * (size_of::<(u64, News)>() + news.channel.len()) + news.user.len()
}

impl Queue {
    pub(super) fn push(&mut self, news: News) {
        let key = (news.channel.clone(), Arc::clone(&news.user));
        if self.valid.remove(&key).is_some() {
            // Joins and leaves alternate, so the waiting piece is the opposite, and no watcher has seen either.
            self.bytes -= bytes_of(&news);
            self.tidy();
            return;
        }
        self.number += 1;
        self.bytes += bytes_of(&news);
        self.valid.insert(key, self.number);
        self.waiting.push_back((self.number, news));
    }

    /// Removes void pieces once most pieces are void.
    fn tidy(&mut self) {
        if self.waiting.len() > 2 * self.valid.len() + 64 {
            let valid = &self.valid;
            self.waiting.retain(|(number, news)| {
                valid.get(&(news.channel.clone(), Arc::clone(&news.user))) == Some(number)
            });
        }
    }

    /// Takes the next batch, at most `pace` pieces per tick; [`confirm`](Self::confirm) or [`retry`](Self::retry) must follow. An
    /// empty batch means that nothing is to be published now.
    pub(super) fn take(&mut self, tick: Tick, pace: usize) -> Vec<News> {
        // A call without a limit of pace is the last one before the process ends.
        if pace != usize::MAX && (self.is_publishing || tick < self.not_before) {
            return Vec::new();
        }
        if self.taken_at != tick {
            (self.taken_at, self.taken) = (tick, 0);
        }
        let mut batch = Vec::new();
        while self.taken < pace
            && let Some((number, news)) = self.waiting.pop_front()
        {
            let key = (news.channel.clone(), Arc::clone(&news.user));
            if self.valid.get(&key) == Some(&number) {
                self.valid.remove(&key);
                self.bytes -= bytes_of(&news);
                self.taken += 1;
                batch.push(news);
            }
        }
        self.is_publishing = !batch.is_empty();
        batch
    }

    /// Confirms that the batch is published.
    pub(super) fn confirm(&mut self) {
        self.is_publishing = false;
    }

    /// Puts the batch back before the rest, because it may not have been published.
    pub(super) fn retry(&mut self, batch: Vec<News>) {
        self.is_publishing = false;
        self.not_before = self.taken_at + RETRY_TICKS;
        for news in batch.into_iter().rev() {
            let key = (news.channel.clone(), Arc::clone(&news.user));
            if self.valid.remove(&key).is_some() {
                // The opposite was added in the meantime. The log may have this piece, so the later one of the two is
                // published.
                let later = News { joined: !news.joined, ..news };
                self.bytes -= bytes_of(&later);
                self.push_front(later);
            } else {
                self.push_front(news);
            }
        }
    }

    fn push_front(&mut self, news: News) {
        self.number += 1;
        self.bytes += bytes_of(&news);
        self.valid.insert((news.channel.clone(), Arc::clone(&news.user)), self.number);
        self.waiting.push_front((self.number, news));
    }

    /// Returns whether news waits, or is being published.
    pub(super) fn has_some(&self) -> bool {
        self.is_publishing || !self.valid.is_empty()
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(joined: bool, user: &str) -> News {
        News { joined, channel: "room".into(), user: user.into() }
    }

    #[test]
    fn news_is_published_in_order_and_at_its_pace() {
        let mut queue = Queue::default();
        for n in 0..10 {
            queue.push(news(true, &n.to_string()));
        }
        let first = queue.take(1, 4);
        assert_eq!(first, (0..4).map(|n| news(true, &n.to_string())).collect::<Vec<_>>());
        assert!(queue.take(1, 4).is_empty(), "one batch at a time");
        queue.confirm();
        assert!(queue.take(1, 4).is_empty(), "enough for this tick");
        assert_eq!(queue.take(2, usize::MAX).len(), 6);
        queue.confirm();
        assert!(!queue.has_some());
        assert_eq!(queue.held_bytes(), 0);
    }

    #[test]
    fn a_join_and_a_leave_cancel_out_and_leave_nothing() {
        let mut queue = Queue::default();
        queue.push(news(true, "stays"));
        for n in 0..100_000 {
            let user = format!("u{}", n % 7);
            queue.push(news(true, &user));
            queue.push(news(false, &user));
        }
        assert!(queue.waiting.len() < 100, "{}", queue.waiting.len());
        assert_eq!(queue.take(1, 100), [news(true, "stays")]);
        assert_eq!(queue.held_bytes(), 0);
    }

    #[test]
    fn news_that_the_log_did_not_take_is_published_again_before_the_rest() {
        let mut queue = Queue::default();
        queue.push(news(true, "ann"));
        queue.push(news(true, "bob"));
        let batch = queue.take(5, 100);
        queue.push(news(true, "eve"));
        queue.push(news(false, "bob"));
        queue.retry(batch);
        assert!(queue.take(6, 100).is_empty(), "not at once");
        // The log may have bob's join, so his leave is published.
        assert_eq!(queue.take(20, 100), [news(true, "ann"), news(false, "bob"), news(true, "eve")]);
        queue.confirm();
        assert!(!queue.has_some());
        assert_eq!(queue.held_bytes(), 0);
    }
}
