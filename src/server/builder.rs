//! Builds a server from its settings and starts it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;

use super::auth::Auth;
use super::config::{Prepared, ServerConfig};
use super::error::ServerError;
use super::handle::ServerHandle;
#[cfg(unix)]
use super::handover::Inheritance;
use super::http::door;
use super::reactor::event_loop;
use super::shared::{Shared, wake_all};
use crate::bridge::Bridge;
use crate::bus::Bus;
use crate::engine::{EngineConfig, Ingest};
#[cfg(unix)]
use crate::event::{Timestamp, limit_frames};
use crate::sync::lock;
use crate::threads::{OnFailure, ThreadFailure};

/// Serves a bus to WebSocket and SSE clients.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Returns a builder for a server of this bus.
    #[must_use]
    pub fn builder(bus: &Bus) -> ServerBuilder {
        ServerBuilder {
            bus: bus.clone(),
            listen: None,
            sockets: Vec::new(),
            #[cfg(unix)]
            inheritance: None,
            engine: None,
            ingest: Vec::new(),
            loops: 1,
            config: ServerConfig::default(),
            bridge: None,
            on_failure: None,
        }
    }
}

/// Settings of a server that is not started yet.
pub struct ServerBuilder {
    bus: Bus,
    listen: Option<String>,
    sockets: Vec<TcpListener>,
    #[cfg(unix)]
    inheritance: Option<Inheritance>,
    engine: Option<EngineConfig>,
    ingest: Vec<Ingest>,
    loops: usize,
    config: ServerConfig,
    bridge: Option<Bridge>,
    on_failure: Option<OnFailure>,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerBuilder({}, {} loops)", self.listen.as_deref().unwrap_or("no address"), self.loops)
    }
}

impl ServerBuilder {
    /// Sets the address and port to listen on. Port 0 takes a free one. Default: none; the server then serves the connections
    /// that the program gives to its [`Acceptor`](super::Acceptor).
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Sets sockets that already listen, as a service manager passes them. If there are any, they replace the address of
    /// [`listen`](Self::listen).
    pub fn sockets(mut self, sockets: Vec<TcpListener>) -> Self {
        self.sockets = sockets;
        self
    }

    /// Continues the server of a predecessor process: with its sockets, instead of [`listen`](Self::listen)'s address,
    /// and with its clients. Their connections stay open. The bus must be [the inheritance's](Inheritance::bus).
    #[cfg(unix)]
    pub fn inherit(mut self, inheritance: Inheritance) -> Self {
        self.inheritance = Some(inheritance);
        self
    }

    /// Sets the number of event loops, each a thread with its own share of the connections. Default and minimum: 1.
    pub fn loops(mut self, loops: usize) -> Self {
        self.loops = loops.max(1);
        self
    }

    /// Keeps order and history in a log that several nodes share, instead of in this bus alone. Clients' events go
    /// there first, and every node reads them back in the log's order. Events published directly on the bus stay on
    /// this node.
    pub fn engine(mut self, engine: EngineConfig) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Publishes the messages that other systems send to a channel of Redis or NATS. May be called several times.
    pub fn ingest(mut self, ingest: Ingest) -> Self {
        self.ingest.push(ingest);
        self
    }

    /// Sets limits, times and all other settings.
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets the bridge of `POST /bridge/{protocol}`. Default: one with the routes `a2a` and `mcp`. Handlers run in threads of
    /// their own ([`BridgeConfig`](super::BridgeConfig)), and may block.
    pub fn bridge(mut self, bridge: &Bridge) -> Self {
        self.bridge = Some(bridge.clone());
        self
    }

    /// Calls `hook` once if a thread of the server panics or can't continue. The server stops then: its loops end, its
    /// sockets close, and [`ServerHandle::join`] returns the failure; the process continues. The hook runs in the
    /// thread that failed. A panic of the program's own handlers is caught and does not stop the server.
    pub fn on_failure(mut self, hook: impl Fn(&ThreadFailure) + Send + Sync + 'static) -> Self {
        self.on_failure = Some(Box::new(hook));
        self
    }

