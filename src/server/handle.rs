//! The handle of a running server.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::acceptor::Acceptor;
use super::config::{Prepared, ServerConfig};
use super::error::ServerError;
#[cfg(unix)]
use super::handover::{self, HandoverError};
use super::http::door;
use super::shared::Shared;
#[cfg(feature = "dialects")]
use crate::dialect::autosdlc::ClientSubscription;
use crate::event::Event;
use crate::sync::atomic::Ordering;

/// Reports whether a server's loops respond. May outlive the server.
#[derive(Clone)]
pub struct Liveness {
    shared: Arc<Shared>,
}

impl fmt::Debug for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Liveness")
    }
}

impl Liveness {
    /// Wakes every loop, and returns whether each begins another turn within this time. Blocks until then.
    #[must_use]
    pub fn check(&self, within: Duration) -> bool {
        let beats = || self.shared.loops.beats.iter().map(|beat| beat.load(Ordering::Relaxed));
        let before: Vec<u64> = beats().collect();
        self.shared.wake_loops();
        let end = Instant::now() + within;
        loop {
            if beats().zip(&before).all(|(now, before)| now != *before) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5).min(within));
        }
    }
}

/// A running server. Dropping the handle does not stop the server.
#[must_use = "keep it to drain or join the server"]
pub struct ServerHandle {
    pub(super) address: Option<SocketAddr>,
    pub(super) shared: Arc<Shared>,
    pub(super) threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerHandle({:?})", self.address)
    }
}

impl ServerHandle {
    /// Returns the address on which the server listens, with the chosen port if 0 was requested.
    ///
    /// # Panics
    ///
    /// Panics if the server has no listener: neither [`listen`](super::ServerBuilder::listen) nor
    /// [`sockets`](super::ServerBuilder::sockets) was called.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address.expect("the server has no listener: call `listen` on its builder")
    }

    /// Returns an acceptor, through which the program gives this server connections that it has accepted itself.
    #[must_use]
    pub fn acceptor(&self) -> Acceptor {
        Acceptor::new(Arc::clone(&self.shared))
    }

    /// Reports at `/readyz` that the server is leaving, and continues to serve, so that a load balancer has time to
    /// react. Call [`drain`](Self::drain) after that.
    pub fn withdraw(&self) {
        // Relaxed: a flag on its own.
        self.shared.lifecycle.withdrawn.store(true, Ordering::Relaxed);
    }

    /// Hands this server over to a successor, a process that calls [`Inheritance::claim`](super::Inheritance::claim) at
    /// the other end of this socket: the rings, the listening sockets, and the clients with their pending bytes.
    /// Clients with TLS can't move: they are asked to reconnect, as by [`drain`](Self::drain). Returns the number of
    /// moved clients; afterwards only [`join`](Self::join) is useful. Blocks for at most a few seconds once the
    /// successor is ready.
    ///
    /// After a failure this server continues with all its state. `give_up` is called before that, and must make sure
    /// that the successor has ended. Publish nothing on the bus during the call: such events may reach no client.
    ///
    /// # Errors
    ///
    /// Fails if the successor does not answer in time, is of another kind, or the socket breaks. This server then continues.
    #[cfg(unix)]
    pub fn hand_over(
        &self,
        socket: std::os::unix::net::UnixStream,
        limit: Duration,
        give_up: impl FnOnce(),
    ) -> Result<usize, HandoverError> {
        handover::hand_over(&self.shared, socket, limit, give_up)
    }

    /// Returns the subscriptions of the AutoSDLC client with this `clientId`; empty if there is no such client here.
    #[cfg(feature = "dialects")]
    #[must_use]
    pub fn client_subscriptions(&self, client_id: &str) -> Vec<ClientSubscription> {
        self.shared.clients.observers.autosdlc.clients.of(client_id)
    }

    /// Returns a handle that reports whether the loops respond.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        Liveness { shared: Arc::clone(&self.shared) }
    }

    /// Returns a function that publishes as clients do: through the engine, if there is one. Events that the engine refuses
    /// are counted and lost. The function returns false once the server is leaving.
    pub fn publisher(&self) -> impl Fn(Event) -> bool + Send + Sync + 'static {
        let server = Arc::downgrade(&self.shared);
        move |event| server.upgrade().is_some_and(|shared| shared.take_in(event))
    }

    /// Starts to shut down the server: readiness ends, accepting stops, and every client is notified in its own
    /// protocol. Bytes not written within `limit` are dropped. Does not block; [`join`](Self::join) waits for the end.
    pub fn drain(&self, limit: Duration) {
        self.shared.start_drain(limit);
    }

    /// Replaces the config; open connections keep their own settings. Settings that are used once (`conflate_key`,
    /// `max_snapshot_keys`) stay. Blocks for the files that the config names; each loop
    /// takes the new config at its next turn.
    ///
    /// Clients with a token, key or subject that is no longer valid are closed before the next event.
    ///
    /// # Errors
    ///
    /// Fails if a file of the config can't be read or is wrong; then nothing has changed.
    pub fn reload(&self, config: ServerConfig) -> Result<(), ServerError> {
        let config = Prepared::new(config).map_err(ServerError::configuration)?;
        #[cfg(feature = "auth")]
        self.shared.auth.reload(&config.auth).map_err(ServerError::authentication)?;
        door::warn_if_opened(&self.shared, &config);
        self.shared.set_config(config);
        self.shared.wake_loops();
        Ok(())
    }

    /// Waits until every loop has ended. Blocks.
    ///
    /// # Errors
    ///
    /// Returns the failure of a thread that ended the server early ([`ServerError::thread_failure`]). All other loops have
    /// ended then too.
    pub fn join(self) -> Result<(), ServerError> {
        for thread in self.threads {
            // A panic is caught in its thread and recorded in the alarm.
            let _ = thread.join();
        }
        self.shared.alarm.first().map_or(Ok(()), |failure| Err(ServerError::stopped(failure)))
    }
}
