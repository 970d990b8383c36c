//! A reader that cuts its own connection at random and resumes after its last event.
//!
//! Always: it ends at the run's deadline, even if the server does not answer. It resumes after the last event that it
//! received, so a missing event is the server's fault.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use fanwire::sse::SseParser;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tungstenite::Message;

use super::super::dice::Dice;
use super::super::remote::{NotOpened, Remote};
use super::super::target::error_text;
use super::super::trust;
use super::ledger::{Account, ViolationKind};
use super::run::{EVENT_TYPE, VerifyOnLag, VerifyRun, pad};
use super::watch::{KEY_KIND, WatchSet, entity};

/// Transport of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    WebSocket,
    Sse,
}

/// Minimum number of events between two cuts, so that a fault after a reconnect is seen before the next cut.
const LIFE_MIN: u64 = 12;
const LIFE_MORE: u64 = 60;
/// Maximum time between a cut and the reconnect, in milliseconds.
const PAUSE_MS_MAX: u64 = 150;
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Interval at which a silent WebSocket checks whether the run is over.
const READ_TIMEOUT: Duration = Duration::from_millis(200);
/// Size of the kernel's receive buffer for a slow reader.
const SLOW_RECEIVE_BUFFER: usize = 8 * 1024;
/// Pause of a slow reader after each event, until everything is published.
const SLOW_REST: Duration = Duration::from_millis(20);
const EVENT_BYTES_MAX: usize = 16 << 20;
/// Minimum number of events between a confirmed change of a reader's keys and the next one.
const CHANGE_MIN: u64 = 4;
const CHANGE_MORE: u64 = 8;
/// Id of a message that changes the keys.
const CHANGE: &str = "change";

pub(super) struct VerifyReader {
    pub(super) remote: Remote,
    pub(super) run: Arc<VerifyRun>,
    pub(super) over: Over,
    pub(super) is_slow: bool,
    pub(super) account: Account,
    pub(super) dice: Dice,
    /// Position to resume after.
    since: Option<String>,
    /// Number of events until the next cut.
    life: u64,
    /// Number of events until the next change of its keys.
    until_change: u64,
    /// Whether the server supports the message `update`.
    has_update: bool,
    /// Whether the reader has reported that it is connected.
    was_ready: bool,
    /// Number of connections that this reader cut.
    pub(super) cuts: u64,
    /// Number of connections that the server or the network ended, or refused.
    pub(super) refused: u64,
}

/// Reason why a connection ended.
enum ReadEnd {
    /// The last event arrived, or the run is over.
    Over,
    /// The reader cut the connection.
    Cut,
    /// The server or the network ended the connection.
    Lost(String),
    /// The server refuses this reader.
    Refused(String),
}

impl ReadEnd {
    fn lost(error: impl std::fmt::Display) -> Self {
        Self::Lost(error.to_string())
    }

    fn answered(status: u16, body: &str) -> Self {
        let text = format!("{} (status {status})", error_text(body));
        if matches!(status, 408 | 429 | 500..) { Self::Lost(text) } else { Self::Refused(text) }
    }
}

#[derive(Deserialize)]
struct ReaderMessage<'a> {
    r#type: &'a str,
    /// Id of the message that this answer belongs to.
    #[serde(borrow)]
    correlation_id: Option<Cow<'a, str>>,
    /// Position after the event, if it is not the event's id.
    #[serde(borrow)]
    position: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Deserialize)]
struct LaneEvent<'a> {
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    stream_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    entity: Option<EventEntity<'a>>,
    /// Number of events that it stands for, if they are several.
    merged: Option<u64>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Deserialize)]
struct EventEntity<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
}

impl EventEntity<'_> {
    fn key(&self) -> Option<usize> {
        (self.kind == KEY_KIND).then(|| self.id.parse().ok())?
    }
}

/// Payload of an event in a lane.
#[derive(Deserialize)]
struct Payload<'a> {
    n: u64,
    #[serde(default)]
    last: bool,
    #[serde(borrow)]
    pad: Cow<'a, str>,
}

#[derive(Deserialize)]
struct GapPayload {
    missed: Option<u64>,
    #[serde(default)]
    at_most: Option<u64>,
}

#[derive(Deserialize)]
struct AckPayload {
    last_event_id: Option<String>,
}

