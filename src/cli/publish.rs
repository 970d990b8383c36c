//! `fanwire publish`: sends events from options, a file or stdin to a server.
//!
//! Always: lines are sent in order, in bounded batches. An error names the line by its number in the input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::error::CliError;
use super::remote::{Access, Remote};
use super::style::DIM;
use super::target::{Target, error_text};
use super::trust;

/// Options of `fanwire publish`.
#[derive(clap::Args, Debug)]
pub(super) struct PublishArgs {
    /// The server
    #[arg(long, env = "FANWIRE_URL", hide_env_values = true, default_value = "http://127.0.0.1:8765")]
    url: Target,
    #[command(flatten)]
    access: Access,
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
    /// Events to send: one JSON event, an array, or one event a line; `-` is stdin
    #[arg(value_name = "FILE", conflicts_with = "event_type")]
    file: Option<PathBuf>,
    /// Type of one event that is made of these options
    #[arg(long = "type", value_name = "TYPE", help_heading = "One event")]
    event_type: Option<String>,
    /// Component that publishes it
    #[arg(long, requires = "event_type", help_heading = "One event")]
    source: Option<String>,
    /// Stream it belongs to
    #[arg(long, value_name = "ID", requires = "event_type", help_heading = "One event")]
    stream: Option<String>,
    /// Execution it belongs to
    #[arg(long, value_name = "ID", requires = "event_type", help_heading = "One event")]
    execution: Option<String>,
    /// Id that ties it to other events
    #[arg(long, value_name = "ID", requires = "event_type", help_heading = "One event")]
    correlation: Option<String>,
    /// Entity that it is about, as `task:task_1`
    #[arg(long, value_name = "KIND:ID", requires = "event_type", help_heading = "One event")]
    entity: Option<String>,
    /// Channel it is sent in
    #[arg(long, requires = "event_type", help_heading = "One event")]
    channel: Option<String>,
    /// Id of the event: a second one with it is not published again
    #[arg(long, value_name = "ID", requires = "event_type", help_heading = "One event")]
    dedupe_id: Option<String>,
    /// Payload: any JSON
    #[arg(long, value_name = "JSON", requires = "event_type", help_heading = "One event")]
    payload: Option<String>,
}

/// Maximum size of a batch of lines in bytes, well below a server's default limit for a body.
const BATCH_BYTES: usize = 512 * 1024;
/// Pause in the input after which a partial batch is sent, so that `something | fanwire publish -` is live.
const BATCH_PAUSE: Duration = Duration::from_millis(20);
/// Maximum number of lines that are read before they are sent.
const READ_AHEAD: usize = 1024;
const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";

/// Sends all events. Returns an error if the server refused some.
pub(super) fn run(args: PublishArgs) -> Result<(), CliError> {
    let mut sender = Sender {
        remote: Remote::new(args.url.clone(), &args.access)?,
        accepted: 0,
        duplicates: 0,
        last_event_id: Value::Null,
    };
    let sent = match (&args.event_type, &args.file) {
        (Some(event_type), _) => sender.send(JSON, one_event(event_type, &args)?.as_bytes(), 0),
        (None, Some(path)) if path.as_os_str() != "-" => {
            let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
            send_all(&mut sender, path, BufReader::new(file))
        }
        (None, None) if stdin().is_terminal() => {
            return Err(CliError::new("nothing to publish").hint(
                "Give an event (fanwire publish --type hello --payload '{\"n\":1}'), a file, or pipe one event a line.",
            ));
        }
        (None, _) => send_all(&mut sender, Path::new("stdin"), BufReader::new(stdin())),
    };
    // Events accepted before a failure are published, so they are reported, too.
    if sent.is_ok() || sender.accepted + sender.duplicates > 0 {
        sender.report(args.json);
    }
    sent
}

/// One event made of options. The payload is sent exactly as given.
#[derive(Serialize)]
struct OneEvent<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity: Option<EntityOption<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedupe_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct EntityOption<'a> {
    kind: &'a str,
    id: &'a str,
}

