//! A certificate authority for the tests, and the certificates that it signs for localhost.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::PATIENCE;

/// The client's side of a TLS connection.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// An authority, and a folder for its certificates that is removed on drop.
pub struct Authority {
    pub issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    pub dir: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("fanwire-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority of the tests");
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).expect("an authority");
        std::fs::write(dir.join("ca.pem"), issuer.pem()).expect("a file");
        let authority = Self { issuer, dir };
        authority.sign();
        authority
    }

    /// Writes a new certificate for localhost, different from the previous one.
    pub fn sign(&self) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.path("key.pem"), key.serialize_pem()).expect("a file");
        std::fs::write(self.path("cert.pem"), cert.pem()).expect("a file");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
        self.client_with(rustls::crypto::ring::default_provider(), versions)
    }

    /// Returns a client with these algorithms.
    pub fn client_with(
        &self,
        provider: CryptoProvider,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("our own authority");
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Connects with TLS 1.3, for HTTP/1.1 only.
    pub fn connect_http1(&self, addr: SocketAddr) -> TlsStream {
        let mut config = self.client(&[&rustls::version::TLS13]);
        Arc::make_mut(&mut config).alpn_protocols = vec![b"http/1.1".to_vec()];
        over_tls(TcpStream::connect(addr).expect("it listens"), &config)
    }
}

/// Returns a client's connection to localhost over this socket. Each read has a limit.
pub fn over_tls(tcp: TcpStream, config: &Arc<ClientConfig>) -> TlsStream {
    tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let name = ServerName::try_from("localhost").expect("a name");
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).expect("a client"), tcp)
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
