//! Server-Sent Events (WHATWG HTML, 9.2): an encoder that keeps every text within its field, and a parser.

use std::fmt;
use std::io::Write as _;

/// Appends an event: name, data, id, empty line.
///
/// Data may have several lines, ended by LF, CR or CR LF; a client reads LF between them. Line ends and NUL are dropped
/// from names and ids: a line end would end the field, and clients ignore an id with NUL. An empty name is left out. An
/// empty id makes the client forget the last one.
pub fn encode_event(out: &mut Vec<u8>, event: Option<&str>, data: &str, id: Option<&str>) {
    // Exactly the size of an event with one line of data.
    out.reserve(data.len() + event.map_or(0, |event| event.len() + 8) + id.map_or(0, |id| id.len() + 5) + 8);
    if let Some(event) = event.filter(|e| !e.is_empty()) {
        out.extend_from_slice(b"event: ");
        push_one_line(out, event);
        out.push(b'\n');
    }
    push_lines(out, b"data: ", data);
    if let Some(id) = id {
        out.extend_from_slice(b"id: ");
        push_one_line(out, id);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Heartbeat of an event stream.
pub(crate) const HEARTBEAT: &[u8] = b": heartbeat\n\n";

/// Appends a comment, which clients ignore: a heartbeat, or a note for a person with curl.
pub fn encode_comment(out: &mut Vec<u8>, text: &str) {
    push_lines(out, b": ", text);
    out.push(b'\n');
}

/// Appends the time that a client waits before it reconnects, in milliseconds. `id`, if set, is the one that it sends
/// then if it receives no event before.
pub fn encode_retry(out: &mut Vec<u8>, milliseconds: u64, id: Option<&str>) {
    if let Some(id) = id {
        out.extend_from_slice(b"id: ");
        push_one_line(out, id);
        out.push(b'\n');
    }
    // Writing to a vector does not fail.
    let _ = write!(out, "retry: {milliseconds}\n\n");
}

fn push_one_line(out: &mut Vec<u8>, text: &str) {
    let is_kept = |byte: &u8| !matches!(byte, b'\r' | b'\n' | 0);
    // Unlike `all`, a fold does not stop early, so it is compiled to many bytes at a time.
    if text.bytes().fold(true, |all, byte| all & is_kept(&byte)) {
        out.extend_from_slice(text.as_bytes());
    } else {
        out.extend(text.bytes().filter(is_kept));
    }
}

fn push_lines(out: &mut Vec<u8>, prefix: &[u8], text: &str) {
    let mut rest = text;
    loop {
        let end = memchr::memchr2(b'\r', b'\n', rest.as_bytes());
        out.extend_from_slice(prefix);
        out.extend_from_slice(&rest.as_bytes()[..end.unwrap_or(rest.len())]);
        out.push(b'\n');
        let Some(end) = end else { return };
        rest = &rest[end + if rest[end..].starts_with("\r\n") { 2 } else { 1 }..];
    }
}

/// Splits one line into field and value. Returns `None` for a comment or an empty line.
///
/// A line without a colon is a field with an empty value. One space after the colon is not part of the value.
#[must_use]
pub fn parse_sse_line(line: &str) -> Option<(&str, &str)> {
    match line.split_once(':') {
        None if line.is_empty() => None,
        None => Some((line, "")),
        Some(("", _)) => None,
        Some((field, value)) => Some((field, value.strip_prefix(' ').unwrap_or(value))),
    }
}

/// Event that a client received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SseEvent {
    /// Name; `message` if the server gave none.
    pub event: String,
    /// Data, its lines separated by LF.
    pub data: String,
    /// Last id that the server sent, with this event or before; empty if there is none.
    pub id: String,
    /// Time to wait before reconnecting, in milliseconds, as the server last set it.
    pub retry: Option<u64>,
}

/// Fault after which a stream can't be parsed further.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SseError {
    /// A line, or the data of one event, is longer than the parser's limit.
    TooLong {
        /// The limit, in bytes.
        max: usize,
    },
}

impl SseError {
    /// Returns a short fixed name, for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
        }
    }
}

impl fmt::Display for SseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { max } => write!(f, "a line or an event's data is over the limit of {max} bytes"),
        }
    }
}

impl std::error::Error for SseError {}

/// Parser of a stream that arrives in pieces cut anywhere.
///
/// The parser holds at most one line and the data of one event.
#[derive(Debug)]
pub struct SseParser {
    max: usize,
    /// Start of an incomplete line.
    line: Vec<u8>,
    /// Whether the last byte was CR. An LF that comes next belongs to it.
    after_cr: bool,
    /// Whether no line has been read yet, so that a byte order mark may come.
    at_start: bool,
    event: String,
    data: String,
    /// Id to report, from the last `id` field.
    id: String,
    /// Id of the last complete block, to resume from.
    last_id: String,
    retry: Option<u64>,
}

