//! Connections that the embedding program accepts, given to a running server.
//!
//! Invariants:
//! - A request passes the checks that it would pass on a port of the server's own.
//! - A header's name or value never becomes a second header or a second request.

use std::fmt;
use std::io;
use std::net::{IpAddr, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::Arc;

#[cfg(feature = "auth")]
use super::auth::Claims;
use super::auth::Shown;
use super::http::routes::{self, RouteOutcome};
use super::limits::budget::{self, Budget};
use super::rng::Rng;
use super::session::context::{Context, LoopView};
use super::session::effect::Effect;
use super::shared::Shared;
use super::shared::adoption::{AdoptedHead, AdoptedRequest, AdoptedSocket, Adoption};
use crate::codec::deflate::Inflater;
use crate::codec::http::{self, Method, Request};
use crate::event::{EventId, Position, Sequence, Timestamp};

/// Gives a server connections that the program has accepted itself. Cheap to clone; may outlive the server.
///
/// The program reads a request, and then either calls [`adopt`](Self::adopt), after which the server answers the
/// request and owns the socket, or calls [`check`](Self::check), writes the response itself and calls
/// [`AgreedStream::adopt`]. An adopted connection is limited, counted and drained as any other. It moves to a successor
/// process if it is TCP.
///
/// ```
/// use fanwire::server::StreamRequest;
/// use fanwire::{Bus, Server};
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
///
/// let bus = Bus::new();
/// // This server listens nowhere.
/// let server = Server::builder(&bus).spawn()?;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut client = TcpStream::connect(listener.local_addr()?)?;
/// let (socket, _) = listener.accept()?;
/// // The program has read `GET /live` here, and decides that the client gets an event stream.
/// let request = StreamRequest::get("/sse?type=task.*").header("Host", "localhost");
/// server.acceptor().adopt(request, socket, Vec::new())?;
///
/// let mut head = [0; 15];
/// client.read_exact(&mut head)?;
/// assert_eq!(&head, b"HTTP/1.1 200 OK");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Acceptor {
    shared: Arc<Shared>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

/// Request for a stream, as the program has read it: `GET` without a body, or the head of a `POST`.
pub struct StreamRequest {
    head: Vec<u8>,
    /// Fault of a header or the target; reported when the request is used.
    fault: Option<String>,
    peer: Option<IpAddr>,
    #[cfg(feature = "auth")]
    claims: Option<Claims>,
}

/// Leaves out the query and the headers, which may hold tokens.
impl fmt::Debug for StreamRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamRequest({} bytes)", self.head.len())
    }
}

impl StreamRequest {
    /// Starts a request for a path of the server, with a query if there is one: `/ws`, `/sse?type=task.*`, or an endpoint of
    /// the config.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// Starts a request that publishes: `/runs/run-42`, which is answered by that stream, or `/publish`. Only for
    /// [`Acceptor::adopt`]: the server reads the body from the socket, by the request's `Content-Length` or
    /// `Transfer-Encoding`. Pass what was read of it as `read`.
    #[must_use]
    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    fn new(method: &str, target: &str) -> Self {
        let is_target = target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic());
        let fault = (!is_target).then(|| "the target is not a path in ASCII that starts with /".to_owned());
        Self {
            head: format!("{method} {target} HTTP/1.1\r\n").into_bytes(),
            fault,
            peer: None,
            #[cfg(feature = "auth")]
            claims: None,
        }
    }

    /// Adds a header of the client's request. Pass all headers: `Host`, `Origin`, those of the WebSocket handshake and
    /// the credentials.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let is_name = !name.is_empty() && name.bytes().all(http::is_token_byte);
        if !is_name || value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            self.fault.get_or_insert_with(|| "a header has a forbidden character".to_owned());
            return self;
        }
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            self.head.extend_from_slice(part);
        }
        self
    }

    /// Sets the client's address, for limits by address. Needed only if the socket is not TCP.
    #[must_use]
    pub fn peer(mut self, address: IpAddr) -> Self {
        self.peer = Some(address);
        self
    }

    /// Sets the client's rights, instead of those of a token in the request. The program has authenticated the client;
    /// the config must allow that ([`AuthConfig::by_program`](crate::auth::AuthConfig::by_program)).
    #[cfg(feature = "auth")]
    #[must_use]
    pub fn claims(mut self, claims: Claims) -> Self {
        self.claims = Some(claims);
        self
    }
}

