//! `fanwire tail`: a server's events in the terminal, over WebSocket or SSE. Imports its siblings and public items.
//!
//! Always: a lost connection is taken up again where it ended, and what was missed is shown as a gap, never
//! silently; one event is one line.

mod print;

use std::io::Read;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use fanwire::sse::SseParser;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tungstenite::Message;

use self::print::Printer;
use super::filters::Filters;
use super::remote::{Access, NotOpened, Remote};
use super::target::{Target, error_text};
use super::{CliError, DIM, trust};

/// Options of `fanwire tail`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The server
    #[arg(long, env = "FANWIRE_URL", hide_env_values = true, default_value = "http://127.0.0.1:8765")]
    url: Target,
    #[command(flatten)]
    access: Access,
    /// Follow by Server-Sent Events in place of WebSocket
    #[arg(long)]
    sse: bool,
    /// First show the newest N events that match and are still kept
    #[arg(long, value_name = "N")]
    history: Option<u32>,
    /// Print each event as the JSON it came as, one a line
    #[arg(long)]
    json: bool,
    /// End after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End when the connection is lost, in place of connecting again
    #[arg(long)]
    no_reconnect: bool,
    #[command(flatten)]
    filters: Filters,
}

/// A connection without a sign of life for this long is taken for dead. A server's heartbeats come every 30 s.
const IDLE_MAX: Duration = Duration::from_secs(90);
/// An event on `/sse` at most; more is a server gone wrong.
const EVENT_BYTES_MAX: usize = 64 << 20;
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Why following ended.
enum End {
    /// All that was wanted has been printed, or nobody reads any more.
    Done,
    /// The connection was lost: worth another try.
    Lost(String),
    /// The server won't serve this request, now or later.
    Refused(CliError),
}

impl End {
    fn lost(error: impl std::fmt::Display) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Follows until the count is reached, the reader is gone, or the server refuses.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    let remote = Remote::new(args.url.clone(), &args.access)?;
    let printer = Printer::new(args.json, args.count);
    let mut follow = Follow { remote, printer, since: None, connected: false, args };
    let mut pause = BACKOFF_FIRST;
    loop {
        follow.connected = false;
        let end = if follow.args.sse { follow.sse() } else { follow.web_socket() };
        let why = match end {
            Ok(()) | Err(End::Done) => return Ok(()),
            Err(End::Refused(error)) => return Err(error),
            Err(End::Lost(why)) => why,
        };
        if follow.args.no_reconnect {
            return Err(CliError::new(why));
        }
        if follow.connected {
            pause = BACKOFF_FIRST;
        }
        anstream::eprintln!(
            "{DIM}{}: {why}; trying again in {} ms{DIM:#}",
            follow.args.url,
            pause.as_millis()
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

struct Follow {
    args: Args,
    remote: Remote,
    printer: Printer,
    /// What the last event said, to go on after it.
    since: Option<String>,
    /// Whether this connection got as far as a subscription.
    connected: bool,
}

/// A native message, as far as `tail` looks into it.
#[derive(Deserialize)]
struct Envelope<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
    /// Where that leaves the client, if the event's id does not say it.
    #[serde(default)]
    position: Option<String>,
}

/// Loss, as told by the server.
#[derive(Debug, Deserialize)]
struct Gap {
    missed: Option<u64>,
    /// An upper bound, where the number is not known.
    #[serde(default)]
    at_most: Option<u64>,
    #[serde(default)]
    recoverable: bool,
}

/// The end of a past, as told by the server.
#[derive(Debug, Deserialize)]
struct PastEnd {
    events: u64,
    complete: bool,
}

impl Follow {
    fn web_socket(&mut self) -> Result<(), End> {
        let opened = self.remote.web_socket(IDLE_MAX, None);
        let mut socket = opened.map_err(|error| match error {
            NotOpened::Answered(status, body) => refused(&self.args.url, status, &body),
            NotOpened::Failed(why) => End::Lost(why),
            NotOpened::Refused(error) => End::Refused(error),
        })?;
        let mut payload = self.args.filters.payload();
        payload.insert("subscription_id".into(), json!("tail"));
        match (&self.since, self.args.history) {
            (Some(since), _) => drop(payload.insert("since".into(), json!(since))),
            (None, Some(history)) => drop(payload.insert("history".into(), json!(history))),
            (None, None) => {}
        }
        let subscribe = json!({"type": "subscribe", "message_id": "tail-subscribe", "payload": payload});
        socket.send(Message::text(subscribe.to_string())).map_err(End::lost)?;
        loop {
            match socket.read().map_err(End::lost)? {
                Message::Text(text) => self.message(&text)?,
                Message::Close(frame) => {
                    let why = frame.map_or_else(|| "without a reason".into(), |frame| frame.to_string());
                    return Err(End::Lost(format!("closed by the server: {why}")));
                }
                // Pings are answered by tungstenite with the next read.
                _ => {}
            }
        }
    }

    fn message(&mut self, text: &str) -> Result<(), End> {
        let Ok(message) = serde_json::from_str::<Envelope<'_>>(text) else {
            return Err(End::Refused(CliError::new(format!(
                "{} does not speak fanwire's protocol",
                self.args.url
            ))));
        };
        match message.r#type {
            "event" => self.event(message.payload.get(), message.position),
            "gap" => self.gap(message.payload.get()),
            "history_end" => Self::past_end(message.payload.get()),
            "ack" => {
                self.connected = true;
                Ok(())
            }
            "error" => {
                let error = CliError::new(error_text(message.payload.get()));
                if self.connected {
                    anstream::eprintln!("{DIM}server: {}{DIM:#}", error.message);
                    return Ok(());
                }
                Err(End::Refused(error))
            }
            _ => Ok(()),
        }
    }

