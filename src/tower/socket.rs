//! Sockets that event streams take over from hyper.
//!
//! hyper gives a socket away after an upgrade only, and an event stream has none. So the program's connections are wrapped:
//! the service marks the response of an event stream, and the wrapper, which sees what hyper writes, gives the socket and
//! hyper's own head of the response to the server's loop.
//!
//! Invariants:
//! - A socket is taken only when the whole head of that very response is what would be written next: everything before it has
//!   been written, nothing after it has.
//! - A stream is given to the server once: by the wrapper, or by the response's body, which copies it then.
//! - The client receives the head with each header that hyper or a middleware put there. Those that frame the body are
//!   replaced, because the loop ends a stream by closing its connection.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::fmt;
use std::hash::BuildHasher as _;
use std::io::{self, IoSlice};
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::server::AgreedStream;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, lock};

/// Header that names an offered stream in the head of its response. It is removed when the socket is taken.
pub(super) const MARK: &str = "fanwire-socket";

/// Beginning of each head that may be one of an offered stream.
const HEAD_BEGIN: &[u8] = b"HTTP/1.1 200 ";

/// Maximum number of headers in a head that is parsed. A response with more is copied.
const HEADERS_MAX: usize = 64;

/// Streams of a service whose sockets may be taken, between their responses and hyper's first write of them.
#[derive(Default)]
pub(super) struct Offers {
    /// Whether a connection was ever wrapped.
    is_watched: AtomicBool,
    /// Number of streams in `waiting`, readable without the lock.
    count: AtomicUsize,
    waiting: Mutex<HashMap<u64, AgreedStream>>,
    next: AtomicU64,
    /// Key for the marks, which are hashes of numbers, so that a client can't guess the mark of another stream.
    keys: RandomState,
}

impl Offers {
    /// Returns whether any connection was wrapped, so that a stream's socket may be taken.
    pub(super) fn is_watched(&self) -> bool {
        // Relaxed: a listener is wrapped before its connections exist.
        self.is_watched.load(Ordering::Relaxed)
    }

    fn watch(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

    /// Offers a stream until [`Offer`] is dropped.
    pub(super) fn offer(self: &Arc<Self>, stream: AgreedStream) -> Offer {
        let mut waiting = lock(&self.waiting);
        let mark = loop {
            // Relaxed: the numbers only have to differ.
            let mark = self.keys.hash_one(self.next.fetch_add(1, Ordering::Relaxed));
            if let Entry::Vacant(vacant) = waiting.entry(mark) {
                vacant.insert(stream);
                break mark;
            }
        };
        self.store_count(&waiting);
        Offer { offers: Arc::clone(self), mark }
    }

    /// Takes a stream if it is still offered and `fits` agrees.
    fn take(&self, mark: u64, fits: impl FnOnce(&AgreedStream) -> bool) -> Option<AgreedStream> {
        let mut waiting = lock(&self.waiting);
        let Entry::Occupied(entry) = waiting.entry(mark) else { return None };
        let stream = fits(entry.get()).then(|| entry.remove());
        self.store_count(&waiting);
        stream
    }

    fn store_count(&self, waiting: &HashMap<u64, AgreedStream>) {
        // Relaxed: the task that offered a stream writes its response.
        self.count.store(waiting.len(), Ordering::Relaxed);
    }

    /// Returns whether bytes may begin with the head of an offered stream.
    fn may_begin(&self, bytes: &[u8]) -> bool {
        // Relaxed: as in `store_count`.
        self.count.load(Ordering::Relaxed) != 0 && bytes.starts_with(HEAD_BEGIN)
    }

    /// Takes the stream of the response with this head, and returns it with the head to write instead.
    fn take_by_head(&self, bytes: &[u8]) -> Option<(AgreedStream, Vec<u8>)> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        // Bytes after the head are a body that is not the stream's own.
        if head.parse(bytes) != Ok(httparse::Status::Complete(bytes.len())) {
            return None;
        }
        let values = |name: &'static str| {
            let named = head.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
            named.map(|header| header.value)
        };
        let mark = std::str::from_utf8(values(MARK).next()?).ok()?;
        let mark = u64::from_str_radix(mark, 16).ok()?;
        let is_chunked = values("transfer-encoding").eq([&b"chunked"[..]]);
        let fits = |stream: &AgreedStream| {
            let ours =
                stream.response().headers().filter(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
            is_chunked && values("content-encoding").eq(ours.map(|(_, value)| value.as_bytes()))
        };
        let stream = self.take(mark, fits)?;
        let mut out = Vec::with_capacity(bytes.len());
        let line = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        out.extend_from_slice(&bytes[..line]);
        let replaced = [MARK, "transfer-encoding", "connection", "keep-alive", "trailer"];
        for header in head.headers.iter() {
            if !replaced.iter().any(|name| header.name.eq_ignore_ascii_case(name)) {
                for part in [header.name.as_bytes(), b": ", header.value, b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
        out.extend_from_slice(b"connection: close\r\n\r\n");
        Some((stream, out))
    }
}

/// The response's handle of an offered stream. Drop ends the offer.
pub(super) struct Offer {
    offers: Arc<Offers>,
    mark: u64,
}

impl Offer {
    /// Returns the value of the header [`MARK`].
    pub(super) fn mark(&self) -> String {
        format!("{:016x}", self.mark)
    }

    /// Takes the stream back. Returns `None` if its socket was taken.
    pub(super) fn withdraw(&self) -> Option<AgreedStream> {
        self.offers.take(self.mark, |_| true)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        drop(self.withdraw());
    }
}

/// Listener of the program whose connections [`Live`](super::Live) may take over. Made by [`Live::listener`](super::Live::listener).
///
/// With the feature `axum` it is a [`Listener`](::axum::serve::Listener) for `axum::serve`; for hyper, call
/// [`accept`](Self::accept).
pub struct LiveListener {
    listener: TcpListener,
    offers: Arc<Offers>,
}

impl fmt::Debug for LiveListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveListener").field(&self.listener).finish()
    }
}

impl LiveListener {
    pub(super) fn new(listener: TcpListener, offers: Arc<Offers>) -> Self {
        offers.watch();
        Self { listener, offers }
    }