/// Response to a [`StreamRequest`]: the head of a stream, or a whole refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl StreamResponse {
    /// Returns the status: 101 for a WebSocket, 200 for an event stream, an error for a refusal.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the headers in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the body: JSON `{"error": …}` of a refusal, otherwise empty.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Returns the response as bytes of HTTP/1.1.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let headers: Vec<(&str, &str)> = self.headers().collect();
        let mut out = Vec::with_capacity(256 + self.body.len());
        http::write_head(&mut out, self.status, &headers);
        out.extend_from_slice(&self.body);
        out
    }

    /// Reads a response that this server wrote.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(end) = parsed.parse(bytes).ok()? else { return None };
        let status = parsed.code?;
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Some(Self {
            status,
            headers: (parsed.headers.iter())
                .map(|header| (header.name.to_owned(), text(header.value)))
                .collect(),
            body: if status < 300 { Vec::new() } else { bytes[end..].to_vec() },
        })
    }

    /// Returns a refusal in the form of the routes' own.
    fn error(status: u16, error: &str) -> Self {
        let mut bytes = Vec::with_capacity(256);
        routes::write_error(&mut bytes, status, error, Timestamp::now());
        Self::read(&bytes).unwrap_or_else(|| Self { status, headers: Vec::new(), body: Vec::new() })
    }
}

/// Socket of a client that the program has accepted. It becomes non-blocking.
#[derive(Debug)]
pub struct ClientSocket(SocketKind);

#[derive(Debug)]
enum SocketKind {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl From<TcpStream> for ClientSocket {
    fn from(socket: TcpStream) -> Self {
        Self(SocketKind::Tcp(socket))
    }
}

/// Wraps one end of a [pair](UnixStream::pair), for clients whose bytes are not plain TCP (TLS, HTTP/2). The program copies
/// between the client and the other end.
#[cfg(unix)]
impl From<UnixStream> for ClientSocket {
    fn from(socket: UnixStream) -> Self {
        Self(SocketKind::Unix(socket))
    }
}

impl ClientSocket {
    #[cfg_attr(not(unix), expect(unused_variables, reason = "a TCP socket knows its peer"))]
    fn adopted(self, peer: Option<IpAddr>) -> AdoptedSocket {
        match self.0 {
            SocketKind::Tcp(socket) => AdoptedSocket::Tcp(socket),
            #[cfg(unix)]
            SocketKind::Unix(socket) => AdoptedSocket::Unix(socket, peer),
        }
    }
}

/// Stream that the server agreed to, for [`AgreedStream::adopt`] after the program has written the response.
#[must_use = "the client waits for its stream"]
pub struct AgreedStream {
    shared: Arc<Shared>,
    request: Request,
    shown: Shown,
    peer: Option<IpAddr>,
    response: StreamResponse,
}

impl fmt::Debug for AgreedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgreedStream({})", self.response.status)
    }
}

impl AgreedStream {
    /// Returns the response to write: status 101 for a WebSocket, 200 for an event stream.
    #[must_use]
    pub fn response(&self) -> &StreamResponse {
        &self.response
    }

    /// Gives the client to the server, after the response was written and before anything else is written. `read`:
    /// bytes of the client that the program has read after the request. Does not block.
    ///
    /// # Errors
    ///
    /// Fails if the server has ended. The socket is closed then.
    pub fn adopt(self, socket: impl Into<ClientSocket>, read: Vec<u8>) -> io::Result<()> {
        self.give(socket.into(), read, AdoptedHead::Written)
    }

    /// Gives the client to the server, which writes this head before the stream, or refuses the client if it can't serve it after
    /// all.
    ///
    /// # Errors
    ///
    /// As [`adopt`](Self::adopt).
    #[cfg(all(unix, feature = "tower"))]
    pub(crate) fn adopt_with_head(self, socket: TcpStream, head: Vec<u8>) -> io::Result<()> {
        self.give(socket.into(), Vec::new(), AdoptedHead::Given(head))
    }

    fn give(self, socket: ClientSocket, read: Vec<u8>, head: AdoptedHead) -> io::Result<()> {
        let Self { shared, request, shown, peer, .. } = self;
        let request = AdoptedRequest { request, shown: Some(shown), read, head };
        give(&shared, Adoption { socket: socket.adopted(peer), request })
    }
}

/// Gives a connection to a loop.
fn give(shared: &Shared, adoption: Adoption) -> io::Result<()> {
    if !shared.alarm.is_raised() && shared.loops.adoptions.give(adoption) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "the server has ended: start another one"))
    }
}

/// View of a connection whose loop is not chosen yet.
struct Unplaced {
    peer: Option<IpAddr>,
}

impl LoopView for Unplaced {
    fn position(&self) -> Option<Position> {
        None
    }

