//! Connections to one of several Redis servers, over TCP, TLS or a Unix socket, and the meaning of Redis errors.
//!
//! Invariant: connecting takes at most [`TIMEOUT`] for each address, and so does each later command.

use std::time::Duration;

use redis::{Client, Connection, ErrorKind, RedisError, TlsCertificates, Value};

use super::super::address::addresses;
use super::super::error::EngineError;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Maximum time for connecting and for a command.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);

/// Returns the engine's error for a Redis error.
///
/// A server that answers with an error has done nothing: every write is one script, which checks before it writes.
pub(super) fn fault(error: &RedisError) -> EngineError {
    match (error.kind(), error.code(), error.detail()) {
        (_, Some("SHARDS"), Some(log)) => EngineError::Shards { log: log.parse().unwrap_or(0), node: 0 },
        // Uses the server's own code, because the client renames some.
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code), detail) => {
            EngineError::TakesNothing(format!("{code} {}", detail.unwrap_or_default()))
        }
        (ErrorKind::AuthenticationFailed, ..) => EngineError::TakesNothing(error.to_string()),
        _ => EngineError::Unreachable(error.to_string()),
    }
}

/// Servers of one log. The one that was reached last is tried first.
pub(super) struct Servers {
    clients: Vec<Client>,
    last: AtomicUsize,
}

impl Servers {
    /// Reads addresses separated by commas. `ca_file` has the certificates of the authorities to trust for
    /// `rediss://`; empty: the system's authorities.
    pub(super) fn new(urls: &str, ca_file: &str) -> Result<Self, EngineError> {
        let authorities = match ca_file {
            "" => None,
            path => Some(std::fs::read(path).map_err(|error| {
                EngineError::Url(format!("reading the certificates of its authority in {path}: {error}"))
            })?),
        };
        // The error describes the fault without repeating the address.
        let open = |url: &str| {
            let is_tls = url.starts_with("rediss:");
            if is_tls {
                prepare_tls();
            }
            let client = if is_tls {
                let certificates = TlsCertificates { client_tls: None, root_cert: authorities.clone() };
                Client::build_with_tls(url, TlsCertificates { ..certificates })
            } else {
                Client::open(url)
            };
            client.map_err(|error| EngineError::Url(error.to_string()))
        };
        let clients = addresses(urls).map(open).collect::<Result<_, _>>()?;
        Ok(Self { clients, last: AtomicUsize::new(0) })
    }

    /// Connects to the first reachable server that is not a replica.
    ///
    /// With one address there is no alternative: a replica shows when it refuses to write.
    pub(super) fn connect_to_primary(&self) -> Result<Connection, EngineError> {
        let has_several = self.clients.len() > 1;
        self.connect(|connection| {
            connection.set_read_timeout(Some(TIMEOUT))?;
            connection.set_write_timeout(Some(TIMEOUT))?;
            if has_several && is_replica(connection)? {
                return Err((ErrorKind::Client, "it is a replica").into());
            }
            Ok(())
        })
    }

    /// Connects to the first reachable server that passes a check.
    pub(super) fn connect(
        &self,
        check: impl Fn(&mut Connection) -> Result<(), RedisError>,
    ) -> Result<Connection, EngineError> {
        let mut why: Vec<EngineError> = Vec::new();
        for step in 0..self.clients.len() {
            // Relaxed, here and below: only a starting point for the search.
            let at = (self.last.load(Ordering::Relaxed) + step) % self.clients.len();
            let connection = self.clients[at].get_connection_with_timeout(TIMEOUT);
            match connection.and_then(|mut connection| check(&mut connection).map(|()| connection)) {
                Ok(connection) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => why.push(fault(&error)),
            }
        }
        match why.pop() {
            Some(only) if why.is_empty() => Err(only),
            last => {
                let all: Vec<String> = why.iter().chain(&last).map(ToString::to_string).collect();
                Err(EngineError::Unreachable(all.join("; ")))
            }
        }
    }
}

/// Makes sure that the client finds a cryptography provider: it uses the process's default, and panics if a program
/// was built with several and has chosen none.
fn prepare_tls() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// Asks a server for its role. `HELLO` is allowed to every user. `ROLE` is in Redis's category of dangerous commands,
/// and is used only if a proxy does not know `HELLO`.
fn is_replica(connection: &mut Connection) -> Result<bool, RedisError> {
    let reply: Result<Vec<Value>, RedisError> = redis::cmd("HELLO").query(connection);
    if let Ok(reply) = reply {
        let role = reply.chunks_exact(2).find(|pair| is_text(&pair[0], b"role"));
        if let Some([_, role]) = role {
            return Ok(!is_text(role, b"master"));
        }
    }
    let role: Vec<Value> = redis::cmd("ROLE").query(connection)?;
    Ok(role.first().is_some_and(|role| !is_text(role, b"master")))
}

fn is_text(value: &Value, text: &[u8]) -> bool {
    match value {
        Value::BulkString(bytes) => bytes == text,
        Value::SimpleString(string) => string.as_bytes() == text,
        _ => false,
    }
}
