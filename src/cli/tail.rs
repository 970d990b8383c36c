//! `fanwire tail`: prints a server's events in the terminal, over WebSocket or SSE.
//!
//! Always: after a lost connection, the stream resumes after the last event. Missed events are shown as a gap. One
//! event is one line.

mod print;

use std::io::Read;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use fanwire::sse::SseParser;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tungstenite::{Message, WebSocket};

pub(super) use self::print::Printer;
use self::print::{LossNotice, StreamEnd};
use super::error::CliError;
use super::filters::Filters;
use super::remote::{Access, Link, NotOpened, Remote};
use super::style::DIM;
use super::target::{Target, error_text};
use super::trust;

/// Options of `fanwire tail`.
#[derive(clap::Args, Debug)]
pub(super) struct TailArgs {
    /// The server
    #[arg(long, env = "FANWIRE_URL", hide_env_values = true, default_value = "http://127.0.0.1:8765")]
    url: Target,
    #[command(flatten)]
    access: Access,
    /// Use Server-Sent Events instead of WebSocket
    #[arg(long)]
    sse: bool,
    /// First show the newest N matching events that the server still keeps
    #[arg(long, value_name = "N")]
    history: Option<u32>,
    /// First show everything that is kept of the streams that the filter names, and exit when they have ended
    #[arg(long, value_name = "start", conflicts_with = "history")]
    from: Option<TailFrom>,
    /// Print each event as the JSON it came as, one a line
    #[arg(long)]
    json: bool,
    /// Exit after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Exit when the connection is lost, instead of connecting again
    #[arg(long)]
    no_reconnect: bool,
    #[command(flatten)]
    filters: Filters,
}

/// Beginning of `fanwire tail --from`.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum TailFrom {
    Start,
}

/// Silence after which a connection counts as dead. A server's heartbeats come every 30 s.
const IDLE_MAX: Duration = Duration::from_secs(90);
/// Size limit of an event on `/sse`. A larger event is a server's fault.
const EVENT_BYTES_MAX: usize = 64 << 20;
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Reason why following ended.
enum TailEnd {
    /// All wanted events have been printed, or stdout is closed.
    Done,
    /// The connection was lost. Another attempt may succeed.
    Lost(String),
    /// The server will not serve this request, now or later.
    Refused(CliError),
}

