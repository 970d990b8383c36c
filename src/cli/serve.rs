//! `fanwire serve`: runs the server until a signal ends it.
//!
//! Always: exactly one line is printed to stdout, when the port is open. A drained server exits with 0.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use fanwire::ServerHandle;
use fanwire::config::{Config, ConfigChange, Loaded, LogFormat, Sources};
use fanwire::server::{ServerError, ServerErrorKind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::demo::Demo;
use super::error::{CliError, refused_config};
use super::files::Files;
use super::settings::Settings;
use super::style::DIM;
use super::{supervisor, upgrade};

/// Options of `fanwire serve`: every setting. Each is also an environment variable and a key of the file.
#[derive(clap::Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    settings: Settings,
}

/// Handle that changes the log level.
type LogLevel = reload::Handle<EnvFilter, Registry>;

/// Runs until a signal has drained the server, a successor has taken over, or a thread of the server has failed.
pub(super) fn run(args: &ServeArgs) -> Result<(), CliError> {
    let sources = args.settings.sources();
    let loaded = sources.load().map_err(refused_config)?;
    let warnings = loaded.warnings().to_vec();
    let config = loaded.config;
    let log_level = start_log(&config);
    for (given, known) in sources.strange_variables() {
        tracing::warn!("unknown variable {given}; did you mean {known}?");
    }
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    // The handlers are registered before the port is open, so that an early signal is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR2])
        .map_err(|error| CliError::new(format!("cannot watch signals: {error}")))?;
    raise_open_files();
    // The path is looked up before a package can replace the file.
    let program = upgrade::program();
    let server = spawn(&config, &signals)?;
    let demo = start_demo(&config, &server)?;
    announce(server.local_addr(), &config);
    supervisor::ready(server.local_addr());
    supervisor::watch(server.liveness());
    if !config.server.auth.is_configured() && !server.local_addr().ip().is_loopback() {
        tracing::warn!("no authentication: anyone who reaches {} can publish and read", server.local_addr());
    }
    let files = Files::of(&config);
    let mut running = Running { server, demo, config, files, sources, log_level, program };
    let is_draining = running.handle_signals(&mut signals)?;
    if !is_draining || signals.handle().is_closed() {
        return running.server.join().map_err(failed);
    }
    running.drain(signals)
}

/// Starts the server, with the sockets and clients of a predecessor or the sockets of the service manager, if any.
fn spawn(config: &Config, signals: &Signals) -> Result<ServerHandle, CliError> {
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
    server.spawn().map_err(|error| cannot_start(&config.listen, &error))
}

/// A running server, and the state that a signal can change.
struct Running {
    server: ServerHandle,
    demo: Option<Demo>,
    config: Config,
    files: Files,
    sources: Sources,
    log_level: LogLevel,
    program: Option<PathBuf>,
}

