//! A failing network: it passes bytes between clients and the server, and cuts connections on request.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Delay of bytes on their way, in milliseconds.
type Delay = Arc<AtomicUsize>;

/// Listens on a port of its own until the test ends.
pub struct Proxy {
    pub addr: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    /// Number of bytes to a client after which its connection is cut. 0 means never.
    allowance: Arc<AtomicUsize>,
    /// Whether bytes for clients are held back.
    stalled: Arc<AtomicBool>,
    delay: Delay,
}

impl Proxy {
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let open = Arc::new(Mutex::new(Vec::new()));
        let allowance = Arc::new(AtomicUsize::new(0));
        let stalled = Arc::new(AtomicBool::new(false));
        let delay = Delay::default();
        let (all, limit, stall) = (Arc::clone(&open), Arc::clone(&allowance), Arc::clone(&stalled));
        let late = Arc::clone(&delay);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // The server is not running: the client's connection is closed.
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                all.lock().expect("no panic holds it").extend([copy(&client), copy(&upstream)]);
                let (up, down) = (copy(&upstream), copy(&client));
                let delay = Arc::clone(&late);
                std::thread::spawn(move || {
                    pass(client, up, &AtomicUsize::new(0), &AtomicBool::new(false), &delay);
                });
                let (limit, stall, delay) = (Arc::clone(&limit), Arc::clone(&stall), Arc::clone(&late));
                std::thread::spawn(move || pass(upstream, down, &limit, &stall, &delay));
            }
        });
        Self { addr, open, allowance, stalled, delay }
    }

    /// Delays each read by this time, in both directions, like a slow network.
    pub fn delay(&self, time: Duration) {
        self.delay.store(time.as_millis() as usize, Ordering::Relaxed);
    }

    /// Cuts every existing connection. New ones are accepted.
    pub fn cut(&self) {
        for stream in self.open.lock().expect("no panic holds it").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Holds back all bytes for clients, or lets them pass again, like a network that stalls without breaking.
    pub fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    /// From now on, cuts each connection after this many bytes to its client, at any position.
    pub fn cut_after(&self, bytes: usize) {
        self.allowance.store(bytes, Ordering::Relaxed);
    }
}

fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    allowance: &AtomicUsize,
    stalled: &AtomicBool,
    delay: &AtomicUsize,
) {
    let mut chunk = [0; 4096];
    let mut passed = 0;
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        std::thread::sleep(Duration::from_millis(delay.load(Ordering::Relaxed) as u64));
        while stalled.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = match allowance.load(Ordering::Relaxed) {
            0 => len,
            limit => len.min(limit.saturating_sub(passed)),
        };
        if to.write_all(&chunk[..left]).is_err() || left < len {
            break;
        }
        passed += len;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
