//! Passes on the events of one log in packed form: to a client that wants only some of them, and to one that has neighbours merged.
//!
//! Invariants:
//! - The client gets the bytes that it gets event by event.
//! - An event is built only if it has more than its head and its payload, if it is the first of its head, or if a merge ends with it.
//! - No part of a packed event is kept without the logs' lock.

use std::ops::Range;

use smallvec::SmallVec;

use super::forward::{EventSink as _, PackedSink};
use super::kept::{MergedLogs, before};
use super::merge::{Merger, WaitingMerge};
use super::page::{BYTE_INSTRUCTIONS, MERGE_INSTRUCTIONS, PAGE_BYTES, Page};
use crate::dialect::SequenceEncoder;
use crate::event::packed::{EventHead, PlainEvent, text_of};
use crate::kept::PartEvent;
use crate::server::limits::budget::Budget;

/// Instructions for reading a packed event.
const READ_INSTRUCTIONS: usize = 200;

/// Instructions for the frame of such an event, or for its place in a merge, without those for its bytes.
const PASS_INSTRUCTIONS: usize = 400;

/// Instructions for building an event and for its frame.
const BUILD_INSTRUCTIONS: usize = 3_500;

impl MergedLogs<'_> {
    /// Passes on the logs' next events in packed form, as long as the sink takes them. Returns false if that continues in the next
    /// step.
    pub(super) fn pass_packed(&mut self, budget: &mut Budget) -> bool {
        loop {
            if self.sink.packed().is_none() {
                return true;
            }
            if self.sink.is_full() || budget.is_spent() {
                return false;
            }
            let Some(logs) = self.shared.kept.lock() else { return true };
            let Some(part) = logs.next_part(self.cursor, before(self.until), self.now) else { return true };
            let Some(sink) = self.sink.packed() else { return true };
            let mut events = logs.part_events(self.cursor, part.from..part.end, self.now);
            let Some((count, last)) = sink.take_packed(&mut events, budget) else { return true };
            *self.last = Some(last.id());
            self.cursor.pass_to(part.from + count, last.number());
        }
    }
}

/// Merge that goes on through packed events.
#[derive(Default)]
struct PackedMerge<'a> {
    waiting: Option<WaitingMerge>,
    /// Head of the merge's events, if it is known.
    head: Option<&'a EventHead>,
    /// The merge's last event, if that is not built yet.
    last: Option<(PartEvent<'a>, &'a str)>,
}

impl<'a> PackedMerge<'a> {
    /// Adds an event with this payload, if it continues the merge.
    fn takes(
        &mut self,
        event: PartEvent<'a>,
        head: &'a EventHead,
        payload: &'a str,
        body: &Range<usize>,
    ) -> bool {
        let Some(waiting) = &mut self.waiting else { return false };
        let is_alike = match self.head {
            Some(known) => std::ptr::eq(known, head) && waiting.has_room(body.len()),
            None => waiting.takes(&event.event(), body.len()),
        };
        if is_alike {
            let before = self.last.as_ref().map(|(_, payload)| *payload);
            waiting.push_body(before, body.clone());
            (self.head, self.last) = (Some(head), Some((event, payload)));
        }
        is_alike
    }

    /// Takes out the merge, with its last event built.
    fn take(&mut self) -> Option<WaitingMerge> {
        let mut waiting = self.waiting.take()?;
        if let Some((last, _)) = self.last.take() {
            waiting.last = last.event();
        }
        self.head = None;
        Some(waiting)
    }
}

impl PackedSink for Page<'_> {
    fn take_packed<'a>(
        &mut self,
        events: &mut dyn Iterator<Item = PartEvent<'a>>,
        budget: &mut Budget,
    ) -> Option<(u64, PartEvent<'a>)> {
        let mut encoder = SequenceEncoder::new(self.encoding);
        let mut decided: SmallVec<[(&EventHead, bool); 4]> = SmallVec::new();
        let mut lens: SmallVec<[u32; 128]> = SmallVec::new();
        let mut merge = self.begin_merge();
        let (mut count, mut last, mut instructions) = (0, None, 0);
        while !self.is_full()
            && !budget.is_spent()
            && let Some(event) = events.next()
        {
            (count, last) = (count + 1, Some(event));
            instructions += READ_INSTRUCTIONS;
            match event.plain() {
                Some(plain) => {
                    let known = decided.iter().find(|(head, _)| std::ptr::eq(*head, plain.head));
                    let is_wanted = match known {
                        Some((_, is_wanted)) => *is_wanted,
                        None => {
                            let is_wanted = self.selector.wants(&event.event(), budget);
                            decided.push((plain.head, is_wanted));
                            is_wanted
                        }
                    };
                    if is_wanted && self.merger.is_some() {
                        instructions += PASS_INSTRUCTIONS + plain.payload.len() * MERGE_INSTRUCTIONS;
                        self.offer_packed(&mut merge, event, &plain, budget);
                    } else if is_wanted {
                        let len = self.put_packed(&mut encoder, event, &plain);
                        instructions += PASS_INSTRUCTIONS + len * BYTE_INSTRUCTIONS;
                        lens.push(len as u32);
                    }
                }
                None => {
                    instructions += BUILD_INSTRUCTIONS;
                    self.end_merge(&mut merge);
                    self.event(&event.event(), None, budget);
                    merge = self.begin_merge();
                }
            }
            budget.spend((instructions / 1_000) as u32);
            instructions %= 1_000;
        }
        self.end_merge(&mut merge);
        budget.spend_bytes(encoder.encoded_alone(), BUILD_INSTRUCTIONS);
        self.fanout.count_frames(lens.into_iter().map(|len| len as usize));
        last.map(|last| (count, last))
    }
}