    fn event(&mut self, json: &str, position: Option<String>) -> Result<(), End> {
        match self.printer.event(json) {
            Ok(id) => {
                self.since = position.or(id).or(self.since.take());
                if self.printer.is_done() { Err(End::Done) } else { Ok(()) }
            }
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(End::Done),
            Err(error) => Err(End::Refused(CliError::new(error))),
        }
    }

    fn gap(&mut self, json: &str) -> Result<(), End> {
        let gap: Gap = serde_json::from_str(json).map_err(End::lost)?;
        self.printer.gap(&gap, json).map_err(|_| End::Done)
    }

    /// Says where the past that was asked for is not whole. The gap before it says where.
    fn past_end(json: &str) -> Result<(), End> {
        let end: PastEnd = serde_json::from_str(json).map_err(End::lost)?;
        if !end.complete {
            let events = end.events;
            anstream::eprintln!(
                "{DIM}history: {events} events came; others that match are forgotten or can't be read{DIM:#}"
            );
        }
        Ok(())
    }

    fn sse(&mut self) -> Result<(), End> {
        let mut request = self.remote.get("/sse").header("accept", "text/event-stream");
        request = request.query_pairs(self.args.filters.query());
        match (&self.since, self.args.history) {
            (Some(since), _) => request = request.header("last-event-id", since),
            (None, Some(history)) => request = request.query("history", history.to_string()),
            (None, None) => {}
        }
        let mut answer = request.call().map_err(|error| match trust::refusal(&error, &self.args.url) {
            Some(refusal) => End::Refused(refusal),
            None => End::Lost(format!("cannot connect: {error}")),
        })?;
        if answer.status().as_u16() != 200 {
            let body = answer.body_mut().read_to_string().unwrap_or_default();
            return Err(refused(&self.args.url, answer.status().as_u16(), &body));
        }
        self.connected = true;

        // The read blocks without a limit, so that it has a thread of its own; a dead connection's thread ends with
        // its socket.
        let (to_parser, chunks) = sync_channel::<std::io::Result<Vec<u8>>>(16);
        let mut body = answer.into_body().into_reader();
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; 16 * 1024];
                let read = body.read(&mut chunk);
                let last = !matches!(read, Ok(1..));
                let sent = to_parser.send(read.map(|len| {
                    chunk.truncate(len);
                    chunk
                }));
                if last || sent.is_err() {
                    return;
                }
            }
        });
        let mut parser = SseParser::new(EVENT_BYTES_MAX);
        loop {
            let chunk = chunks
                .recv_timeout(IDLE_MAX)
                .map_err(|_| End::lost("no sign of life"))?
                .map_err(End::lost)?;
            if chunk.is_empty() {
                return Err(End::lost("ended by the server"));
            }
            let mut chunk = chunk.as_slice();
            while let Some(event) = parser.feed(&mut chunk).map_err(End::lost)? {
                match event.event.as_str() {
                    "gap" => self.gap(&event.data)?,
                    "closed" => return Err(End::Lost(error_text(&event.data))),
                    _ => self.event(&event.data, Some(event.id).filter(|id| !id.is_empty()))?,
                }
            }
        }
    }
}

/// A request that got an answer other than the stream: worth another try only if the server says that it's busy.
fn refused(url: &Target, status: u16, body: &str) -> End {
    let text = format!("{} (status {status})", error_text(body));
    if matches!(status, 408 | 429 | 500..) {
        return End::Lost(text);
    }
    let error = CliError::new(text);
    End::Refused(match status {
        401 | 403 => error.hint("The server wants a token that may read these events."),
        400 => error,
        _ => error.hint(format!("Is {url} a fanwire server? --url says where it is.")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_server_is_asked_again_and_a_refusal_is_final() {
        let url: Target = "http://127.0.0.1:1".parse().expect("valid");
        assert!(matches!(refused(&url, 503, "{}"), End::Lost(_)));
        let End::Refused(error) = refused(&url, 400, r#"{"error":"bad filter"}"#) else {
            panic!("not final")
        };
        assert_eq!(error.message, "bad filter (status 400)");
    }

    #[test]
    fn a_message_is_read_without_copying_its_payload() {
        let text =
            r#"{"type":"event","payload":{"event_type":"a.b"},"message_id":"1","correlation_id":null}"#;
        let message: Envelope<'_> = serde_json::from_str(text).expect("valid");
        assert_eq!((message.r#type, message.payload.get()), ("event", r#"{"event_type":"a.b"}"#));
        let gap: Gap = serde_json::from_str(r#"{"missed":null,"from":null,"to":null}"#).expect("valid");
        assert!(gap.missed.is_none() && !gap.recoverable);
    }
}
