//! Why a server could not start, or stopped.
//!
//! Always: the message says what was being done; the kinds that a caller acts on have a question of their own.

use std::fmt;
use std::io;

use crate::threads::ThreadFailure;

/// Name of the failed step if a file that the config names can't be used.
pub(super) const CONFIGURATION: &str = "configuration";

/// The server could not start, or one of its loops failed.
#[derive(Debug)]
pub struct ServerError {
    doing: String,
    source: io::Error,
    is_unguarded: bool,
    is_about_authentication: bool,
    failure: Option<ThreadFailure>,
}

impl ServerError {
    pub(super) fn new(doing: impl Into<String>, source: io::Error) -> Self {
        let doing = doing.into();
        Self { doing, source, is_unguarded: false, is_about_authentication: false, failure: None }
    }

    pub(super) fn stopped(failure: ThreadFailure) -> Self {
        let source = io::Error::other(failure.clone());
        Self { failure: Some(failure), ..Self::new("the server stopped", source) }
    }

    #[cfg(feature = "auth")]
    pub(super) fn authentication(error: super::auth::AuthError) -> Self {
        Self { is_about_authentication: true, ..Self::new("authentication", io::Error::other(error)) }
    }

    pub(super) fn unguarded(doing: impl Into<String>) -> Self {
        let what = "no authentication is configured, and other machines could reach it";
        Self { is_unguarded: true, ..Self::new(doing, io::Error::other(what)) }
    }

    /// Whether the address is taken by another program.
    pub fn is_address_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }

    /// Whether this process may not take the address: a port below 1024 without the right to.
    pub fn is_address_forbidden(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied && self.doing != CONFIGURATION
    }

    /// Whether it would have been open to other machines without authentication, and was not told `insecure`.
    pub fn is_unguarded(&self) -> bool {
        self.is_unguarded
    }

    /// Whether a key, a file or another setting of authentication is not usable.
    pub fn is_about_authentication(&self) -> bool {
        self.is_about_authentication
    }

    /// Returns the panic that ended a thread of the server, and so the server; `None` for a failure before it ran.
    pub fn thread_failure(&self) -> Option<&ThreadFailure> {
        self.failure.as_ref()
    }

    /// Whether a file that the config names can't be used: the message says which and why.
    pub fn is_configuration(&self) -> bool {
        self.doing == CONFIGURATION
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.source)
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
