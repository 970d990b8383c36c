//! A faulty network: it passes bytes between clients and the server, and corrupts one event.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The fault. It is made once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    Drop,
    Double,
    /// Swaps an event with the next one.
    Swap,
    /// Changes a digit of the event's payload.
    Change,
}

/// Transport of the stream that gets the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    WebSocket,
    Sse,
}

/// Number of the event that is corrupted, on the first connection of the right kind.
const EVENT: usize = 3;

/// Listens on a port of its own until the test ends.
pub struct Liar {
    pub addr: SocketAddr,
    done: Arc<AtomicBool>,
}

impl Liar {
    pub fn before(server: SocketAddr, lie: Lie, on: On) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let done = Arc::new(AtomicBool::new(false));
        let lied = Arc::clone(&done);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                let (up, down) = (copy(&upstream), copy(&client));
                std::thread::spawn(move || pass(client, up, |bytes, out| out.append(bytes)));
                let done = Arc::clone(&lied);
                let mut stream =
                    Stream { lie, on, done, head: true, is_ours: false, whole: 0, held: VecDeque::new() };
                std::thread::spawn(move || pass(upstream, down, move |bytes, out| stream.take(bytes, out)));
            }
        });
        Self { addr, done }
    }

    /// Returns whether the fault has been made.
    pub fn has_lied(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

/// One connection's bytes for its client, cut into whole messages.
struct Stream {
    lie: Lie,
    on: On,
    done: Arc<AtomicBool>,
    /// Whether the answer's head is still incomplete.
    head: bool,
    /// Whether this stream gets the fault.
    is_ours: bool,
    /// Number of events that have passed.
    whole: usize,
    held: VecDeque<Vec<u8>>,
}

impl Stream {
    /// Moves the complete messages of received bytes to `out`. An incomplete one remains in `bytes`.
    fn take(&mut self, bytes: &mut Vec<u8>, out: &mut Vec<u8>) {
        if self.head {
            let Some(end) = find(bytes, b"\r\n\r\n") else { return };
            let head: Vec<u8> = bytes.drain(..end + 4).collect();
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            self.is_ours = match self.on {
                On::WebSocket => text.starts_with("http/1.1 101"),
                On::Sse => text.contains("text/event-stream"),
            };
            out.extend(head);
            self.head = false;
        }
        if !self.is_ours || (self.done.load(Ordering::Relaxed) && self.held.is_empty()) {
            out.append(bytes);
            return;
        }
        while let Some(len) = self.message(bytes) {
            let mut message: Vec<u8> = bytes.drain(..len).collect();
            if find(&message, b"fanwire.verify.event").is_none() {
                out.extend(message);
                continue;
            }
            self.whole += 1;
            if let Some(held) = self.held.pop_front() {
                out.extend(message);
                out.extend(held);
                continue;
            }
            if self.whole != EVENT || self.done.swap(true, Ordering::Relaxed) {
                out.extend(message);
                continue;
            }
            match self.lie {
                Lie::Drop => {}
                Lie::Double => {
                    out.extend(&message);
                    out.extend(&message);
                }
                Lie::Swap => self.held.push_back(message),
                Lie::Change => {
                    let at = find(&message, b"\"pad\":\"").expect("it carries text") + 7;
                    message[at] = if message[at] == b'0' { b'1' } else { b'0' };
                    out.extend(message);
                }
            }
        }
    }

    /// Returns the length of the first whole message.
    fn message(&self, bytes: &[u8]) -> Option<usize> {
        let len = match self.on {
            On::Sse => find(bytes, b"\n\n")? + 2,
            // A server's frames are not masked.
            On::WebSocket => match *bytes {
                [_, short @ 0..=125, ..] => 2 + usize::from(short),
                [_, 126, high, low, ..] => 4 + usize::from(u16::from_be_bytes([high, low])),
                [_, 127, ..] if bytes.len() >= 10 => {
                    10 + u64::from_be_bytes(bytes[2..10].try_into().expect("eight bytes")) as usize
                }
                _ => return None,
            },
        };
        (bytes.len() >= len).then_some(len)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Passes bytes from one socket to the other. `change` moves bytes from the received ones (first) to those to send
/// (second).
fn pass(mut from: TcpStream, mut to: TcpStream, mut change: impl FnMut(&mut Vec<u8>, &mut Vec<u8>)) {
    let (mut kept, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        kept.extend_from_slice(&chunk[..len]);
        let mut out = Vec::new();
        change(&mut kept, &mut out);
        if to.write_all(&out).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
