//! A service for axum, hyper and every router on `http` and `hyper::upgrade`: WebSockets and event streams on the port of the
//! embedding program.
//!
//! Invariants:
//! - Nothing is held in a buffer without a limit: a slow client blocks the pump, and the server's own rules for lag hold.
//! - A request that is no stream of this server gets the server's refusal, never a panic.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::tower_service::Service;
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, DATE, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

#[cfg(feature = "auth")]
use crate::server::auth::Claims;
use crate::server::{Acceptor, AgreedStream, ServerHandle, StreamRequest, StreamResponse};

/// Maximum size of one piece of an event stream's body, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// Returns a service that serves this server's streams on the program's own port.
///
/// A request with `Upgrade: websocket` becomes a client of the server's path `/ws`, another `GET` one of `/sse`, whatever the
/// path on which the program mounts the service; the query is kept. [`Live::websocket`] and [`Live::events`] set other paths.
///
/// A WebSocket over plain TCP is given to the server's loop as the socket itself, so nothing of it stays in the async runtime.
/// Three kinds of clients are copied through a pair of sockets by a task of the runtime, with bounded buffers: WebSockets
/// over TLS that the program ends, those over Unix sockets, and event streams (HTTP has no way to take their socket).
///
/// Middleware before the service may put these into the request's extensions: [`Claims`], which become
/// the client's rights (with [`AuthConfig::by_program`](crate::auth::AuthConfig::by_program)), and `SocketAddr` or `IpAddr`,
/// the client's address for limits where the socket is not TCP.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use axum::Router;
/// use fanwire::{Bus, Server};
///
/// let bus = Bus::new();
/// let server = Server::builder(&bus).spawn()?;
/// let app: Router = Router::new().route_service("/live", fanwire::tower::live(&server));
/// # drop(app);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn live(server: &ServerHandle) -> Live {
    Live { acceptor: server.acceptor(), websocket: "/ws".into(), events: "/sse".into() }
}

/// Service of [`live`]. Cheap to clone.
///
/// `call` must run in a tokio runtime with I/O. It does not block, but for the check of a token's signature. HTTP/2 has event
/// streams only: a WebSocket over HTTP/2 (RFC 8441) is refused.
#[derive(Clone)]
pub struct Live {
    acceptor: Acceptor,
    websocket: Arc<str>,
    events: Arc<str>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Live({}, {})", self.websocket, self.events)
    }
}

impl Live {
    /// Sets the server's path for WebSockets, as of a dialect or a configured endpoint. Default: `/ws`.
    #[must_use]
    pub fn websocket(self, path: impl Into<Arc<str>>) -> Self {
        Self { websocket: path.into(), ..self }
    }

    /// Sets the server's path for event streams. Default: `/sse`.
    #[must_use]
    pub fn events(self, path: impl Into<Arc<str>>) -> Self {
        Self { events: path.into(), ..self }
    }

    /// Returns the request as the server reads it.
    fn stream_request<B>(&self, request: &Request<B>, is_upgrade: bool) -> StreamRequest {
        let path = if is_upgrade { &self.websocket } else { &self.events };
        let query = request.uri().query();
        let target = query.map_or_else(|| path.to_string(), |query| format!("{path}?{query}"));
        let mut stream = StreamRequest::get(&target);
        // HTTP/2 has the host in the target.
        if !request.headers().contains_key(HOST)
            && let Some(authority) = request.uri().authority()
        {
            stream = stream.header("Host", authority.as_str());
        }
        for (name, value) in request.headers() {
            stream = stream.header(name.as_str(), value.as_bytes());
        }
        let extensions = request.extensions();
        let address = extensions.get::<SocketAddr>().map(SocketAddr::ip);
        if let Some(address) = address.or_else(|| extensions.get::<IpAddr>().copied()) {
            stream = stream.peer(address);
        }
        #[cfg(feature = "auth")]
        if let Some(claims) = extensions.get::<Claims>() {
            stream = stream.claims(claims.clone());
        }
        stream
    }

    fn respond<B>(&self, mut request: Request<B>) -> LiveFuture {
        if request.method() != http::Method::GET {
            let mut response = Response::new(LiveBody::whole(Bytes::from_static(
                b"{\"error\":\"streams take GET, with Upgrade: websocket or without\"}",
            )));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static("GET"));
            return LiveFuture::ready(response);
        }
        let is_upgrade = is_websocket(request.headers());
        let stream = match self.acceptor.check(self.stream_request(&request, is_upgrade)) {
            Ok(stream) => stream,
            Err(refusal) => {
                let body = LiveBody::whole(Bytes::copy_from_slice(refusal.body()));
                return LiveFuture::ready(response(&refusal, body, false));
            }
        };
        let head = stream.response().clone();
        if is_upgrade {
            tokio::spawn(give(hyper::upgrade::on(&mut request), stream));
            return LiveFuture::ready(response(&head, LiveBody::whole(Bytes::new()), true));
        }
        match pair().and_then(|(client, server)| stream.adopt(server, Vec::new()).map(|()| client)) {
            Ok(client) => LiveFuture(Outcome::Opening(Some((head, client)))),
            Err(error) => {
                tracing::warn!(%error, "an event stream could not be given to the server");
                let mut response = Response::new(LiveBody::whole(Bytes::new()));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                LiveFuture::ready(response)
            }
        }
    }
}

