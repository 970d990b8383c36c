//! Connection to a server, shared by all client commands.
//!
//! Always: a certificate is checked against the host of the URL. A token goes into a header, never into a URL.
//! Every connect has a time limit.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::WebSocket;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::protocol::WebSocketConfig;
use ureq::RequestBuilder;
use ureq::typestate::{WithBody, WithoutBody};

use super::error::CliError;
use super::target::Target;
use super::trust;

/// Time limit of a connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Credentials of a client, and the authorities that it trusts.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct Access {
    /// Token or API key. Prefer the environment: other users of this machine can read command lines
    #[arg(long, env = "FANWIRE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Authorities to trust for https:// and wss://, instead of the machine's own (PEM)
    #[arg(long, alias = "ca", env = "FANWIRE_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// A server's address, the credentials and the TLS configuration for it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Remote {
    pub(super) url: Target,
    /// Value of the `Authorization` header.
    authorization: Option<String>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    agent: ureq::Agent,
}

/// Reason why a WebSocket could not be opened.
pub(super) enum NotOpened {
    /// The server answered with another status: status and body.
    Answered(u16, String),
    /// The server could not be reached.
    Failed(String),
    /// Final refusal: the server is not trusted, or does not speak TLS.
    Refused(CliError),
}

impl fmt::Display for NotOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status, body) => {
                write!(f, "{} (status {status})", super::target::error_text(body))
            }
            Self::Failed(why) => f.write_str(why),
            Self::Refused(error) => f.write_str(&error.message),
        }
    }
}

impl Remote {
    /// Reads the credentials and authorities. Does not connect.
    pub(super) fn new(url: Target, access: &Access) -> Result<Self, CliError> {
        let authorization = access.token.as_ref().map(|token| format!("Bearer {token}"));
        if authorization.as_ref().is_some_and(|value| !value.bytes().all(|byte| matches!(byte, b' '..=b'~')))
        {
            return Err(CliError::new("the token has characters that are not allowed in an HTTP header"));
        }
        let mut agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .proxy(None)
            .user_agent(concat!("fanwire/", env!("CARGO_PKG_VERSION")));
        let mut tls = None;
        if url.is_secure {
            let authorities = authorities(access.ca_file.as_deref())?;
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let to_ureq = |der: &CertificateDer<'_>| ureq::tls::Certificate::from_der(der).to_owned();
            let roots = authorities.iter().map(to_ureq).collect::<Vec<_>>();
            agent = agent.tls_config(
                ureq::tls::TlsConfig::builder()
                    .root_certs(ureq::tls::RootCerts::Specific(Arc::new(roots)))
                    .unversioned_rustls_crypto_provider(Arc::clone(&provider))
                    .build(),
            );
            let name = ServerName::try_from(url.host().to_owned()).map_err(|_| {
                CliError::new(format!("`{}` cannot be the name in a certificate", url.host()))
            })?;
            tls = Some((Arc::new(client_config(provider, authorities)?), name));
        }
        Ok(Self { url, authorization, tls, agent: agent.build().into() })
    }

    /// Starts a GET with the client's credentials. An error status is returned as an answer, not as an error.
    pub(super) fn get(&self, path: &str) -> RequestBuilder<WithoutBody> {
        let request = self.agent.get(self.url.http(path));
        match &self.authorization {
            Some(value) => request.header("authorization", value),
            None => request,
        }
    }

    /// Starts a POST with the client's credentials.
    pub(super) fn post(&self, path: &str) -> RequestBuilder<WithBody> {
        let request = self.agent.post(self.url.http(path));
        match &self.authorization {
            Some(value) => request.header("authorization", value),
            None => request,
        }
    }

    /// Returns the line of the `Authorization` header, or an empty string without a token.
    pub(super) fn authorization_line(&self) -> String {
        self.authorization.as_ref().map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default()
    }

