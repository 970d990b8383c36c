//! Protocols of the servers under load: fanwire's own, and those of other products for comparison.
//!
//! Always: a client is subscribed before anything is published.

use std::fmt;
use std::io::{self, Read, Write};

use super::super::remote::Remote;
use super::keys::Selection;

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

/// Header lines of every request to a server: its host and the caller's token.
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
    /// Every client of /ws or /sse gets every line that is posted to /publish. With several keys: /ws?keys=1,2, and
    /// each line begins with its key
    Plain,
    /// nchan on nginx: /sub and /pub, a POST for each event; with several keys /sub/1,2 and /pub/1
    Nchan,
    /// NATS over WebSocket; events are published over its TCP port
    Nats,
    /// MQTT 3.1.1 over WebSocket; events are published over its TCP port
    Mqtt,
    /// Socket.IO over WebSocket: clients emit `watch` with a list of keys, the publisher `publish` with key and
    /// payload
    SocketIo,
}

/// Request that opens a client's stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamSetup<'a> {
    pub(super) site: &'a Site,
    pub(super) transport: Transport,
    /// Whether the client asks for compressed messages.
    pub(super) deflate: bool,
}

/// Returns a client's WebSocket frame. The mask is zero, so the payload is not copied twice; a server unmasks it like any
/// other.
pub(super) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(0x80 | opcode);
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            frame.push(0xFE);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0xFF);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

pub(super) const TEXT: u8 = 1;
const BINARY: u8 = 2;

/// First message to a NATS server.
pub(super) const NATS_CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

