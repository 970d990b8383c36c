//! Prints how long an event takes on this machine from `publish` to the bytes at a client's socket: through the loop's wake-up,
//! the match, the encoding, the write, and the kernel's way between two sockets.
//!
//! `cargo run --release --example latency_server`, or `-- 200000` for more events. Close other programs first.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fanwire::{Bus, Event, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let events = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20_000);
    print!("{}", table(events)?);
    Ok(())
}

/// Measures a client that polls its socket and one that sleeps, and returns a table of nanoseconds.
pub(crate) fn table(events: usize) -> Result<String, Box<dyn Error>> {
    let mut table =
        String::from("| client | cores | p50 | p99 | p99.9 | p99.99 |\n|---|---|---|---|---|---|\n");
    for (name, polls, cores, core) in
        [("polls", true, "two", 1), ("sleeps", false, "two", 1), ("sleeps", false, "one", 0)]
    {
        let times = measure(polls, core, events.max(1))?;
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let [a, b, c, d] = [0.5, 0.99, 0.999, 0.9999].map(at);
        writeln!(table, "| {name} | {cores} | {a} | {b} | {c} | {d} |")?;
    }
    Ok(table)
}

/// Returns the sorted nanoseconds from `publish` to after the client's `read`. One event is on its way at a time.
fn measure(polls: bool, core: usize, events: usize) -> Result<Vec<u64>, Box<dyn Error>> {
    let bus = Bus::new();
    stay_on(core); // and so does the loop's thread, which begins here
    let server = Server::builder(&bus).listen("127.0.0.1:0").spawn()?;
    stay_on(0);
    let mut client = TcpStream::connect(server.local_addr())?;
    client.write_all(b"GET /sse?type=tick HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let (mut begun, mut piece) = (Vec::new(), [0; 4096]);
    while !begun.windows(6).any(|six| six == b"retry:") {
        let read = client.read(&mut piece)?;
        begun.extend_from_slice(&piece[..read]);
    }
    client.set_nonblocking(polls)?;
    let mut times = Vec::with_capacity(events);
    for nth in 0..events + events / 10 {
        // Long enough for the loop to sleep.
        std::thread::sleep(Duration::from_micros(50));
        let event = Event::builder("tick").json(nth.to_string()).build()?;
        let begun = Instant::now();
        bus.publish(event);
        while client.read(&mut piece).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            std::hint::spin_loop();
        }
        times.push(begun.elapsed().as_nanos() as u64);
    }
    times.drain(..events / 10); // the warm-up
    server.drain(Duration::ZERO);
    server.join()?;
    times.sort_unstable();
    Ok(times)
}

/// Pins this thread to a core, if the system supports it.
fn stay_on(core: usize) {
    let _ = core;
    #[cfg(target_os = "linux")]
    {
        let mut cores = rustix::thread::CpuSet::new();
        cores.set(core);
        if rustix::thread::sched_setaffinity(None, &cores).is_err() {
            eprintln!("there is no core {core}: the system places this thread");
        }
    }
}
