//! The other nodes of a log, and whether all of them found it unchanged after its server was restarted.
//!
//! A restarted server may have lost the newest events, and only nodes that saw them can tell. So a node that finds
//! another run of the server appends nothing until every other node has reported over that run. Each compares what it
//! has seen before it reports ([`super::attach`]). If a node does not report in time, another epoch begins, so that the
//! ids of lost events stay unique.
//!
//! Nodes report once a second, and when they leave. A node that died is waited for until it is forgotten; if the server
//! is restarted before that, clients receive a gap. Servers in a cluster are exempt: there an event may be kept by
//! several (`engine_replicas`).

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Maximum wait for a node's report: twice the longest pause before a node attaches again.
const PATIENCE: Duration = Duration::from_secs(4);

/// Time after which a node that did not report its departure is forgotten.
const MEMORY: Duration = Duration::from_secs(600);

/// Maximum number of remembered nodes: names are random, so only an intruder could send more.
const NODES_MAX: usize = 1024;

/// Last report of a node, and the run of the server that it was about.
#[derive(Debug)]
struct NodeReport {
    at: Instant,
    server: String,
}

/// Knowledge of a node about the others.
#[derive(Debug, Default)]
pub(super) struct Peers {
    reports: HashMap<u64, NodeReport>,
    /// Run of the server that this node appends to.
    server: String,
    /// Epoch in which the log was first found over that run.
    epoch: u64,
    /// Nodes that have to report over it, and the start of the wait.
    awaited: Option<(Instant, Vec<u64>)>,
}

/// State of the roll call before an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RollCall {
    /// All nodes have reported, or none has to.
    Complete,
    Waits,
    /// A node did not report in time.
    Missing,
}

impl Peers {
    /// Records the run of the log's server, and the epoch of the log.
    pub(super) fn arrive(&mut self, server: &str, epoch: u64, now: Instant) {
        if self.server == server {
            if epoch > self.epoch {
                // Another node found a node missing: events that the missing node saw are of an epoch that has ended.
                self.awaited = None;
            }
            return;
        }
        self.epoch = epoch;
        let is_first = self.server.is_empty();
        server.clone_into(&mut self.server);
        self.reports.retain(|_, reports| now.saturating_duration_since(reports.at) < MEMORY);
        self.awaited = (!is_first).then(|| (now, self.reports.keys().copied().collect()));
    }

    /// Records the report of a node. Returns whether the node is new.
    pub(super) fn record(&mut self, node: u64, server: Option<&str>, now: Instant) -> bool {
        let is_known = self.reports.contains_key(&node);
        match server {
            Some(server) if self.reports.len() < NODES_MAX || is_known => {
                self.reports.insert(node, NodeReport { at: now, server: server.to_owned() });
                !is_known
            }
            Some(_) => false,
            None => {
                self.reports.remove(&node);
                false
            }
        }
    }

    pub(super) fn roll(&mut self, now: Instant) -> RollCall {
        let Some((since, awaited)) = &mut self.awaited else { return RollCall::Complete };
        // A node that left had read the log to its end.
        awaited.retain(|node| self.reports.get(node).is_some_and(|reports| reports.server != self.server));
        if awaited.is_empty() {
            self.awaited = None;
            return RollCall::Complete;
        }
        if now.saturating_duration_since(*since) < PATIENCE { RollCall::Waits } else { RollCall::Missing }
    }

    /// Stops waiting for other nodes.
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
        peers.record(1, Some("first"), at(0));
        peers.record(2, Some("first"), at(0));
        peers.record(3, Some("first"), at(0));
        assert_eq!(peers.roll(at(0)), RollCall::Complete, "its first run that this node knows");
        peers.arrive("second", 1, at(1));
        peers.record(1, Some("first"), at(1));
        peers.record(2, Some("second"), at(1));
        peers.record(3, None, at(1));
        assert_eq!(peers.roll(at(2)), RollCall::Waits, "one has reported for the old run only");
        assert_eq!(peers.roll(at(9)), RollCall::Missing);
        peers.record(1, Some("second"), at(9));
        assert_eq!(peers.roll(at(9)), RollCall::Complete);
        peers.arrive("third", 1, at(10));
        assert_eq!(peers.roll(at(17)), RollCall::Missing);
        peers.arrive("third", 2, at(17));
        assert_eq!(peers.roll(at(17)), RollCall::Complete, "another node has ended the epoch");
        peers.arrive("fourth", 1, at(700));
        assert_eq!(peers.roll(at(700)), RollCall::Complete, "no node is remembered for that long");
    }
}