    /// Opens the native WebSocket. A read blocks for `read_timeout` at most. `receive_buffer` sets the size of
    /// the kernel's receive buffer. `None` keeps the kernel's default.
    pub(super) fn web_socket(
        &self,
        read_timeout: Duration,
        receive_buffer: Option<usize>,
    ) -> Result<WebSocket<Link>, NotOpened> {
        let failed = |error: &dyn fmt::Display| NotOpened::Failed(error.to_string());
        let stream =
            self.connect(receive_buffer).map_err(|error| failed(&format_args!("cannot connect: {error}")))?;
        let set = stream.tcp().set_read_timeout(Some(CONNECT_TIMEOUT.max(read_timeout)));
        set.and_then(|()| stream.tcp().set_nodelay(true)).map_err(|error| failed(&error))?;
        let mut request = self.url.ws("/ws").into_client_request().map_err(|error| failed(&error))?;
        if let Some(value) = &self.authorization {
            request.headers_mut().insert("authorization", value.parse().map_err(|error| failed(&error))?);
        }
        let config = receive_buffer.map(|size| WebSocketConfig::default().read_buffer_size(size));
        let opened = tungstenite::client::client_with_config(request, stream, config);
        let (socket, _) = opened.map_err(|error| match error {
            tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                NotOpened::Answered(answer.status().as_u16(), String::from_utf8_lossy(body).into_owned())
            }
            tungstenite::HandshakeError::Failure(error) => match trust::refusal(&error, &self.url) {
                Some(refusal) => NotOpened::Refused(refusal),
                None => failed(&error),
            },
            interrupted @ tungstenite::HandshakeError::Interrupted(_) => failed(&interrupted),
        })?;
        socket.get_ref().tcp().set_read_timeout(Some(read_timeout)).map_err(|error| failed(&error))?;
        Ok(socket)
    }

    /// Connects the socket. The TLS handshake starts with the first read or write.
    pub(super) fn connect(&self, receive_buffer: Option<usize>) -> io::Result<Link> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
        for addr in self.url.authority.to_socket_addrs()? {
            let domain = socket2::Domain::for_address(addr);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
            if let Some(size) = receive_buffer {
                // The size is set before the connect, so that TCP never offers a larger window.
                socket.set_recv_buffer_size(size)?;
            }
            match socket.connect_timeout(&addr.into(), CONNECT_TIMEOUT) {
                Ok(()) => return self.link(socket.into()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn link(&self, tcp: TcpStream) -> io::Result<Link> {
        let Some((config, name)) = &self.tls else { return Ok(Link::Plain(tcp)) };
        let session = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
        Ok(Link::Secure(Box::new(StreamOwned::new(session, tcp))))
    }
}

/// Loads the trusted authorities: those of the file, or the machine's.
fn authorities(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, CliError> {
    if let Some(path) = file {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let authorities =
            read.map_err(|error| CliError::new(format!("cannot read {}: {error}", path.display())))?;
        if authorities.is_empty() {
            return Err(CliError::new(format!("{} holds no certificate", path.display())));
        }
        return Ok(authorities);
    }
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(CliError::new(format!("this machine has no trusted authorities{why}"))
            .hint("Install the package ca-certificates, or give the server's authority with --ca-file."));
    }
    Ok(found.certs)
}

fn client_config(
    provider: Arc<CryptoProvider>,
    authorities: Vec<CertificateDer<'static>>,
) -> Result<ClientConfig, CliError> {
    let mut roots = RootCertStore::empty();
    // A machine's store may hold old certificates that cannot be parsed.
    roots.add_parsable_certificates(authorities);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(CliError::new)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Connection over a socket, with or without TLS.
pub(super) enum Link<S: Read + Write = TcpStream> {
    Plain(S),
    Secure(Box<StreamOwned<ClientConnection, S>>),
}

impl<S: Read + Write> Link<S> {
    /// Returns the socket below TLS.
    pub(super) fn tcp(&self) -> &S {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(stream) => &stream.sock,
        }
    }
}

impl<S: Read + Write> Read for Link<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Secure(stream) => stream.read(into),
        }
    }
}

impl<S: Read + Write> Write for Link<S> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(from),
            Self::Secure(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secure(stream) => stream.flush(),
        }
    }
}
