//! A service for axum, hyper and every router on `http` and `hyper::upgrade`: WebSockets and event streams on the port of the
//! embedding program.
//!
//! Invariants:
//! - Every buffer has a limit: a slow client blocks the pump, and the server's own rules for lag apply.
//! - A pump ends with its client's connection, whichever side ends it, and when nothing can be written to the client for
//!   two minutes.
//! - A request for something other than a stream of this server gets the server's refusal, never a panic.

mod body;
mod run;
mod socket;

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tower_service::Service;
use bytes::Bytes;
use http::header::{
    CONNECTION, DATE, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::ext::Protocol;
use hyper::rt::{Read, Write};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub use self::body::LiveBody;
use self::body::{Content, STALL, pair_for, poll_piece};
use self::run::RunFuture;
pub use self::socket::{LiveIo, LiveListener};
use self::socket::{MARK, Offers};
#[cfg(feature = "auth")]
use crate::server::auth::Claims;
use crate::server::{Acceptor, AgreedStream, ServerHandle, StreamRequest, StreamResponse};

/// Size of a pump's buffer for what a client sends, in bytes.
const CLIENT_BYTES: usize = 2 * 1024;

/// Maximum time for which a client may take to close its side once the server has ended its connection.
const LINGER: Duration = Duration::from_secs(5);

/// Key for a WebSocket handshake over HTTP/2, which has none. The accept value computed from it is not sent.
const ANY_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Returns a service that serves this server's streams on the program's own port.
///
/// A request with `Upgrade: websocket` becomes a client of the server's path `/ws`, another `GET` one of `/sse`, on
/// whichever path the program mounts the service. The query is kept. [`Live::websocket`] and [`Live::events`] set other
/// paths. A `POST` to a path that ends with `/runs/{stream}` publishes its body into that stream and is answered by it, as on
/// the server's own port, with its `Idempotency-Key`.
///
/// A WebSocket over plain TCP is given to the server's loop as the socket itself, so nothing of it stays in the async runtime.
/// So is an event stream over plain TCP and HTTP/1.1 if the program's listener is wrapped by [`Live::listener`]. Other clients are
/// copied through a pair of sockets by a task of the runtime, with bounded buffers: WebSockets over TLS that the program ends, those
/// over Unix sockets, those over HTTP/2 (RFC 8441, `CONNECT`), event streams, and runs.
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
    /// Event streams with sockets that may be taken. Shared with the wrappers that this service created.
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
    /// A run, by `POST`.
    Run,
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
            Method::POST => run::path_of(request.uri().path()).map(|_| Self::Run),
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
        let path = match asked {
            Asked::Run => run::path_of(request.uri().path()).unwrap_or_default(),
            Asked::Events => &self.events,
            Asked::Upgrade | Asked::Connect => &self.websocket,
        };
        let query = request.uri().query();
        let target = query.map_or_else(|| path.to_string(), |query| format!("{path}?{query}"));
        let mut stream =
            if asked == Asked::Run { StreamRequest::post(&target) } else { StreamRequest::get(&target) };
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
            let is_replaced = match asked {
                Asked::Connect => name == SEC_WEBSOCKET_KEY,
                Asked::Run => run::is_framing(name),
                Asked::Upgrade | Asked::Events => false,
            };
            if !is_replaced {
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

    fn respond<B>(&self, mut request: Request<B>) -> LiveFuture
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if Asked::by(&request) == Some(Asked::Run) {
            let stream = self.stream_request(&request, Asked::Run);
            let answer = run::answer(self.acceptor.clone(), stream, request.into_body());
            return LiveFuture(Outcome::Run(answer));
        }
        let Some(asked) = Asked::by(&request) else {
            let mut response = Response::new(LiveBody::whole(Bytes::from_static(
                b"{\"error\":\"streams take GET, with Upgrade: websocket or without, or CONNECT of HTTP/2 with :protocol websocket; POST is for paths that end with /runs/{stream}\"}",
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

    /// Returns the response of an event stream with a socket that may be taken when its head is written.
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
    Run(RunFuture),
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
            Outcome::Run(answer) => return answer.as_mut().poll(cx).map(Ok),
        };
        Poll::Ready(Ok(response.expect("a future is not polled after it was ready")))
    }
}

impl<B> Service<Request<B>> for Live
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
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
            Asked::Events | Asked::Run => ![CONNECTION, TRANSFER_ENCODING, DATE].contains(&name),
        };
        if is_sent {
            response.headers_mut().append(name, value);
        }
    }
    response
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
