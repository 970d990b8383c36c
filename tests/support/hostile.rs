//! A proxy that treats requests and answers as nginx, load balancers and CDNs do: it refuses, delays, cuts and
//! rewrites.
//!
//! Requests for streams (`/sse`, `/ws`) are numbered for each client. The client names itself by `_client` in the
//! query. Each request is handled as the test's [`Plan`] for its number says. All other requests pass unchanged.
//! Always: every wait has a time limit.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::wire::{Wire, deadline};

/// Maximum wait of a connection for its next request, or of a stream for its next byte.
const HOUR: Duration = Duration::from_secs(3600);

/// Changes to one request and its answer. The default is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Delay of the answer, and of each read of a stream.
    pub delay: Duration,
    /// Informational answers before the real one.
    pub interim: &'static [u16],
    /// The proxy's own answer, instead of the server's.
    pub own: Option<Own>,
    pub cut: Option<Cut>,
    pub pieces: Pieces,
    pub rewrite: Rewrite,
    /// `Host` and `Origin` that the server gets.
    pub names: Option<(&'static str, &'static str)>,
    /// Time without bytes from the server after which the stream is closed.
    pub idle: Option<Duration>,
}

/// Answers that a proxy makes itself.
#[derive(Clone, Copy, Debug)]
pub enum Own {
    Refused {
        status: u16,
        retry_after: Option<RetryAfter>,
    },
    /// 200 with a page.
    Page,
    /// Closes the connection without a byte.
    Nothing,
    /// Closes the connection within the answer's head.
    HalfAHead,
}

/// The two forms of `Retry-After` (RFC 9110, 10.2.3), in seconds from now.
#[derive(Clone, Copy, Debug)]
pub enum RetryAfter {
    Seconds(u32),
    Date(u32),
}

/// Position at which a stream is cut.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// After this many bytes of the body, wherever that is.
    Bytes(usize),
    /// After this many events, with the normal end of a complete answer.
    Behind(usize),
    /// In the middle of this event, counted from 1.
    Inside(usize),
    /// After this many events, in one direction only: the client may still send, but nothing reads its bytes.
    Half(usize),
}

/// Grouping of a stream's bytes on their way.
#[derive(Clone, Copy, Debug, Default)]
pub enum Pieces {
    #[default]
    AsTheyCome,
    /// Sends the first bytes one by one, up to this many.
    Single(usize),
    /// Holds bytes back until there are this many, or for this long.
    Held(usize, Duration),
}

/// Changes to heads, in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rewrite {
    /// Lower-case names, as after HTTP/2.
    pub lower_case: bool,
    /// Joins headers of one name with commas.
    pub merged: bool,
    /// Removes headers meant for caches and proxies, and adds `Via` and `Server`.
    pub stripped: bool,
    /// Sends streams in chunks, and removes `Connection: keep-alive`.
    pub chunked: bool,
    /// Asks the server in HTTP/1.0, which is nginx's default.
    pub old: bool,
    /// Hides from the server that the client accepts compressed bytes.
    pub plain: bool,
}

/// A request for a stream, as the proxy received it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub client: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub began: Instant,
    /// Changes that the proxy made to it.
    pub plan: Plan,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

type Plans = Box<dyn Fn(usize) -> Plan + Send + Sync>;

struct Shared {
    server: SocketAddr,
    plans: Plans,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
}

/// Listens on a port of its own until the test ends.
pub struct Hostile {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Hostile {
    /// Starts a proxy before a server. `plans` returns the plan for each client's stream requests, counted from 0.
    pub fn before(server: SocketAddr, plans: impl Fn(usize) -> Plan + Send + Sync + 'static) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").expect("a free port"), server, plans)
    }

