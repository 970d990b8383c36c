//! A service for axum, hyper and every router on `http` and `hyper::upgrade`: WebSockets and event streams on the port of the
//! embedding program.
//!
//! Invariants:
//! - Every buffer has a limit: a slow client blocks the pump, and the server's own rules for lag apply.
//! - A pump ends with its client's connection, whichever side ends it, and when nothing can be written to the client for
//!   two minutes.
//! - A request for something other than a stream of this server gets the server's refusal, never a panic.

mod socket;

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tower_service::Service;
use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, DATE, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::ext::Protocol;
use hyper::rt::{Read, Write};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub use self::socket::{LiveIo, LiveListener};
use self::socket::{MARK, Offer, Offers};
#[cfg(feature = "auth")]
use crate::server::auth::Claims;
use crate::server::{Acceptor, AgreedStream, ServerHandle, StreamRequest, StreamResponse};

/// Maximum size of one piece of an event stream's body, or of what a pump writes to a client at once, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// Size of a pump's buffer for what a client sends, in bytes.
const CLIENT_BYTES: usize = 2 * 1024;

/// Maximum time for which a pump waits to write one piece to a client. The server disconnects clients that read nothing
/// earlier than that, but this does not end the pump's writes to the client.
const STALL: Duration = Duration::from_secs(120);

/// Maximum time for which a client may take to close its side once the server has ended its connection.
const LINGER: Duration = Duration::from_secs(5);

/// Key for a WebSocket handshake over HTTP/2, which has none. The accept value computed from it is not sent.
const ANY_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Returns a service that serves this server's streams on the program's own port.
///
/// A request with `Upgrade: websocket` becomes a client of the server's path `/ws`, another `GET` one of `/sse`, on
/// whichever path the program mounts the service. The query is kept. [`Live::websocket`] and [`Live::events`] set other
/// paths.
///
/// A WebSocket over plain TCP is given to the server's loop as the socket itself, so nothing of it stays in the async runtime.
/// So is an event stream over plain TCP and HTTP/1.1 if the program's listener is wrapped by [`Live::listener`]. Other clients are
/// copied through a pair of sockets by a task of the runtime, with bounded buffers: WebSockets over TLS that the program ends, those
/// over Unix sockets, those over HTTP/2 (RFC 8441, `CONNECT`), and event streams.
///
/// HTTP/2 clients request a WebSocket only if the program offers it: `axum::serve` does with axum's feature `http2`;
/// with hyper and axum-server call `enable_connect_protocol` on the builder for HTTP/2.
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
    let offers = Arc::default();
    Live { acceptor: server.acceptor(), websocket: "/ws".into(), events: "/sse".into(), offers }
}

/// Service of [`live`]. Cheap to clone.
///
/// `call` must run in a tokio runtime with I/O and time. It does not block, except to check a token's signature.
#[derive(Clone)]
pub struct Live {
    acceptor: Acceptor,
    websocket: Arc<str>,
    events: Arc<str>,
    /// Event streams whose sockets may be taken. Shared with the wrappers that this service created.
    offers: Arc<Offers>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Live({}, {})", self.websocket, self.events)
    }
}

/// Kind of stream that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// A WebSocket, by `Upgrade` of HTTP/1.1.
    Upgrade,
    /// A WebSocket, by `CONNECT` of HTTP/2.
    Connect,
    Events,
}

impl Asked {
    /// Returns the kind of stream that a request is for, or `None` if it is for something else.
    fn by<B>(request: &Request<B>) -> Option<Self> {
        let protocol = || request.extensions().get::<Protocol>();
        match *request.method() {
            Method::GET if is_websocket(request.headers()) => Some(Self::Upgrade),
            Method::GET => Some(Self::Events),
            Method::CONNECT if protocol().is_some_and(|name| name.as_str() == "websocket") => {
                Some(Self::Connect)
            }
            _ => None,
        }
    }
}

