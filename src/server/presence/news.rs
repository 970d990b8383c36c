//! Who joined and who left, and is still to be told: in order, at a bounded pace, until the bus or the log has it.
//!
//! Always: of one user in one channel at most one piece of news waits; a user who comes and goes before it is told is no
//! news; what the log did not take is told again, before what came since, so nobody stays a ghost for its watchers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::server::tick::Tick;

/// Ticks after which what a log did not take is told again.
const RETRY_TICKS: Tick = 10;

/// A user came into a channel, or has left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) joined: bool,
    pub(crate) channel: Box<str>,
    pub(crate) user: Arc<str>,
}

/// What waits to be told.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<(u64, News)>,
    /// The number of the piece that waits for each user in each channel; pieces in `waiting` of another number are void.
    valid: HashMap<(Box<str>, Arc<str>), u64>,
    number: u64,
    /// Some of it is on its way: one batch at a time, so that the order stays.
    is_telling: bool,
    /// Not before this tick.
    not_before: Tick,
    /// The tick of the last batches, and how much they were.
    told_at: Tick,
    told: usize,
    bytes: usize,
}

fn bytes_of(news: &News) -> usize {
    2 * (size_of::<(u64, News)>() + news.channel.len()) + news.user.len()
}

impl Queue {
    pub(super) fn push(&mut self, news: News) {
        let key = (news.channel.clone(), Arc::clone(&news.user));
        if self.valid.remove(&key).is_some() {
            // The two take turns, so what waits is the opposite: nobody has seen either.
            self.bytes -= bytes_of(&news);
            self.tidy();
            return;
        }
        self.number += 1;
        self.bytes += bytes_of(&news);
        self.valid.insert(key, self.number);
        self.waiting.push_back((self.number, news));
    }

    /// Lets go of void pieces where they are most of all.
    fn tidy(&mut self) {
        if self.waiting.len() > 2 * self.valid.len() + 64 {
            let valid = &self.valid;
            self.waiting.retain(|(number, news)| {
                valid.get(&(news.channel.clone(), Arc::clone(&news.user))) == Some(number)
            });
        }
    }

    /// The next batch, at most so much of it in one tick; [`told`](Self::told) or [`untold`](Self::untold) must follow.
    /// Empty: nothing is to be told now.
    pub(super) fn take(&mut self, tick: Tick, pace: usize) -> Vec<News> {
        // Without a pace it is the last chance.
        if pace != usize::MAX && (self.is_telling || tick < self.not_before) {
            return Vec::new();
        }
        if self.told_at != tick {
            (self.told_at, self.told) = (tick, 0);
        }
        let mut batch = Vec::new();
        while self.told < pace
            && let Some((number, news)) = self.waiting.pop_front()
        {
            let key = (news.channel.clone(), Arc::clone(&news.user));
            if self.valid.get(&key) == Some(&number) {
                self.valid.remove(&key);
                self.bytes -= bytes_of(&news);
                self.told += 1;
                batch.push(news);
            }
        }
        self.is_telling = !batch.is_empty();
        batch
    }

    /// The batch is where watchers get it.
    pub(super) fn told(&mut self) {
        self.is_telling = false;
    }

    /// The batch is not, or it may not be: it is told again, before the rest.
    pub(super) fn untold(&mut self, batch: Vec<News>) {
        self.is_telling = false;
        self.not_before = self.told_at + RETRY_TICKS;
        for news in batch.into_iter().rev() {
            let key = (news.channel.clone(), Arc::clone(&news.user));
            if self.valid.remove(&key).is_some() {
                // The opposite came meanwhile. The log may have this one: so the later of the two is what counts, and
                // it is the one to be told.
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

    /// Whether something waits, or is on its way.
    pub(super) fn has_some(&self) -> bool {
        self.is_telling || !self.valid.is_empty()
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
    fn it_is_told_in_order_and_at_its_pace() {
        let mut queue = Queue::default();
        for n in 0..10 {
            queue.push(news(true, &n.to_string()));
        }
        let first = queue.take(1, 4);
        assert_eq!(first, (0..4).map(|n| news(true, &n.to_string())).collect::<Vec<_>>());
        assert!(queue.take(1, 4).is_empty(), "one batch at a time");
        queue.told();
        assert!(queue.take(1, 4).is_empty(), "enough for this tick");
        assert_eq!(queue.take(2, usize::MAX).len(), 6);
        queue.told();
        assert!(!queue.has_some());
        assert_eq!(queue.held_bytes(), 0);
    }

    #[test]
    fn who_comes_and_goes_untold_is_no_news_and_leaves_nothing() {
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
    fn what_the_log_did_not_take_is_told_again_before_the_rest() {
        let mut queue = Queue::default();
        queue.push(news(true, "ann"));
        queue.push(news(true, "bob"));
        let batch = queue.take(5, 100);
        queue.push(news(true, "eve"));
        queue.push(news(false, "bob"));
        queue.untold(batch);
        assert!(queue.take(6, 100).is_empty(), "not at once");
        // The log may have bob's coming, so his going is told.
        assert_eq!(queue.take(20, 100), [news(true, "ann"), news(false, "bob"), news(true, "eve")]);
        queue.told();
        assert!(!queue.has_some());
        assert_eq!(queue.held_bytes(), 0);
    }
}
