//! A client of event streams, written from the WHATWG's grammar.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use super::http::{Response, read_chunk, read_head};
use super::wire::{Wire, deadline};

/// One block of a stream: an event, or only comments and a retry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub event: Option<String>,
    pub data: Option<String>,
    pub id: Option<String>,
    pub retry: Option<u64>,
    pub comments: Vec<String>,
}

impl Block {
    fn parse(text: &str) -> Self {
        let mut block = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "" => block.comments.push(value),
                "event" => block.event = Some(value),
                "id" => block.id = Some(value),
                "retry" => block.retry = Some(value.parse().expect("retry is a number")),
                "data" => match &mut block.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(&value);
                    }
                    None => block.data = Some(value),
                },
                other => panic!("unknown field {other:?} in {text:?}"),
            }
        }
        block
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(self.data.as_deref().unwrap_or_default())
            .unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

pub struct Sse {
    pub wire: Wire,
    pub response: Response,
    text: Vec<u8>,
    pub retry: Option<u64>,
}

impl Sse {
    /// Opens `/sse` with this query (with its `?`, or empty). The answer must be a stream.
    pub fn open(addr: SocketAddr, query: &str) -> Self {
        Self::with(addr, query, "")
    }

    pub fn with(addr: SocketAddr, query: &str, more_headers: &str) -> Self {
        Self::at(addr, &format!("/sse{query}"), more_headers)
    }

    /// Opens a stream at this path, with its query.
    pub fn at(addr: SocketAddr, target: &str, more_headers: &str) -> Self {
        let mut wire = Wire::connect(addr);
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{more_headers}\r\n"
        );
        wire.send(request.as_bytes());
        let response = read_head(&mut wire, deadline()).expect("an answer");
        if response.status != 200 {
            let body = wire.take_rest(deadline()).unwrap_or_default();
            panic!("{response:?} {}", String::from_utf8_lossy(&body));
        }
        Self::from_wire(wire, response)
    }

    /// Creates a stream after its response head was read.
    pub fn from_wire(wire: Wire, response: Response) -> Self {
        Self { wire, response, text: Vec::new(), retry: None }
    }

    /// Returns the next block of any kind. Fails at the end of the stream.
    pub fn block(&mut self, until: Instant) -> io::Result<Block> {
        if self.response.header("transfer-encoding") != Some("chunked") {
            let text = self.wire.take_until(b"\n\n", until)?;
            return Ok(Block::parse(std::str::from_utf8(&text).expect("a stream is UTF-8")));
        }
        loop {
            if let Some(at) = self.text.windows(2).position(|window| window == b"\n\n") {
                let text: Vec<u8> = self.text.drain(..at + 2).collect();
                return Ok(Block::parse(std::str::from_utf8(&text).expect("a stream is UTF-8")));
            }
            let chunk = read_chunk(&mut self.wire, until)?;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.text.extend_from_slice(&chunk);
        }
    }

    /// Returns the next block with data.
    pub fn event(&mut self) -> Block {
        // Comments that keep the connection open do not prolong it.
        let until = deadline();
        loop {
            let block = self.block(until).expect("an event");
            self.retry = block.retry.or(self.retry);
            if block.data.is_some() {
                return block;
            }
        }
    }

    /// Returns whether no event arrives until then.
    pub fn is_silent_until(&mut self, until: Instant) -> bool {
        loop {
            match self.block(until) {
                Ok(block) if block.data.is_none() => {}
                Ok(block) => {
                    eprintln!("came: {block:?}");
                    return false;
                }
                Err(error) => return error.kind() == io::ErrorKind::TimedOut,
            }
        }
    }
}