    /// Accepts a connection, as [`TcpListener::accept`] does. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Fails with the system's error.
    pub async fn accept(&self) -> io::Result<(LiveIo, SocketAddr)> {
        let (socket, peer) = self.listener.accept().await?;
        Ok((LiveIo::new(socket, Arc::clone(&self.offers)), peer))
    }

    /// Returns the address that the listener is bound to.
    ///
    /// # Errors
    ///
    /// Fails with the system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(feature = "axum")]
impl ::axum::serve::Listener for LiveListener {
    type Io = LiveIo;
    type Addr = SocketAddr;

    /// Accepts a connection. As axum's own listener does, it waits if the process has no free file descriptor.
    async fn accept(&mut self) -> (LiveIo, SocketAddr) {
        let (socket, peer) = ::axum::serve::Listener::accept(&mut self.listener).await;
        (LiveIo::new(socket, Arc::clone(&self.offers)), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Connection of the program whose socket [`Live`](super::Live) may take over: the I/O type for hyper.
///
/// After the socket was taken, writes are discarded and reads return the end: hyper sees a response that ended and a
/// connection that closes.
pub struct LiveIo {
    socket: AppSocket,
    offers: Arc<Offers>,
}

enum AppSocket {
    Open(TcpStream),
    Taken {
        /// Whether hyper has ended the response.
        is_over: bool,
        reader: Option<Waker>,
    },
}

impl fmt::Debug for LiveIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveIo").field(&self.tcp()).finish()
    }
}

impl LiveIo {
    pub(super) fn new(socket: TcpStream, offers: Arc<Offers>) -> Self {
        offers.watch();
        Self { socket: AppSocket::Open(socket), offers }
    }

    /// Returns the socket, or `None` if it was taken.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        match &self.socket {
            AppSocket::Open(socket) => Some(socket),
            AppSocket::Taken { .. } => None,
        }
    }

    /// Returns the socket of an upgraded connection, which can't have been taken.
    ///
    /// # Errors
    ///
    /// Fails if it was taken.
    pub(super) fn into_tcp(self) -> io::Result<TcpStream> {
        match self.socket {
            AppSocket::Open(socket) => Ok(socket),
            AppSocket::Taken { .. } => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Gives the socket to the server if these bytes are the head of an offered stream. Returns whether it is taken.
    fn give(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let Some((stream, head)) = self.offers.take_by_head(bytes) else { return Ok(false) };
        let taken = AppSocket::Taken { is_over: false, reader: None };
        if let AppSocket::Open(socket) = mem::replace(&mut self.socket, taken)
            && let Err(error) = stream.adopt_with_head(socket.into_std()?, head)
        {
            // The server has ended, and the socket is closed.
            tracing::debug!(%error, "an event stream could not be given to the server");
        }
        Ok(true)
    }

    /// Writes with `write`, unless the socket is taken, or `whole` (all of the bytes, if they are in one piece) is the
    /// head for which it is taken now.
    fn write_or_give(
        &mut self,
        whole: Option<&[u8]>,
        len: usize,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Some(bytes) = whole
            && self.offers.may_begin(bytes)
            && self.tcp().is_some()
            && self.give(bytes)?
        {
            return Poll::Ready(Ok(len));
        }
        match &mut self.socket {
            AppSocket::Open(socket) => write(Pin::new(socket)),
            AppSocket::Taken { is_over, reader } => {
                *is_over = true;
                if let Some(waker) = reader.take() {
                    waker.wake();
                }
                Poll::Ready(Ok(len))
            }
        }
    }
}

impl AsyncRead for LiveIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.socket {
            AppSocket::Open(socket) => Pin::new(socket).poll_read(cx, buf),
            // hyper treats an end of the input before the end of the response as an error of the connection.
            AppSocket::Taken { is_over: false, reader } => {
                *reader = Some(cx.waker().clone());
                Poll::Pending
            }
            AppSocket::Taken { is_over: true, .. } => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for LiveIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write_or_give(Some(buf), buf.len(), |socket| socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let whole = if let [whole] = bufs { Some(&**whole) } else { None };
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.write_or_give(whole, len, |socket| socket.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            AppSocket::Open(socket) => Pin::new(socket).poll_flush(cx),
            AppSocket::Taken { .. } => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            AppSocket::Open(socket) => Pin::new(socket).poll_shutdown(cx),
            AppSocket::Taken { .. } => Poll::Ready(Ok(())),
        }
    }
}
