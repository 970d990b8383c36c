//! Clients of the simulation: they send messages and interpret the replies.
//!
//! Invariant: a client records its requests and their order, and accepts only replies to these in this order.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::books::{
    ENTITIES, FILTERS, From, Interest, KINDS, LISTS, Log, Past, Policy, SOURCES, Seen, Start,
};
use super::decode::{Inbox, masked};
use super::net::{ClientEnd, End};
use super::{Dice, Fault};
use crate::event::EventId;

/// Kind of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ws,
    Sse,
    /// Publishes by `POST /publish`.
    Post,
    /// Sends invalid bytes.
    Noise,
}

/// Request that has no reply yet.
#[derive(Debug)]
struct Asked {
    message_id: String,
    /// Number of bytes that the client had sent, including this request.
    sent: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Subscribe {
        name: String,
        filter: u8,
        policy: Policy,
        from: Option<From>,
    },
    Unsubscribe {
        name: String,
    },
    /// Changes a list to this one. `gains`: the new list has entities that the old one lacked.
    Update {
        name: String,
        filter: u8,
        gains: bool,
    },
    Publish(u64),
    Other(&'static str),
}

/// End of a connection, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Refused with this status.
    Refused(u16),
    /// A close frame with this code.
    Close(u16),
    Ended,
    /// Closed in the middle of a frame.
    CutOff,
    Broken,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) kind: Kind,
    /// Whether the client asks for lean events.
    is_lean: bool,
    pub(super) end: ClientEnd,
    inbox: Inbox,
    has_head: bool,
    /// Maximum number of bytes read in one step.
    pub(super) pace: usize,
    pub(super) is_stalled: bool,
    /// Whether the client has ever stalled or taken one byte at a time, so that the server may disconnect it.
    pub(super) was_slow: bool,
    /// Whether the client leaves pings unanswered.
    pub(super) is_mute: bool,
    /// Whether the client has begun to close the connection.
    pub(super) is_leaving: bool,
    pub(super) seen: Vec<Seen>,
    /// Name, filter, policy, and the first event that the subscription delivers; `None`: every event.
    subscriptions: Vec<(String, u8, Policy, Option<u64>)>,
    asked: VecDeque<Asked>,
    next_id: u64,
    first: Option<(u8, Policy, Option<From>)>,
    request_bytes: u64,
    /// Last event received, to resume after.
    pub(super) last_event: Option<EventId>,
    pub(super) outcome: Option<Outcome>,
    posts: VecDeque<u64>,
    /// Fault planted on the way to this client.
    pub(super) fault: Option<Fault>,
    swapped: Option<Seen>,
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn filter_json(filter: u8) -> Value {
    match filter {
        0 => json!({}),
        1 => json!({"event_types": ["a.b"]}),
        2 => json!({"event_types": ["a.*"]}),
        3 => json!({"sources": ["s1"]}),
        4 => json!({"event_types": ["a.*"], "sources": ["s0"]}),
        LISTS.. => json!({"entities": entities(filter)}),
        _ => json!({"entities": ["k:1"]}),
    }
}

/// Returns the entities of a list.
fn entities(filter: u8) -> Vec<String> {
    (0..ENTITIES).filter(|entity| filter & 1 << entity != 0).map(|entity| format!("k:{entity}")).collect()
}

fn filter_query(filter: u8) -> &'static str {
    match filter {
        0 => "",
        1 => "&type=a.b",
        2 => "&type=a.*",
        3 => "&source=s1",
        4 => "&type=a.*&source=s0",
        _ => "&entity=k:1",
    }
}

impl Client {
    pub(super) fn new(number: usize, kind: Kind, end: ClientEnd, pace: usize) -> Self {
        Self {
            number,
            kind,
            // Not random, so that older seeds still give the same runs.
            is_lean: number.is_multiple_of(3),
            end,
            inbox: Inbox::default(),
            has_head: false,
            pace,
            is_stalled: false,
            was_slow: false,
            is_mute: false,
            is_leaving: false,
            seen: Vec::new(),
            subscriptions: Vec::new(),
            asked: VecDeque::new(),
            next_id: 0,
            first: None,
            request_bytes: 0,
            last_event: None,
            outcome: None,
            posts: VecDeque::new(),
            fault: None,
            swapped: None,
        }
    }

