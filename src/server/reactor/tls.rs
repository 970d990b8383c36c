//! TLS at the socket's edge: rustls between the TCP stream and the loop, which sees a socket as any other.
//!
//! Imports its siblings only. Always: nothing blocks; what rustls holds of ours is bounded; a peer that speaks no TLS,
//! or bad TLS, is told so, counted and closed, and hurts nobody else.

use std::fs;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConnection, version};

use crate::metrics::Metrics;

/// What a server needs to speak TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsConfig {
    /// The certificate and those between it and its authority, PEM. With `key_file`, clients come by TLS only;
    /// without both, by plain TCP only.
    pub cert_file: Option<PathBuf>,
    /// The certificate's private key, PEM: PKCS#8, PKCS#1 or SEC1.
    pub key_file: Option<PathBuf>,
    /// Refuse TLS 1.2. No.
    pub only_1_3: bool,
}

impl TlsConfig {
    /// TLS with these two files.
    pub fn new(cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        Self { cert_file: Some(cert_file.into()), key_file: Some(key_file.into()), only_1_3: false }
    }

    /// Whether clients come by TLS.
    pub fn is_on(&self) -> bool {
        self.cert_file.is_some()
    }
}

/// Bytes of ours that rustls may hold for a socket that takes no more.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// What makes a TCP stream a TLS stream; none where the server speaks plain TCP.
pub(crate) type Acceptor = Option<Arc<rustls::ServerConfig>>;

/// Reads the files that a config names. Blocks for them.
pub(crate) fn acceptor(config: &TlsConfig) -> io::Result<Acceptor> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let (cert_file, key_file) = match (&config.cert_file, &config.key_file) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        _ => return Err(invalid("tls.cert_file and tls.key_file go together: one is missing".to_owned())),
    };
    let read = |path: &Path| {
        fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(cert_file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("{}: {error}", cert_file.display())))?;
    if chain.is_empty() {
        return Err(invalid(format!("{}: no certificate in it", cert_file.display())));
    }
    // The error of a key file says nothing of the key.
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
        .map_err(|_| invalid(format!("{}: no private key in it", key_file.display())))?;
    let versions: &[_] =
        if config.only_1_3 { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
    let refused = |error: rustls::Error| invalid(format!("{}: {error}", cert_file.display()));
    let mut made = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(refused)?;
    made.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Who comes back, after a restart of the network for instance, saves both sides the dear part of a handshake.
    made.ticketer = ring::Ticketer::new().map_err(refused)?;
    made.send_tls13_tickets = 1;
    Ok(Some(Arc::new(made)))
}

/// What TLS keeps for an idle client, about: its state, keys, and rustls' own buffers; as measured (docs/tls.md).
pub(crate) const TLS_BYTES: usize = 8 * 1024;

/// A TLS client.
#[derive(Debug)]
pub(crate) struct TlsStream {
    tcp: TcpStream,
    tls: ServerConnection,
    metrics: Arc<Metrics>,
    /// Handshakes whose dear part was done and not charged yet.
    handshakes: u32,
    /// Nothing more is written but what TLS still holds.
    is_closing: bool,
}

impl TlsStream {
    /// A client that was accepted just now; none where TLS could not be made, for want of memory perhaps.
    pub(crate) fn new(
        tcp: TcpStream,
        config: &Arc<rustls::ServerConfig>,
        metrics: &Arc<Metrics>,
    ) -> Option<Self> {
        let mut tls = ServerConnection::new(Arc::clone(config)).ok()?;
        tls.set_buffer_limit(Some(HELD_BYTES_MAX));
        Some(Self { tcp, tls, metrics: Arc::clone(metrics), handshakes: 0, is_closing: false })
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.tcp
    }

    pub(crate) fn tcp(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Writes what TLS holds for the peer; false where the socket takes no more.
    pub(crate) fn push(&mut self) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.is_closing {
            // The peer may be gone already, which is as good.
            let _ = self.tcp.shutdown(Shutdown::Write);
        }
        Ok(true)
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The end came without TLS' own farewell: the end all the same, for each protocol here has its own.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            self.tls.read_tls(&mut self.tcp)?;
            let is_handshaking = self.tls.is_handshaking();
            if let Err(error) = self.tls.process_new_packets() {
                self.refuse(&error);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            // What it has to say in a handshake is a signature or a key exchange.
            self.handshakes += u32::from(is_handshaking && self.tls.wants_write());
            // Its part of the handshake. A socket that takes no more goes on when it is writable.
            self.push()?;
        }
    }

    /// Returns how many handshakes took their dear part since this was asked last.
    pub(crate) fn take_handshakes(&mut self) -> u32 {
        std::mem::take(&mut self.handshakes)
    }

    /// Tells the peer what is wrong, in TLS or, where it speaks plain HTTP, in that.
    fn refuse(&mut self, error: &rustls::Error) {
        self.metrics.fault("tls");
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

    /// Takes what fits; a short write says that the socket takes no more for now.
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
                if rest.is_empty() {
                    break;
                }
                // TLS holds as much as it may: before its handshake is done, for good.
                match self.push() {
                    Ok(true) if put > 0 || !self.tls.is_handshaking() => {}
                    Ok(true) if taken == 0 => return Err(io::ErrorKind::WouldBlock.into()),
                    Ok(true) => return Ok(taken),
                    // An error shows itself again at the next write.
                    Ok(false) | Err(_) => return Ok(taken),
                }
            }
        }
        // What the socket does not take now waits in TLS, and the next write finds it.
        let _ = self.push();
        Ok(taken)
    }

    pub(crate) fn close_write(&mut self) {
        self.tls.send_close_notify();
        self.is_closing = true;
        let _ = self.push();
    }
}
