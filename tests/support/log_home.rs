//! Homes of an engine's log: a folder, a Redis, or a NATS with JetStream.
//!
//! Always: the service ends, and the folder is removed, with the test.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::service::{Kind, Service};
use super::{Server, eventually, http};

/// Server, and the home of its log if it has an engine.
pub struct HomedServer {
    server: Server,
    _home: Option<LogHome>,
}

impl HomedServer {
    /// Starts a server. An option `--engine` names the kind of its log: `files`, `redis` or `nats`.
    pub fn with(options: &[&str]) -> Self {
        let Some(at) = options.iter().position(|option| *option == "--engine") else {
            return Self { server: Server::with(options), _home: None };
        };
        let home = LogHome::new(options[at + 1]);
        let server = home.node(&[&options[..at], &options[at + 2..]].concat());
        Self { server, _home: Some(home) }
    }
}

impl Deref for HomedServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Place where nodes keep order and history.
pub struct LogHome {
    /// Address for `--engine`.
    pub url: String,
    pub service: Option<Service>,
    folder: Option<PathBuf>,
}

impl LogHome {
    /// Returns a home of a kind: `files`, `redis` or `nats`.
    pub fn new(kind: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let service = match kind {
            "files" => {
                let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                let folder =
                    std::env::temp_dir().join(format!("fanwire-log-{}-{number}", std::process::id()));
                let url = format!("file://{}", folder.display());
                return Self { url, service: None, folder: Some(folder) };
            }
            "redis" => Service::start(Kind::Redis),
            "nats" => Service::start(Kind::Nats),
            other => panic!("no kind of log: {other}"),
        };
        Self { url: service.url(), service: Some(service), folder: None }
    }

    /// Starts a node on this log, and waits until it is ready.
    pub fn node(&self, options: &[&str]) -> Server {
        let server = Server::with(&[&["--engine", self.url.as_str()], options].concat());
        eventually("the node is ready", || http::get(server.addr, "/readyz").status == 200);
        server
    }
}

impl Drop for LogHome {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