    /// Opens a WebSocket. The first message may be sent before the response arrives.
    pub(super) fn upgrade(&mut self) {
        let (head, end) = UPGRADE.split_at(UPGRADE.len() - 2);
        let protocol = if self.is_lean { "Sec-WebSocket-Protocol: fanwire.v1.lean\r\n" } else { "" };
        self.end.send([head, protocol, end].concat().as_bytes());
    }

    pub(super) fn open_stream(&mut self, filter: u8, policy: Policy, from: Option<From>, log: &Log) {
        let mut query = format!("on_lag={}{}", policy.word(), filter_query(filter));
        if let Policy::Sample(rate) = policy {
            query.push_str("&max_per_second=");
            query.push_str(&rate.to_string());
        }
        // With several shards a lean event does not identify itself, and it never says how many were merged.
        self.is_lean &= log.by_shard.len() == 1 && policy != Policy::Concat;
        if policy == Policy::Concat {
            query += "&concat=/payload/pad";
        }
        if self.is_lean {
            query += "&lean";
        }
        let mut header = String::new();
        match from {
            Some(From::After(n)) => header = format!("Last-Event-ID: {}\r\n", log.entry(n).id),
            Some(From::Unknown) => "Last-Event-ID: zz-7\r\n".clone_into(&mut header),
            Some(From::Newest(count)) => {
                query.push_str("&history=");
                query.push_str(&count.to_string());
            }
            Some(From::Snapshot) => query += "&snapshot=true",
            Some(From::Start) => query += "&from=start",
            None => {}
        }
        self.first = Some((filter, policy, from));
        self.end.send(format!("GET /sse?{query} HTTP/1.1\r\nHost: sim\r\n{header}\r\n").as_bytes());
        self.request_bytes = self.end.sent_bytes();
    }

    fn say(&mut self, dice: &mut Dice, message: &mut Value, what: What) {
        self.next_id += 1;
        let message_id = format!("m{}", self.next_id);
        message["message_id"] = json!(message_id);
        let text = message.to_string();
        let bytes = text.as_bytes();
        if dice.one_in(6) && bytes.len() > 2 {
            // Two fragments, with an unsolicited pong between them.
            let cut = 1 + dice.up_to(bytes.len() - 1) - 1;
            let mut first = masked(1, &bytes[..cut], dice.key());
            first[0] &= 0x7f;
            self.end.send(&first);
            self.end.send(&masked(10, b"well", dice.key()));
            self.end.send(&masked(0, &bytes[cut..], dice.key()));
        } else {
            self.end.send(&masked(1, bytes, dice.key()));
        }
        self.asked.push_back(Asked { message_id, sent: self.end.sent_bytes(), what });
    }

    pub(super) fn subscribe(&mut self, dice: &mut Dice, policy: Policy, from: Option<From>, log: &Log) {
        let filter = dice.below(u64::from(FILTERS)) as u8;
        self.subscribe_to(dice, filter, policy, from, log);
    }

    /// Changes the list of a subscription, or subscribes to a list if there is none.
    pub(super) fn update(&mut self, dice: &mut Dice, policy: Policy, log: &Log) {
        let changes = |what: &What| !matches!(what, What::Publish(_) | What::Other(_));
        if self.asked.iter().any(|asked| changes(&asked.what)) {
            return;
        }
        let bits = 1 << ENTITIES;
        let Some((name, held, ..)) = self.subscriptions.iter().find(|one| one.1 >= LISTS).cloned() else {
            let filter = LISTS + 1 + dice.below(bits - 1) as u8;
            return self.subscribe_to(dice, filter, policy, None, log);
        };
        let add = dice.below(bits) as u8;
        let remove = dice.below(bits) as u8 & !add;
        let filter = (held | add) & !remove;
        let lists = |of: u8| json!({ "entities": entities(of) });
        let payload = json!({"subscription_id": name, "add": lists(add), "remove": lists(remove)});
        let mut message = json!({"type": "update", "payload": payload});
        self.say(dice, &mut message, What::Update { name, filter, gains: filter & !held != 0 });
    }

