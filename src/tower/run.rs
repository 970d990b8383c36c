//! Requests that publish into a run and are answered by it.
//!
//! The server decides about the response after it has read the body. So the service gives it one end of a pair of sockets,
//! writes the request's body there in chunks, and reads the response.
//!
//! Invariants:
//! - The server's own limits apply: on the body's size, on the time for it, and on the memory of all bodies.
//! - A body that breaks off never ends its chunks, so nothing of it is published.
//! - No byte of the body can become another request: the framing is made here.

use std::error::Error;
use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::{Buf as _, Bytes};
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;
use tokio::net::UnixStream;

use super::body::{Content, LiveBody, PIECE_BYTES, STALL, pair};
use crate::server::{Acceptor, StreamRequest};

/// Maximum size of the head of the server's response, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Maximum number of headers in the server's response.
const HEADERS_MAX: usize = 64;

/// Response that the service is waiting for.
pub(super) type RunFuture = Pin<Box<dyn Future<Output = Response<LiveBody>> + Send>>;

/// Returns the path on the server of the run that a request's path names: the last segment after `/runs/`.
pub(super) fn path_of(path: &str) -> Option<&str> {
    let (before, stream) = path.rsplit_once('/')?;
    let at = before.strip_suffix("/runs")?.len();
    (!stream.is_empty()).then(|| &path[at..])
}

/// Returns whether a request's header is one of its body's framing, which is made anew.
pub(super) fn is_framing(name: &HeaderName) -> bool {
    // hyper has answered an expectation.
    [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT].contains(name)
}

/// Gives a request to the server with its body, and returns the response.
pub(super) fn answer<B>(acceptor: Acceptor, request: StreamRequest, body: B) -> RunFuture
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    Box::pin(async move {
        match exchange(&acceptor, request, body).await {
            Ok(response) => response,
            Err(error) => {
                // The server has ended, or the client broke off.
                tracing::debug!(%error, "a request for a run could not be given to the server");
                let mut response = Response::new(LiveBody::whole(Bytes::new()));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response
            }
        }
    })
}

async fn exchange<B>(acceptor: &Acceptor, request: StreamRequest, body: B) -> io::Result<Response<LiveBody>>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let is_empty = body.is_end_stream();
    let (name, value) = if is_empty { ("Content-Length", "0") } else { ("Transfer-Encoding", "chunked") };
    let (client, server) = pair()?;
    acceptor.adopt(request.header(name, value), server, Vec::new())?;
    // Dropped before the socket moves on.
    let (response, rest) = {
        let mut sent = pin!(async { if is_empty { Ok(()) } else { send(&client, body).await } });
        let mut head = pin!(read_head(&client));
        let mut is_sent = false;
        // The server answers each body, also before it has all of it, so its limits on time end this wait.
        poll_fn(|cx| {
            if !is_sent && let Poll::Ready(done) = sent.as_mut().poll(cx) {
                is_sent = true;
                // The response to a broken pipe may be there to read. A broken body gets none.
                if let Some(error) = done.err().filter(|error| error.kind() == io::ErrorKind::InvalidData) {
                    return Poll::Ready(Err(error));
                }
            }
            head.as_mut().poll(cx)
        })
        .await?
    };
    Ok(response.map(|()| LiveBody(Content::Rest(rest, client))))
}

/// Writes a body in chunks. An error of the body itself is `InvalidData`.
async fn send<B>(client: &UnixStream, body: B) -> io::Result<()>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut body = pin!(body);
    let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx).map_err(broken)).await {
        let Ok(mut data) = frame?.into_data() else { continue };
        while data.has_remaining() {
            let piece = data.copy_to_bytes(data.remaining().min(PIECE_BYTES));
            let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
            write_all(client, &chunk).await?;
        }
    }
    write_all(client, b"0\r\n\r\n").await
}

async fn write_all(client: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        tokio::time::timeout(STALL, client.writable()).await??;
        match client.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads the head of the server's response. Returns it with the bytes after it.
async fn read_head(client: &UnixStream) -> io::Result<(Response<()>, Bytes)> {
    let mut read = Vec::new();
    loop {
        client.readable().await?;
        match client.try_read_buf(&mut read) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if let Some((response, end)) = parse(&read)? {
            return Ok((response, Bytes::from(read).slice(end..)));
        }
        if read.len() > HEAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the response's head is too long"));
        }
    }
}

/// Parses the head of a response, if it is complete, and returns its length. hyper writes the hop-by-hop headers.
fn parse(bytes: &[u8]) -> io::Result<Option<(Response<()>, usize)>> {
    let fault = |error: &dyn Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = head.parse(bytes).map_err(|error| fault(&error))? else {
        return Ok(None);
    };
    let status = StatusCode::from_u16(head.code.unwrap_or_default()).map_err(|error| fault(&error))?;
    let mut kept = HeaderMap::new();
    for header in head.headers.iter() {
        let is_sent = !["connection", "transfer-encoding", "date", "keep-alive"]
            .iter()
            .any(|name| header.name.eq_ignore_ascii_case(name));
        if let (true, Ok(name), Ok(value)) =
            (is_sent, HeaderName::try_from(header.name), HeaderValue::from_bytes(header.value))
        {
            kept.append(name, value);
        }
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = kept;
    Ok(Some((response, end)))
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn the_run_is_the_last_segment_after_runs() {
        for (path, run) in [
            ("/runs/run-42", Some("/runs/run-42")),
            ("/live/runs/run-42", Some("/runs/run-42")),
            ("/runs/runs/a%2Fb", Some("/runs/a%2Fb")),
            ("/runs/", None),
            ("/runs", None),
            ("/live", None),
            ("/truns/a", None),
            ("/runs/a/b", None),
            ("", None),
        ] {
            assert_eq!(path_of(path), run, "{path}");
        }
    }
}
