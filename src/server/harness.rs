//! A loop with one client on an in-memory socket, for benchmarks of a turn's cost.
//!
//! Not part of the crate's interface.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

use super::builder::Server;
use super::error::ServerError;
use super::handle::ServerHandle;
use super::reactor::socket::Socket;
use super::reactor::{LoopState, READ_BYTES, Token};
use super::shared::Shared;
#[cfg(test)]
use super::shared::adoption::{AdoptedHead, AdoptedRequest};
use super::{RetainBy, RetainConfig, RetainRule, ServerConfig};
use crate::bus::Bus;
#[cfg(test)]
use crate::codec::http;
use crate::codec::ws;
use crate::event::{Event, Timestamp};

/// Secret of the tokens that a loop with authentication accepts.
pub const SECRET: &str = "a secret of thirty-two bytes, or more";

#[derive(Debug, Default)]
struct Ends {
    arrived: Vec<u8>,
    /// Input that repeats when nothing else has arrived: as many complete messages as one read has room for, so that a read
    /// costs one copy, as it does from a kernel.
    endless: Vec<u8>,
    taken: Vec<u8>,
    /// Whether bytes sent to the client are dropped.
    is_sink: bool,
}

#[derive(Clone, Debug, Default)]
struct End(Rc<RefCell<Ends>>);