impl TailEnd {
    fn lost(error: impl std::fmt::Display) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Follows until the count is reached, stdout is closed, or the server refuses.
pub(super) fn run(args: TailArgs) -> Result<(), CliError> {
    let remote = Remote::new(args.url.clone(), &args.access)?;
    let printer = Printer::new(args.json, args.count);
    let mut follow = EventTail { remote, printer, since: None, connected: false, args };
    let mut pause = BACKOFF_FIRST;
    loop {
        follow.connected = false;
        let end = if follow.args.sse { follow.sse() } else { follow.web_socket() };
        let why = match end {
            Ok(()) | Err(TailEnd::Done) => return Ok(()),
            Err(TailEnd::Refused(error)) => return Err(error),
            Err(TailEnd::Lost(why)) => why,
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

struct EventTail {
    args: TailArgs,
    remote: Remote,
    printer: Printer,
    /// Position of the last event, to resume after it.
    since: Option<String>,
    /// Whether this connection has been subscribed.
    connected: bool,
}

/// The fields of a native message that `tail` reads.
#[derive(Deserialize)]
struct TailMessage<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
    /// Position after the event, if it is not the event's id.
    #[serde(default)]
    position: Option<String>,
}

/// The end of a history, as reported by the server.
#[derive(Debug, Deserialize)]
struct HistoryEnd {
    events: u64,
    complete: bool,
}

/// The part of a server's description that `tail` reads.
#[derive(Deserialize)]
struct TailServerInfo {
    #[serde(default)]
    capabilities: Vec<String>,
}

impl EventTail {
    fn web_socket(&mut self) -> Result<(), TailEnd> {
        let opened = self.remote.web_socket(IDLE_MAX, None);
        let mut socket = opened.map_err(|error| match error {
            NotOpened::Answered(status, body) => refused(&self.args.url, status, &body),
            NotOpened::Failed(why) => TailEnd::Lost(why),
            NotOpened::Refused(error) => TailEnd::Refused(error),
        })?;
        let mut payload = self.args.filters.payload();
        payload.insert("subscription_id".into(), json!("tail"));
        match (&self.since, self.args.history, self.args.from) {
            (Some(since), ..) => drop(payload.insert("since".into(), json!(since))),
            (None, Some(history), _) => drop(payload.insert("history".into(), json!(history))),
            (None, None, Some(TailFrom::Start)) => {
                self.check_from_start(&mut socket)?;
                payload.insert("from".into(), json!("start"));
            }
            (None, None, None) => {}
        }
        let subscribe = json!({"type": "subscribe", "message_id": "tail-subscribe", "payload": payload});
        socket.send(Message::text(subscribe.to_string())).map_err(TailEnd::lost)?;
        loop {
            match socket.read().map_err(TailEnd::lost)? {
                Message::Text(text) => self.message(&text)?,
                Message::Close(frame) => {
                    let why = frame.map_or_else(|| "without a reason".into(), |frame| frame.to_string());
                    return Err(TailEnd::Lost(format!("closed by the server: {why}")));
                }
                // Tungstenite answers pings with the next read.
                _ => {}
            }
        }
    }

    /// Asks the server whether it can begin at the start of a stream: an older one would begin with the next event.
    fn check_from_start(&self, socket: &mut WebSocket<Link>) -> Result<(), TailEnd> {
        let request =
            json!({"type": "request", "message_id": "tail-info", "payload": {"action": "server_info"}});
        socket.send(Message::text(request.to_string())).map_err(TailEnd::lost)?;
        loop {
            let Message::Text(text) = socket.read().map_err(TailEnd::lost)? else { continue };
            let Ok(message) = serde_json::from_str::<TailMessage<'_>>(&text) else { continue };
            if message.r#type == "error" {
                return Err(TailEnd::Refused(CliError::new(error_text(message.payload.get()))));
            }
            if message.r#type != "response" {
                continue;
            }
            let info = serde_json::from_str::<TailServerInfo>(message.payload.get());
            if info.is_ok_and(|info| info.capabilities.iter().any(|name| name == "from_start")) {
                return Ok(());
            }
            let text = format!("{} is too old for --from: it keeps no streams", self.args.url);
            return Err(TailEnd::Refused(CliError::new(text)));
        }
    }

    fn message(&mut self, text: &str) -> Result<(), TailEnd> {
        let Ok(message) = serde_json::from_str::<TailMessage<'_>>(text) else {
            return Err(TailEnd::Refused(CliError::new(format!(
                "{} does not speak fanwire's protocol",
                self.args.url
            ))));
        };
        match message.r#type {
            "event" => self.event(message.payload.get(), message.position),
            "gap" => self.gap(message.payload.get()),
            "history_end" => Self::past_end(message.payload.get()),
            "end" => match self.end(message.payload.get())? {
                end if end.over => Err(TailEnd::Done),
                _ => Ok(()),
            },
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
                Err(TailEnd::Refused(error))
            }
            _ => Ok(()),
        }
    }

    fn event(&mut self, json: &str, position: Option<String>) -> Result<(), TailEnd> {
        match self.printer.event(json) {
            Ok(id) => {
                self.since = position.or(id).or(self.since.take());
                if self.printer.is_done() { Err(TailEnd::Done) } else { Ok(()) }
            }
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(TailEnd::Done),
            Err(error) => Err(TailEnd::Refused(CliError::new(error))),
        }
    }

    fn gap(&mut self, json: &str) -> Result<(), TailEnd> {
        let gap: LossNotice = serde_json::from_str(json).map_err(TailEnd::lost)?;
        self.printer.gap(&gap, json).map_err(|_| TailEnd::Done)
    }

    fn end(&mut self, json: &str) -> Result<StreamEnd, TailEnd> {
        let end: StreamEnd = serde_json::from_str(json).map_err(TailEnd::lost)?;
        self.printer.end(&end, json).map_err(|_| TailEnd::Done)?;
        Ok(end)
    }

    /// Reports that the requested history is incomplete. A gap printed before shows where events are missing.
    fn past_end(json: &str) -> Result<(), TailEnd> {
        let end: HistoryEnd = serde_json::from_str(json).map_err(TailEnd::lost)?;
        if !end.complete {
            let events = end.events;
            anstream::eprintln!(
                "{DIM}history: {events} events; the server no longer keeps the others, or cannot read them{DIM:#}"
            );
        }
        Ok(())
    }

    fn sse(&mut self) -> Result<(), TailEnd> {
        let mut request = self.remote.get("/sse").header("accept", "text/event-stream");
        request = request.query_pairs(self.args.filters.query());
        match (&self.since, self.args.history, self.args.from) {
            (Some(since), ..) => request = request.header("last-event-id", since),
            (None, Some(history), _) => request = request.query("history", history.to_string()),
            (None, None, Some(TailFrom::Start)) => request = request.query("from", "start"),
            (None, None, None) => {}
        }
        let mut answer = request.call().map_err(|error| match trust::refusal(&error, &self.args.url) {
            Some(refusal) => TailEnd::Refused(refusal),
            None => TailEnd::Lost(format!("cannot connect: {error}")),
        })?;
        if answer.status().as_u16() == 204 {
            // All has come, and the streams have ended.
            return Err(TailEnd::Done);
        }
        if answer.status().as_u16() != 200 {
            let body = answer.body_mut().read_to_string().unwrap_or_default();
            return Err(refused(&self.args.url, answer.status().as_u16(), &body));
        }
        self.connected = true;

        // The read blocks without a limit, so it has its own thread. The thread of a dead connection ends with
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
        // Whether the last thing that came was the end of a stream.
        let mut has_ended = false;
        loop {
            let chunk = chunks
                .recv_timeout(IDLE_MAX)
                .map_err(|_| TailEnd::lost("no sign of life"))?
                .map_err(TailEnd::lost)?;
            if chunk.is_empty() {
                // With more streams to come it is a lost connection: the next answer is 204 if there are none.
                let has_one = self.args.filters.names_one_stream();
                return Err(if has_ended && has_one {
                    TailEnd::Done
                } else {
                    TailEnd::lost("the server ended the stream")
                });
            }
            let mut chunk = chunk.as_slice();
            while let Some(event) = parser.feed(&mut chunk).map_err(TailEnd::lost)? {
                has_ended = event.event == "end" && !event.data.contains("\"event_type\"");
                match event.event.as_str() {
                    "end" if has_ended => {
                        self.end(&event.data)?;
                        self.since = Some(event.id).filter(|id| !id.is_empty()).or(self.since.take());
                    }
                    "gap" => self.gap(&event.data)?,
                    "closed" => return Err(TailEnd::Lost(error_text(&event.data))),
                    _ => self.event(&event.data, Some(event.id).filter(|id| !id.is_empty()))?,
                }
            }
        }
    }
}