    fn read_to(&self, _: u16) -> Sequence {
        // The loop that gets the connection looks again.
        Sequence::MAX
    }

    fn newest(&self) -> Option<EventId> {
        None
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer
    }
}

impl Acceptor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Gives a client to the server, which answers its request. `read`: bytes of the client that the program has read
    /// after the request. Does not block, except to check a token's signature.
    ///
    /// # Errors
    ///
    /// Fails if the request is not one that HTTP allows, or if the server has ended. The socket is closed then.
    pub fn adopt(
        &self,
        request: StreamRequest,
        socket: impl Into<ClientSocket>,
        read: Vec<u8>,
    ) -> io::Result<()> {
        let peer = request.peer;
        let parsed =
            self.read(&request).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let shown =
            self.shown(request).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let request = AdoptedRequest { request: parsed, shown, read, head: AdoptedHead::Own };
        give(&self.shared, Adoption { socket: socket.into().adopted(peer), request })
    }

    /// Decides on a request, for a program that writes the response itself. Does not block, except to check a token's
    /// signature: up to a millisecond.
    ///
    /// # Errors
    ///
    /// Returns the response that refuses the request.
    pub fn check(&self, request: StreamRequest) -> Result<AgreedStream, StreamResponse> {
        let peer = request.peer;
        let parsed = self.read(&request).map_err(|error| StreamResponse::error(400, &error))?;
        if parsed.method == Method::Post {
            let error =
                "a request that publishes is answered after its events: give it to the server by adopt";
            return Err(StreamResponse::error(405, error));
        }
        let shown = self.shown(request).map_err(|error| StreamResponse::error(500, &error))?;
        let (_, config) = self.shared.config();
        if self.shared.open_connections() >= config.max_connections as u64 {
            return Err(StreamResponse::error(503, "server takes no more connections now"));
        }
        let now = Timestamp::now();
        let mut budget = Budget::new(budget::CLIENT);
        let shown =
            shown.unwrap_or_else(|| self.shared.auth.admit(&parsed, &config.cors_origins, now, &mut budget));
        let mut effects = Vec::new();
        let mut cx = Context {
            shared: &self.shared,
            config: &config,
            rng: &mut Rng::new(now.0.unsigned_abs()),
            inflater: &mut Inflater::default(),
            tick: 0,
            now,
            view: &Unplaced { peer },
            effects: &mut effects,
            answered_bytes: 0,
            budget: &mut budget,
            blocked: false,
        };
        let outcome = routes::answer(&parsed, Vec::new(), shown.clone(), &mut cx);
        let first = effects.into_iter().find_map(|effect| match effect {
            Effect::Send(bytes) => Some(bytes),
            _ => None,
        });
        let response = first.as_deref().and_then(StreamResponse::read);
        let response =
            response.ok_or_else(|| StreamResponse::error(500, "the path answers later: it is no stream"))?;
        match outcome {
            RouteOutcome::Ws(..) | RouteOutcome::Sse(_) => {
                Ok(AgreedStream { shared: Arc::clone(&self.shared), request: parsed, shown, peer, response })
            }
            RouteOutcome::Pending => Err(StreamResponse::error(405, "a stream is opened with GET here")),
            RouteOutcome::Response | RouteOutcome::Closed => Err(response),
        }
    }

    /// Parses a request by the rules for requests from the network.
    fn read(&self, request: &StreamRequest) -> Result<Request, String> {
        if let Some(fault) = &request.fault {
            return Err(fault.clone());
        }
        let limits = self.shared.config().1.http_limits();
        let head = [request.head.as_slice(), b"\r\n"].concat();
        let parsed = http::parse_request(&head, &limits).map_err(|error| error.to_string())?;
        let (mut parsed, _) = parsed.ok_or_else(|| "the request has no end".to_owned())?;
        if parsed.method != Method::Post && !matches!(parsed.body, http::BodyFraming::None) {
            return Err("a request for a stream has no body".to_owned());
        }
        // After a refusal the socket is closed: the program reads the client's next request, if any.
        parsed.keep_alive = false;
        Ok(parsed)
    }

    /// Returns the rights that the program gives to the client, if any.
    #[cfg(feature = "auth")]
    fn shown(&self, request: StreamRequest) -> Result<Option<Shown>, String> {
        let Some(claims) = request.claims else { return Ok(None) };
        self.shared.auth.admit_by_program(&claims, Timestamp::now()).map(Some)
    }

    #[cfg(not(feature = "auth"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as with `auth`")]
    fn shown(&self, _: StreamRequest) -> Result<Option<Shown>, String> {
        Ok(None)
    }
}
