//! HTTP requests as bytes, and parsed answers.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use super::wire::{Wire, deadline};

pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} {:?} {}", self.status, self.headers, body.chars().take(300).collect::<String>())
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("an answer is UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Reads the head of an answer.
pub fn read_head(wire: &mut Wire, until: Instant) -> io::Result<Response> {
    let head = wire.take_until(b"\r\n\r\n", until)?;
    let head = String::from_utf8(head).expect("a head is ASCII");
    let mut lines = head.trim_end().split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
        (name.to_ascii_lowercase(), value.trim().to_owned())
    });
    Ok(Response { status, headers: headers.collect(), body: Vec::new() })
}

/// Reads a whole answer by its length, by its chunks or to the end.
pub fn read_response(wire: &mut Wire, until: Instant) -> io::Result<Response> {
    let mut response = read_head(wire, until)?;
    if response.status < 200 || matches!(response.status, 204 | 304) {
        return Ok(response);
    }
    if let Some(len) = response.header("content-length") {
        let len = len.parse().expect("a content-length is a number");
        response.body = wire.take(len, until)?;
    } else if response.header("transfer-encoding") == Some("chunked") {
        while let chunk @ [_, ..] = read_chunk(wire, until)?.as_slice() {
            response.body.extend_from_slice(chunk);
        }
    } else {
        response.body = wire.take_rest(until)?;
    }
    Ok(response)
}

/// Reads one chunk. The last chunk is empty.
pub fn read_chunk(wire: &mut Wire, until: Instant) -> io::Result<Vec<u8>> {
    let size = wire.take_until(b"\r\n", until)?;
    let size = std::str::from_utf8(&size).expect("ASCII").trim();
    let size = usize::from_str_radix(size, 16).expect("a chunk starts with its size");
    let mut chunk = wire.take(size + 2, until)?;
    assert_eq!(chunk.split_off(size), b"\r\n");
    Ok(chunk)
}

/// Sends bytes on a new connection, and reads one answer.
pub fn exchange(addr: SocketAddr, request: &[u8]) -> Response {
    let mut wire = Wire::connect(addr);
    wire.send_if_taken(request);
    read_response(&mut wire, deadline()).expect("an answer")
}

pub fn get(addr: SocketAddr, path: &str) -> Response {
    exchange(addr, format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
}

pub fn post_request(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {len}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

pub fn post(addr: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> Response {
    exchange(addr, &post_request(path, content_type, body))
}
