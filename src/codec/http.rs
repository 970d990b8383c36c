//! HTTP/1.1 requests and answers.

use std::fmt;
use std::io::Write as _;

#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    pub max_head_bytes: usize,
    pub max_headers: usize,
    pub max_target_bytes: usize,
    pub max_body_bytes: u64,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_head_bytes: 16 * 1024,
            max_headers: 64,
            max_target_bytes: 8 * 1024,
            max_body_bytes: 4 << 20,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Options,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    Length(u64),
    Chunked,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub http11: bool,
    pub keep_alive: bool,
    pub expect_continue: bool,
    pub body: Body,
    headers: Vec<(String, String)>,
}

#[derive(Debug)]
#[non_exhaustive]
pub enum RequestError {
    Malformed(&'static str),
    HeadTooLong,
    BodyTooLong,
    TargetTooLong,
    LengthRequired,
    Version,
    TransferEncoding,
}

impl RequestError {
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::HeadTooLong => 431,
            Self::BodyTooLong => 413,
            Self::TargetTooLong => 414,
            Self::LengthRequired => 411,
            Self::Version => 505,
            Self::TransferEncoding => 501,
        }
    }
    pub fn label(&self) -> &'static str {
        "http"
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => f.write_str(what),
            other => f.write_str(reason(other.status())),
        }
    }
}

fn decode(text: &str, plus: bool) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let hex = text.get(at + 1..at + 3)?;
                out.push(u8::from_str_radix(hex, 16).ok()?);
                at += 3;
                continue;
            }
            b'+' if plus => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
    pub fn header_has_token(&self, name: &str, token: &str) -> bool {
        let all = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        all.flat_map(|(_, v)| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    }
    pub fn query_pairs(&self) -> impl Iterator<Item = (String, String)> {
        self.query.split('&').filter(|p| !p.is_empty()).filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name, true)?, decode(value, true)?))
        })
    }
}

pub fn parse_request(buf: &[u8], limits: &HttpLimits) -> Result<Option<(Request, usize)>, RequestError> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let used = match parsed.parse(buf) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) if buf.len() > limits.max_head_bytes => {
            return Err(RequestError::HeadTooLong);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(RequestError::HeadTooLong),
        Err(_) => return Err(RequestError::Malformed("not an HTTP request")),
    };
    if used > limits.max_head_bytes {
        return Err(RequestError::HeadTooLong);
    }
    let method = match parsed.method.unwrap_or_default() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "OPTIONS" => Method::Options,
        _ => Method::Other,
    };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = decode(path, false).ok_or(RequestError::Malformed("bad target"))?;
    let http11 = parsed.version == Some(1);
    let headers = (parsed.headers.iter())
        .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).trim().to_owned()))
        .collect();
    let mut request = Request {
        method,
        path,
        query: query.to_owned(),
        http11,
        keep_alive: http11,
        expect_continue: false,
        body: Body::None,
        headers,
    };
    request.keep_alive = if http11 {
        !request.header_has_token("connection", "close")
    } else {
        request.header_has_token("connection", "keep-alive")
    };
    request.expect_continue = request.header_has_token("expect", "100-continue");
    let chunked = request.header("transfer-encoding").is_some();
    match (chunked, request.header("content-length")) {
        (true, Some(_)) => return Err(RequestError::Malformed("both Content-Length and Transfer-Encoding")),
        (true, None) => request.body = Body::Chunked,
        (false, Some(length)) => {
            let length = length.parse().map_err(|_| RequestError::Malformed("bad Content-Length"))?;
            if length > limits.max_body_bytes {
                return Err(RequestError::BodyTooLong);
            }
            if length > 0 {
                request.body = Body::Length(length);
            }
        }
        (false, None) if method == Method::Post => return Err(RequestError::LengthRequired),
        (false, None) => {}
    }
    Ok(Some((request, used)))
}

#[derive(Debug)]
pub struct BodyDecoder {
    left: u64,
    chunked: bool,
    max: u64,
    state: u8,
    line: Vec<u8>,
}

impl BodyDecoder {
    pub fn new(body: &Body, limits: &HttpLimits) -> Result<Self, RequestError> {
        let left = if let Body::Length(n) = body { *n } else { 0 };
        let chunked = matches!(body, Body::Chunked);
        Ok(Self { left, chunked, max: limits.max_body_bytes, state: 0, line: Vec::new() })
    }

    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool), RequestError> {
        if !self.chunked {
            let taken = input.len().min(self.left as usize);
            out.extend_from_slice(&input[..taken]);
            self.left -= taken as u64;
            return Ok((taken, self.left == 0));
        }
        let mut at = 0;
        while at < input.len() {
            match self.state {
                1 => {
                    let taken = (input.len() - at).min(self.left as usize);
                    out.extend_from_slice(&input[at..at + taken]);
                    if out.len() as u64 > self.max {
                        return Err(RequestError::BodyTooLong);
                    }
                    at += taken;
                    self.left -= taken as u64;
                    if self.left == 0 {
                        self.state = 2;
                    }
                }
                state => {
                    let byte = input[at];
                    at += 1;
                    if byte != b'\n' {
                        self.line.push(byte);
                        if self.line.len() > 1024 {
                            return Err(RequestError::Malformed("chunk line too long"));
                        }
                        continue;
                    }
                    let line = String::from_utf8_lossy(&self.line).trim().to_owned();
                    self.line.clear();
                    match state {
                        0 => {
                            let size = line.split(';').next().unwrap_or_default().trim();
                            self.left = u64::from_str_radix(size, 16)
                                .map_err(|_| RequestError::Malformed("bad chunk size"))?;
                            self.state = if self.left == 0 { 3 } else { 1 };
                        }
                        2 => self.state = 0,
                        _ if line.is_empty() => return Ok((at, true)),
                        _ => {}
                    }
                }
            }
        }
        Ok((at, false))
    }
}

pub fn write_head(out: &mut Vec<u8>, status: u16, headers: &[(&str, &str)]) {
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

pub fn write_response(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    keep_alive: bool,
    head_only: bool,
) {
    let length = body.len().to_string();
    let mut all = headers.to_vec();
    all.push(("Content-Length", &length));
    all.push(("Connection", if keep_alive { "keep-alive" } else { "close" }));
    write_head(out, status, &all);
    if !head_only {
        out.extend_from_slice(body);
    }
}

pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
