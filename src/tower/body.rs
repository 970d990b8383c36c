//! Bodies of responses, and the pairs of sockets that event streams and runs are copied through.

use std::fmt;
use std::io;
use std::mem;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::socket::Offer;
use crate::server::AgreedStream;

/// Maximum size of one piece of an event stream's body, or of what a pump writes to a client at once, in bytes.
pub(super) const PIECE_BYTES: usize = 16 * 1024;

/// Maximum time for which a pump waits to write one piece to a client. The server disconnects clients that read nothing
/// earlier than that, but this does not end the pump's writes to the client.
pub(super) const STALL: Duration = Duration::from_secs(120);

/// Returns a pair of sockets: this side for the runtime, the other one for the server's loop.
pub(super) fn pair() -> io::Result<(tokio::net::UnixStream, UnixStream)> {
    let (client, server) = UnixStream::pair()?;
    client.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(client)?, server))
}

/// Gives one end of a pair to the server, and returns the other.
pub(super) fn pair_for(stream: AgreedStream) -> io::Result<tokio::net::UnixStream> {
    let (client, server) = pair()?;
    stream.adopt(server, Vec::new())?;
    Ok(client)
}

/// Reads a piece of the server's output from this side of a pair. It is empty at the end.
pub(super) fn poll_piece(pipe: &tokio::net::UnixStream, cx: &mut Context<'_>) -> Poll<io::Result<BytesMut>> {
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

/// Body of a response of [`Live`](super::Live): a refusal's JSON, or an event stream.
pub struct LiveBody(pub(super) Content);

/// Content of a body.
pub(super) enum Content {
    Whole(Option<Bytes>),
    /// Event stream with a socket that may be taken when its head is written.
    Offered {
        offer: Offer,
        /// Whether hyper had a chance to write the head.
        is_written: bool,
    },
    /// End of a pair into which the server's loop writes.
    Pipe(tokio::net::UnixStream),
    /// Bytes that were read from such an end before, and the end.
    Rest(Bytes, tokio::net::UnixStream),
}

impl fmt::Debug for LiveBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveBody")
    }
}

impl LiveBody {
    pub(super) fn whole(bytes: Bytes) -> Self {
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
        if let Content::Rest(bytes, _) = &mut self.0 {
            let bytes = mem::take(bytes);
            if let Content::Rest(_, pipe) = mem::replace(&mut self.0, Content::Whole(None)) {
                self.0 = Content::Pipe(pipe);
            }
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
        match &mut self.0 {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Offered { .. } | Content::Rest(..) => Poll::Pending,
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
            Content::Offered { .. } | Content::Pipe(_) | Content::Rest(..) => SizeHint::default(),
        }
    }
}
