//! `fanwire serve`: the server as one program. Imports its siblings and public items only.
//! Always: stdout carries exactly one line, when the port is open; a drained server exits with 0.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use fanwire::ServerHandle;
use fanwire::config::{Config, ConfigChange, Loaded, LogFormat, Sources};
use fanwire::server::ServerError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::demo::Demo;
use super::files::Files;
use super::settings::Settings;
use super::{CliError, DIM, supervisor, upgrade};

/// Options of `fanwire serve`: every setting. Each is an environment variable, and a key of the file, too.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    settings: Settings,
}

/// Changes what is logged.
type LogLevel = reload::Handle<EnvFilter, Registry>;

/// Runs until a signal has drained the server.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let sources = args.settings.sources();
    let loaded = sources.load().map_err(super::refused_config)?;
    let config = loaded.config;
    let log_level = start_log(&config);
    for (given, known) in sources.strange_variables() {
        tracing::warn!("{given} is no setting; did you mean {known}?");
    }
    // Registered before the port is open: a signal that comes early is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR2])
        .map_err(|error| CliError::new(format!("cannot watch signals: {error}")))?;

    raise_open_files();

    let program = upgrade::program();
    let server = match upgrade::inheritance()? {
        Some(mut inheritance) => {
            let bus = inheritance.bus(&config.bus).map_err(CliError::new)?;
            config.server(&bus).inherit(inheritance)
        }
        None => {
            let bus = config.bus().map_err(CliError::new)?;
            config.server(&bus).sockets(supervisor::sockets()?)
        }
    };
    let ends = signals.handle();
    let server = server.on_failure(move |failure| {
        supervisor::failed(failure);
        exit_in(FAILED_GRACE);
        ends.close();
    });
    let server = server.spawn().map_err(|error| cannot_start(&config.listen, &error))?;
    let mut demo = start_demo(&config, &server)?;
    announce(server.local_addr(), &config);
    supervisor::ready(server.local_addr());
    supervisor::watch(server.pulse());
    if !config.server.auth.is_configured() && !server.local_addr().ip().is_loopback() {
        tracing::warn!(
            "anyone who reaches {} can publish and read: there is no authentication",
            server.local_addr()
        );
    }

    let mut files = Files::of(&config);
    let mut running = config;
    // Ends when a signal comes that ends the server, or a thread of it has failed.
    for signal in signals.forever() {
        if signal == SIGUSR2 {
            // Nobody may publish here while all is given away.
            drop(demo.take());
            let upgraded = program.as_ref().ok_or_else(|| "nobody knows where the program is".to_owned());
            match upgraded.and_then(|program| upgrade::upgrade(&server, program, running.drain_timeout)) {
                Ok(successor) => {
                    supervisor::succeeded_by(successor);
                    return server.join().map_err(failed);
                }
                Err(error) => tracing::error!("the upgrade failed, and this process goes on: {error}"),
            }
            demo = start_demo(&running, &server)?;
            continue;
        }
        if signal != SIGHUP {
            tracing::info!(signal = signal_name(signal), "draining; a second signal quits at once");
            break;
        }
        supervisor::reloading();
        if let Some((changes, config)) = reload(&sources, &running) {
            match server.reload(config.server.clone()) {
                Ok(()) => {
                    tell(&changes, &files.looked_at_again(&config));
                    set_log_level(&log_level, &config.log_level);
                    running = config;
                }
                Err(error) => tracing::error!("nothing was reloaded: {error}"),
            }
        }
        supervisor::reloaded();
    }
    if signals.handle().is_closed() {
        return server.join().map_err(failed);
    }
    std::thread::spawn(move || {
        if signals.forever().any(|signal| signal != SIGHUP && signal != SIGUSR2) {
            std::process::exit(1);
        }
    });
    supervisor::stopping(running.drain_delay + running.server.drain_window + running.drain_timeout);
    server.withdraw();
    // Whoever sends clients here looks at readiness now and then: those that still come are served meanwhile.
    std::thread::sleep(running.drain_delay);
    drop(demo);
    server.drain(running.drain_timeout);
    server.join().map_err(failed)
}

/// The exit code after a thread of the server failed: `EX_SOFTWARE` of sysexits.h.
const FAILED: u8 = 70;

/// How long the other threads may take to end after one has failed.
const FAILED_GRACE: Duration = Duration::from_secs(5);

fn failed(error: ServerError) -> CliError {
    CliError { code: FAILED, ..CliError::new(error) }
}

/// Ends the process after this time, whatever its threads do.
fn exit_in(time: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        std::process::exit(FAILED.into());
    });
}