    /// Binds the address and starts the loops. Blocks at most for a name look-up and for reading files of keys.
    ///
    /// Without authentication the server serves this machine only: another address is an error
    /// ([`ServerErrorKind::Unguarded`](super::ServerErrorKind::Unguarded)) unless the config says `insecure`.
    ///
    /// # Errors
    ///
    /// Fails if the address can't be bound, a file of the config can't be read or is wrong, the engine's log is refused, or the
    /// server would be open to others without authentication.
    pub fn spawn(self) -> Result<ServerHandle, ServerError> {
        #[cfg(unix)]
        let mut inheritance = self.inheritance;
        #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has a predecessor"))]
        let Self { bus, listen, mut sockets, engine, ingest, loops, config, bridge, on_failure, .. } = self;
        #[cfg(unix)]
        if let Some(inheritance) = &mut inheritance {
            sockets = std::mem::take(&mut inheritance.listeners);
        }
        let doing = || match &listen {
            Some(listen) => format!("listening on {listen}"),
            None => "starting the loops".to_owned(),
        };
        let address = address_of(&sockets, listen.as_deref()).map_err(|e| ServerError::new(doing(), e))?;
        let is_local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        let others = sockets.iter().filter_map(|socket| socket.local_addr().ok());
        // Without a listener, the embedding program controls all connections.
        let is_guarded = address.into_iter().chain(others).all(is_local);
        let is_local = address.is_some() && is_guarded;
        #[cfg(feature = "auth")]
        let auth = Auth::load(&config.auth).map_err(ServerError::authentication)?;
        #[cfg(not(feature = "auth"))]
        let auth = Auth::default();
        if auth.is_open() && !config.insecure && !is_guarded {
            return Err(ServerError::unguarded(doing()));
        }
        let log = engine.as_ref().map(|engine| (bus.shards(), engine.by_interest));
        if let Some(fault) = config.retain.fault(log) {
            return Err(ServerError::configuration(io::Error::other(fault)));
        }
        let config = Prepared::new(config).map_err(ServerError::configuration)?;
        let slots = (bus.shards() * bus.capacity()) as u64;
        let frames = config.frame_bytes_max(slots, bus.ring_bytes_max());
        limit_frames(usize::try_from(frames).unwrap_or(usize::MAX));
        let mut shared = Shared::new(bus, config, loops);
        if let Some(hook) = on_failure {
            shared.alarm.set_hook(hook);
        }
        shared.auth = Arc::new(auth);
        shared.lifecycle.is_local = is_local;
        door::warn_if_open(&shared, &shared.config().1);
        #[cfg(unix)]
        for one in inheritance.iter_mut().flat_map(Inheritance::revoked) {
            if let Err(max) = shared.auth.revoke(one, Timestamp::now()) {
                tracing::error!(max, "more was revoked than is kept here: raise auth.max_revocations");
            }
        }
        #[cfg(unix)]
        if let Some(inheritance) = &mut inheritance {
            lock(&shared.clients.presence).expect(inheritance.present());
            shared.clients.dedupe.restore(inheritance.once());
            inheritance.seal().into_iter().for_each(|seal| shared.auth.take_seal(seal));
        }
        if let Some(bridge) = bridge {
            shared.bridge = bridge;
        }
        if let Some(engine) = engine {
            let doing = format!("the engine {engine:?}");
            #[cfg(unix)]
            let known = inheritance.as_ref().and_then(Inheritance::places).cloned();
            #[cfg(not(unix))]
            let known = None;
            shared = shared
                .with_engine(engine, known)
                .map_err(|e| ServerError::new(doing, io::Error::other(e)))?;
        }
        let shared = Arc::new(shared);
        let (address, started) = event_loop::start(
            &shared,
            address,
            sockets,
            #[cfg(unix)]
            inheritance.as_mut(),
        )
        .map_err(|e| ServerError::new(doing(), e))?;
        for ingest in ingest {
            start_ingest(ingest, &shared)?;
        }
        let (threads, wakers): (_, Vec<Arc<mio::Waker>>) = started.into_iter().unzip();
        *lock(&shared.loops.wake) = Some(Arc::new(move || {
            for waker in &wakers {
                // Fails only for a loop that has ended.
                let _ = waker.wake();
            }
        }));
        let wake = Arc::clone(&shared.loops.wake);
        shared.alarm.on_raised(Arc::new(move || wake_all(&wake)));
        Ok(ServerHandle { address, shared, threads })
    }
}

/// Starts the thread that publishes the messages of an ingest while the server lives.
fn start_ingest(ingest: Ingest, shared: &Arc<Shared>) -> Result<(), ServerError> {
    let server = Arc::downgrade(shared);
    let take = move |event| server.upgrade().is_some_and(|shared| shared.take_in(event));
    let doing = format!("listening to {ingest}");
    let metrics = Arc::clone(&shared.metrics);
    ingest.start(metrics, &shared.alarm, Box::new(take)).map_err(|error| ServerError::new(doing, error))
}

/// Returns the address at which the loops listen, or `None` if they don't.
fn address_of(sockets: &[TcpListener], listen: Option<&str>) -> io::Result<Option<SocketAddr>> {
    match (sockets.first(), listen) {
        (Some(socket), _) => socket.local_addr().map(Some),
        (None, Some(listen)) => resolve(listen).map(Some),
        (None, None) => Ok(None),
    }
}

/// Returns the first address that this text resolves to.
fn resolve(listen: &str) -> io::Result<SocketAddr> {
    listen.to_socket_addrs()?.next().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}
