//! Which other nodes there are, and whether all of them found the log as they knew it after its server was restarted.
//!
//! Imports its siblings. A server that comes back may have lost the newest events, and only nodes that saw those can tell. So
//! a node that finds another run of the server appends nothing until every other node has been heard from over that run:
//! each compares what it has seen before it says that it is there ([`super::streams`]). Where one is not heard in
//! time, another epoch begins: what that node saw and the log may have lost keeps its ids for itself.
//!
//! Nodes say that they are there once a second, and that they go. One that died is waited for until it is
//! forgotten: where the server is restarted meanwhile, clients get a gap. Of servers in a cluster nothing is asked: there an
//! event may be kept by several (`engine_replicas`).

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a node that is not heard from is waited for: twice the longest pause before one attaches anew.
const PATIENCE: Duration = Duration::from_secs(4);

/// After this time a node that did not say that it goes is forgotten.
const MEMORY: Duration = Duration::from_secs(600);

/// Nodes that are remembered: names are random, so only a stranger could send more.
const NODES_MAX: usize = 1024;

/// When a node was heard last, and over which run of the server.
#[derive(Debug)]
struct Heard {
    at: Instant,
    server: String,
}

/// What a node knows of the others.
#[derive(Debug, Default)]
pub(super) struct Peers {
    heard: HashMap<u64, Heard>,
    /// The run of the server that this node appends to.
    server: String,
    /// The epoch that the log was found in first over it.
    epoch: u64,
    /// The nodes that are to be heard over it, and since when.
    awaited: Option<(Instant, Vec<u64>)>,
}

/// What there is to do before something is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Roll {
    /// All were heard, or nobody need be.
    Complete,
    Waits,
    /// One was not heard in time.
    Missing,
}

impl Peers {
    /// Notes that the log's server is in this run, and the log in this epoch.
    pub(super) fn arrive(&mut self, server: &str, epoch: u64, now: Instant) {
        if self.server == server {
            if epoch > self.epoch {
                // Another node missed one: what that saw is of an epoch that has ended.
                self.awaited = None;
            }
            return;
        }
        self.epoch = epoch;
        let is_first = self.server.is_empty();
        server.clone_into(&mut self.server);
        self.heard.retain(|_, heard| now.saturating_duration_since(heard.at) < MEMORY);
        self.awaited = (!is_first).then(|| (now, self.heard.keys().copied().collect()));
    }

    /// Notes what a node said; whether it was not known before.
    pub(super) fn hear(&mut self, node: u64, server: Option<&str>, now: Instant) -> bool {
        let is_known = self.heard.contains_key(&node);
        match server {
            Some(server) if self.heard.len() < NODES_MAX || is_known => {
                self.heard.insert(node, Heard { at: now, server: server.to_owned() });
                !is_known
            }
            Some(_) => false,
            None => {
                self.heard.remove(&node);
                false
            }
        }
    }

    pub(super) fn roll(&mut self, now: Instant) -> Roll {
        let Some((since, awaited)) = &mut self.awaited else { return Roll::Complete };
        // One that has gone has said that it knew the log to its end.
        awaited.retain(|node| self.heard.get(node).is_some_and(|heard| heard.server != self.server));
        if awaited.is_empty() {
            self.awaited = None;
            return Roll::Complete;
        }
        if now.saturating_duration_since(*since) < PATIENCE { Roll::Waits } else { Roll::Missing }
    }

    /// Nobody is waited for any more.
    pub(super) fn give_up(&mut self) {
        self.awaited = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_restart_of_the_server_every_node_is_waited_for_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut peers = Peers::default();
        peers.arrive("first", 1, at(0));
        peers.hear(1, Some("first"), at(0));
        peers.hear(2, Some("first"), at(0));
        peers.hear(3, Some("first"), at(0));
        assert_eq!(peers.roll(at(0)), Roll::Complete, "its first run that this node knows");
        peers.arrive("second", 1, at(1));
        peers.hear(1, Some("first"), at(1));
        peers.hear(2, Some("second"), at(1));
        peers.hear(3, None, at(1));
        assert_eq!(peers.roll(at(2)), Roll::Waits, "one was heard over the old run only");
        assert_eq!(peers.roll(at(9)), Roll::Missing);
        peers.hear(1, Some("second"), at(9));
        assert_eq!(peers.roll(at(9)), Roll::Complete);
        peers.arrive("third", 1, at(10));
        assert_eq!(peers.roll(at(17)), Roll::Missing);
        peers.arrive("third", 2, at(17));
        assert_eq!(peers.roll(at(17)), Roll::Complete, "another node has ended the epoch");
        peers.arrive("fourth", 1, at(700));
        assert_eq!(peers.roll(at(700)), Roll::Complete, "nobody is remembered for so long");
    }
}