    fn subscribe_to(&mut self, dice: &mut Dice, filter: u8, policy: Policy, from: Option<From>, log: &Log) {
        let name = format!("n{}", dice.below(3));
        let mut payload = filter_json(filter);
        payload["subscription_id"] = json!(name);
        payload["on_lag"] = json!(policy.word());
        if let Policy::Sample(rate) = policy {
            payload["max_per_second"] = json!(rate);
        }
        if policy == Policy::Concat {
            payload["concat"] = json!("/payload/pad");
        }
        match from {
            Some(From::After(n)) => payload["since"] = json!(log.entry(n).id.to_string()),
            Some(From::Unknown) => payload["since"] = json!("zz-7"),
            Some(From::Newest(count)) => payload["history"] = json!(count),
            Some(From::Snapshot) => payload["snapshot"] = json!(true),
            Some(From::Start) => payload["from"] = json!("start"),
            None => {}
        }
        let mut message = json!({"type": "subscribe", "payload": payload});
        self.say(dice, &mut message, What::Subscribe { name, filter, policy, from });
    }

    pub(super) fn unsubscribe(&mut self, dice: &mut Dice) {
        let Some((name, ..)) = self.subscriptions.first().cloned() else { return };
        // A second unsubscribe of the same name would be refused.
        if self.asked.iter().any(|asked| matches!(&asked.what, What::Unsubscribe { .. })) {
            return;
        }
        let mut message = json!({"type": "unsubscribe", "payload": {"subscription_id": name}});
        self.say(dice, &mut message, What::Unsubscribe { name });
    }

    pub(super) fn ask(&mut self, dice: &mut Dice) {
        match dice.below(3) {
            0 => self.say(dice, &mut json!({"type": "ping"}), What::Other("pong")),
            1 => {
                let mut message = json!({"type": "request", "payload": {"action": "subscription_count"}});
                self.say(dice, &mut message, What::Other("response"));
            }
            _ => self.say(dice, &mut json!({"type": "fly"}), What::Other("error")),
        }
    }

    pub(super) fn publish(&mut self, dice: &mut Dice, n: u64) {
        let mut message = json!({"type": "publish", "payload": event_json(dice, n)});
        self.say(dice, &mut message, What::Publish(n));
    }

    /// Publishes events in one body.
    pub(super) fn post(&mut self, dice: &mut Dice, numbers: std::ops::Range<u64>) {
        let count = numbers.end - numbers.start;
        let events: Vec<String> = numbers.map(|n| event_json(dice, n).to_string()).collect();
        let body = if dice.one_in(2) { format!("[{}]", events.join(",")) } else { events.join("\n") };
        let head = "POST /publish HTTP/1.1\r\nHost: sim\r\n";
        let request = if dice.one_in(3) {
            let (first, second) = body.split_at(body.len() / 2);
            let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n", chunk(first), chunk(second))
        } else {
            format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
        };
        self.posts.push_back(count);
        self.end.send(request.as_bytes());
    }

    /// Sends invalid bytes.
    pub(super) fn make_noise(&mut self, dice: &mut Dice) {
        match dice.below(4) {
            0 => {
                let bytes: Vec<u8> = (0..dice.up_to(300)).map(|_| dice.below(256) as u8).collect();
                self.end.send(&bytes);
            }
            1 => self
                .end
                .send(b"GET /healthz HTTP/1.1\r\nHost: sim\r\n\r\n".repeat(dice.up_to(200)).as_slice()),
            2 => {
                self.end.send(UPGRADE.as_bytes());
                for _ in 0..dice.up_to(300) {
                    self.end.send(&masked(9, b"flood", dice.key()));
                }
            }
            _ => {
                let mut bytes = UPGRADE.as_bytes().to_vec();
                bytes.extend(masked(1, json!({"type": "subscribe"}).to_string().as_bytes(), dice.key()));
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << dice.below(8);
                self.end.send(&bytes);
            }
        }
    }

