//! Orders of steps on nodes that share a log in which faults were found.

use std::collections::VecDeque;

use serde_json::json;

use super::{Answer, AppendFate, Asked, Begin, Cluster, Inbox, Node, Publisher, Seen};

/// Returns two nodes with rings of 16 events that keep whole runs, of which the first has attached to the empty log.
fn calm() -> Cluster {
    let mut cluster = Cluster::new(1);
    (cluster.config.retain.rules[0].events, cluster.config.max_lag_events) = (100_000, 1000);
    (cluster.config.write_budget_bytes, cluster.capacity) = (256 << 10, 16);
    for at in 0..2 {
        cluster.nodes[at] = Node::new(&cluster.log, &cluster.config, cluster.capacity);
    }
    assert!(cluster.nodes[0].follow(1));
    cluster
}

impl Cluster {
    /// Publishes one event to a run at the second node, which reads it.
    fn publish_one(&mut self, run: u64, kind: &str, reopen: bool) {
        let n = self.next;
        self.next += 1;
        let is_end = kind == "run.end";
        let (expected, answer, is_alone) = (None, Answer::Unknown, true);
        self.asked.insert(n, Asked { run, is_end, reopen, expected, answer, is_alone });
        let mut event = json!({
            "type": kind, "stream_id": format!("run-{run}"), "payload": {"n": n, "delta": format!("{n},")},
        });
        if reopen {
            event["reopen"] = json!(true);
        }
        let (end, inbox, sent) = (self.connect(1), Inbox::default(), VecDeque::from([vec![n]]));
        let body = event.to_string();
        let head = format!("POST /publish HTTP/1.1\r\nHost: sim\r\nContent-Length: {}\r\n\r\n", body.len());
        end.send((head + &body).as_bytes());
        self.publishers.push(Publisher { node: 1, end, inbox, body: None, sent, is_over: false });
        for _ in 0..10_000 {
            self.carry(true);
            self.nodes[1].append(AppendFate::Stored);
            self.nodes[1].follow(usize::MAX);
            self.turn(1).expect("the ledger is right");
            if self.asked[&n].answer != Answer::Unknown {
                break;
            }
        }
        assert_eq!(self.asked[&n].answer, Answer::Accepted, "{n}");
    }

    /// Opens a follower of a run from its start at the first node, whose request has arrived and is not read yet.
    fn request_at_first(&mut self, run: u64) {
        self.open(0, run, "catch_up", Begin::Start, None);
        self.turn(0).expect("the ledger is right");
        for _ in 0..1000 {
            self.carry(true);
        }
    }

    fn settle_and_check(&mut self) -> Vec<Seen> {
        self.settle().expect("it comes to rest");
        self.check().expect("exact, or a gap");
        self.followers.last().expect("it follows").seen.clone()
    }
}

/// The follower has read the next life of a run, and the loop the middle of the one before it: a batch ends with the end of a
/// log that is reported to clients.
#[test]
fn a_run_comes_from_its_start_if_its_node_has_read_further_than_the_loop() {
    let mut cluster = calm();
    cluster.publish_one(0, "token", false);
    cluster.publish_one(0, "token", false);
    cluster.publish_one(1, "token", false);
    assert!(cluster.nodes[0].follow(usize::MAX));
    cluster.request_at_first(1);
    for _ in 0..20 {
        cluster.turn(0).expect("the ledger is right");
        cluster.carry(true);
    }
    cluster.request_at_first(0);
    cluster.publish_one(1, "run.end", false);
    cluster.publish_one(0, "run.end", false);
    cluster.publish_one(0, "token", true);
    assert!(cluster.nodes[0].follow(usize::MAX));
    let seen = cluster.settle_and_check();
    assert!(matches!(seen[..], [Seen::Event(6)]), "{seen:?}");
}

/// The ring is lapped before the loop has read its first event.
#[test]
fn a_client_of_a_loop_that_lost_its_first_events_gets_a_gap() {
    let mut cluster = calm();
    cluster.request_at_first(0);
    for _ in 0..20 {
        cluster.turn(0).expect("the ledger is right");
        cluster.carry(true);
    }
    for _ in 0..20 {
        cluster.publish_one(0, "token", false);
    }
    assert!(cluster.nodes[0].follow(usize::MAX));
    let seen = cluster.settle_and_check();
    assert!(matches!(seen[..], [Seen::Gap(_), Seen::Event(_), .., Seen::Event(20)]), "{seen:?}");
}

impl Cluster {
    /// Opens a follower of a run, live, at the first node, and returns after its loop has it.
    fn follow_at_first(&mut self, run: u64) {
        self.open(0, run, "drop_oldest", Begin::Live, None);
        while self.followers.last().expect("it was opened").joined.is_none() {
            self.turn(0).expect("the ledger is right");
            self.carry(true);
        }
    }
}

/// The log forgets entries between the connection of the follower and the first one that it reads.
#[test]
fn entries_that_the_log_forgot_before_the_first_one_was_read_are_a_gap() {
    let mut cluster = calm();
    cluster.follow_at_first(0);
    for _ in 0..10 {
        cluster.publish_one(0, "token", false);
    }
    cluster.log.trim(3);
    assert!(cluster.nodes[0].follow(usize::MAX));
    let seen = cluster.settle_and_check();
    let [Seen::Gap(gap), Seen::Event(8), Seen::Event(9), Seen::Event(10)] = &seen[..] else {
        panic!("{seen:?}");
    };
    assert!(gap.contains(r#""at_most":7"#), "{gap}");
}

/// A node begins where the log begins: what it forgot earlier is not missing.
#[test]
fn a_node_that_begins_with_a_trimmed_log_reports_no_gap() {
    let mut cluster = calm();
    for _ in 0..10 {
        cluster.publish_one(0, "token", false);
    }
    cluster.log.trim(3);
    cluster.nodes[0] = Node::new(&cluster.log, &cluster.config, cluster.capacity);
    assert!(cluster.nodes[0].follow(1));
    cluster.follow_at_first(0);
    cluster.publish_one(0, "token", false);
    assert!(cluster.nodes[0].follow(usize::MAX));
    let seen = cluster.settle_and_check();
    assert!(matches!(seen[..], [Seen::Event(8), .., Seen::Event(11)]), "{seen:?}");
}