impl Page<'_> {
    /// Takes the waiting merge, to go on with packed events.
    fn begin_merge<'a>(&mut self) -> PackedMerge<'a> {
        PackedMerge { waiting: self.merger.as_mut().and_then(Merger::take), head: None, last: None }
    }

    /// Gives the waiting merge back.
    fn end_merge(&mut self, merge: &mut PackedMerge<'_>) {
        if let (Some(merger), Some(waiting)) = (self.merger.as_mut(), merge.take()) {
            merger.put_back(waiting);
        }
    }

    /// Takes an event that may be merged with the one before it.
    fn offer_packed<'a>(
        &mut self,
        merge: &mut PackedMerge<'a>,
        event: PartEvent<'a>,
        plain: &PlainEvent<'a>,
        budget: &mut Budget,
    ) {
        let payload = text_of(plain.payload);
        let body = self.merger.as_ref().and_then(|merger| merger.find(payload));
        if body.as_ref().is_some_and(|body| merge.takes(event, plain.head, payload, body)) {
            return;
        }
        if let Some(before) = merge.take() {
            self.send_merged(&before, budget);
        }
        let event = event.event();
        match body {
            Some(body) => {
                *merge = PackedMerge {
                    waiting: Some(WaitingMerge::new(&event, None, body)),
                    head: Some(plain.head),
                    last: None,
                };
            }
            None => self.send(&event, None, budget),
        }
    }

    /// Appends the frame of a packed event, and returns its length.
    fn put_packed<'a>(
        &mut self,
        encoder: &mut SequenceEncoder<'a>,
        event: PartEvent<'a>,
        plain: &PlainEvent<'a>,
    ) -> usize {
        let frames = &mut self.small.bytes;
        let start = frames.len();
        if start == 0 {
            frames.reserve(PAGE_BYTES);
        }
        encoder.put_plain(plain, || event.event(), frames);
        let len = frames.len() - start;
        self.small.events += 1;
        self.small.last = Some(plain.id);
        self.size += len;
        *self.events += 1;
        len
    }
}

#[cfg(test)]
mod tests {
    use crate::event::{Event, Timestamp};
    use crate::kept::tests::dice;
    use crate::server::harness::OneClient;
    use crate::server::shared::adoption::AdoptedHead;

    /// Returns the body of the stream that a client of the log gets.
    fn past(client: &mut OneClient, query: &str) -> String {
        let request = format!("GET /sse?stream=run-1&from=start&{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.adopts(&request, Vec::new(), AdoptedHead::Own);
        let (_, bytes) = client.settle();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split_once("\r\n\r\n").expect("an answer").1.to_owned()
    }

    fn event(n: u64, next: &mut impl FnMut(u64) -> u64) -> Event {
        let kind = ["token", "token", "token", "tool"][next(4) as usize];
        let payload = match next(12) {
            0 => "[]".to_owned(),
            1 => format!(r#"{{"n":{n},"delta":{n}}}"#),
            2 => format!(r#"{{"delta":"{}"}}"#, "x".repeat(next(30_000) as usize)),
            _ => format!(r#"{{"n":{n},"delta":"{}"}}"#, "\\n ".repeat(next(9) as usize)),
        };
        let mut event = Event::builder(kind).stream("run-1").json(payload);
        if next(15) == 0 {
            event = event.correlation("c");
        }
        if next(20) == 0 {
            event = event.timestamp(Timestamp(n as i64 * 1_000));
        }
        let event = event.build().expect("valid");
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        if next(25) == 0 { event.traced(parent, None) } else { event }
    }

    #[test]
    fn a_client_gets_the_bytes_that_it_gets_event_by_event() {
        let mut next = dice(7);
        let mut client = OneClient::keeping();
        for n in 0..700 {
            // Runs of neighbours, and mixtures.
            let event = match n / 100 % 2 {
                0 => event(n, &mut next),
                _ => {
                    let payload = format!(r#"{{"n":{n},"delta":"{n} "}}"#);
                    Event::builder("token").stream("run-1").json(payload).build().expect("valid")
                }
            };
            client.publishes(event);
            client.quiet_turn();
        }
        // A filter of this length is compiled, so its events are decided on one by one.
        let other = "t".repeat(90);
        for more in [
            "",
            "&lean=true",
            "&compact=concat&concat=/payload/delta",
            "&lean=true&compact=concat&concat=/payload/delta",
        ] {
            for (kinds, least) in [("token", 400), ("tool", 40), ("token&type=tool", 500)] {
                let packed = past(&mut client, &format!("type={kinds}{more}"));
                let built = past(&mut client, &format!("type={kinds}&type={other}{more}"));
                assert!(
                    packed == built,
                    "{kinds}{more}: {} bytes, and {}",
                    packed.len(),
                    &built[..built.len().min(300)]
                );
                let events = packed.matches("\ndata: ").count();
                assert!(
                    events >= if more.contains("concat") { 20 } else { least },
                    "{kinds}{more}: {events}"
                );
            }
        }
        // Every event of the log, merged.
        let all = past(&mut client, "compact=concat&concat=/payload/delta");
        assert_eq!(
            all,
            past(
                &mut client,
                &format!("type=token&type=tool&type={other}&compact=concat&concat=/payload/delta")
            )
        );
    }
}
