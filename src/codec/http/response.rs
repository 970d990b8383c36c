//! An answer's bytes.

use std::io::Write as _;

/// Appends a head without a length, for a stream or an upgrade.
pub fn write_head(out: &mut Vec<u8>, status: u16, headers: &[(&str, &str)]) {
    // Writing to a vector does not fail.
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        debug_assert!(!value.bytes().any(|b| b == b'\r' || b == b'\n'), "a header's value is one line");
        let _ = write!(out, "{name}: {value}\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole answer; `head_only` leaves the body out, for HEAD.
pub fn write_response(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    keep_alive: bool,
    head_only: bool,
) {
    let length = body.len().to_string();
    let mut all = Vec::with_capacity(headers.len() + 2);
    all.extend_from_slice(headers);
    if status != 204 {
        all.push(("Content-Length", length.as_str()));
    }
    all.push(("Connection", if keep_alive { "keep-alive" } else { "close" }));
    write_head(out, status, &all);
    if !head_only && status != 204 {
        out.extend_from_slice(body);
    }
}

/// The phrase that goes with a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