impl Live {
    /// Sets the server's path for WebSockets, such as a dialect's or a configured endpoint's. Default: `/ws`.
    #[must_use]
    pub fn websocket(self, path: impl Into<Arc<str>>) -> Self {
        Self { websocket: path.into(), ..self }
    }

    /// Sets the server's path for event streams. Default: `/sse`.
    #[must_use]
    pub fn events(self, path: impl Into<Arc<str>>) -> Self {
        Self { events: path.into(), ..self }
    }

    /// Wraps the program's listener, so that an event stream of this service over HTTP/1.1 takes its socket: the
    /// server's loop writes it like a client of its own port, and nothing of it stays in the async runtime. Call it on
    /// the service that you mount, or on a clone of it.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let bus = fanwire::Bus::new();
    /// # let server = fanwire::Server::builder(&bus).spawn()?;
    /// let live = fanwire::tower::live(&server);
    /// let listener = live.listener(tokio::net::TcpListener::bind("127.0.0.1:0").await?);
    /// let app: axum::Router = axum::Router::new().route_service("/live", live);
    /// # #[cfg(feature = "axum")]
    /// let serving = axum::serve(listener, app); // with fanwire's feature `axum`
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// For the program, the response ends when its head is written, and its connection closes: middleware that watches
    /// the body sees its end then, and a graceful shutdown does not wait for it. The head is the one that the program's
    /// middleware made, with `Connection: close` instead of chunks. A response whose status or `Content-Encoding` was
    /// changed is copied as without the wrapper, and so are streams of HTTP/1.0 clients. Middleware that rewrites the
    /// body without changing these headers does not get the body: use a service for it that wraps no listener. Requests
    /// after one for a stream on the same connection are not read, because a stream has no end.
    #[must_use]
    pub fn listener(&self, listener: TcpListener) -> LiveListener {
        LiveListener::new(listener, Arc::clone(&self.offers))
    }

    /// Wraps a connection that the program accepted itself, as [`listener`](Self::listener) does. Give hyper
    /// `TokioIo::new(live.io(socket))`.
    #[must_use]
    pub fn io(&self, socket: TcpStream) -> LiveIo {
        LiveIo::new(socket, Arc::clone(&self.offers))
    }

    /// Returns the request in the form of HTTP/1.1, which the server reads.
    fn stream_request<B>(&self, request: &Request<B>, asked: Asked) -> StreamRequest {
        let path = if asked == Asked::Events { &self.events } else { &self.websocket };
        let query = request.uri().query();
        let target = query.map_or_else(|| path.to_string(), |query| format!("{path}?{query}"));
        let mut stream = StreamRequest::get(&target);
        // HTTP/2 has the host in the target.
        if !request.headers().contains_key(HOST)
            && let Some(authority) = request.uri().authority()
        {
            stream = stream.header("Host", authority.as_str());
        }
        if asked == Asked::Connect {
            for (name, value) in
                [(UPGRADE, "websocket"), (CONNECTION, "Upgrade"), (SEC_WEBSOCKET_KEY, ANY_KEY)]
            {
                stream = stream.header(name.as_str(), value);
            }
        }
        for (name, value) in request.headers() {
            if asked != Asked::Connect || name != SEC_WEBSOCKET_KEY {
                stream = stream.header(name.as_str(), value.as_bytes());
            }
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
        let Some(asked) = Asked::by(&request) else {
            let mut response = Response::new(LiveBody::whole(Bytes::from_static(
                b"{\"error\":\"streams take GET, with Upgrade: websocket or without, or CONNECT of HTTP/2 with :protocol websocket\"}",
            )));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static("GET"));
            return LiveFuture::ready(response);
        };
        let stream = match self.acceptor.check(self.stream_request(&request, asked)) {
            Ok(stream) => stream,
            Err(refusal) => {
                let body = LiveBody::whole(Bytes::copy_from_slice(refusal.body()));
                return LiveFuture::ready(response(&refusal, body, Asked::Events));
            }
        };
        let head = stream.response().clone();
        if asked != Asked::Events {
            tokio::spawn(give(hyper::upgrade::on(&mut request), stream));
            return LiveFuture::ready(response(&head, LiveBody::whole(Bytes::new()), asked));
        }
        if self.offers.is_watched() && request.version() == Version::HTTP_11 {
            return LiveFuture::ready(self.offered(&head, stream));
        }
        match pair_for(stream) {
            Ok(client) => LiveFuture(Outcome::Opening(Some((head, client)))),
            Err(error) => {
                tracing::warn!(%error, "an event stream could not be given to the server");
                let mut response = Response::new(LiveBody::whole(Bytes::new()));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                LiveFuture::ready(response)
            }
        }
    }