#[derive(Deserialize)]
struct InfoPayload {
    #[serde(default)]
    capabilities: Vec<String>,
}

impl VerifyReader {
    pub(super) fn new(remote: Remote, run: Arc<VerifyRun>, over: Over, account: Account, dice: Dice) -> Self {
        Self {
            remote,
            run,
            over,
            is_slow: false,
            account,
            dice,
            since: None,
            life: 0,
            until_change: CHANGE_MIN,
            has_update: false,
            was_ready: false,
            cuts: 0,
            refused: 0,
        }
    }

    /// Reads until its lane's last event, or the deadline.
    pub(super) fn read(mut self) -> Self {
        let mut backoff = Duration::from_millis(50);
        while !self.account.is_over && !self.run.is_past_deadline() {
            self.account.connection += 1;
            self.life = LIFE_MIN + self.dice.below(LIFE_MORE);
            let came = self.account.delivered;
            self.begin_keys();
            let end = match self.over {
                Over::WebSocket => self.web_socket(),
                Over::Sse => self.sse(),
            };
            if self.account.delivered > came {
                backoff = Duration::from_millis(50);
            }
            let pause = match end {
                Ok(()) | Err(ReadEnd::Over) => break,
                Err(ReadEnd::Cut) => {
                    self.cuts += 1;
                    Duration::from_millis(self.dice.below(PAUSE_MS_MAX))
                }
                Err(ReadEnd::Lost(why)) => {
                    self.refused += 1;
                    self.run.record(&why);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    backoff
                }
                Err(ReadEnd::Refused(why)) => {
                    if !self.was_ready {
                        self.run.refuse(&why);
                    }
                    self.account.fault(ViolationKind::Away, 0, 0, format!("was refused: {why}"));
                    break;
                }
            };
            std::thread::sleep(pause.min(self.run.time_left()));
        }
        self
    }

    fn ready(&mut self) {
        if !std::mem::replace(&mut self.was_ready, true) {
            self.run.ready();
        }
    }

