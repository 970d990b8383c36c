//! `fanwire serve`: the server as one program. Imports its siblings and public items only.
//! Always: stdout carries exactly one line, when the port is open; a drained server exits with 0.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::FalseyValueParser;
use fanwire::{Attribute, Bus, Server, ServerConfig, ServerError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use tracing_subscriber::EnvFilter;

use super::demo::Demo;
use super::{CliError, DIM};

/// Options of `fanwire serve`. Each is an environment variable too.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, env = "FANWIRE_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8765")]
    listen: String,
    /// Publish a made-up run of agents, so that there is something to see at once
    #[arg(long, env = "FANWIRE_DEMO", value_parser = FalseyValueParser::new())]
    demo: bool,
    /// Events per second of --demo
    #[arg(long, env = "FANWIRE_DEMO_RATE", value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    demo_rate: u32,
    /// Threads that serve connections
    #[arg(long, env = "FANWIRE_LOOPS", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    loops: u16,
    /// Origin that pages elsewhere may read from, or `*` for any; repeatable
    #[arg(long, env = "FANWIRE_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    cors_origin: Vec<String>,
    /// What to log: error, warn, info, debug, trace, or directives as `info,fanwire=debug`
    #[arg(long, env = "FANWIRE_LOG_LEVEL", value_name = "LEVEL", default_value = "info",
          value_parser = log_level)]
    log_level: String,
    /// How log lines look
    #[arg(long, env = "FANWIRE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    // Last: its heading would stand over what follows.
    #[command(flatten)]
    limits: Limits,
}

/// What a client may ask of the server. The defaults are the library's.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Longest message of a WebSocket client; over it close code 1009 [default: 64 KiB]
    #[arg(long, env = "FANWIRE_MAX_MESSAGE_BYTES", value_name = "BYTES")]
    max_message_bytes: Option<usize>,
    /// Longest body of a publish request; over it 413 [default: 4 MiB]
    #[arg(long, env = "FANWIRE_MAX_BODY_BYTES", value_name = "BYTES")]
    max_body_bytes: Option<usize>,
    /// Open connections [default: 100000]
    #[arg(long, env = "FANWIRE_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// Events a slow client may fall behind before it gets a gap [default: 1000]
    #[arg(long, env = "FANWIRE_MAX_LAG_EVENTS", value_name = "N")]
    max_lag_events: Option<usize>,
    /// Bytes a slow client may fall behind before it gets a gap [default: 1 MiB]
    #[arg(long, env = "FANWIRE_MAX_LAG_BYTES", value_name = "BYTES")]
    max_lag_bytes: Option<usize>,
    /// Bytes held for all clients together before feeds let go of their past and laggards are closed;
    /// 0 = no budget [default: 1 GiB]
    #[arg(long, env = "FANWIRE_MAX_MEMORY_BYTES", value_name = "BYTES")]
    max_memory_bytes: Option<usize>,
    /// Keys of which the latest event is kept for `on_lag=conflate` [default: 10000]
    #[arg(long, env = "FANWIRE_MAX_CONFLATE_KEYS", value_name = "N")]
    max_conflate_keys: Option<usize>,
    /// Keys of which the latest event is kept for `snapshot` [default: 10000]
    #[arg(long, env = "FANWIRE_MAX_SNAPSHOT_KEYS", value_name = "N")]
    max_snapshot_keys: Option<usize>,
    /// Attributes that make two events be about the same thing, as type,stream
    /// [default: type and entity where there is one, else type and stream]
    #[arg(long, env = "FANWIRE_CONFLATE_KEY", value_name = "NAMES", value_delimiter = ',', value_parser = attribute)]
    conflate_key: Vec<Attribute>,
    /// How long the head of a request may take to come [default: 5s]
    #[arg(long, env = "FANWIRE_HANDSHAKE_TIMEOUT", value_name = "TIME", value_parser = duration)]
    handshake_timeout: Option<Duration>,
    /// How often a quiet client is asked whether it's there; gone after two unanswered [default: 30s]
    #[arg(long, env = "FANWIRE_HEARTBEAT", value_name = "TIME", value_parser = duration)]
    heartbeat: Option<Duration>,
    /// How long clients may take what is under way when the server drains
    #[arg(long, env = "FANWIRE_DRAIN_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "10s")]
    drain_timeout: Duration,
}

