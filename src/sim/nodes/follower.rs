//! Clients of the simulated nodes, each with the event stream of one run, and the check of what they received.

use serde_json::Value;

use super::Checked;
use super::model::{Accepted, Rules, Run, check_end};
use crate::sim::decode::Inbox;
use crate::sim::net::{ClientEnd, End};

/// Place at which a connection begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    Live,
    Start,
    /// After this event of the run.
    After(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Seen {
    Event(u64),
    Gap(Box<str>),
    /// End of a life: the id of the event that ended it.
    End {
        id: String,
        complete: bool,
    },
}

/// Event stream of one run, over one connection.
pub(super) struct Follower {
    pub(super) run: u64,
    pub(super) node: usize,
    pub(super) on_lag: &'static str,
    pub(super) begin: Begin,
    pub(super) end: ClientEnd,
    pub(super) inbox: Inbox,
    pub(super) status: u16,
    pub(super) seen: Vec<Seen>,
    pub(super) last: Option<(u64, String)>,
    /// Number of entries that the log had when its response had come.
    pub(super) joined: Option<u64>,
    /// Number of the entry before which everything was purged, as its node had read when it asked for the run from its start.
    pub(super) purged: usize,
    /// Number of items that it had received when its node read the record of a purge of its run.
    pub(super) owed_gap: Option<usize>,
    pub(super) is_stalled: bool,
    pub(super) pace: usize,
    pub(super) is_over: bool,
}

impl Follower {
    pub(super) fn open(&self) {
        let from = match &self.begin {
            Begin::Start => "&from=start",
            _ => "",
        };
        let header = match (&self.begin, &self.last) {
            (Begin::After(_), Some((_, id))) => format!("Last-Event-ID: {id}\r\n"),
            _ => String::new(),
        };
        let concat = if self.on_lag == "concat" { "&concat=/payload/delta" } else { "" };
        let query = format!("stream=run-{}{from}&on_lag={}{concat}", self.run, self.on_lag);
        self.end.send(format!("GET /sse?{query} HTTP/1.1\r\nHost: sim\r\n{header}\r\n").as_bytes());
    }

    /// Reads up to `most` bytes. Returns whether bytes arrived.
    pub(super) fn read(&mut self, most: usize) -> bool {
        let before = self.inbox.bytes.len();
        let state = self.end.take(most, &mut self.inbox.bytes);
        let moved = self.inbox.bytes.len() > before;
        if self.status == 0
            && let Some((head, _)) = self.inbox.head()
        {
            self.status = head.status;
        }
        while self.status == 200
            && let Some((block, _)) = self.inbox.block()
        {
            if block.data.is_empty() {
                continue;
            }
            let data: Value = serde_json::from_str(&block.data).expect("JSON");
            match block.event.as_str() {
                "gap" => self.seen.push(Seen::Gap(block.data.into())),
                "end" => {
                    let complete = data["complete"].as_bool().expect("true or false");
                    let id = data["last_event_id"].as_str().expect("an id").to_owned();
                    self.seen.push(Seen::End { id, complete });
                }
                _ => {
                    let text = data["payload"]["delta"].as_str().expect("a text");
                    let numbers: Vec<u64> =
                        text.split_terminator(',').map(|n| n.parse().expect("a number")).collect();
                    let last = *numbers.last().expect("one at least");
                    assert_eq!(data["payload"]["n"], last, "{data}");
                    assert_eq!(data["merged"].as_u64().unwrap_or(1), numbers.len() as u64, "{data}");
                    self.seen.extend(numbers.into_iter().map(Seen::Event));
                    self.last = block.id.map(|id| (last, id));
                }
            }
        }
        self.is_over |= !matches!(state, End::Open);
        moved
    }

    /// Returns whether an event is due to a client that joined live.
    fn is_due(&self, event: &Accepted) -> bool {
        self.joined.is_some_and(|joined| event.id.sequence >= joined)
    }

    /// Checks what it received. `is_strict`: its node had to keep everything. `complete`: everything for it has arrived.
    pub(super) fn check(&self, run: &Run, rules: &Rules, is_strict: bool, complete: bool) -> Checked {
        let accepted = &run.accepted[..];
        let place = |n: u64| accepted.iter().position(|one| one.n == n);
        let catches_up = matches!(self.on_lag, "catch_up" | "concat") && self.begin != Begin::Live;
        let (mut at, mut has_gap, mut ended) = (None, false, None);
        let mut after = match self.begin {
            Begin::After(n) => Some(place(n).ok_or(format!("it had {n}, which is not accepted"))?),
            _ => None,
        };
        for item in &self.seen {
            match item {
                Seen::Gap(_) => has_gap = true,
                Seen::Event(n) => {
                    let Some(here) = place(*n) else { return Err(format!("event {n} is not accepted")) };
                    let event = accepted[here];
                    if self.begin == Begin::Start && event.id.sequence < self.purged as u64 {
                        return Err(format!("event {n} was purged before it asked"));
                    }
                    let is_next = match (at.or(after), &self.begin) {
                        (Some(before), _) if here <= before => {
                            return Err(format!("event {n} came again, or late"));
                        }
                        (Some(before), _) if here == before + 1 => true,
                        // A resume from an older life continues with the newest.
                        (Some(_), _) => at.is_none() && event.is_first && !event.is_after_purge,
                        (None, Begin::Live) => !accepted[..here].iter().any(|one| self.is_due(one)),
                        (None, _) => event.is_first,
                    };
                    if !is_next && (!has_gap || (is_strict && catches_up)) {
                        return Err(format!("events are missing before {n}, gap: {has_gap}"));
                    }
                    (at, after, has_gap) = (Some(here), None, false);
                }
                Seen::End { id, complete } => {
                    let end = check_end(accepted, id, *complete, rules)?;
                    if ended.is_some_and(|before| end <= before) {
                        return Err(format!("the end {id} came again, or late"));
                    }
                    ended = Some(end);
                    // A client that was behind may get the report after it has read on.
                    let is_after = at.or(after).is_none_or(|at| accepted[..=at].iter().any(|one| one.is_end));
                    if !is_after && !has_gap {
                        return Err(format!("an end that is not after its event: {at:?}"));
                    }
                }
            }
        }
        if !complete {
            return Ok(());
        }
        let is_gap = |seen: &Seen| matches!(seen, Seen::Gap(_));
        if self.owed_gap.is_some_and(|from| !self.seen[from..].iter().any(is_gap)) {
            return Err("its run was purged, and it was not told".to_owned());
        }
        if !rules.can_expire() && run.newest.is_some_and(|(_, is_end)| is_end) {
            return Err("its log has ended, and the stream goes on".to_owned());
        }
        let can_be_gone = rules.can_expire() || !run.purges.is_empty();
        let has_all = match (at.or(after), &self.begin) {
            _ if has_gap => true,
            (Some(at), _) => at + 1 == accepted.len(),
            (None, Begin::Start) if !can_be_gone => accepted.is_empty(),
            (None, _) => !accepted.iter().any(|one| self.is_due(one)),
        };
        if has_all { Ok(()) } else { Err(format!("{at:?} is the last that came of {}", accepted.len())) }
    }
}