    pub(super) fn leave(&mut self, dice: &mut Dice) {
        self.is_leaving = true;
        if self.kind == Kind::Ws && self.has_head && dice.one_in(2) {
            self.end.send(&masked(8, &1000u16.to_be_bytes(), dice.key()));
        } else if dice.one_in(2) {
            self.end.half_close();
        } else {
            self.end.abort();
        }
    }

    /// Returns whether the connection is an open stream of events.
    pub(super) fn is_streaming(&self) -> bool {
        self.outcome.is_none() && self.has_head && matches!(self.kind, Kind::Ws | Kind::Sse)
    }

    /// Returns whether the client ever requested the disconnect policy. A client that was disconnected early may have
    /// no reply to that request.
    pub(super) fn asked_to_be_closed(&self) -> bool {
        let was_confirmed = self.seen.iter().any(|seen| match seen {
            Seen::Change { interest, .. } => interest.0.iter().any(|(_, p)| *p == Policy::Disconnect),
            _ => false,
        });
        let is_asked =
            |asked: &Asked| matches!(asked.what, What::Subscribe { policy: Policy::Disconnect, .. });
        let is_opened = self.first.is_some_and(|(_, policy, _)| policy == Policy::Disconnect);
        is_opened || was_confirmed || self.asked.iter().any(is_asked)
    }

    /// Returns whether the client may be catching up, so that the drain finds events that were not written yet.
    pub(super) fn catches_up(&self) -> bool {
        self.seen.iter().any(|seen| match seen {
            Seen::Change { interest, .. } => interest.0.iter().any(|(_, p)| p.catches_up()),
            _ => false,
        })
    }

    pub(super) fn awaits_answers(&self) -> bool {
        self.outcome.is_none() && (!self.asked.is_empty() || !self.posts.is_empty())
    }

    /// Reads up to `most` bytes and handles the complete messages. Returns whether any bytes arrived.
    pub(super) fn read(&mut self, most: usize, dice: &mut Dice, log: &Log) -> bool {
        if self.outcome.is_some() {
            return false;
        }
        let before = self.inbox.bytes.len();
        let end = self.end.take(most, &mut self.inbox.bytes);
        let any = self.inbox.bytes.len() > before;
        if self.kind == Kind::Noise {
            self.inbox = Inbox::default();
        } else {
            while self.outcome.is_none() && self.take_one(dice, log) {}
        }
        if self.outcome.is_none() && end != End::Open {
            self.outcome = Some(match end {
                End::Ended if self.inbox.is_empty() => Outcome::Ended,
                End::Ended => Outcome::CutOff,
                _ => Outcome::Broken,
            });
        }
        any
    }

