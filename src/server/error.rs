//! The error of a server that could not start, or that stopped.

use std::fmt;
use std::io;

use crate::threads::ThreadFailure;

/// The server could not start, or one of its threads failed.
#[derive(Debug)]
pub struct ServerError {
    kind: ServerErrorKind,
    /// Step that failed, for the message.
    doing: String,
    source: io::Error,
    failure: Option<ThreadFailure>,
}

/// Kind of a [`ServerError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerErrorKind {
    /// Another program listens at the address.
    AddressInUse,
    /// This process has no right to the address, for example to a port below 1024.
    AddressForbidden,
    /// Other machines could reach the server without authentication, and `insecure` is not set.
    Unguarded,
    /// A key, a file or another setting of authentication can't be used.
    Authentication,
    /// A file that the config names can't be used; the message says which and why.
    Configuration,
    /// A thread of the running server has panicked or failed: see [`ServerError::thread_failure`].
    Stopped,
    /// Another step of the start failed: the address, the engine, or the sources of other systems.
    Start,
}

impl ServerError {
    /// Returns the error of a step of the start; its kind follows from the source.
    pub(super) fn new(doing: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::AddrInUse => ServerErrorKind::AddressInUse,
            io::ErrorKind::PermissionDenied => ServerErrorKind::AddressForbidden,
            _ => ServerErrorKind::Start,
        };
        Self { kind, doing: doing.into(), source, failure: None }
    }

    pub(super) fn stopped(failure: ThreadFailure) -> Self {
        let (kind, source) = (ServerErrorKind::Stopped, io::Error::other(failure.clone()));
        Self { kind, doing: "the server stopped".to_owned(), source, failure: Some(failure) }
    }

    pub(super) fn configuration(source: io::Error) -> Self {
        Self {
            kind: ServerErrorKind::Configuration,
            doing: "configuration".to_owned(),
            source,
            failure: None,
        }
    }

    #[cfg(feature = "auth")]
    pub(super) fn authentication(error: super::auth::AuthError) -> Self {
        let (kind, source) = (ServerErrorKind::Authentication, io::Error::other(error));
        Self { kind, doing: "authentication".to_owned(), source, failure: None }
    }

    pub(super) fn unguarded(doing: impl Into<String>) -> Self {
        let source = io::Error::other("no authentication is configured, and other machines could reach it");
        Self { kind: ServerErrorKind::Unguarded, doing: doing.into(), source, failure: None }
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ServerErrorKind {
        self.kind
    }

    /// Returns the panic that ended a thread of the server, and so the server; `None` for a failure before it ran.
    #[must_use]
    pub fn thread_failure(&self) -> Option<&ThreadFailure> {
        self.failure.as_ref()
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