/// Future of a response of [`Live`]. It waits for the first bytes of an event stream, so that no event after the response is
/// missed.
pub struct LiveFuture(Outcome);

enum Outcome {
    Ready(Option<Response<LiveBody>>),
    Opening(Option<(StreamResponse, tokio::net::UnixStream)>),
}

impl fmt::Debug for LiveFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveFuture")
    }
}

impl LiveFuture {
    fn ready(response: Response<LiveBody>) -> Self {
        Self(Outcome::Ready(Some(response)))
    }
}

impl Future for LiveFuture {
    type Output = Result<Response<LiveBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match &mut self.0 {
            Outcome::Ready(response) => response.take(),
            Outcome::Opening(opening) => {
                if let Some((_, client)) = opening {
                    // Also ready where the server closed its end. The body then ends at once.
                    let _ = ready!(client.poll_read_ready(cx));
                }
                let opened = opening.take();
                opened.map(|(head, client)| response(&head, LiveBody(Content::Pipe(client)), false))
            }
        };
        Poll::Ready(Ok(response.expect("a future is not polled after it was ready")))
    }
}

impl<B> Service<Request<B>> for Live {
    type Response = Response<LiveBody>;
    type Error = Infallible;
    type Future = LiveFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.respond(request)
    }
}

/// Returns whether headers ask for a WebSocket.
fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|value| {
        let mut protocols = value.as_bytes().split(|byte| *byte == b',');
        protocols.any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
    })
}

/// Returns the server's response with this body. Headers of one hop are left to hyper, but for those of an upgrade.
fn response(head: &StreamResponse, body: LiveBody, is_upgrade: bool) -> Response<LiveBody> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(head.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in head.headers() {
        let (Ok(name), Ok(value)) = (http::HeaderName::try_from(name), http::HeaderValue::try_from(value))
        else {
            continue;
        };
        let is_of_hop = [CONNECTION, TRANSFER_ENCODING, DATE].contains(&name);
        if is_upgrade || !is_of_hop {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Returns a pair of sockets: this side for the runtime, the other one for the server's loop.
fn pair() -> io::Result<(tokio::net::UnixStream, UnixStream)> {
    let (client, server) = UnixStream::pair()?;
    client.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(client)?, server))
}

/// Gives a client to the server once its upgrade is done.
async fn give(upgrade: OnUpgrade, stream: AgreedStream) {
    let given = match upgrade.await {
        Ok(upgraded) => give_upgraded(upgraded, stream).await,
        Err(error) => Err(io::Error::other(error)),
    };
    if let Err(error) = given {
        // The client left during its upgrade, or the server has ended: its connection is closed.
        tracing::debug!(%error, "a WebSocket could not be given to the server");
    }
}

/// Gives the socket itself if it is TCP; otherwise copies between the client and a pair until either side ends.
async fn give_upgraded(upgraded: Upgraded, stream: AgreedStream) -> io::Result<()> {
    match into_tcp(upgraded) {
        Ok((socket, read)) => stream.adopt(socket.into_std()?, read.to_vec()),
        Err(upgraded) => {
            let (mut client, server) = pair()?;
            stream.adopt(server, Vec::new())?;
            let mut upgraded = TokioIo::new(upgraded);
            tokio::io::copy_bidirectional(&mut upgraded, &mut client).await?;
            upgraded.shutdown().await
        }
    }
}

/// Returns the TCP socket below an upgraded connection, and the bytes that hyper has read of it. axum and hyper-util's builder
/// wrap it in a type of their own.
fn into_tcp(upgraded: Upgraded) -> Result<(TcpStream, Bytes), Upgraded> {
    match hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
        Ok(parts) => Ok((parts.io.into_inner(), parts.read_buf)),
        Err(upgraded) => {
            let parts = upgraded.downcast::<TokioIo<TcpStream>>()?;
            Ok((parts.io.into_inner(), parts.read_buf))
        }
    }
}

/// Body of a response of [`Live`]: a refusal's JSON, or an event stream.
pub struct LiveBody(Content);

enum Content {
    Whole(Option<Bytes>),
    /// End of a pair into which the server's loop writes.
    Pipe(tokio::net::UnixStream),
}

impl fmt::Debug for LiveBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveBody")
    }
}

impl LiveBody {
    fn whole(bytes: Bytes) -> Self {
        Self(Content::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }
}

impl Body for LiveBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.0 {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Pipe(pipe) => loop {
                if let Err(error) = ready!(pipe.poll_read_ready(cx)) {
                    return Poll::Ready(Some(Err(error)));
                }
                // Allocated once there is something to read: an idle stream holds no buffer.
                let mut piece = BytesMut::with_capacity(PIECE_BYTES);
                match pipe.try_read_buf(&mut piece) {
                    Ok(0) => return Poll::Ready(None),
                    Ok(_) => return Poll::Ready(Some(Ok(Frame::data(piece.freeze())))),
                    // The poll reported the end of an earlier state.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Pipe(_) => SizeHint::default(),
        }
    }
}
