//! Protocols of the servers under load: fanwire's own, and those of other products for comparison.
//!
//! Always: a client is subscribed before anything is published. Each event goes out as a JSON object, by the server's
//! own way of publishing.

use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};

use super::super::remote::Remote;

/// Transport of the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Transport {
    Ws,
    Sse,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Ws { "ws" } else { "sse" })
    }
}

/// Head lines of every request to a server: its name and the caller's token.
#[derive(Clone, Debug)]
pub(super) struct Site {
    host: String,
    /// Prefix of every path.
    base: String,
    /// Line of the `Authorization` header, or nothing.
    authorization: String,
}

impl Site {
    pub(super) fn new(remote: &Remote) -> Self {
        Self {
            host: remote.url.authority.clone(),
            base: remote.url.path(""),
            authorization: remote.authorization_line(),
        }
    }
}

/// Protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Speak {
    /// Fanwire: subscribe messages, NDJSON to /publish
    Fanwire,
    /// Fanwire with lean events: the event object without a message around it, the payload alone over SSE
    Lean,
    /// Fanwire's AgentOS clients: all events since the connect, in a frame of half the native size
    Agentos,
    /// Every client of /ws or /sse gets every line that is posted to /publish
    Plain,
    /// nchan on nginx: /sub and /pub, a POST for each event
    Nchan,
    /// NATS over WebSocket; events are published over its TCP port
    Nats,
    /// MQTT 3.1.1 over WebSocket; events are published over its TCP port
    Mqtt,
}

/// Request that opens a client's stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamSetup<'a> {
    pub(super) site: &'a Site,
    pub(super) transport: Transport,
    /// Whether the client asks for compressed messages.
    pub(super) deflate: bool,
}

/// Kind of a client's filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mix {
    /// One type of event
    Types,
    /// A pattern over types
    Patterns,
    /// One entity
    Entities,
    /// Everything
    All,
}

/// Filter of a client: the events of one key, selected in one of the ways, or all events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selection {
    pub(super) mix: Mix,
    pub(super) key: usize,
}

impl Selection {
    fn kind(&self) -> String {
        format!("bench.{}.{}", self.key, if self.mix == Mix::Patterns { "*" } else { "event" })
    }

    fn query(&self) -> String {
        match self.mix {
            Mix::Types | Mix::Patterns => format!("?type={}", self.kind()),
            Mix::Entities => format!("?entity=bench:{}", self.key),
            Mix::All => String::new(),
        }
    }

