//! Ways to publish: by POST, by WebSocket, or by another product's own protocol.

use std::fmt::Write as _;
use std::io::{self, Read, Write};

use super::speak::{self, Site, Speak, Transport, invalid, masked, mqtt_connect, mqtt_packet, mqtt_text};

/// Way to publish to fanwire, or to a server of the plain protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum PublishBy {
    /// A POST for each burst
    Post,
    /// A WebSocket message for each event
    Ws,
    /// A WebSocket message for each event, with `"ack": false`: the server answers errors only
    WsNoAck,
}

impl PublishBy {
    /// Returns the option's value on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Post => "post",
            Self::Ws => "ws",
            Self::WsNoAck => "ws-no-ack",
        }
    }
}

/// An event to publish: its key and its payload.
#[derive(Clone, Debug)]
pub(super) struct OutgoingEvent {
    pub(super) key: u32,
    /// Whether the event has its key as an entity.
    pub(super) entity: bool,
    /// Whether the event has its key as a channel.
    pub(super) channel: bool,
    pub(super) payload: String,
}

impl OutgoingEvent {
    /// Appends the event in fanwire's format.
    fn write(&self, body: &mut String) {
        let Self { key, entity, channel, payload } = self;
        // Writing to a String cannot fail.
        let _ = write!(body, r#"{{"type":"bench.{key}.event","payload":{payload}"#);
        if *entity {
            let _ = write!(body, r#","entity":{{"kind":"bench","id":"{key}"}}"#);
        }
        if *channel {
            let _ = write!(body, r#","channel":"bench-{key}""#);
        }
        body.push('}');
    }
}

/// A publisher's protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct PublishWay {
    pub(super) speak: Speak,
    pub(super) by: PublishBy,
    /// Whether lines of the plain protocol begin with their key.
    pub(super) differ: bool,
}

impl PublishWay {
    /// Returns an error if the protocol cannot publish this way.
    pub(super) fn check(self) -> Result<(), String> {
        match (self.speak, self.by) {
            (_, PublishBy::Post) | (Speak::Fanwire | Speak::Lean, _) => Ok(()),
            (Speak::Plain, PublishBy::Ws) => Ok(()),
            (_, by) => Err(format!("--publish {} works with --speak fanwire and lean only", by.name())),
        }
    }

    /// Connects a publisher: sends the first messages and reads their answers. Blocks.
    pub(super) fn open(self, socket: &mut (impl Read + Write), site: &Site) -> io::Result<()> {
        match (self.speak, self.by) {
            (Speak::Nats, _) => socket.write_all(speak::NATS_CONNECT),
            (Speak::Mqtt, _) => socket.write_all(&mqtt_connect("bench-publisher")),
            (Speak::SocketIo, _) => speak::socket_io_open(socket, site),
            (_, PublishBy::Post) => Ok(()),
            (Speak::Plain, _) => site.upgrade(socket, "/publish", "").map(drop),
            _ => site.upgrade(socket, self.speak.path(Transport::Ws), "").map(drop),
        }
    }

    /// Appends the publication of these events to `out`. Returns the number of answers that the server will send.
    pub(super) fn write(self, events: &[OutgoingEvent], site: &Site, out: &mut Vec<u8>) -> u64 {
        match (self.speak, self.by) {
            (Speak::Fanwire | Speak::Lean | Speak::Agentos, PublishBy::Post) => {
                let mut body = String::with_capacity(events.len() * 256);
                for event in events {
                    event.write(&mut body);
                    body.push('\n');
                }
                site.post("/publish", &body, out);
                1
            }
            (Speak::Fanwire | Speak::Lean | Speak::Agentos, by) => {
                let ack = if by == PublishBy::Ws { "" } else { r#""ack":false,"# };
                let mut text = String::with_capacity(256);
                for event in events {
                    text.clear();
                    let _ = write!(text, r#"{{"type":"publish",{ack}"payload":"#);
                    event.write(&mut text);
                    text.push('}');
                    out.extend(masked(speak::TEXT, text.as_bytes()));
                }
                if by == PublishBy::Ws { events.len() as u64 } else { 0 }
            }
            (Speak::Plain, by) => {
                let line = |event: &OutgoingEvent| {
                    if self.differ {
                        format!("{} {}", event.key, event.payload)
                    } else {
                        event.payload.clone()
                    }
                };
                if by == PublishBy::Post {
                    let lines: Vec<String> = events.iter().map(line).collect();
                    site.post("/publish", &lines.join("\n"), out);
                    return 1;
                }
                for event in events {
                    out.extend(masked(speak::TEXT, line(event).as_bytes()));
                }
                0
            }
            (Speak::Nchan, _) => {
                for event in events {
                    let path = if self.differ { format!("/pub/{}", event.key) } else { "/pub".to_owned() };
                    site.post(&path, &event.payload, out);
                }
                events.len() as u64
            }
            (Speak::Nats, _) => {
                for OutgoingEvent { key, payload, .. } in events {
                    let line = format!("PUB bench.{key}.event {}\r\n{payload}\r\n", payload.len());
                    out.extend_from_slice(line.as_bytes());
                }
                0
            }
            (Speak::Mqtt, _) => {
                for OutgoingEvent { key, payload, .. } in events {
                    let mut body = Vec::new();
                    mqtt_text(&format!("bench.{key}.event"), &mut body);
                    body.extend_from_slice(payload.as_bytes());
                    mqtt_packet(0x30, &body, out);
                }
                0
            }
            (Speak::SocketIo, _) => {
                for OutgoingEvent { key, payload, .. } in events {
                    let text = format!(r#"42["publish","{key}",{payload}]"#);
                    out.extend(masked(speak::TEXT, text.as_bytes()));
                }
                0
            }
        }
    }

    /// Returns the bytes that occur once in each answer, and those that occur in refusals only.
    fn needles(self) -> (&'static [u8], &'static [&'static [u8]]) {
        match (self.speak, self.by) {
            (Speak::Fanwire | Speak::Lean, PublishBy::Ws | PublishBy::WsNoAck) => {
                (b"\"type\":\"ack\"", &[b"\"type\":\"error\""])
            }
            (Speak::Nats, _) => (b"+OK", &[b"-ERR"]),
            // The answer to the connect, with a code.
            (Speak::Mqtt, _) => (
                &[0x20, 2, 0, 0],
                &[&[0x20, 2, 0, 1], &[0x20, 2, 0, 2], &[0x20, 2, 0, 3], &[0x20, 2, 0, 4], &[0x20, 2, 0, 5]],
            ),
            (Speak::SocketIo, _) => (b"430", &[b"44{"]),
            _ => (b"HTTP/1.1 2", &[b"HTTP/1.1 3", b"HTTP/1.1 4", b"HTTP/1.1 5"]),
        }
    }

    /// Returns a reader of the answers.
    pub(super) fn answers(self) -> Answers {
        let (answer, refusals) = self.needles();
        Answers { answer, refusals, tail: Vec::new() }
    }
}

/// Reader of the answers to a publisher.
pub(super) struct Answers {
    answer: &'static [u8],
    refusals: &'static [&'static [u8]],
    /// Last bytes read so far: they may hold the start of an answer.
    tail: Vec<u8>,
}

impl Answers {
    /// Takes received bytes and returns the number of answers in them.
    ///
    /// # Errors
    ///
    /// Fails with the text of a refusal.
    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<u64> {
        self.tail.extend_from_slice(bytes);
        if self.refusals.iter().any(|refusal| memchr::memmem::find(&self.tail, refusal).is_some()) {
            return Err(invalid(String::from_utf8_lossy(&self.tail[..self.tail.len().min(1000)])));
        }
        let (mut answers, mut done) = (0, 0);
        for at in memchr::memmem::find_iter(&self.tail, self.answer) {
            answers += 1;
            done = at + self.answer.len();
        }
        // A refusal may be split between two reads, too.
        let longest = self.refusals.iter().map(|refusal| refusal.len()).fold(self.answer.len(), usize::max);
        let keep = (longest - 1).min(self.tail.len() - done);
        self.tail.drain(..self.tail.len() - keep);
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(speak: Speak, by: PublishBy) -> PublishWay {
        PublishWay { speak, by, differ: false }
    }

    #[test]
    fn a_refusal_of_a_publication_is_noticed_in_each_protocol() {
        let refuses = |speak, by, bytes: &[u8]| way(speak, by).answers().take(bytes).is_err();
        assert!(refuses(Speak::Fanwire, PublishBy::Post, b"HTTP/1.1 400 Bad Request\r\n"));
        assert!(refuses(Speak::Lean, PublishBy::WsNoAck, br#"{"type":"error","payload":{}}"#));
        assert!(!refuses(Speak::Fanwire, PublishBy::Ws, br#"{"type":"ack","payload":{}}"#));
        assert!(!refuses(Speak::Nchan, PublishBy::Post, b"HTTP/1.1 202 Accepted\r\n"));
        assert!(refuses(Speak::Nats, PublishBy::Post, b"-ERR 'Unknown Protocol Operation'\r\n"));
        assert!(refuses(Speak::Mqtt, PublishBy::Post, &[0x20, 2, 0, 5]));
        assert!(!refuses(Speak::Mqtt, PublishBy::Post, &[0x20, 2, 0, 0]));
    }

    #[test]
    fn answers_are_counted_wherever_they_are_cut() {
        let text = br#"..{"type":"ack","payload":{}}..{"type":"ack","payload":{}}.{"type":"pong"}"#;
        for step in 1..text.len() {
            let mut answers = way(Speak::Fanwire, PublishBy::Ws).answers();
            let counted: u64 = text.chunks(step).map(|part| answers.take(part).expect("no refusal")).sum();
            assert_eq!(counted, 2, "{step}");
        }
    }
}