fn one_event(event_type: &str, args: &PublishArgs) -> Result<String, CliError> {
    let entity = args.entity.as_deref().map(|entity| {
        let (kind, id) =
            entity.split_once(':').ok_or_else(|| CliError::new("--entity takes KIND:ID, as task:task_1"))?;
        Ok(EntityOption { kind, id })
    });
    let payload = args.payload.as_deref().map(|payload| {
        serde_json::from_str(payload).map_err(|error| {
            CliError::new(format!("--payload is not JSON: {error}"))
                .hint("A string needs its quotes: --payload '\"text\"'")
        })
    });
    let event = OneEvent {
        r#type: event_type,
        source: args.source.as_deref(),
        stream_id: args.stream.as_deref(),
        execution_id: args.execution.as_deref(),
        correlation_id: args.correlation.as_deref(),
        entity: entity.transpose()?,
        channel: args.channel.as_deref(),
        dedupe_id: args.dedupe_id.as_deref(),
        payload: payload.transpose()?,
    };
    serde_json::to_string(&event).map_err(CliError::new)
}

fn cannot_read(path: &Path, error: &io::Error) -> CliError {
    CliError::new(format!("cannot read {}: {error}", path.display()))
}

/// Returns whether the input has one event a line: its first line is one whole object.
///
/// Only brackets are counted. The server decides whether the object is valid, and it accepts what JSON parsers
/// refuse (numbers of any size, lone surrogates, deep nesting).
fn is_ndjson(first_line: &[u8]) -> bool {
    let line = first_line.trim_ascii();
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for (at, byte) in line.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return line.starts_with(b"{") && at + 1 == line.len();
                }
            }
            _ => {}
        }
    }
    false
}

fn send_all(
    sender: &mut Sender,
    path: &Path,
    mut input: impl BufRead + Send + 'static,
) -> Result<(), CliError> {
    let mut first = Vec::new();
    let mut blank_lines = 0;
    loop {
        first.clear();
        if input.read_until(b'\n', &mut first).map_err(|error| cannot_read(path, &error))? == 0 {
            return Ok(());
        }
        if !first.trim_ascii().is_empty() {
            break;
        }
        blank_lines += 1;
    }
    if is_ndjson(&first) {
        return send_lines(sender, path, blank_lines, first, input);
    }
    input.read_to_end(&mut first).map_err(|error| cannot_read(path, &error))?;
    sender.send(JSON, &first, blank_lines)
}

fn send_lines(
    sender: &mut Sender,
    path: &Path,
    mut sent_lines: u64,
    mut batch: Vec<u8>,
    mut input: impl BufRead + Send + 'static,
) -> Result<(), CliError> {
    let (to_sender, lines) = sync_channel(READ_AHEAD);
    std::thread::spawn(move || {
        loop {
            let mut line = Vec::new();
            let read = input.read_until(b'\n', &mut line);
            let last = !matches!(read, Ok(1..));
            // The receiver is dropped after a failure. Further lines would not be sent.
            if to_sender.send(read.map(|_| line)).is_err() || last {
                return;
            }
        }
    });
    let mut batch_lines = 1;
    loop {
        let ended = fill(&lines, &mut batch, &mut batch_lines).map_err(|error| cannot_read(path, &error))?;
        sender.send(NDJSON, &batch, sent_lines)?;
        sent_lines += batch_lines;
        if ended {
            return Ok(());
        }
        (batch_lines, batch) = (0, Vec::new());
    }
}

/// Adds lines until the batch is full, the input pauses or it ends. Returns true at the end.
fn fill(lines: &Receiver<io::Result<Vec<u8>>>, batch: &mut Vec<u8>, count: &mut u64) -> io::Result<bool> {
    while batch.len() < BATCH_BYTES {
        let line = if batch.is_empty() {
            lines.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            lines.recv_timeout(BATCH_PAUSE)
        };
        match line {
            Ok(line) => {
                let line = line?;
                if line.is_empty() {
                    return Ok(true);
                }
                batch.extend_from_slice(&line);
                *count += 1;
            }
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
        }
    }
    Ok(false)
}

struct Sender {
    remote: Remote,
    accepted: u64,
    /// Number of events that the server had already published.
    duplicates: u64,
    last_event_id: Value,
}