impl Running {
    /// Handles signals until one ends the server. Returns true if the server is to drain, and false if a successor has
    /// taken over or a thread has failed.
    fn handle_signals(&mut self, signals: &mut Signals) -> Result<bool, CliError> {
        for signal in signals.forever() {
            match signal {
                SIGHUP => self.reload(),
                SIGUSR2 if self.upgrade() => return Ok(false),
                SIGUSR2 => self.demo = start_demo(&self.config, &self.server)?,
                _ => {
                    tracing::info!(signal = signal_name(signal), "draining; a second signal quits at once");
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Hands everything over to a successor. Returns false if that failed; then this process continues without its
    /// demo.
    fn upgrade(&mut self) -> bool {
        // Nothing may be published here during the handover.
        drop(self.demo.take());
        let program = self.program.as_ref().ok_or_else(|| "the path of the program is unknown".to_owned());
        let limit = self.config.drain_timeout;
        match program.and_then(|program| upgrade::upgrade(&self.server, program, limit)) {
            Ok(successor) => {
                supervisor::report_successor(successor);
                true
            }
            Err(error) => {
                tracing::error!("upgrade failed, this process continues: {error}");
                false
            }
        }
    }

    /// Reads the configuration again and applies the settings that can change now. A fault changes nothing.
    fn reload(&mut self) {
        supervisor::reloading();
        if let Some((changes, config)) = load_again(&self.sources, &self.config) {
            match self.server.reload(config.server.clone()) {
                Ok(()) => {
                    log_changes(&changes, &self.files.read_again(&config));
                    set_log_level(&self.log_level, &config.log_level);
                    self.config = config;
                }
                Err(error) => tracing::error!("reload failed, nothing changed: {error}"),
            }
        }
        supervisor::reloaded();
    }

    /// Drains the server. Blocks until its last client has left or the time limit has passed.
    fn drain(self, mut signals: Signals) -> Result<(), CliError> {
        std::thread::spawn(move || {
            if signals.forever().any(|signal| signal != SIGHUP && signal != SIGUSR2) {
                std::process::exit(1);
            }
        });
        let Self { server, demo, config, .. } = self;
        supervisor::stopping(config.drain_delay + config.server.drain_window + config.drain_timeout);
        server.withdraw();
        // A load balancer checks readiness at intervals. Clients that it sends here until it notices are still served.
        std::thread::sleep(config.drain_delay);
        drop(demo);
        server.drain(config.drain_timeout);
        server.join().map_err(failed)
    }
}

/// Exit code after a thread of the server failed: `EX_SOFTWARE` of sysexits.h.
const FAILED: u8 = 70;

/// Time limit for the other threads to end after one has failed.
const FAILED_GRACE: Duration = Duration::from_secs(5);

fn failed(error: ServerError) -> CliError {
    CliError { code: FAILED, ..CliError::new(error) }
}

/// Ends the process after `time`, even if its threads are stuck.
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

/// Reads the configuration again. Returns the changes, and the configuration with the settings that can change now. `None`
/// if it has a fault.
fn load_again(sources: &Sources, running: &Config) -> Option<(Vec<ConfigChange>, Config)> {
    let loaded: Loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            for fault in error.faults() {
                tracing::error!("reload failed, nothing changed: {fault}");
            }
            return None;
        }
    };
    for warning in loaded.warnings() {
        tracing::warn!("{warning}");
    }
    Some(loaded.changes_from(running))
}

/// Logs the changes of a configuration and of the files that it names.
fn log_changes(changes: &[ConfigChange], files: &[(&'static str, PathBuf, bool)]) {
    for change in changes {
        let (key, value) = (change.key, &change.value);
        if change.live {
            tracing::info!(key, value, "reloaded: took effect");
        } else {
            tracing::warn!(key, value, "reloaded: takes effect after a restart");
        }
    }
    for (key, file, _) in files.iter().filter(|(.., is_changed)| *is_changed) {
        tracing::info!(key, file = %file.display(), "reloaded: file read again, changed");
    }
    let same: Vec<&str> = files.iter().filter(|(.., is_changed)| !is_changed).map(|(key, ..)| *key).collect();
    if !same.is_empty() {
        let keys = same.join(", ");
        tracing::info!(keys, "reloaded: files read again, unchanged");
    }
    if changes.is_empty() {
        tracing::info!("reloaded: no setting changed");
    }
}

/// Libraries that log what they send, including passwords, below the level of warnings.
const WRITES_SECRETS: [&str; 2] = ["async_nats=warn", "redis=warn"];

fn filter_of(level: &str) -> EnvFilter {
    // The configuration has checked the text.
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
        LogFormat::Json => log.with(lines.json()).init(),
        _ => log.with(lines.with_ansi(stderr().is_terminal())).init(),
    }
    handle
}

fn set_log_level(handle: &LogLevel, level: &str) {
    if let Err(error) = handle.reload(filter_of(level)) {
        tracing::error!(%error, "cannot change the log level");
    }
}

/// Raises the limit of open files to the system's maximum: each client needs one, and the usual initial limit is 1,024.
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
    match error.kind() {
        ServerErrorKind::Configuration | ServerErrorKind::Authentication => message,
        ServerErrorKind::AddressInUse => {
            let host = listen.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
            message.hint(format!(
                "Something already listens there, perhaps another fanwire. Use another port with --listen {host}:8766, \
                 or any free one with --listen {host}:0."
            ))
        }
        ServerErrorKind::AddressForbidden => message.hint(
            "Ports below 1024 need a special right. Let systemd hold the port (deploy/systemd/fanwire.socket, \
             ListenStream=443), use a proxy (deploy/nginx, deploy/caddy), or use a port like 8443.",
        ),
        ServerErrorKind::Unguarded => message.hint(
            "Set FANWIRE_AUTH_JWT_HS256_SECRET (fanwire token makes tokens), or --auth-api-keys-file. Without \
             authentication, listen on this machine only, as 127.0.0.1:8765, or give --insecure.",
        ),
        _ => message.hint(
            "--listen takes ADDRESS:PORT of this machine, as 127.0.0.1:8765, 0.0.0.0:8765 or [::1]:8765.",
        ),
    }
}

fn announce(addr: SocketAddr, config: &Config) {
    let scheme = if config.server.tls.is_on() { "https" } else { "http" };
    // The parent process may have closed stdout. The server still runs.
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
    let demo = if config.demo { "  demo events are being published\n" } else { "" };
    anstream::eprint!(
        "{DIM}{demo}  live page  {url}/\n  publish    curl -d '{{\"type\":\"hello\",\"payload\":{{\"from\":\"curl\"}}}}' \
         {url}/publish\n  follow     curl -N {url}/sse   or   fanwire tail --url {url}\n{DIM:#}"
    );
}
