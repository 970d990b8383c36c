//! Settings of TLS, and the acceptor built from them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version;

/// Certificate, key and versions for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsConfig {
    /// Certificate and its intermediate certificates, in PEM. With `key_file`, clients connect by TLS only; without both, by
    /// plain TCP only.
    pub cert_file: Option<PathBuf>,
    /// Private key of the certificate, in PEM: PKCS#8, PKCS#1 or SEC1.
    pub key_file: Option<PathBuf>,
    /// Whether TLS 1.2 is refused. Default: false.
    pub only_1_3: bool,
}

impl TlsConfig {
    /// Returns settings for TLS with these two files.
    pub fn new(cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        Self { cert_file: Some(cert_file.into()), key_file: Some(key_file.into()), only_1_3: false }
    }

    /// Returns whether clients connect by TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.cert_file.is_some()
    }
}

/// rustls settings for accepted streams; `None` if the server speaks plain TCP.
pub(crate) type Acceptor = Option<Arc<rustls::ServerConfig>>;

/// Returns ring's algorithms with the ciphers in the server's order: AES-128 first.
///
/// OpenSSL and rustls clients put AES-256 first. Its key schedule uses SHA-384: 280,000 of 1,370,000 instructions of a
/// handshake. SHA-256 has instructions of its own in today's processors, and AES-128 has 10 rounds for 14.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        let is_aes_128 = matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        );
        !is_aes_128
    });
    provider
}

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
    // The error of a key file reveals nothing about the key.
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
        .map_err(|_| invalid(format!("{}: no private key in it", key_file.display())))?;
    let versions: &[_] =
        if config.only_1_3 { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
    let refused = |error: rustls::Error| invalid(format!("{}: {error}", cert_file.display()));
    let mut made = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(versions)
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(refused)?;
    made.ignore_client_order = true;
    made.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A client that reconnects, for example after a network failure, resumes its session without the expensive part of a
    // handshake.
    made.ticketer = ring::Ticketer::new().map_err(refused)?;
    made.send_tls13_tickets = 1;
    Ok(Some(Arc::new(made)))
}