/// Classifies an answer that is not the stream. Another attempt makes sense only if the server is busy.
fn refused(url: &Target, status: u16, body: &str) -> TailEnd {
    let text = format!("{} (status {status})", error_text(body));
    if matches!(status, 408 | 429 | 500..) {
        return TailEnd::Lost(text);
    }
    let error = CliError::new(text);
    TailEnd::Refused(match status {
        401 | 403 => error
            .hint("The server wants a token with the right to read these events: FANWIRE_TOKEN, or --token."),
        400 => error,
        _ => error.hint(format!("Is {url} a fanwire server? --url gives its address.")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_server_is_asked_again_and_a_refusal_is_final() {
        let url: Target = "http://127.0.0.1:1".parse().expect("valid");
        assert!(matches!(refused(&url, 503, "{}"), TailEnd::Lost(_)));
        let TailEnd::Refused(error) = refused(&url, 400, r#"{"error":"bad filter"}"#) else {
            panic!("not final")
        };
        assert_eq!(error.message, "bad filter (status 400)");
    }

    #[test]
    fn a_message_is_read_without_copying_its_payload() {
        let text =
            r#"{"type":"event","payload":{"event_type":"a.b"},"message_id":"1","correlation_id":null}"#;
        let message: TailMessage<'_> = serde_json::from_str(text).expect("valid");
        assert_eq!((message.r#type, message.payload.get()), ("event", r#"{"event_type":"a.b"}"#));
        let gap: LossNotice =
            serde_json::from_str(r#"{"missed":null,"from":null,"to":null}"#).expect("valid");
        assert!(gap.missed.is_none() && !gap.recoverable);
    }
}