fn start_demo(config: &Config, server: &ServerHandle) -> Result<Option<Demo>, CliError> {
    let demo = config.demo.then(|| Demo::start(server.publisher(), config.demo_rate)).transpose();
    demo.map_err(|error| CliError::new(format!("cannot start the demo: {error}")))
}

/// Reads the configuration again: what is different, and what can hold now. None where it has a fault: nothing
/// changes.
fn reload(sources: &Sources, running: &Config) -> Option<(Vec<ConfigChange>, Config)> {
    let loaded: Loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            for fault in error.faults() {
                tracing::error!("the configuration was not reloaded: {fault}");
            }
            return None;
        }
    };
    Some(loaded.changes_from(running))
}

/// Says what became of a new configuration, and of the files that it names.
fn tell(changes: &[ConfigChange], files: &[(&'static str, PathBuf, bool)]) {
    for change in changes {
        let (key, value) = (change.key, &change.value);
        if change.live {
            tracing::info!(key, value, "reloaded: took effect");
        } else {
            tracing::warn!(key, value, "reloaded: takes effect with a restart");
        }
    }
    for (key, file, _) in files.iter().filter(|(.., is_other)| *is_other) {
        tracing::info!(key, file = %file.display(), "reloaded: read anew, and it is another than before");
    }
    let same: Vec<&str> = files.iter().filter(|(.., is_other)| !is_other).map(|(key, ..)| *key).collect();
    if !same.is_empty() {
        let keys = same.join(", ");
        tracing::info!(keys, "reloaded: read anew, and as before");
    }
    if changes.is_empty() {
        tracing::info!("reloaded: no setting changed");
    }
}

/// Libraries that write what they send into their own log, passwords too, below the level of warnings.
const WRITES_SECRETS: [&str; 2] = ["async_nats=warn", "redis=warn"];

fn filter_of(level: &str) -> EnvFilter {
    // Checked by the configuration.
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    if filter.max_level_hint().is_none_or(|level| level > LevelFilter::INFO) {
        let quiet = WRITES_SECRETS.iter().filter_map(|directive| directive.parse().ok());
        return quiet.fold(filter, EnvFilter::add_directive);
    }
    filter
}

fn start_log(config: &Config) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter_of(&config.log_level));
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    let log = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Text => log.with(lines.with_ansi(stderr().is_terminal())).init(),
        LogFormat::Json => log.with(lines.json()).init(),
    }
    handle
}

fn set_log_level(handle: &LogLevel, level: &str) {
    if let Err(error) = handle.reload(filter_of(level)) {
        tracing::error!(%error, "the log level stays as it was");
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
    if error.is_configuration() {
        return message;
    }
    if error.is_address_in_use() {
        let host = listen.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
        message.hint(format!(
            "Something already listens there, perhaps another fanwire. Take another port with --listen {host}:8766, \
             or any free one with --listen {host}:0."
        ))
    } else if error.is_address_forbidden() {
        message.hint(
            "Ports below 1024 are for those with the right to take them. Let systemd hold the port (deploy/systemd/fanwire.socket, \
             ListenStream=443), a proxy (deploy/nginx, deploy/caddy), or take a port like 8443.",
        )
    } else if error.is_unguarded() {
        message.hint(
            "Set FANWIRE_AUTH_JWT_HS256_SECRET (fanwire token makes tokens), or --auth-api-keys-file. Without \
             authentication listen on this machine, as 127.0.0.1:8765, or say --insecure.",
        )
    } else if error.is_about_authentication() {
        message
    } else {
        message.hint(
            "--listen takes ADDRESS:PORT of this machine, as 127.0.0.1:8765, 0.0.0.0:8765 or [::1]:8765.",
        )
    }
}

fn announce(addr: SocketAddr, config: &Config) {
    let scheme = if config.server.tls.is_on() { "https" } else { "http" };
    // Whoever started us may have closed stdout: that is no reason not to serve.
    let _ = writeln!(stdout(), "listening on {scheme}://{addr}").and_then(|()| stdout().flush());
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
    let url = format!("{scheme}://{reachable}");
    let demo = if config.demo { "  a demo run is being published\n" } else { "" };
    anstream::eprint!(
        "{DIM}{demo}  live page  {url}/\n  publish    curl -d '{{\"type\":\"hello\",\"payload\":{{\"from\":\"curl\"}}}}' \
         {url}/publish\n  follow     curl -N {url}/sse   or   fanwire tail --url {url}\n{DIM:#}"
    );
}
