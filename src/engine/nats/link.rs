//! Connections to NATS, and the runtime that drives the client.
//!
//! Invariants:
//! - The runtime ends in the background, so that its owner may be dropped in any async code.
//! - Credentials are removed from the address before the client sees it, because the client logs addresses.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event as ClientEvent, ServerAddr};
use futures_util::future::{Either, select};
use tokio::runtime::{EnterGuard, Runtime};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::address::addresses;
use super::super::error::EngineError;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};

/// Maximum time for connecting, for a request and for an acknowledgement.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn unreachable(error: impl std::fmt::Display) -> EngineError {
    EngineError::Unreachable(error.to_string())
}

/// Runtime of the client's tasks, on a thread of its own.
#[derive(Debug)]
pub(super) struct Driver(Option<Runtime>);

impl Driver {
    pub(super) fn start() -> Result<Arc<Self>, EngineError> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("fanwire-engine-nats").enable_all();
        Ok(Arc::new(Self(Some(builder.build().map_err(unreachable)?))))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("taken when it is dropped, not before")
    }

    /// Blocks until the work is done. Must not be called in async code.
    pub(super) fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.runtime().block_on(work)
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(self.runtime().spawn(work))
    }

    fn enter(&self) -> EnterGuard<'_> {
        self.runtime().enter()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The tasks hold sockets and nothing that must be finished. Waiting for them would panic in async code.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Task that is aborted on drop.
#[derive(Debug)]
pub(super) struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Value of the client that spawns a task on drop and therefore needs the runtime around it.
pub(super) struct InRuntime<T> {
    driver: Arc<Driver>,
    value: Option<T>,
}

impl<T> InRuntime<T> {
    pub(super) fn new(driver: &Arc<Driver>, value: T) -> Self {
        Self { driver: Arc::clone(driver), value: Some(value) }
    }

    pub(super) fn peek(&self) -> &T {
        self.value.as_ref().expect("taken when it is dropped, not before")
    }

    pub(super) fn get(&mut self) -> &mut T {
        self.value.as_mut().expect("taken when it is dropped, not before")
    }
}

impl<T> Drop for InRuntime<T> {
    fn drop(&mut self) {
        let _inside = self.driver.enter();
        self.value.take();
    }
}

/// Fault of a connection or of the log behind it. The first one counts.
#[derive(Debug, Default)]
pub(super) struct Faults {
    is_faulty: AtomicBool,
    first: Mutex<Option<EngineError>>,
    changed: Notify,
}

impl Faults {
    pub(super) fn set(&self, error: EngineError) {
        if !self.is_faulty() {
            lock(&self.first).get_or_insert(error);
            // Release: pairs with the Acquire of `is_faulty`, so that a thread that sees the flag finds the error.
            self.is_faulty.store(true, Ordering::Release);
        }
        self.changed.notify_waiters();
    }

    pub(super) fn is_faulty(&self) -> bool {
        // Acquire: pairs with the Release of `set`.
        self.is_faulty.load(Ordering::Acquire)
    }

    pub(super) fn check(&self) -> Result<(), EngineError> {
        if !self.is_faulty() {
            return Ok(());
        }
        Err(lock(&self.first).take().unwrap_or_else(|| unreachable("the connection was lost")))
    }

    /// Waits for a fault.
    pub(super) async fn wait(&self) -> EngineError {
        loop {
            let changed = self.changed.notified();
            if let Err(error) = self.check() {
                return error;
            }
            changed.await;
        }
    }

    /// Runs work that ends at a fault.
    pub(super) async fn guard<T>(
        &self,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        match select(pin!(work), pin!(self.wait())).await {
            Either::Left((done, _)) => done,
            Either::Right((error, _)) => Err(error),
        }
    }
}

/// Server address, and the credentials for it.
struct ServerAddress {
    address: ServerAddr,
    user: Option<(String, Option<String>)>,
}

/// Returns the servers of an address. Their order does not matter.
fn servers(urls: &str) -> Result<Vec<ServerAddress>, EngineError> {
    let server = |url: &str| {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        let user = user.map(|user| match user.split_once(':') {
            Some((name, password)) => (unescaped(name), Some(unescaped(password))),
            None => (unescaped(user), None),
        });
        let address = Some(format!("{scheme}://{host}")).filter(|_| !host.is_empty());
        // The parser's message may quote the address: leave it out.
        let wrong =
            || EngineError::Url("expected nats://HOST:PORT or nats://USER:PASSWORD@HOST:PORT".to_owned());
        let address = address.and_then(|address| address.parse().ok()).ok_or_else(wrong)?;
        Ok(ServerAddress { address, user })
    };
    let servers: Vec<ServerAddress> = addresses(urls).map(server).collect::<Result<_, _>>()?;
    if servers.windows(2).any(|pair| pair[0].user != pair[1].user) {
        return Err(EngineError::Url("the servers of one log take one user and password".to_owned()));
    }
    Ok(servers)
}

/// Decodes percent escapes such as `%40`.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let escaped = digits.filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns an error for a malformed address.
pub(super) fn check_address(urls: &str) -> Result<(), EngineError> {
    servers(urls).map(drop)
}

/// Connects to one of the servers. The connection becomes faulty whenever messages may have been missed.
pub(super) async fn connect(urls: &str, ca_file: &str, faults: &Arc<Faults>) -> Result<Client, EngineError> {
    let faults = Arc::clone(faults);
    let mut options = ConnectOptions::new();
    if !ca_file.is_empty() {
        options = options.add_root_certificates(ca_file.into());
    }
    options =
        options.connection_timeout(TIMEOUT).request_timeout(Some(TIMEOUT)).event_callback(move |event| {
            match event {
                ClientEvent::Disconnected | ClientEvent::Closed => {
                    faults.set(unreachable("the connection was lost"));
                }
                ClientEvent::SlowConsumer(_) => {
                    faults.set(unreachable("this node was too slow for the server"));
                }
                _ => {}
            }
            std::future::ready(())
        });
    let servers = servers(urls)?;
    options = match servers.first().and_then(|server| server.user.clone()) {
        Some((user, Some(password))) => options.user_and_password(user, password),
        Some((token, None)) => options.token(token),
        None => options,
    };
    let limit = TIMEOUT * servers.len() as u32;
    let addresses: Vec<ServerAddr> = servers.into_iter().map(|server| server.address).collect();
    timeout(limit, options.connect(addresses)).await.map_err(unreachable)?.map_err(unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_in_the_address_that_the_client_is_given() {
        let read = |urls| servers(urls).expect("they are addresses");
        let server = read("nats://user:p%40ss:word@127.0.0.1:4222").remove(0);
        assert_eq!(server.user, Some(("user".to_owned(), Some("p@ss:word".to_owned()))));
        assert!(!format!("{:?}", server.address).contains("ss:word"));
        assert_eq!(read("nats://s3cret@h:1").remove(0).user, Some(("s3cret".to_owned(), None)));
        assert_eq!(read("tls://h").remove(0).user, None);
        for bad in ["nats://user:secret@", "nats://u:secret@h:port", "nats://a:secret@h:1,nats://h:2"] {
            let error = servers(bad).map(drop).expect_err("no address").to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(unescaped("100%"), "100%");
        assert_eq!(unescaped("%zz%4"), "%zz%4");
    }
}