impl SseParser {
    /// Returns a parser that accepts lines, and data of one event, of up to `max_event_bytes` each.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max: max_event_bytes,
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            event: String::new(),
            data: String::new(),
            id: String::new(),
            last_id: String::new(),
            retry: None,
        }
    }

    /// Returns the value for `Last-Event-ID` when the client reconnects; empty if there is none.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_id
    }

    /// Returns the time to wait before reconnecting, in milliseconds, if the server has set one.
    #[must_use]
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Drops an incomplete block and keeps the last id and the waiting time. Call this before the first bytes of a new
    /// connection.
    pub fn reconnect(&mut self) {
        let (last_id, retry) = (std::mem::take(&mut self.last_id), self.retry);
        *self = Self { id: last_id.clone(), last_id, retry, ..Self::new(self.max) };
    }

    /// Takes bytes from the front of `input` up to the end of an event and returns the event; takes all bytes if no
    /// event ends in them.
    ///
    /// # Errors
    ///
    /// [`SseError::TooLong`] if a line, or the data of one event, is over the limit. Then the parser can't continue.
    ///
    /// ```
    /// # use fanwire::sse::SseParser;
    /// let mut parser = SseParser::new(1 << 20);
    /// let mut bytes = b"data: hello\n\ndata: wor".as_slice();
    /// while let Some(event) = parser.feed(&mut bytes)? {
    ///     assert_eq!(event.data, "hello");
    /// }
    /// # Ok::<(), fanwire::sse::SseError>(())
    /// ```
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<SseEvent>, SseError> {
        while let Some(&first) = input.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                *input = &input[1..];
                continue;
            }
            let end = input.iter().position(|b| matches!(b, b'\r' | b'\n'));
            let piece = &input[..end.unwrap_or(input.len())];
            if self.line.len() + piece.len() > self.max {
                return Err(SseError::TooLong { max: self.max });
            }
            let Some(end) = end else {
                self.line.extend_from_slice(piece);
                *input = &[];
                return Ok(None);
            };
            self.after_cr = input[end] == b'\r';
            *input = &input[end + 1..];
            let event = if self.line.is_empty() {
                self.line(piece)?
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(piece);
                let event = self.line(&line)?;
                line.clear();
                self.line = line;
                event
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Takes one line, without its end.
    fn line(&mut self, mut line: &[u8]) -> Result<Option<SseEvent>, SseError> {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        // No byte of a longer character is a line end, so decoding each line is decoding the stream.
        let line = String::from_utf8_lossy(line);
        match parse_sse_line(&line) {
            Some(("event", value)) => value.clone_into(&mut self.event),
            Some(("data", value)) => {
                if self.data.len() + value.len() > self.max {
                    return Err(SseError::TooLong { max: self.max });
                }
                self.data.push_str(value);
                self.data.push('\n');
            }
            Some(("id", value)) if !value.contains('\0') => value.clone_into(&mut self.id),
            Some(("retry", value)) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                // All digits, so only too many of them can fail. Such a time is ignored.
                self.retry = value.parse().ok().or(self.retry);
            }
            _ => {}
        }
        Ok(None)
    }

    /// Ends a block. Returns an event if the block had data.
    fn dispatch(&mut self) -> Option<SseEvent> {
        self.last_id.clone_from(&self.id);
        let event = std::mem::take(&mut self.event);
        if self.data.is_empty() {
            return None;
        }
        let mut data = std::mem::take(&mut self.data);
        data.pop();
        Some(SseEvent {
            event: if event.is_empty() { "message".to_owned() } else { event },
            data,
            id: self.id.clone(),
            retry: self.retry,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse_in_pieces(parser: &mut SseParser, bytes: &[u8], cut: usize) -> Vec<SseEvent> {
        let mut events = Vec::new();
        for mut piece in bytes.chunks(cut.max(1)) {
            while let Some(event) = parser.feed(&mut piece).expect("within the limit") {
                events.push(event);
            }
            assert!(piece.is_empty(), "bytes left");
        }
        events
    }

    fn parse(text: &str) -> Vec<(String, String, String)> {
        let events = parse_in_pieces(&mut SseParser::new(1000), text.as_bytes(), text.len());
        events.into_iter().map(|e| (e.event, e.data, e.id)).collect()
    }

    fn event(event: &str, data: &str, id: &str) -> (String, String, String) {
        (event.to_owned(), data.to_owned(), id.to_owned())
    }

    #[test]
    fn one_line_is_a_field_and_its_value() {
        for (line, parsed) in [
            ("event: workflow.started", Some(("event", "workflow.started"))),
            ("data: {\"a\": \"b:c\"}", Some(("data", "{\"a\": \"b:c\"}"))),
            ("id: 7-0-1", Some(("id", "7-0-1"))),
            ("retry:3000", Some(("retry", "3000"))),
            ("data:  two spaces", Some(("data", " two spaces"))),
            ("data", Some(("data", ""))),
            (": a comment", None),
            ("", None),
        ] {
            assert_eq!(parse_sse_line(line), parsed, "{line:?}");
        }
    }

    #[test]
    fn the_examples_of_the_standard_are_read_as_specified() {
        assert_eq!(parse("data: YHOO\ndata: +2\ndata: 10\n\n"), [event("message", "YHOO\n+2\n10", "")]);
        let text =
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        assert_eq!(
            parse(text),
            [
                event("message", "first event", "1"),
                event("message", "second event", ""),
                event("message", " third event", ""),
            ]
        );
        assert_eq!(
            parse("data\n\ndata\ndata\n\ndata:"),
            [event("message", "", ""), event("message", "\n", "")]
        );
        assert_eq!(parse("data:test\n\ndata: test\n\n").len(), 2);
        assert_eq!(parse("event: x\nid: 7\n\ndata: y\n\n"), [event("message", "y", "7")]);
        assert_eq!(parse("id: a\0b\ndata: x\n\n"), [event("message", "x", "")]);
        assert_eq!(
            parse("\u{feff}data: x\r\rdata: y\r\n\r\n"),
            [event("message", "x", ""), event("message", "y", "")]
        );
        assert_eq!(parse("\u{feff}\u{feff}data: x\n\n"), []);
    }

    #[test]
    fn retry_is_obeyed_when_it_is_a_number_and_outlives_a_connection() {
        let mut parser = SseParser::new(100);
        parse_in_pieces(
            &mut parser,
            b"retry: 250\nretry: soon\nretry:\nretry: 99999999999999999999999\n\n",
            3,
        );
        assert_eq!(parser.retry(), Some(250));
        parse_in_pieces(&mut parser, b"id: 5\ndata: whole\n\nid: 6\ndata: cut off", 4);
        assert_eq!(parser.last_event_id(), "5");
        parser.reconnect();
        let events = parse_in_pieces(&mut parser, b"data: next\n\n", 2);
        assert_eq!(
            (events[0].id.as_str(), events[0].data.as_str(), events[0].retry),
            ("5", "next", Some(250))
        );
    }

    #[test]
    fn a_line_or_an_event_over_the_limit_is_an_error() {
        for text in ["data: 0123456789", "data: 01234\ndata: 56789\n"] {
            let mut parser = SseParser::new(10);
            assert_eq!(parser.feed(&mut text.as_bytes()), Err(SseError::TooLong { max: 10 }));
        }
    }

    #[test]
    fn a_comment_and_a_waiting_time_are_no_events() {
        let mut out = Vec::new();
        encode_comment(&mut out, "two\nlines");
        encode_retry(&mut out, 3000, None);
        assert_eq!(out, b": two\n: lines\n\nretry: 3000\n\n");
        assert_eq!(parse_in_pieces(&mut SseParser::new(100), &out, 5), []);
    }

    proptest! {
        #[test]
        fn no_text_breaks_out_of_its_field(name in "[a-z:\\r\\n\0 ]{0,8}", data in "[a-z:\\r\\n\0 é]{0,30}", id in "[a-z\\r\\n\0 ]{0,8}", cut in 1_usize..20) {
            let mut out = Vec::new();
            encode_event(&mut out, Some(&name), &data, Some(&id));
            encode_event(&mut out, None, "the end", None);
            let events = parse_in_pieces(&mut SseParser::new(1000), &out, cut);
            let one_line = |text: &str| text.replace(['\r', '\n', '\0'], "");
            let lines = data.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(events.len(), 2);
            prop_assert_eq!(&events[0].data, &lines);
            let name = one_line(&name);
            prop_assert_eq!(&events[0].event, if name.is_empty() { "message" } else { &name });
            prop_assert_eq!(&events[0].id, &one_line(&id));
            prop_assert_eq!(&events[1].data, "the end");
        }

        #[test]
        fn cuts_change_nothing(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), any::<u8>()], 0..200), cut in 1_usize..30) {
            let whole = parse_in_pieces(&mut SseParser::new(1000), &bytes, bytes.len());
            prop_assert_eq!(whole, parse_in_pieces(&mut SseParser::new(1000), &bytes, cut));
        }
    }
}