/// Appends a string in MQTT's encoding: the length in two bytes, then the text.
pub(super) fn mqtt_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends an MQTT packet: kind, length in groups of seven bits, body.
pub(super) fn mqtt_packet(kind: u8, body: &[u8], out: &mut Vec<u8>) {
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

pub(super) fn mqtt_connect(client: &str) -> Vec<u8> {
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

/// Reads until `end` has arrived. Blocks, with the time limit of the socket. The server must send nothing after `end`
/// before an event is published.
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

/// Opens a connection of Socket.IO. Blocks.
pub(super) fn socket_io_open(socket: &mut (impl Read + Write), site: &Site) -> io::Result<()> {
    let answer = site.upgrade(socket, Speak::SocketIo.path(Transport::Ws), "")?;
    // The server's first message has the session's id, as has the answer to the connect.
    if !answer.ends_with(b"}") {
        read_until(socket, b"}")?;
    }
    socket.write_all(&masked(TEXT, b"40"))?;
    read_until(socket, b"}").map(drop)
}

impl Site {
    /// Appends a POST.
    pub(super) fn post(&self, path: &str, body: &str, out: &mut Vec<u8>) {
        let Self { host, base, authorization } = self;
        let head = format!(
            "POST {base}{path} HTTP/1.1\r\nHost: {host}\r\n{authorization}\
             Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(body.as_bytes());
    }

    /// Opens a WebSocket on a connected socket, and returns the answer with everything received after it. `more` holds
    /// further header lines. Blocks.
    pub(super) fn upgrade(
        &self,
        socket: &mut (impl Read + Write),
        path: &str,
        more: &str,
    ) -> io::Result<Vec<u8>> {
        let Self { host, base, authorization } = self;
        let request = format!(
            "GET {base}{path} HTTP/1.1\r\nHost: {host}\r\n{authorization}Upgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZmFud2lyZSBiZW5jaCEhIQ==\r\n{more}\r\n"
        );
        let head = open(socket, &request, b"101")?;
        if more.contains("permessage-deflate") && memchr::memmem::find(&head, b"permessage-deflate").is_none()
        {
            return Err(invalid("the server does not compress"));
        }
        Ok(head)
    }
}

/// Sends a request, and returns its answer. Blocks.
fn open(socket: &mut (impl Read + Write), request: &str, status: &[u8]) -> io::Result<Vec<u8>> {
    socket.write_all(request.as_bytes())?;
    let head = read_until(socket, b"\r\n\r\n")?;
    if head.get(9..12) != Some(status) {
        return Err(invalid(format!("the server refused a client: {}", String::from_utf8_lossy(&head))));
    }
    Ok(head)
}

impl Speak {
    /// Returns the path of a client's stream.
    pub(super) fn path(self, transport: Transport) -> &'static str {
        match (self, transport) {
            (Self::Fanwire | Self::Lean | Self::Plain, Transport::Ws) => "/ws",
            (Self::Fanwire | Self::Lean | Self::Plain, Transport::Sse) => "/sse",
            (Self::Agentos, Transport::Ws) => "/ws/events",
            (Self::Agentos, Transport::Sse) => "/sse/events",
            (Self::Nchan, _) => "/sub",
            (Self::Nats | Self::Mqtt, _) => "/",
            (Self::SocketIo, _) => "/socket.io/?EIO=4&transport=websocket",
        }
    }

    /// Returns the path of a client's stream, with the part that names its keys.
    fn target(self, transport: Transport, selection: &Selection<'_>) -> String {
        let path = self.path(transport);
        match self {
            Self::Fanwire if transport == Transport::Sse => format!("{path}{}", selection.query()),
            Self::Lean if transport == Transport::Sse => match selection.query() {
                query if query.is_empty() => format!("{path}?lean=1"),
                query => format!("{path}{query}&lean=1"),
            },
            Self::Plain if selection.differ => format!("{path}?keys={}", selection.numbers()),
            Self::Nchan if selection.differ => format!("{path}/{}", selection.numbers()),
            _ => path.to_owned(),
        }
    }

    /// Opens a stream on a connected socket, and waits until it is subscribed. `number` makes the client's id unique.
    /// Blocks.
    pub(super) fn subscribe(
        self,
        socket: &mut (impl Read + Write),
        opening: StreamSetup<'_>,
        selection: &Selection<'_>,
        number: usize,
    ) -> io::Result<()> {
        let StreamSetup { site, transport, deflate } = opening;
        let target = self.target(transport, selection);
        if transport == Transport::Sse {
            let Site { host, base, authorization } = site;
            let request = format!(
                "GET {base}{target} HTTP/1.1\r\nHost: {host}\r\n{authorization}Accept: text/event-stream\r\n\r\n"
            );
            return open(socket, &request, b"200").map(drop);
        }
        let subprotocol = match self {
            Self::Lean => "Sec-WebSocket-Protocol: fanwire.v1.lean\r\n",
            Self::Mqtt => "Sec-WebSocket-Protocol: mqtt\r\n",
            _ => "",
        };
        let extension = if deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
        if self == Self::SocketIo {
            socket_io_open(socket, site)?;
        } else {
            site.upgrade(socket, &target, &format!("{extension}{subprotocol}"))?;
        }
        match self {
            Self::Fanwire | Self::Lean => {
                let message = format!(r#"{{"type":"subscribe","payload":{{{}}}}}"#, selection.payload());
                socket.write_all(&masked(TEXT, message.as_bytes()))?;
                let answer = read_until(socket, b"}")?;
                if let Some(at) = memchr::memmem::find(&answer, br#"{"type":"error""#) {
                    let error = String::from_utf8_lossy(&answer[at..]);
                    return Err(invalid(format!("the server refused a client's subscription: {error}")));
                }
            }
            Self::Agentos | Self::Plain | Self::Nchan => {}
            Self::Nats => {
                let mut lines = NATS_CONNECT.to_vec();
                for (at, kind) in selection.kinds().enumerate() {
                    lines.extend_from_slice(format!("SUB {kind} {}\r\n", at + 1).as_bytes());
                }
                lines.extend_from_slice(b"PING\r\n");
                socket.write_all(&masked(BINARY, &lines))?;
                read_until(socket, b"PONG\r\n")?;
            }
            Self::Mqtt => {
                socket.write_all(&masked(BINARY, &mqtt_connect(&format!("bench-{number}"))))?;
                read_until(socket, &[0x20, 2, 0, 0])?;
                // The packet's number, then each key with its quality of service. The answer has a byte for each key.
                let (mut body, mut granted) = (vec![0, 1], vec![0, 1]);
                for kind in selection.kinds() {
                    mqtt_text(&kind, &mut body);
                    body.push(0);
                    granted.push(0);
                }
                let (mut packet, mut answer) = (Vec::new(), Vec::new());
                mqtt_packet(0x82, &body, &mut packet);
                mqtt_packet(0x90, &granted, &mut answer);
                socket.write_all(&masked(BINARY, &packet))?;
                read_until(socket, &answer)?;
            }
            Self::SocketIo => {
                // The message has a number, so the server answers when it has subscribed the client.
                let message = format!("420[\"watch\",[{}]]", selection.numbers());
                socket.write_all(&masked(TEXT, message.as_bytes()))?;
                read_until(socket, b"430[")?;
            }
        }
        Ok(())
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
}
