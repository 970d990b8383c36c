//! TLS at the socket's edge: rustls between the TCP stream and the loop, which uses it as any other socket.
//!
//! Invariants:
//! - No call blocks, and the plain bytes that rustls holds are bounded.
//! - A peer that speaks no TLS, or bad TLS, receives an alert, is counted and closed, and affects no other client.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::ServerConnection;

use super::socket::{HandshakeSteps, takes_all};
use crate::dialect::codes::LABEL_TLS;
use crate::metrics::Metrics;

/// Maximum number of our bytes that rustls holds for a full socket.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// Approximate memory of TLS for an idle client: state, keys, and rustls' buffers; as measured (docs/tls.md).
const TLS_BYTES: usize = 8 * 1024;

/// Maximum size of the plain bytes of a record.
const RECORD_BYTES: usize = 16 * 1024;

/// Overhead of a record: its header, its type and the tag of its cipher, and rustls' entry for it.
const RECORD_OVERHEAD: usize = 5 + 1 + 16 + 32;

/// Socket as rustls reads it.
struct Input<'a> {
    tcp: &'a mut TcpStream,
    /// Whether the last read took all that had arrived.
    is_drained: bool,
}

impl io::Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.tcp.read(buffer)?;
        self.is_drained = takes_all(read, buffer.len());
        Ok(read)
    }
}

/// Socket as rustls writes it: one record, which is the usual case, by `send`, which costs less than `writev`.
struct TlsRecords<'a>(&'a mut TcpStream);

impl io::Write for TlsRecords<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [one] = slices { self.0.write(one) } else { self.0.write_vectored(slices) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A TLS client.
#[derive(Debug)]
pub(crate) struct TlsStream {
    tcp: TcpStream,
    peer: SocketAddr,
    tls: ServerConnection,
    metrics: Arc<Metrics>,
    /// Steps of the handshake that are done and not charged yet.
    handshakes: HandshakeSteps,
    /// Whether the expensive part of the handshake is done.
    is_greeted: bool,
    /// Whether the last read of the socket took all that had arrived.
    is_drained: bool,
    /// Whether only the bytes that TLS still holds are written.
    is_closing: bool,
    /// Approximate number of bytes for the peer that rustls holds.
    unwritten: usize,
    /// Bytes of the peer that rustls holds: an incomplete record or handshake message, or plain bytes that are not
    /// read.
    unread: usize,
}

impl TlsStream {
    /// Creates the TLS state of an accepted client. Returns `None` if that fails, for example because memory is short.
    pub(crate) fn new(
        tcp: TcpStream,
        peer: SocketAddr,
        config: &Arc<rustls::ServerConfig>,
        metrics: &Arc<Metrics>,
    ) -> Option<Self> {
        let mut tls = ServerConnection::new(Arc::clone(config)).ok()?;
        tls.set_buffer_limit(Some(HELD_BYTES_MAX));
        Some(Self {
            tcp,
            peer,
            tls,
            metrics: Arc::clone(metrics),
            handshakes: HandshakeSteps::default(),
            is_greeted: false,
            is_drained: false,
            is_closing: false,
            unwritten: 0,
            unread: 0,
        })
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.tcp
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn tcp(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Writes the bytes that TLS holds for the peer. Returns false if the socket is full.
    pub(crate) fn push(&mut self) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut TlsRecords(&mut self.tcp)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.unwritten = self.unwritten.saturating_sub(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unwritten = 0;
        if self.is_closing {
            // The peer may already be gone.
            let _ = self.tcp.shutdown(Shutdown::Write);
        }
        Ok(true)
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.is_drained = false;
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The peer closed without a TLS close alert. That counts as the end, because each protocol here marks
                // its own end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => {
                    self.unread = self.unread.saturating_sub(*read.as_ref().unwrap_or(&0));
                    return read;
                }
            }
            let mut input = Input { tcp: &mut self.tcp, is_drained: false };
            self.unread += self.tls.read_tls(&mut input)?;
            self.is_drained = input.is_drained;
            let is_handshaking = self.tls.is_handshaking();
            let plain = match self.tls.process_new_packets() {
                Ok(state) => state.plaintext_bytes_to_read(),
                Err(error) => {
                    self.refuse(&error);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            if plain > 0 || is_handshaking != self.tls.is_handshaking() {
                self.unread = plain;
            }
            if is_handshaking && self.tls.wants_write() {
                // Output during a handshake follows a signature or a key exchange; at its end it is a ticket.
                if self.tls.is_handshaking() || !self.is_greeted {
                    self.handshakes.begun += 1;
                    self.is_greeted = true;
                } else {
                    self.handshakes.ended += 1;
                }
            }
            // Our part of the handshake. If the socket is full, it continues when it is writable.
            self.push()?;
        }
    }

    /// Returns the steps of the handshake since the last call.
    pub(crate) fn take_handshakes(&mut self) -> HandshakeSteps {
        std::mem::take(&mut self.handshakes)
    }

    /// Returns whether the next input begins the handshake.
    pub(crate) fn awaits_handshake(&self) -> bool {
        !self.is_greeted
    }

    /// Returns whether the last read, of `len` bytes into `room` bytes, took all that had arrived.
    pub(crate) fn is_drained(&self, len: usize, room: usize) -> bool {
        self.is_drained && len < room
    }

    /// Reports the error to the peer: as a TLS alert, or as an HTTP response if the peer speaks plain HTTP.
    fn refuse(&mut self, error: &rustls::Error) {
        self.metrics.fault(LABEL_TLS);
        if self.tls.is_handshaking()
            && matches!(error, rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType))
        {
            let body = r#"{"error":"this port speaks TLS: the address begins with https:// or wss://"}"#;
            let answer = format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = self.tcp.write(answer.as_bytes());
            let _ = self.tcp.shutdown(Shutdown::Write);
            return;
        }
        let _ = self.push();
    }

    /// Encrypts and writes as much as fits. A short write means that the socket is full.
    pub(crate) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.push()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut taken = 0;
        for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let put = self.tls.writer().write(rest)?;
                rest = &rest[put..];
                taken += put;
                self.unwritten += put + put.div_ceil(RECORD_BYTES) * RECORD_OVERHEAD;
                if rest.is_empty() {
                    break;
                }
                // The buffer is full. It stays full until the handshake is done.
                match self.push() {
                    Ok(true) if put > 0 || !self.tls.is_handshaking() => {}
                    Ok(true) if taken == 0 => return Err(io::ErrorKind::WouldBlock.into()),
                    Ok(true) => return Ok(taken),
                    // The next write reports an error again.
                    Ok(false) | Err(_) => return Ok(taken),
                }
            }
        }
        // Bytes that do not fit wait in TLS until the next write.
        let _ = self.push();
        Ok(taken)
    }

    /// Returns the approximate memory of TLS for this client, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        TLS_BYTES + self.unwritten + self.unread
    }

    pub(crate) fn close_write(&mut self) {
        self.tls.send_close_notify();
        self.is_closing = true;
        let _ = self.push();
    }
}