    fn take_one(&mut self, dice: &mut Dice, log: &Log) -> bool {
        match self.kind {
            Kind::Post => self.take_answer(log),
            _ if !self.has_head => {
                let Some((head, at)) = self.inbox.head() else { return false };
                match (self.kind, head.status) {
                    (Kind::Ws, 101) => {
                        assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
                    }
                    (Kind::Sse, 200) => {
                        assert_eq!(head.header("content-type"), Some("text/event-stream"));
                        let (filter, policy, from) = self.first.expect("it asked");
                        let past = from.map(|from| Past { from, beside: Vec::new(), start: None });
                        self.change(Interest(vec![(filter, policy)]), past, None, self.request_bytes, at);
                    }
                    (_, status) => self.outcome = Some(Outcome::Refused(status)),
                }
                self.has_head = true;
                true
            }
            Kind::Ws => {
                let Some((op, payload, at)) = self.inbox.frame() else { return false };
                self.take_frame(op, &payload, at, dice, log);
                true
            }
            Kind::Sse => {
                let Some((block, _)) = self.inbox.block() else { return false };
                if let Some(end) = block.comment.as_deref().and_then(|text| text.strip_prefix("history_end "))
                {
                    let (events, complete) = end.split_once(' ').expect("two fields");
                    let events =
                        events.strip_prefix("events=").and_then(|n| n.parse().ok()).expect("a number");
                    let complete = complete.strip_prefix("complete=") == Some("true");
                    self.record(Seen::PastEnd { events, complete });
                }
                if block.data.is_empty() {
                    return true;
                }
                let data: Value = serde_json::from_str(&block.data).expect("data is JSON");
                if block.event == "gap" {
                    self.take_gap(&data);
                } else if self.is_lean {
                    let event = json!({"event_id": block.id, "event_type": block.event, "payload": data});
                    self.take_event(&event, log);
                } else {
                    if log.by_shard.len() == 1 {
                        assert_eq!(block.id.as_deref(), data["event_id"].as_str());
                    }
                    assert_eq!(Some(block.event.as_str()), data["event_type"].as_str());
                    self.take_event(&data, log);
                }
                true
            }
            Kind::Noise => false,
        }
    }

    fn take_answer(&mut self, log: &Log) -> bool {
        if !self.has_head {
            let Some((head, _)) = self.inbox.head() else { return false };
            if head.status != 200 {
                self.outcome = Some(Outcome::Refused(head.status));
                return true;
            }
            self.request_bytes =
                head.header("content-length").and_then(|len| len.parse().ok()).expect("a length");
            self.has_head = true;
        }
        let Some(body) = self.inbox.body(self.request_bytes as usize) else { return false };
        self.has_head = false;
        let answer: Value = serde_json::from_slice(&body).expect("a reply is JSON");
        let count = self.posts.pop_front().expect("it asked");
        assert_eq!(answer["accepted"].as_u64(), Some(count), "{answer}");
        let id = answer["last_event_id"].as_str().and_then(|id| id.parse().ok());
        assert!(id.is_some_and(|id| log.find(id).is_some()), "{answer}");
        true
    }

    fn take_frame(&mut self, op: u8, payload: &[u8], at: u64, dice: &mut Dice, log: &Log) {
        match op {
            8 => {
                let code = payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
                self.end.send(&masked(8, &code.to_be_bytes(), dice.key()));
                self.end.half_close();
                self.outcome = Some(Outcome::Close(code));
            }
            9 => {
                if !self.is_mute {
                    self.end.send(&masked(10, payload, dice.key()));
                }
            }
            10 => {}
            _ => {
                let message: Value = serde_json::from_slice(payload).expect("a message is JSON");
                if self.is_lean && message["event_type"].is_string() {
                    return self.take_event(&message, log);
                }
                match message["type"].as_str().expect("a message has a type") {
                    "event" if !self.is_lean => self.take_event(&message["payload"], log),
                    "gap" => self.take_gap(&message["payload"]),
                    "history_end" => {
                        let end = &message["payload"];
                        let events = end["events"].as_u64().expect("a number");
                        let complete = end["complete"].as_bool().expect("true or false");
                        self.record(Seen::PastEnd { events, complete });
                    }
                    // The server drains; the close frame follows.
                    "reconnect" => {}
                    kind => self.take_reply(kind, &message, at, log),
                }
            }
        }
    }

