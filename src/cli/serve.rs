//! `fanwire serve`: the server as one program. Imports its siblings and public items only.
//! Always: stdout carries exactly one line, when the port is open; a drained server exits with 0.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::FalseyValueParser;
use fanwire::{Bus, Server, ServerConfig, ServerError};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
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
    /// Largest message a WebSocket client may send
    #[arg(long, env = "FANWIRE_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value_t = 64 * 1024)]
    max_message_bytes: usize,
    /// Largest body of a publish request
    #[arg(long, env = "FANWIRE_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 4 * 1024 * 1024)]
    max_body_bytes: usize,
    /// Seconds that clients get to take what is under way when the server drains
    #[arg(long, env = "FANWIRE_DRAIN_SECONDS", value_name = "N", default_value_t = 10)]
    drain_seconds: u64,
    /// What to log: error, warn, info, debug, trace, or directives as `info,fanwire=debug`
    #[arg(long, env = "FANWIRE_LOG_LEVEL", value_name = "LEVEL", default_value = "info",
          value_parser = log_level)]
    log_level: String,
    /// How log lines look
    #[arg(long, env = "FANWIRE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
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

    let bus = Bus::new();
    let config = ServerConfig {
        max_message_bytes: args.max_message_bytes,
        max_body_bytes: args.max_body_bytes,
        cors_origins: args.cors_origin,
        ..ServerConfig::default()
    };
    let server = Server::builder(&bus)
        .listen(&args.listen)
        .config(config)
        .loops(usize::from(args.loops))
        .spawn()
        .map_err(|error| cannot_start(&args.listen, &error))?;
    let demo = args.demo.then(|| Demo::start(bus.clone(), args.demo_rate)).transpose();
    let demo = demo.map_err(|error| CliError::new(format!("cannot start the demo: {error}")))?;
    announce(server.local_addr(), args.demo);

    if let Some(signal) = signals.forever().next() {
        tracing::info!(signal, "draining; a second signal quits at once");
    }
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            std::process::exit(1);
        }
    });
    drop(demo);
    server.drain(Duration::from_secs(args.drain_seconds));
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

fn cannot_start(listen: &str, error: &ServerError) -> CliError {
    let message = CliError::new(format!("cannot listen on {listen}: {error}"));
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