    fn web_socket(&mut self) -> Result<(), ReadEnd> {
        let receive_buffer = self.is_slow.then_some(SLOW_RECEIVE_BUFFER);
        let opened = self.remote.web_socket(READ_TIMEOUT, receive_buffer);
        let mut socket = opened.map_err(|error| match error {
            NotOpened::Answered(status, body) => ReadEnd::answered(status, &body),
            NotOpened::Failed(why) => ReadEnd::Lost(why),
            NotOpened::Refused(error) => ReadEnd::Refused(error.message),
        })?;
        let mut payload = self.subscription();
        if let Some(since) = &self.since {
            payload["since"] = json!(since);
        }
        let subscribe = json!({"type": "subscribe", "message_id": "verify", "payload": payload});
        socket.send(Message::text(subscribe.to_string())).map_err(ReadEnd::lost)?;
        if self.account.watch.is_some() {
            let request = json!({"type": "request", "payload": {"action": "server_info"}});
            socket.send(Message::text(request.to_string())).map_err(ReadEnd::lost)?;
        }
        loop {
            if self.run.is_past_deadline() {
                return Err(ReadEnd::Over);
            }
            let text = match socket.read() {
                Ok(Message::Text(text)) => text,
                Ok(Message::Close(frame)) => {
                    let why = frame.map_or_else(|| "without a reason".into(), |frame| frame.to_string());
                    return Err(ReadEnd::Lost(format!("closed by the server: {why}")));
                }
                // Tungstenite answers pings with the next read.
                Ok(_) => continue,
                Err(tungstenite::Error::Io(error))
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(ReadEnd::lost(error)),
            };
            let message: ReaderMessage<'_> = serde_json::from_str(&text).map_err(ReadEnd::lost)?;
            let body = message.payload.get();
            match message.r#type {
                "event" => {
                    if let Err(end) = self.event(body, message.position.as_deref()) {
                        self.leave(&mut socket);
                        return Err(end);
                    }
                    if let Some(change) = self.change() {
                        socket.send(Message::text(change)).map_err(ReadEnd::lost)?;
                    }
                }
                "gap" => self.gap(body)?,
                "ack" if message.correlation_id.as_deref() == Some(CHANGE) => self.changed(),
                "response" => {
                    let info: InfoPayload = serde_json::from_str(body).map_err(ReadEnd::lost)?;
                    self.has_update = info.capabilities.iter().any(|name| name == "update");
                }
                "ack" => {
                    let at: AckPayload = serde_json::from_str(body).map_err(ReadEnd::lost)?;
                    self.since = self.since.take().or(at.last_event_id);
                    self.ready();
                }
                "error" if self.was_ready => return Err(ReadEnd::Lost(error_text(body))),
                "error" => return Err(ReadEnd::Refused(error_text(body))),
                _ => {}
            }
        }
    }

    /// Confirms a change that a lost connection left open, and begins another one: the new connection subscribes with
    /// the resulting keys.
    fn begin_keys(&mut self) {
        let Some(watch) = &mut self.account.watch else { return };
        if self.account.connection > 1 && self.dice.below(2) == 0 {
            // A change that is already open remains unchanged.
            let _ = watch.change(&mut self.dice);
        }
        watch.resumed();
        self.until_change = CHANGE_MIN + self.dice.below(CHANGE_MORE);
    }

    /// Returns the payload of a `subscribe` without a position.
    fn subscription(&self) -> serde_json::Value {
        let mut payload = json!({
            "subscription_id": "verify", "event_types": [EVENT_TYPE],
            "stream_ids": [self.run.stream(self.account.lane())],
        });
        if let Some(watch) = &self.account.watch {
            payload["entities"] = json!(watch.entities());
        }
        for (name, value) in self.run.on_lag.into_iter().flat_map(VerifyOnLag::options) {
            payload[*name] = json!(value);
        }
        payload
    }

    /// Returns the message of a change of the keys, if one is due: an `update`, or the whole subscription again.
    fn change(&mut self) -> Option<String> {
        let watch = self.account.watch.as_mut()?;
        self.until_change = self.until_change.saturating_sub(1);
        if self.until_change > 0 {
            return None;
        }
        let change = watch.change(&mut self.dice)?;
        let (kind, payload) = if self.has_update && self.dice.below(4) > 0 {
            let list = |keys: &[usize]| -> Vec<String> { keys.iter().copied().map(entity).collect() };
            let (add, remove) = (list(&change.add), list(&change.remove));
            let update = json!({
                "subscription_id": "verify", "add": {"entities": add}, "remove": {"entities": remove},
            });
            ("update", update)
        } else {
            ("subscribe", self.subscription())
        };
        Some(json!({"type": kind, "message_id": CHANGE, "payload": payload}).to_string())
    }

    /// Records the server's confirmation of a change.
    fn changed(&mut self) {
        if let Some(watch) = &mut self.account.watch {
            watch.confirmed();
        }
        self.until_change = CHANGE_MIN + self.dice.below(CHANGE_MORE);
    }

    /// Disconnects in one of the ways of real clients: with a close frame, without one, or with a reset.
    fn leave(&mut self, socket: &mut tungstenite::WebSocket<super::super::remote::Link>) {
        match self.dice.below(3) {
            0 => drop(socket.close(None).and_then(|()| socket.flush())),
            1 => drop(socket2::SockRef::from(socket.get_ref().tcp()).set_linger(Some(Duration::ZERO))),
            _ => {}
        }
    }

    fn sse(&mut self) -> Result<(), ReadEnd> {
        let mut request = self.remote.get("/sse").header("accept", "text/event-stream");
        request = request.query("type", EVENT_TYPE).query("stream", self.run.stream(self.account.lane()));
        for entity in self.account.watch.iter().flat_map(WatchSet::entities) {
            request = request.query("entity", entity);
        }
        for (name, value) in self.run.on_lag.into_iter().flat_map(VerifyOnLag::options) {
            request = request.query(*name, *value);
        }
        if let Some(since) = &self.since {
            request = request.header("last-event-id", since);
        }
        // The read of a silent stream ends with the run.
        let left = self.run.time_left().max(Duration::from_millis(1));
        let request = request.config().timeout_recv_body(Some(left)).build();
        let mut answer = request.call().map_err(|error| match trust::refusal(&error, &self.remote.url) {
            Some(refusal) => ReadEnd::Refused(refusal.message),
            None => ReadEnd::Lost(format!("cannot connect: {error}")),
        })?;
        if answer.status().as_u16() != 200 {
            let body = answer.body_mut().read_to_string().unwrap_or_default();
            return Err(ReadEnd::answered(answer.status().as_u16(), &body));
        }
        self.ready();
        let mut body = answer.into_body().into_reader();
        let mut parser = SseParser::new(EVENT_BYTES_MAX);
        let mut chunk = [0; 16 * 1024];
        loop {
            let read = body.read(&mut chunk);
            if self.run.is_past_deadline() {
                return Err(ReadEnd::Over);
            }
            let mut rest = match read.map_err(ReadEnd::lost)? {
                0 => return Err(ReadEnd::lost("ended by the server")),
                len => &chunk[..len],
            };
            while let Some(event) = parser.feed(&mut rest).map_err(ReadEnd::lost)? {
                match event.event.as_str() {
                    "gap" => self.gap(&event.data)?,
                    "closed" => return Err(ReadEnd::Lost(error_text(&event.data))),
                    // The stream's own id is the position to resume after.
                    _ => self.event(&event.data, Some(parser.last_event_id()).filter(|id| !id.is_empty()))?,
                }
            }
            if self.since.is_none() && !parser.last_event_id().is_empty() {
                self.since = Some(parser.last_event_id().to_owned());
            }
        }
    }

    fn gap(&mut self, json: &str) -> Result<(), ReadEnd> {
        let gap: GapPayload = serde_json::from_str(json).map_err(ReadEnd::lost)?;
        self.account.gap(gap.missed, gap.at_most);
        Ok(())
    }

    /// Records an event. Returns a [`ReadEnd`] if it was the last one, or if a cut is due.
    fn event(&mut self, json: &str, position: Option<&str>) -> Result<(), ReadEnd> {
        let Ok(event) = serde_json::from_str::<LaneEvent<'_>>(json) else {
            self.account.fault(ViolationKind::Changed, 0, 1, format!("not an event: {}", shortened(json)));
            return Ok(());
        };
        let stream = self.run.stream(self.account.lane());
        if event.event_type != EVENT_TYPE || event.stream_id.as_deref() != Some(&*stream) {
            let text = format!("{} of type {} was not asked for", event.event_id, event.event_type);
            self.account.fault(ViolationKind::Unwanted, 0, 1, text);
            return Ok(());
        }
        let payload = serde_json::from_str::<Payload<'_>>(event.payload.get());
        let key = event.entity.as_ref().and_then(EventEntity::key);
        let size = self.run.pad_bytes(self.account.lane());
        // One that has no merged events, and so is none, is a fault too.
        let count = event.merged.unwrap_or(1);
        let numbers = payload
            .as_ref()
            .ok()
            .map(|payload| self.run.mergeable(self.account.lane(), (payload.n, payload.last), count));
        let numbers = numbers.unwrap_or_default();
        let Some(payload) = payload.ok().filter(|payload| {
            let has_key = key == self.run.key(self.account.lane(), payload.n, payload.last);
            let text: String = numbers.iter().map(|n| pad(*n, size)).collect();
            has_key && numbers.len() as u64 == count && payload.pad == text
        }) else {
            let text = format!("{} carries {}", event.event_id, shortened(event.payload.get()));
            self.account.fault(ViolationKind::Changed, 0, 1, text);
            return Ok(());
        };
        if let (Some(watch), Some(key)) = (&self.account.watch, key)
            && !watch.may_come(key)
        {
            let text = format!("{} of key {key} was not asked for", event.event_id);
            self.account.fault(ViolationKind::Unwanted, payload.n, 1, text);
            return Ok(());
        }
        if let [merged @ .., _] = numbers.as_slice() {
            self.account.merged(merged, &event.event_id);
        }
        self.account.event(payload.n, &event.event_id, &self.run.ids);
        self.since = Some(position.map_or_else(|| event.event_id.into_owned(), str::to_owned));
        self.account.is_over |= payload.last;
        if self.account.is_over {
            return Err(ReadEnd::Over);
        }
        if self.is_slow {
            if !self.run.is_published() {
                std::thread::sleep(SLOW_REST);
            }
            return Ok(());
        }
        self.life = self.life.saturating_sub(count);
        if self.life == 0 { Err(ReadEnd::Cut) } else { Ok(()) }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