    /// Like [`before`](Self::before), with a listener whose address is already known.
    pub fn at(
        listener: TcpListener,
        server: SocketAddr,
        plans: impl Fn(usize) -> Plan + Send + Sync + 'static,
    ) -> Self {
        let addr = listener.local_addr().expect("bound");
        let (seen, connections) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        let shared = Arc::new(Shared { server, plans: Box::new(plans), seen, connections });
        let with = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                with.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&with);
                // An error ends one side. The drop closes the other.
                std::thread::spawn(move || drop(serve(client, &shared)));
            }
        });
        Self { addr, shared }
    }

    /// Returns the client's stream requests so far.
    pub fn seen(&self, client: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().expect("no panic holds it");
        seen.iter().filter(|seen| seen.client == client).cloned().collect()
    }

    /// Returns the number of connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Records a request for a stream, and returns its plan.
    fn note(&self, request: &Head) -> Plan {
        let target = request.word(1).to_owned();
        let client = target.split_once("_client=").map_or("", |(_, rest)| rest);
        let client = client.split('&').next().unwrap_or_default().to_owned();
        let mut seen = self.seen.lock().expect("no panic holds it");
        let plan = (self.plans)(seen.iter().filter(|seen| seen.client == client).count());
        let headers = request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        let (began, headers) = (Instant::now(), headers.collect());
        seen.push(Seen { client, target, headers, began, plan });
        plan
    }
}

