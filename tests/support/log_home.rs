//! Homes of an engine's log: a folder, a Redis, or a NATS with JetStream.
//!
//! Always: the service ends, and the folder is removed, with the test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::service::{Kind, Service};
use super::{Server, eventually, http};

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