impl Read for End {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        if !ends.arrived.is_empty() {
            let len = ends.arrived.len().min(buffer.len());
            buffer[..len].copy_from_slice(&ends.arrived[..len]);
            ends.arrived.drain(..len);
            return Ok(len);
        }
        if ends.endless.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = ends.endless.len().min(buffer.len());
        buffer[..len].copy_from_slice(&ends.endless[..len]);
        Ok(len)
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        if !ends.is_sink {
            ends.taken.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        if !ends.is_sink {
            for slice in slices {
                ends.taken.extend_from_slice(slice);
            }
        }
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for End {
    fn close_write(&mut self) {}
}

/// Returns a request for a WebSocket at this path.
fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A loop and its client.
#[allow(missing_debug_implementations, reason = "a loop has none")]
pub struct OneClient {
    core: LoopState<End>,
    end: End,
    token: Token,
    turns: u64,
    worst: u32,
    worst_match: u64,
    shared: Arc<Shared>,
}

impl OneClient {
    /// Returns a client of a loop without authentication, or of one that requires tokens.
    ///
    /// # Panics
    ///
    /// Only if memory runs out.
    #[must_use]
    pub fn new(is_locked: bool) -> Self {
        #[cfg_attr(not(feature = "auth"), expect(unused_mut))]
        let mut config = ServerConfig::default();
        #[cfg(feature = "auth")]
        if is_locked {
            config.auth.jwt.hs256_secret = Some(SECRET.into());
            config.auth.jwt.require_exp = false;
        }
        let _ = is_locked;
        Self::of(&config)
    }

    /// Returns a client of a loop that keeps the events of streams that begin with `run-`, in a log for each.
    ///
    /// # Panics
    ///
    /// Only if memory runs out.
    #[must_use]
    pub fn keeping() -> Self {
        let rule = RetainRule::new("stream=run-*", RetainBy::Stream).expect("a filter");
        let retain = RetainConfig { rules: vec![rule], ..RetainConfig::default() };
        Self::of(&ServerConfig { retain, ..ServerConfig::default() })
    }

    fn of(config: &ServerConfig) -> Self {
        let bus = Bus::builder().capacity(1024).build().expect("it can be made");
        #[cfg_attr(not(feature = "auth"), expect(unused_mut))]
        let mut shared = Shared::new(bus, config.clone(), 1);
        #[cfg(feature = "auth")]
        {
            shared.auth = Arc::new(super::auth::Auth::load(&config.auth).expect("a secret is all it takes"));
        }
        let shared = Arc::new(shared);
        #[cfg(any(test, fuzzing))]
        shared.workers.work_inline();
        let mut core: LoopState<End> = LoopState::new(Arc::clone(&shared), shared.bus.reader(|| {}), 1, 0);
        let end = End::default();
        let token = core.admit(end.clone()).expect("there is room");
        let mut client = Self { core, end, token, turns: 0, worst: 0, worst_match: 0, shared };
        client.turn();
        client
    }

    /// Returns a client as [`new`](Self::new) does, with a WebSocket at this path.
    #[must_use]
    pub fn at(path: &str, is_locked: bool) -> Self {
        let mut client = Self::new(is_locked);
        client.upgrade(path);
        client
    }

    /// Returns a loop with this many clients on WebSockets, each with a subscription that has these fields. Bytes sent to them
    /// from now on are dropped.
    ///
    /// # Panics
    ///
    /// Only if memory runs out.
    #[must_use]
    pub fn subscribed(clients: u64, fields: impl Fn(u64) -> String) -> Self {
        let mut client = Self::new(false);
        for n in 0..clients {
            client.another("/ws");
            client.says(&format!(r#"{{"type":"subscribe","payload":{{{}}}}}"#, fields(n)));
            client.settle();
            // The buffers of its end are freed, too.
            *client.end.0.borrow_mut() = Ends { is_sink: true, ..Ends::default() };
        }
        client
    }

    /// Closes the client's connection, and opens another with a WebSocket at this path.
    ///
    /// # Panics
    ///
    /// Only if memory runs out.
    pub fn comes_again(&mut self, path: &str) {
        self.core.forget(self.token);
        self.another(path);
    }

    /// Opens another connection with a WebSocket at this path, in addition to the existing ones.
    ///
    /// # Panics
    ///
    /// Only if memory runs out.
    pub fn another(&mut self, path: &str) {
        self.end = End::default();
        self.token = self.core.admit(self.end.clone()).expect("there is room");
        self.upgrade(path);
        self.forget();
    }

    /// Adopts another connection with a WebSocket at this path, and the input that the program has read after the request.
    #[cfg(test)]
    pub(crate) fn another_adopted(&mut self, path: &str, read: Vec<u8>) {
        self.adopts(&upgrade_request(path), read, AdoptedHead::Own);
    }

    /// Adopts another connection with this request, and the input after it.
    #[cfg(test)]
    pub(crate) fn adopts(&mut self, request: &str, read: Vec<u8>, head: AdoptedHead) {
        let limits = self.core.config().http_limits();
        let (request, _) = http::parse_request(request.as_bytes(), &limits).expect("valid").expect("whole");
        self.end = End::default();
        let adopted = AdoptedRequest { request, shown: None, read, head };
        self.token = self.core.adopt(self.end.clone(), adopted).expect("there is room");
    }

    fn upgrade(&mut self, path: &str) {
        self.arrives(upgrade_request(path).as_bytes());
        self.turn();
    }

    /// Delivers bytes from the client.
    pub fn arrives(&mut self, bytes: &[u8]) {
        self.end.0.borrow_mut().arrived.extend_from_slice(bytes);
    }

    /// Delivers a WebSocket message from the client.
    pub fn says(&mut self, text: &str) {
        let frame = frame(1, text.as_bytes());
        self.arrives(&frame);
    }

    /// Delivers these bytes from now on, as fast as they are read.
    pub fn repeats(&mut self, bytes: &[u8]) {
        self.end.0.borrow_mut().endless = bytes.repeat((READ_BYTES / bytes.len()).max(1));
    }

    /// Runs one turn of the loop.
    pub fn turn(&mut self) {
        self.turns += 1;
        let matched = self.core.condition_work();
        // All turns are within one tick, so no timer is due.
        self.core.wake(1, Timestamp(self.turns as i64));
        self.core.ready(self.token, true, false);
        self.core.turn();
        self.worst = self.worst.max(self.core.spent());
        self.worst_match = self.worst_match.max(self.core.condition_work() - matched);
    }

    /// Runs one turn in which no socket is ready.
    pub fn quiet_turn(&mut self) {
        self.turns += 1;
        self.core.wake(1, Timestamp(self.turns as i64));
        self.core.turn();
    }

    /// Runs the turn of a tick in which no socket is ready: timers and reports are due.
    pub fn quiet_tick(&mut self, tick: u64) {
        self.turns += 1;
        self.core.wake(tick, Timestamp(self.turns as i64));
        self.core.turn();
    }

    /// Publishes an event on the bus that the loop reads.
    pub fn publishes(&self, event: Event) {
        self.shared.bus.publish(event);
    }

    /// Drops the bytes sent to the client from now on.
    pub fn drops_output(&self) {
        self.end.0.borrow_mut().is_sink = true;
    }

    /// Drops the encoded blocks of kept logs.
    pub fn drops_blocks(&self) {
        self.shared.kept.blocks().clear();
    }

    /// Returns the memory that the kept logs and their encoded blocks are counted with, in bytes.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.shared.kept.held_bytes()
    }

    /// Returns the approximate maximum number of instructions that filters' conditions took in a turn since the last
    /// call.
    pub fn matched(&mut self) -> u64 {
        std::mem::take(&mut self.worst_match)
    }

    /// Runs one turn under a name that a profiler finds: `cargo xtask instructions` counts each call.
    #[inline(never)]
    pub fn counted_turn(&mut self) {
        self.turn();
    }

    /// Runs counted turns until nothing is left to do.
    pub fn settle_counted(&mut self) {
        self.counted_turn();
        self.counted_turn();
        while self.core.has_work() {
            self.counted_turn();
        }
    }

    /// Runs turns until nothing is left to do. Returns their number, and the bytes sent to the client.
    pub fn settle(&mut self) -> (u64, Vec<u8>) {
        let before = self.turns;
        // A worker's result is taken in the next turn.
        self.turn();
        self.turn();
        while self.core.has_work() {
            self.turn();
        }
        (self.turns - before, std::mem::take(&mut self.end.0.borrow_mut().taken))
    }

    /// Returns the maximum number of units that a turn has spent since the last call.
    pub fn spent(&mut self) -> u32 {
        std::mem::take(&mut self.worst)
    }

    /// Returns the text sent to the client since the last call.
    #[cfg(test)]
    pub(crate) fn sent(&mut self) -> String {
        let sent = std::mem::take(&mut self.end.0.borrow_mut().taken);
        String::from_utf8_lossy(&sent).into_owned()
    }

    /// Drops the bytes sent to the client, and returns their number.
    pub fn forget(&mut self) -> usize {
        let mut ends = self.end.0.borrow_mut();
        let sent = ends.taken.len();
        ends.taken.clear();
        sent
    }
}

/// Returns a client's frame of this kind, masked with zeros.
#[must_use]
pub fn frame(op: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ws::frame(ws::OpCode::Text, payload).to_vec();
    frame[0] = frame[0] & 0xf0 | op;
    let head = frame.len() - payload.len();
    frame[1] |= 0x80;
    frame.splice(head..head, [0; 4]);
    frame
}

/// Maximum size of an echoed message, in bytes. The longest message of the suite has 16 MiB.
const ECHO_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Serves WebSockets at every path of this address, and echoes their messages.
///
/// # Errors
///
/// Fails as [`ServerBuilder::spawn`](super::ServerBuilder::spawn) does.
pub fn serve_echo(listen: &str, deflate: bool) -> Result<ServerHandle, ServerError> {
    let config = ServerConfig {
        echo: true,
        compression: deflate,
        max_message_bytes: ECHO_BYTES_MAX,
        ..ServerConfig::default()
    };
    Server::builder(&Bus::new()).listen(listen).config(config).spawn()
}