/// A head of either direction: its first line, and its headers as written.
struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn read(wire: &mut Wire, until: Instant) -> io::Result<Self> {
        let text = wire.take_until(b"\r\n\r\n", until)?;
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        Ok(Self { first, headers })
    }

    fn word(&self, at: usize) -> &str {
        self.first.split(' ').nth(at).unwrap_or_default()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn remove(&mut self, names: &[&str]) {
        self.headers.retain(|(key, _)| !names.iter().any(|name| key.eq_ignore_ascii_case(name)));
    }

    fn set(&mut self, name: &str, value: &str) {
        self.remove(&[name]);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn rewrite(&mut self, rewrite: Rewrite) {
        if rewrite.merged {
            let mut merged: Vec<(String, String)> = Vec::new();
            for (name, value) in self.headers.drain(..) {
                match merged.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(&name)) {
                    Some((_, all)) => *all = format!("{all}, {value}"),
                    None => merged.push((name, value)),
                }
            }
            self.headers = merged;
        }
        if rewrite.lower_case {
            self.headers.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            text.extend([name, ": ", value, "\r\n"]);
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    fn length(&self) -> usize {
        self.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
    }
}

/// Serves one client connection to its end.
fn serve(client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut client = Wire::new(client);
    let mut server: Option<Wire> = None;
    loop {
        let request = Head::read(&mut client, Instant::now() + HOUR)?;
        let body = client.take(request.length(), deadline())?;
        let path = request.word(1).split('?').next().unwrap_or_default();
        if !["/sse", "/ws"].contains(&path) {
            let server = match &mut server {
                Some(server) => server,
                none => none.insert(Wire::new(TcpStream::connect(shared.server)?)),
            };
            pass(&mut client, server, request, &body, Plan::default())?;
            continue;
        }
        let plan = shared.note(&request);
        let done = stream(&mut client, request, plan, shared);
        let _ = client.stream.shutdown(Shutdown::Both);
        return done;
    }
}

/// Passes a request and its answer, which has a length.
fn pass(client: &mut Wire, server: &mut Wire, request: Head, body: &[u8], plan: Plan) -> io::Result<()> {
    server.stream.write_all(&to_server(request, plan).bytes())?;
    server.stream.write_all(body)?;
    let answer = Head::read(server, deadline())?;
    let rest = server.take(answer.length(), deadline())?;
    client.stream.write_all(&answer.bytes())?;
    client.stream.write_all(&rest)
}

/// Returns the request that is sent to the server.
fn to_server(mut request: Head, plan: Plan) -> Head {
    let upgrades = request.get("upgrade").is_some();
    if let Some((host, origin)) = plan.names {
        request.set("Host", host);
        request.set("Origin", origin);
    }
    if plan.rewrite.plain {
        request.remove(&["accept-encoding"]);
    }
    if plan.rewrite.stripped {
        request.set("Via", "1.1 edge, 1.1 inner");
        request.set("X-Forwarded-For", "192.0.2.7, 198.51.100.9");
        request.set("X-Forwarded-Proto", "https");
    }
    if plan.rewrite.old && !upgrades {
        request.first = request.first.replace("HTTP/1.1", "HTTP/1.0");
        request.set("Connection", "close");
    }
    request.rewrite(plan.rewrite);
    request
}

/// Returns the proxy's own answer.
fn own_answer(own: Own) -> String {
    let page = "<!doctype html><title>Not what you asked for</title><p>data: {\"n\": -1}\n\n";
    let html = format!("Content-Type: text/html\r\nContent-Length: {}\r\n", page.len());
    match own {
        Own::Nothing => String::new(),
        Own::HalfAHead => "HTTP/1.1 200 OK\r\nContent-Ty".into(),
        Own::Page => format!("HTTP/1.1 200 OK\r\n{html}\r\n{page}"),
        Own::Refused { status, retry_after } => {
            let retry_after = match retry_after {
                None => String::new(),
                Some(RetryAfter::Seconds(seconds)) => format!("Retry-After: {seconds}\r\n"),
                Some(RetryAfter::Date(seconds)) => format!("Retry-After: {}\r\n", http_date(seconds)),
            };
            format!("HTTP/1.1 {status} Sorry\r\n{retry_after}{html}\r\n{page}")
        }
    }
}

/// Formats the time this many seconds from now by RFC 9110, 5.6.7.
fn http_date(ahead: u32) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let seconds = now + u64::from(ahead);
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    lengths[1] += u64::from(leap(year));
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let month = months[month];
    format!("{weekday}, {:02} {month} {year} {hour:02}:{minute:02}:{:02} GMT", days + 1, second % 60)
}

/// Serves one request for a stream to its end.
fn stream(client: &mut Wire, request: Head, plan: Plan, shared: &Shared) -> io::Result<()> {
    let is_socket = request.get("upgrade").is_some();
    std::thread::sleep(plan.delay);
    for status in plan.interim {
        let hints = if *status == 103 { "Link: </style.css>; rel=preload\r\n" } else { "" };
        client.stream.write_all(format!("HTTP/1.1 {status} Wait\r\n{hints}\r\n").as_bytes())?;
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some(own) = plan.own {
        return client.stream.write_all(own_answer(own).as_bytes());
    }
    let mut server = Wire::new(TcpStream::connect(shared.server)?);
    server.stream.write_all(&to_server(request, plan).bytes())?;
    let mut answer = Head::read(&mut server, deadline())?;
    let is_stream = answer.word(1) == if is_socket { "101" } else { "200" };
    if plan.rewrite.stripped {
        answer.remove(&["cache-control", "x-accel-buffering", "date", "vary"]);
        answer.set("Server", "edge");
        answer.set("Via", "1.1 edge");
        answer.set("Vary", "Origin");
        answer.headers.push(("Vary".into(), "Accept-Encoding".into()));
    }
    if plan.rewrite.chunked && !is_socket {
        answer.remove(&["connection"]);
    }
    let chunked = plan.rewrite.chunked && !is_socket && is_stream;
    if chunked {
        answer.set("Transfer-Encoding", "chunked");
    }
    answer.rewrite(plan.rewrite);
    client.stream.write_all(&answer.bytes())?;
    if !is_stream {
        let rest = server.take(answer.length(), deadline())?;
        return client.stream.write_all(&rest);
    }
    // Passes the client's bytes on as they arrive, and its end, too.
    let first = client.buffered().to_vec();
    let (from, to) = (client.stream.try_clone()?, server.stream.try_clone()?);
    from.set_read_timeout(None)?;
    std::thread::spawn(move || upstream(&first, from, to));
    let out =
        Outlet { to: client.stream.try_clone()?, chunked, pieces: plan.pieces, sent: 0, held: Vec::new() };
    let done = Relay { server: &mut server, out, plan, is_socket }.run();
    let _ = server.stream.shutdown(Shutdown::Both);
    done
}

fn upstream(first: &[u8], mut from: TcpStream, mut to: TcpStream) {
    let mut chunk = [0; 4096];
    if to.write_all(first).is_ok() {
        while let Ok(len @ 1..) = from.read(&mut chunk) {
            if to.write_all(&chunk[..len]).is_err() {
                break;
            }
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// One stream on its way from the server to a client.
struct Relay<'a> {
    server: &'a mut Wire,
    out: Outlet,
    plan: Plan,
    is_socket: bool,
}

impl Relay<'_> {
    fn run(mut self) -> io::Result<()> {
        let end = |events: usize| events + usize::from(self.is_socket);
        // A WebSocket's first message is the answer to the subscription.
        let (after, inside, half) = match self.plan.cut {
            Some(Cut::Behind(events)) => (Some(end(events)), None, None),
            Some(Cut::Inside(event)) => (None, Some(end(event)), None),
            Some(Cut::Half(events)) => (None, None, Some(end(events))),
            _ => (None, None, None),
        };
        let by_events = after.or(inside).or(half).is_some();
        let mut events = 0;
        loop {
            if by_events {
                while let Some((len, is_event)) = unit(self.server.buffered(), self.is_socket) {
                    let bytes = self.server.take(len, deadline())?;
                    events += usize::from(is_event);
                    if inside == Some(events) {
                        self.out.pass(&bytes[..len / 2])?;
                        return self.out.flush();
                    }
                    self.out.pass(&bytes)?;
                    if after == Some(events) {
                        return self.out.finish();
                    }
                    if half == Some(events) {
                        return self.half_close();
                    }
                }
            } else {
                let len = self.server.buffered().len();
                let bytes = self.server.take(len, deadline())?;
                if let Some(Cut::Bytes(most)) = self.plan.cut
                    && self.out.sent + self.out.held.len() + len >= most
                {
                    let left = most - self.out.sent - self.out.held.len();
                    self.out.pass(&bytes[..left])?;
                    return self.out.flush();
                }
                self.out.pass(&bytes)?;
            }
            if !self.fill()? {
                return self.out.finish();
            }
        }
    }

    /// Waits for more bytes from the server. Returns false at its end, or after too long a silence.
    fn fill(&mut self) -> io::Result<bool> {
        let idle = Instant::now() + self.plan.idle.unwrap_or(HOUR);
        loop {
            let until = match self.out.pieces {
                Pieces::Held(_, time) if !self.out.held.is_empty() => idle.min(Instant::now() + time),
                _ => idle,
            };
            match self.server.fill(until) {
                Ok(0) => return Ok(false),
                Ok(_) => {
                    std::thread::sleep(self.plan.delay);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    self.out.flush()?;
                    if Instant::now() >= idle {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Half-closes both connections, and waits until the server closes its own.
    fn half_close(mut self) -> io::Result<()> {
        self.out.finish()?;
        self.out.to.shutdown(Shutdown::Write)?;
        self.server.stream.shutdown(Shutdown::Write)?;
        self.server.take_rest(deadline()).map(drop)
    }
}

/// Returns the length of the first whole event or frame, and whether it is an event.
fn unit(bytes: &[u8], is_socket: bool) -> Option<(usize, bool)> {
    if !is_socket {
        let len = bytes.windows(2).position(|pair| pair == b"\n\n")? + 2;
        let is_event = bytes[..len].split(|byte| *byte == b'\n').any(|line| line.starts_with(b"data:"));
        return Some((len, is_event));
    }
    let (head, length) = match bytes {
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        [_, 127, length @ ..] => (10, u64::from_be_bytes(length.get(..8)?.try_into().ok()?) as usize),
        [_, 126, ..] => return None,
        [_, length, ..] => (2, usize::from(*length)),
        _ => return None,
    };
    (bytes.len() >= head + length).then_some((head + length, bytes[0] & 0xf == 1))
}

/// Output side of a stream, to the client.
struct Outlet {
    to: TcpStream,
    chunked: bool,
    pieces: Pieces,
    sent: usize,
    held: Vec<u8>,
}

impl Outlet {
    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.pieces {
            Pieces::AsTheyCome => self.write(bytes),
            Pieces::Single(first) => {
                let single = first.saturating_sub(self.sent).min(bytes.len());
                for byte in &bytes[..single] {
                    self.write(&[*byte])?;
                }
                self.write(&bytes[single..])
            }
            Pieces::Held(size, _) => {
                self.held.extend_from_slice(bytes);
                if self.held.len() >= size { self.flush() } else { Ok(()) }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        self.write(&held)
    }

    /// Ends the stream like a complete answer.
    fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        if self.chunked { self.to.write_all(b"0\r\n\r\n") } else { Ok(()) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.sent += bytes.len();
        if self.chunked {
            let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
            return self.to.write_all(&chunk);
        }
        self.to.write_all(bytes)
    }
}