impl Limits {
    fn config(&self) -> ServerConfig {
        fn set<T: Copy>(field: &mut T, option: Option<T>) {
            *field = option.unwrap_or(*field);
        }
        let mut config = ServerConfig::default();
        set(&mut config.max_message_bytes, self.max_message_bytes);
        set(&mut config.max_body_bytes, self.max_body_bytes);
        set(&mut config.max_connections, self.max_connections);
        set(&mut config.max_lag_events, self.max_lag_events);
        set(&mut config.max_lag_bytes, self.max_lag_bytes);
        set(&mut config.max_memory_bytes, self.max_memory_bytes);
        set(&mut config.max_conflate_keys, self.max_conflate_keys);
        set(&mut config.max_snapshot_keys, self.max_snapshot_keys);
        config.conflate_key.clone_from(&self.conflate_key);
        set(&mut config.handshake_timeout, self.handshake_timeout);
        set(&mut config.heartbeat, self.heartbeat);
        config
    }
}

/// An attribute by its name.
fn attribute(text: &str) -> Result<Attribute, String> {
    let names = || Attribute::ALL.map(Attribute::name).join(", ");
    Attribute::ALL
        .into_iter()
        .find(|attribute| attribute.name() == text.trim())
        .ok_or_else(|| format!("`{text}` is no attribute: {}", names()))
}

/// `500ms`, `30s` or `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u32 = number.parse().map_err(|_| "expected a time, as 500ms, 30s or 2m")?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        _ => return Err(format!("`{text}` has no unit: ms, s or m, as 30s")),
    };
    if number == 0 { Err("must be more than zero".into()) } else { Ok(unit * number) }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn log_level(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Runs until a signal has drained the server.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    start_log(&args);
    // Registered before the port is open: a signal that comes early is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| CliError::new(format!("cannot watch signals: {error}")))?;

    raise_open_files();

    let bus = Bus::new();
    let mut config = args.limits.config();
    config.cors_origins = args.cors_origin;
    let server = Server::builder(&bus)
        .listen(args.listen.as_str())
        .config(config)
        .loops(usize::from(args.loops))
        .spawn()
        .map_err(|error| cannot_start(&args.listen, &error))?;
    let demo = args.demo.then(|| Demo::start(bus.clone(), args.demo_rate)).transpose();
    let demo = demo.map_err(|error| CliError::new(format!("cannot start the demo: {error}")))?;
    announce(server.local_addr(), args.demo);
    if !server.local_addr().ip().is_loopback() {
        tracing::warn!(
            "anyone who reaches {} can publish and read: there is no authentication",
            server.local_addr()
        );
    }

    if let Some(signal) = signals.forever().next() {
        tracing::info!(signal = signal_name(signal), "draining; a second signal quits at once");
    }
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            std::process::exit(1);
        }
    });
    drop(demo);
    server.drain(args.limits.drain_timeout);
    server.join().map_err(CliError::new)
}

fn start_log(args: &Args) {
    let filter = EnvFilter::try_new(&args.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match args.log_format {
        LogFormat::Text => log.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Takes all the descriptors the system allows: each client is one, and the usual first limit is 1,024.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => {
                tracing::debug!(before = ?limit.current, now = ?limit.maximum, "raised the limit of open files");
            }
            Err(error) => {
                tracing::warn!(%error, now = ?limit.current, "cannot raise the limit of open files");
            }
        }
    }
}

fn cannot_start(listen: &str, error: &ServerError) -> CliError {
    let message = CliError::new(error);
    if error.is_address_in_use() {
        let host = listen.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
        message.hint(format!(
            "Something already listens there, perhaps another fanwire. Take another port with --listen {host}:8766, \
             or any free one with --listen {host}:0."
        ))
    } else {
        message.hint(
            "--listen takes ADDRESS:PORT of this machine, as 127.0.0.1:8765, 0.0.0.0:8765 or [::1]:8765.",
        )
    }
}

fn announce(addr: SocketAddr, demo: bool) {
    // Whoever started us may have closed stdout: that is no reason not to serve.
    let _ = writeln!(stdout(), "listening on http://{addr}").and_then(|()| stdout().flush());
    if !stderr().is_terminal() {
        return;
    }
    let mut reachable = addr;
    if addr.ip().is_unspecified() {
        reachable.set_ip(if addr.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            [0, 0, 0, 0, 0, 0, 0, 1].into()
        });
    }
    let url = format!("http://{reachable}");
    let demo = if demo { "  a demo run is being published\n" } else { "" };
    anstream::eprint!(
        "{DIM}{demo}  live page  {url}/\n  publish    curl -d '{{\"type\":\"hello\",\"payload\":{{\"from\":\"curl\"}}}}' \
         {url}/publish\n  follow     curl -N {url}/sse   or   fanwire tail --url {url}\n{DIM:#}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "5", "s", "-1s", "1h", "0s", "99999999999s", "1.5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