impl Sender {
    /// Sends one body that starts after `lines_before` lines of the input.
    fn send(&mut self, content_type: &str, body: &[u8], lines_before: u64) -> Result<(), CliError> {
        if body.trim_ascii().is_empty() {
            return Ok(());
        }
        let url = self.remote.url.http("/publish");
        let cannot_reach = |error: &dyn std::fmt::Display| {
            CliError::new(format!("cannot publish to {url}: {error}"))
                .hint("Is the server running? `fanwire serve` starts one; --url gives its address.")
        };
        let request = self.remote.post("/publish").content_type(content_type);
        let mut answer = request.send(body).map_err(|error| {
            trust::refusal(&error, &self.remote.url).unwrap_or_else(|| cannot_reach(&error))
        })?;
        let text = answer.body_mut().read_to_string().map_err(|error| cannot_reach(&error))?;
        if answer.status().as_u16() != 200 {
            return Err(refused(answer.status().as_u16(), &text, lines_before));
        }
        let taken: Value = serde_json::from_str(&text).map_err(|error| cannot_reach(&error))?;
        self.accepted += taken["accepted"].as_u64().unwrap_or_default();
        self.duplicates += taken["duplicates"].as_u64().unwrap_or_default();
        self.last_event_id = taken["last_event_id"].clone();
        Ok(())
    }

    fn report(&self, as_json: bool) {
        let (accepted, duplicates, id) = (self.accepted, self.duplicates, &self.last_event_id);
        let line = if as_json {
            let mut answer = json!({"accepted": accepted, "last_event_id": id});
            if duplicates > 0 {
                answer["duplicates"] = duplicates.into();
            }
            answer.to_string()
        } else {
            let events = if accepted == 1 { "event" } else { "events" };
            let id = id.as_str().map(|id| format!("{DIM}, last id{DIM:#} {id}")).unwrap_or_default();
            let known = if duplicates > 0 { format!(", {duplicates} known before") } else { String::new() };
            format!("accepted {accepted} {events}{known}{id}")
        };
        // A closed stdout means that nothing reads the result.
        let _ = writeln!(anstream::AutoStream::auto(stdout()), "{line}");
    }
}

fn refused(status: u16, answer: &str, lines_before: u64) -> CliError {
    let line = serde_json::from_str::<Value>(answer).ok().and_then(|json| json["line"].as_u64());
    let place = line.map(|line| format!("line {}: ", lines_before + line)).unwrap_or_default();
    let error = CliError::new(format!("{place}{} (status {status})", error_text(answer)));
    match status {
        401 | 403 => {
            error.hint("The server wants a token with the right to publish: FANWIRE_TOKEN, or --token.")
        }
        404 | 405 => error.hint("This does not look like a fanwire server; check --url."),
        413 => error.hint("Send one event a line: lines go in batches, so only a single event must fit."),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_whole_object_on_the_first_line_means_an_event_a_line() {
        assert!(is_ndjson(b"{\"type\":\"a\"}\r\n"));
        for other in [&b"{\n"[..], b"[{\"type\":\"a\"}]\n", b"nonsense\n", b"{\"type\":\n"] {
            assert!(!is_ndjson(other), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn a_refusal_names_the_line_of_the_whole_input() {
        let error = refused(400, r#"{"error":"event has no type","line":3}"#, 1000);
        assert_eq!(error.message, "line 1003: event has no type (status 400)");
        assert_eq!(refused(502, "<html>bad", 0).message, "<html>bad (status 502)");
    }

    #[test]
    fn lines_are_batched_by_size_and_by_pause() {
        let (send, lines) = sync_channel(10);
        for line in [&b"a\n"[..], b"b\n"] {
            send.send(Ok(line.to_vec())).expect("room");
        }
        let (mut batch, mut count) = (Vec::new(), 0);
        assert!(!fill(&lines, &mut batch, &mut count).expect("no fault"), "a pause, not the end");
        assert_eq!((batch.as_slice(), count), (&b"a\nb\n"[..], 2));
        send.send(Ok(vec![b'x'; BATCH_BYTES])).expect("room");
        send.send(Ok(Vec::new())).expect("room");
        let (mut batch, mut count) = (Vec::new(), 0);
        assert!(!fill(&lines, &mut batch, &mut count).expect("no fault"), "full, not the end");
        assert!(fill(&lines, &mut Vec::new(), &mut count).expect("no fault"), "the end");
    }
}