    fn payload(&self) -> String {
        match self.mix {
            Mix::Types | Mix::Patterns => format!(r#""event_types":["{}"]"#, self.kind()),
            Mix::Entities => format!(r#""entities":[{{"kind":"bench","id":"{}"}}]"#, self.key),
            Mix::All => String::new(),
        }
    }
}

/// An event to publish: its key among the filters' keys, and its payload.
#[derive(Clone, Debug)]
pub(super) struct OutgoingEvent {
    pub(super) key: usize,
    /// Whether the event has an entity.
    pub(super) entity: bool,
    pub(super) payload: String,
}

/// Returns a client's WebSocket frame. The mask is zero, so the payload is not copied twice; a server unmasks it like any
/// other.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0xFE);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;

/// Appends a string in the form of MQTT: the length in two bytes, then the text.
fn mqtt_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends an MQTT packet: kind, length in groups of seven bits, body.
fn mqtt_packet(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    let mut len = body.len();
    loop {
        let more = if len > 127 { 0x80 } else { 0 };
        out.push((len & 127) as u8 | more);
        len >>= 7;
        if len == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
}

fn mqtt_connect(client: &str) -> Vec<u8> {
    let mut body = Vec::new();
    mqtt_text("MQTT", &mut body);
    // Level 4, a clean session, no keep-alive.
    body.extend_from_slice(&[4, 2, 0, 0]);
    mqtt_text(client, &mut body);
    let mut packet = Vec::new();
    mqtt_packet(0x10, &body, &mut packet);
    packet
}

pub(super) fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Reads until `end` has come. Blocks, with the time limit of the socket. The server must send nothing after it before
/// an event is published.
fn read_until(socket: &mut impl Read, end: &[u8]) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 1024];
    while !all.windows(end.len()).any(|window| window == end) {
        match socket.read(&mut buffer)? {
            0 => return Err(invalid("the server closed the connection")),
            read => all.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(all)
}

impl Speak {
    fn path(self, transport: Transport) -> &'static str {
        match (self, transport) {
            (Self::Fanwire | Self::Lean | Self::Plain, Transport::Ws) => "/ws",
            (Self::Fanwire | Self::Lean | Self::Plain, Transport::Sse) => "/sse",
            (Self::Agentos, Transport::Ws) => "/ws/events",
            (Self::Agentos, Transport::Sse) => "/sse/events",
            (Self::Nchan, _) => "/sub",
            (Self::Nats | Self::Mqtt, _) => "/",
        }
    }

    /// Opens a stream on a connected socket, and waits until it is subscribed. `number` makes the client's id unique.
    /// Blocks.
    pub(super) fn subscribe(
        self,
        socket: &mut (impl Read + Write),
        opening: StreamSetup<'_>,
        selection: &Selection,
        number: usize,
    ) -> io::Result<()> {
        let StreamSetup { site, transport, deflate } = opening;
        let Site { host, base, authorization } = site;
        let path = self.path(transport);
        let request = match transport {
            Transport::Ws => format!(
                "GET {base}{path} HTTP/1.1\r\nHost: {host}\r\n{authorization}Upgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZmFud2lyZSBiZW5jaCEhIQ==\r\n{}{}\r\n",
                if deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" },
                match self {
                    Self::Lean => "Sec-WebSocket-Protocol: fanwire.v1.lean\r\n",
                    Self::Mqtt => "Sec-WebSocket-Protocol: mqtt\r\n",
                    _ => "",
                }
            ),
            Transport::Sse => {
                let query = match self {
                    Self::Fanwire => selection.query(),
                    Self::Lean => match selection.query().as_str() {
                        "" => "?lean=1".to_owned(),
                        query => format!("{query}&lean=1"),
                    },
                    _ => String::new(),
                };
                format!(
                    "GET {base}{path}{query} HTTP/1.1\r\nHost: {host}\r\n{authorization}\
                     Accept: text/event-stream\r\n\r\n"
                )
            }
        };
        socket.write_all(request.as_bytes())?;
        let head = read_until(socket, b"\r\n\r\n")?;
        let status = if transport == Transport::Ws { b"101" } else { b"200" };
        if head.get(9..12) != Some(status) {
            return Err(invalid(format!("the server refused a client: {}", String::from_utf8_lossy(&head))));
        }
        if transport == Transport::Sse {
            return Ok(());
        }
        if deflate && memchr::memmem::find(&head, b"permessage-deflate").is_none() {
            return Err(invalid("the server does not compress"));
        }
        let kind = &selection.kind();
        match self {
            Self::Fanwire | Self::Lean => {
                let message = format!(r#"{{"type":"subscribe","payload":{{{}}}}}"#, selection.payload());
                socket.write_all(&masked(TEXT, message.as_bytes()))?;
                read_until(socket, b"}")?;
            }
            Self::Agentos | Self::Plain | Self::Nchan => {}
            Self::Nats => {
                let lines =
                    format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {kind} 1\r\nPING\r\n");
                socket.write_all(&masked(BINARY, lines.as_bytes()))?;
                read_until(socket, b"PONG\r\n")?;
            }
            Self::Mqtt => {
                socket.write_all(&masked(BINARY, &mqtt_connect(&format!("bench-{number}"))))?;
                read_until(socket, &[0x20, 2, 0, 0])?;
                let mut body = vec![0, 1];
                mqtt_text(kind, &mut body);
                body.push(0);
                let mut packet = Vec::new();
                mqtt_packet(0x82, &body, &mut packet);
                socket.write_all(&masked(BINARY, &packet))?;
                read_until(socket, &[0x90, 3, 0, 1, 0])?;
            }
        }
        Ok(())
    }

    /// Returns the first bytes of a publisher.
    pub(super) fn hello(self) -> Vec<u8> {
        match self {
            Self::Nats => b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n".to_vec(),
            Self::Mqtt => mqtt_connect("bench-publisher"),
            Self::Fanwire | Self::Lean | Self::Agentos | Self::Plain | Self::Nchan => Vec::new(),
        }
    }

    /// Appends the publication of these events to `out`. Returns the number of answers that the server will send.
    pub(super) fn publish(self, events: &[OutgoingEvent], site: &Site, out: &mut Vec<u8>) -> u64 {
        let Site { host, base, authorization } = site;
        let post = |path: &str, body: &str, out: &mut Vec<u8>| {
            let head = format!(
                "POST {base}{path} HTTP/1.1\r\nHost: {host}\r\n{authorization}\
                 Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(body.as_bytes());
        };
        match self {
            Self::Fanwire | Self::Lean | Self::Agentos => {
                let mut body = String::with_capacity(events.len() * 256);
                for OutgoingEvent { key, entity, payload } in events {
                    // Writing to a String cannot fail.
                    let _ = write!(body, r#"{{"type":"bench.{key}.event","payload":{payload}"#);
                    if *entity {
                        let _ = write!(body, r#","entity":{{"kind":"bench","id":"{key}"}}"#);
                    }
                    body.push_str("}\n");
                }
                post("/publish", &body, out);
                return 1;
            }
            Self::Plain => {
                let lines: Vec<&str> = events.iter().map(|event| event.payload.as_str()).collect();
                post("/publish", &lines.join("\n"), out);
                return 1;
            }
            Self::Nchan => {
                for event in events {
                    post("/pub", &event.payload, out);
                }
                return events.len() as u64;
            }
            Self::Nats => {
                for OutgoingEvent { key, payload, .. } in events {
                    let line = format!("PUB bench.{key}.event {}\r\n{payload}\r\n", payload.len());
                    out.extend_from_slice(line.as_bytes());
                }
            }
            Self::Mqtt => {
                for OutgoingEvent { key, payload, .. } in events {
                    let mut body = Vec::new();
                    mqtt_text(&format!("bench.{key}.event"), &mut body);
                    body.extend_from_slice(payload.as_bytes());
                    mqtt_packet(0x30, &body, out);
                }
            }
        }
        0
    }

    /// Returns whether an answer to the publisher is a refusal. An answer may be cut anywhere; its first bytes show a
    /// refusal.
    pub(super) fn refuses(self, answer: &[u8]) -> bool {
        match self {
            Self::Fanwire | Self::Lean | Self::Agentos | Self::Plain | Self::Nchan => {
                answer.starts_with(b"HTTP/1.1 ") && answer.get(9) != Some(&b'2')
            }
            Self::Nats => answer.starts_with(b"-ERR"),
            Self::Mqtt => answer.starts_with(&[0x20, 2, 0]) && answer.get(3) != Some(&0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mqtt_packet_has_its_length_in_groups_of_seven_bits() {
        let length = |len: usize| {
            let mut out = Vec::new();
            mqtt_packet(0x30, &vec![0; len], &mut out);
            out[1..out.len() - len].to_vec()
        };
        assert_eq!(length(0), [0]);
        assert_eq!(length(127), [127]);
        assert_eq!(length(128), [0x80, 1]);
        assert_eq!(length(16_384), [0x80, 0x80, 1]);
    }

    #[test]
    fn a_refusal_of_a_publication_is_noticed_in_each_protocol() {
        assert!(Speak::Fanwire.refuses(b"HTTP/1.1 400 Bad Request\r\n"));
        assert!(!Speak::Nchan.refuses(b"HTTP/1.1 202 Accepted\r\n"));
        assert!(Speak::Nats.refuses(b"-ERR 'Unknown Protocol Operation'\r\n"));
        assert!(Speak::Mqtt.refuses(&[0x20, 2, 0, 5]));
        assert!(!Speak::Mqtt.refuses(&[0x20, 2, 0, 0]));
    }
}