    fn take_reply(&mut self, kind: &str, message: &Value, at: u64, log: &Log) {
        let asked = self.asked.pop_front().unwrap_or_else(|| panic!("nobody asked: {message}"));
        assert_eq!(message["correlation_id"].as_str(), Some(asked.message_id.as_str()), "{message}");
        let expected = match &asked.what {
            What::Other(kind) => kind,
            _ => "ack",
        };
        assert_eq!(kind, expected, "client {}: {message} to {asked:?}", self.number);
        match asked.what {
            What::Subscribe { name, filter, policy, from } => {
                let known = self.subscriptions.iter().position(|(known, ..)| *known == name);
                let beside =
                    self.subscriptions.iter().map(|(_, filter, _, began)| (*filter, *began)).collect();
                let is_new = known.is_none();
                let past = &message["payload"]["history"];
                assert_eq!(past.is_object(), from.is_some(), "{message}");
                // Number of the first event after a position, if there is one shard.
                let after = |place: &Value| {
                    let id: EventId = place.as_str()?.parse().ok()?;
                    log.find(id).map(|n| n + 1).or((id.sequence == u64::MAX).then_some(0))
                };
                let begin = after(&message["payload"]["last_event_id"]).filter(|_| log.by_shard.len() == 1);
                let start =
                    from.map(|_| Start { first: after(&past["from"]), complete: past["complete"].as_bool() });
                let began = match from {
                    Some(From::Snapshot | From::Start) => None,
                    Some(From::After(n)) => begin.map(|begin| begin.min(n + 1)),
                    Some(From::Newest(_)) => {
                        let first = start.as_ref().and_then(|start| start.first);
                        begin.map(|begin| begin.min(first.unwrap_or(begin)))
                    }
                    Some(From::Unknown) | None => begin,
                };
                let subscription = (name, filter, policy, began);
                match known {
                    Some(at) => self.subscriptions[at] = subscription,
                    None => self.subscriptions.push(subscription),
                }
                let mut interest = self.interest();
                // The subscription that requests the replay is moved to the end.
                if !is_new && from.is_some() {
                    let at = known.unwrap_or_default();
                    let last = interest.0.remove(at);
                    interest.0.push(last);
                }
                let past = from.map(|from| Past { from, beside, start });
                // The reply to a request for a past gives the position at which the live events begin.
                let begin = begin.filter(|_| past.is_some());
                self.change(interest, past, begin, asked.sent, at);
            }
            What::Update { name, filter, gains } => {
                let place =
                    message["payload"]["last_event_id"].as_str().and_then(|id| id.parse::<EventId>().ok());
                let begin = place
                    .and_then(|id| log.find(id).map(|n| n + 1).or((id.sequence == u64::MAX).then_some(0)));
                if let Some(one) = self.subscriptions.iter_mut().find(|one| one.0 == name) {
                    one.1 = filter;
                    if gains {
                        one.3 = begin.filter(|_| log.by_shard.len() == 1);
                    }
                }
                self.change(self.interest(), None, None, asked.sent, at);
            }
            What::Unsubscribe { name } => {
                self.subscriptions.retain(|(known, ..)| *known != name);
                self.change(self.interest(), None, None, asked.sent, at);
            }
            What::Publish(n) => {
                let id = message["payload"]["event_id"].as_str().and_then(|id| id.parse().ok());
                let entry = id.and_then(|id| log.find(id)).map(|place| log.entry(place));
                assert_eq!(entry.map(|entry| entry.n), Some(n), "{message}");
            }
            What::Other(_) => {
                // With several shards the value is a position, which does not name a single event.
                let id = message["payload"]["last_event_id"].as_str().and_then(|id| id.parse().ok());
                if let Some(place) = id.and_then(|id| log.find(id)) {
                    self.record(Seen::UpTo(place));
                }
            }
        }
    }

    fn interest(&self) -> Interest {
        Interest(self.subscriptions.iter().map(|(_, filter, policy, _)| (*filter, *policy)).collect())
    }

    /// Records a change of the interest. `begin`: position of the first live event, if the server gave it.
    fn change(&mut self, interest: Interest, from: Option<Past>, begin: Option<u64>, sent: u64, at: u64) {
        let cursors = self.end.events_when_read(sent);
        let low = begin.unwrap_or_else(|| cursors.iter().sum());
        let high = begin.unwrap_or_else(|| self.end.events_when_written(at));
        self.record(Seen::Change { interest, from, cursors, low, high });
    }