    /// Returns the response of an event stream whose socket may be taken when its head is written.
    fn offered(&self, head: &StreamResponse, stream: AgreedStream) -> Response<LiveBody> {
        let offer = self.offers.offer(stream);
        let mark = offer.mark();
        let mut response =
            response(head, LiveBody(Content::Offered { offer, is_written: false }), Asked::Events);
        if let Ok(mark) = HeaderValue::try_from(mark) {
            response.headers_mut().insert(MARK, mark);
        }
        // With this header hyper reads no other request from the connection.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
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
                    // Also ready if the server has closed its end: the body then ends immediately.
                    let _ = ready!(client.poll_read_ready(cx));
                }
                let opened = opening.take();
                opened.map(|(head, client)| response(&head, LiveBody(Content::Pipe(client)), Asked::Events))
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

/// Returns the server's response with this body. hyper writes the hop-by-hop headers, except those of an upgrade. In
/// HTTP/2 a status of 200 accepts a WebSocket.
fn response(head: &StreamResponse, body: LiveBody, asked: Asked) -> Response<LiveBody> {
    let mut response = Response::new(body);
    *response.status_mut() = match asked {
        Asked::Connect => StatusCode::OK,
        _ => StatusCode::from_u16(head.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    };
    for (name, value) in head.headers() {
        let (Ok(name), Ok(value)) = (http::HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            continue;
        };
        let is_sent = match asked {
            Asked::Upgrade => true,
            Asked::Connect => ![CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT].contains(&name),
            Asked::Events => ![CONNECTION, TRANSFER_ENCODING, DATE].contains(&name),
        };
        if is_sent {
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

/// Gives one end of a pair to the server, and returns the other.
fn pair_for(stream: AgreedStream) -> io::Result<tokio::net::UnixStream> {
    let (client, server) = pair()?;
    stream.adopt(server, Vec::new())?;
    Ok(client)
}

/// Reads a piece of the server's output from this side of a pair. It is empty at the end.
fn poll_piece(pipe: &tokio::net::UnixStream, cx: &mut Context<'_>) -> Poll<io::Result<BytesMut>> {
    loop {
        ready!(pipe.poll_read_ready(cx))?;
        // Allocated once there is something to read: an idle client holds no buffer.
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        match pipe.try_read_buf(&mut piece) {
            // The readiness was stale.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return Poll::Ready(read.map(|_| piece)),
        }
    }
}

/// Gives a client to the server when its upgrade is done.
async fn give(upgrade: OnUpgrade, stream: AgreedStream) {
    let given = match upgrade.await {
        Ok(upgraded) => give_upgraded(upgraded, stream).await,
        Err(error) => Err(io::Error::other(error)),
    };
    if let Err(error) = given {
        // The client disconnected during its upgrade, or the server has ended. The connection is closed.
        tracing::debug!(%error, "a WebSocket could not be given to the server");
    }
}

/// Gives the socket itself if it is TCP; otherwise copies between the client and a pair.
async fn give_upgraded(upgraded: Upgraded, stream: AgreedStream) -> io::Result<()> {
    match into_tcp(upgraded) {
        Ok((socket, read)) => stream.adopt(socket?.into_std()?, read.to_vec()),
        Err(upgraded) => pump(upgraded, pair_for(stream)?).await,
    }
}

/// Copies between a client and the server's end of a pair. Ends when the server has ended the connection, even if the
/// client does not close its side, and when either side fails.
async fn pump(client: Upgraded, server: tokio::net::UnixStream) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (from_server, mut to_server) = server.into_split();
    let ended = {
        let mut up = pin!(async {
            let mut piece = [0; CLIENT_BYTES];
            loop {
                match from_client.read(&mut piece).await? {
                    // The server closes a client that has closed its side.
                    0 => return to_server.shutdown().await,
                    read => to_server.write_all(&piece[..read]).await?,
                }
            }
        });
        let mut down = pin!(async {
            loop {
                let piece = poll_fn(|cx| poll_piece(from_server.as_ref(), cx)).await?;
                if piece.is_empty() {
                    return tokio::time::timeout(STALL, to_client.shutdown()).await?;
                }
                let written = async {
                    to_client.write_all(&piece).await?;
                    to_client.flush().await
                };
                tokio::time::timeout(STALL, written).await??;
            }
        });
        let mut is_client_done = false;
        poll_fn(move |cx| {
            if !is_client_done && let Poll::Ready(done) = up.as_mut().poll(cx) {
                done?;
                is_client_done = true;
            }
            down.as_mut().poll(cx)
        })
        .await
    };
    // Closing a socket with unread bytes would drop the bytes that the client has not read yet.
    let unread = async {
        let mut piece = [0; CLIENT_BYTES];
        while matches!(from_client.read(&mut piece).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(LINGER, unread).await;
    ended
}

/// Returns the TCP socket below an upgraded connection, and the bytes that hyper has read of it.
fn into_tcp(upgraded: Upgraded) -> Result<(io::Result<TcpStream>, Bytes), Upgraded> {
    let upgraded = match into_io::<TokioIo<TcpStream>>(upgraded) {
        Ok((io, read)) => return Ok((Ok(io.into_inner()), read)),
        Err(upgraded) => upgraded,
    };
    let (io, read) = into_io::<TokioIo<LiveIo>>(upgraded)?;
    Ok((io.into_inner().into_tcp(), read))
}

/// Returns the I/O object below an upgraded connection if it has this type. axum and hyper-util's builder wrap it in
/// their own types.
fn into_io<T: Read + Write + Unpin + 'static>(upgraded: Upgraded) -> Result<(T, Bytes), Upgraded> {
    match hyper_util::server::conn::auto::upgrade::downcast::<T>(upgraded) {
        Ok(parts) => Ok((parts.io, parts.read_buf)),
        Err(upgraded) => upgraded.downcast::<T>().map(|parts| (parts.io, parts.read_buf)),
    }
}

/// Body of a response of [`Live`]: a refusal's JSON, or an event stream.
pub struct LiveBody(Content);

enum Content {
    Whole(Option<Bytes>),
    /// Event stream whose socket may be taken when its head is written.
    Offered {
        offer: Offer,
        /// Whether hyper had a chance to write the head.
        is_written: bool,
    },
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
        if let Content::Offered { offer, is_written } = &mut self.0 {
            if !mem::replace(is_written, true) {
                // hyper writes the head before it polls again. If another caller polls immediately, the stream is
                // copied.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.0 = match offer.withdraw() {
                None => Content::Whole(None),
                Some(stream) => Content::Pipe(pair_for(stream)?),
            };
        }
        match &mut self.0 {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Offered { .. } => Poll::Pending,
            Content::Pipe(pipe) => Poll::Ready(match ready!(poll_piece(pipe, cx)) {
                Ok(piece) if piece.is_empty() => None,
                read => Some(read.map(|piece| Frame::data(piece.freeze()))),
            }),
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
            Content::Offered { .. } | Content::Pipe(_) => SizeHint::default(),
        }
    }
}