    fn take_event(&mut self, event: &Value, log: &Log) {
        let id: EventId = event["event_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        let place = log.find(id).unwrap_or_else(|| panic!("nobody published {event}"));
        let entry = log.entry(place);
        assert_eq!(event["payload"]["n"].as_u64(), Some(entry.n), "{event}");
        assert_eq!(event["event_type"].as_str(), Some(KINDS[usize::from(entry.kind)]), "{event}");
        // A lean event stream has the payload, the type and the position only.
        let has_source = !self.is_lean || self.kind == Kind::Ws;
        let source = has_source.then_some(SOURCES[usize::from(entry.source)]);
        assert_eq!(event["source"].as_str(), source, "{event}");
        self.last_event = Some(id);
        if let Some(merged) = event["merged"].as_u64() {
            for place in self.neighbours(place, merged - 1, log) {
                self.record(Seen::Event(place));
            }
        }
        self.record(Seen::Event(place));
    }

    /// Returns the events that were merged into this one: those before it that the client wanted, which must be of its kind.
    fn neighbours(&self, last: u64, count: u64, log: &Log) -> Vec<u64> {
        let interest = match self.first {
            Some((filter, policy, _)) => Interest(vec![(filter, policy)]),
            None => self.interest(),
        };
        let wanted = (0..last).rev().filter(|place| interest.wants(log.entry(*place)));
        let mut places: Vec<u64> = wanted.take(count as usize).collect();
        places.reverse();
        let attributes = |place| {
            let entry = log.entry(place);
            (entry.kind, entry.source, entry.stream, entry.entity)
        };
        let are_neighbours = places.iter().all(|place| attributes(*place) == attributes(last));
        assert!(are_neighbours && places.len() as u64 == count, "{count} merged into {last}: {places:?}");
        places
    }

    fn take_gap(&mut self, gap: &Value) {
        // With several shards a gap may begin at a position, which does not name a single event.
        let id = |name: &str| {
            gap[name].as_str().filter(|id| !id.contains('~')).map(|id| id.parse().expect("an id"))
        };
        let (missed, at_most) = (gap["missed"].as_u64(), gap["at_most"].as_u64());
        assert!(missed.is_none() || at_most.is_none(), "{gap}");
        assert_ne!(missed.or(at_most), Some(0), "a gap without missing events: {gap}");
        let recoverable = gap["recoverable"].as_bool().expect("known");
        self.record(Seen::Gap { missed, at_most, from: id("from"), to: id("to"), recoverable });
    }

    /// Records an item. A planted fault may change it first.
    fn record(&mut self, seen: Seen) {
        let is_event = matches!(seen, Seen::Event(_));
        match self.fault {
            Some(Fault::Drop(n)) if is_event => {
                self.fault = n.checked_sub(1).map(Fault::Drop);
                if n == 0 {
                    return;
                }
            }
            Some(Fault::Double(n)) if is_event => {
                self.fault = n.checked_sub(1).map(Fault::Double);
                if n == 0 {
                    self.seen.push(seen.clone());
                }
            }
            Some(Fault::Swap(n)) if is_event => {
                self.fault = n.checked_sub(1).map(Fault::Swap);
                if n == 0 {
                    self.swapped = Some(seen);
                    return;
                }
            }
            Some(Fault::LoseGap) if matches!(seen, Seen::Gap { .. }) => {
                self.fault = None;
                return;
            }
            _ => {}
        }
        self.seen.push(seen);
        if is_event {
            self.seen.extend(self.swapped.take());
        }
    }
}

/// Returns an event with this number and random attributes.
fn event_json(dice: &mut Dice, n: u64) -> Value {
    let kind = KINDS[dice.below(3) as usize];
    let source = SOURCES[dice.below(2) as usize];
    let stream = format!("st{}", dice.below(3));
    let mut event = json!({"type": kind, "source": source, "stream_id": stream});
    if dice.one_in(2) {
        event["entity"] =
            json!({"kind": "k", "id": dice.below(u64::from(super::books::ENTITIES)).to_string()});
    }
    event["payload"] = json!({"n": n, "pad": "p".repeat(super::pad(dice))});
    event
}
