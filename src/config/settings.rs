//! The configuration as a value: the settings of the program, its bus, engine and server.

use std::net::ToSocketAddrs as _;
use std::time::Duration;

use super::retain::RETAIN;
use crate::bus::{Bus, BusConfig, BusConfigError};
use crate::engine::{EngineConfig, Ingest};
use crate::server::http::door::describe_access;
use crate::server::{MemoryLine, Server, ServerBuilder, ServerConfig};

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Configuration of a bus, its server and the program around them.
///
/// [`Sources`](super::Sources) reads one from a TOML file, the environment and flags.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Address and port to listen on; port 0 takes a free port. Default: `127.0.0.1:8765`.
    pub listen: String,
    /// Threads that serve connections, 1 to 256. Default: 1.
    pub loops: usize,
    /// Whether the program publishes a made-up run of agents. Default: false.
    pub demo: bool,
    /// Events per second of the demo. Default: 20.
    pub demo_rate: u32,
    /// Engine: order and history in a log outside the process. Without an address there is none.
    pub engine: EngineConfig,
    /// Channels of other systems to publish here. Default: none.
    pub ingest: Vec<Ingest>,
    /// Number and capacity of the rings.
    pub bus: BusConfig,
    /// Limits and times of the server.
    pub server: ServerConfig,
    /// Time for which new clients are still accepted after the server reports that it is not ready, at shutdown.
    /// Default: 0 s.
    pub drain_delay: Duration,
    /// Maximum time for clients to take their pending bytes when the server shuts down. Default: 10 s.
    pub drain_timeout: Duration,
    /// Log level of the program, or directives such as `info,fanwire=debug`. Default: `info`.
    pub log_level: String,
    /// Format of its log lines. Default: `text`.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8765".to_owned(),
            loops: 1,
            demo: false,
            demo_rate: 20,
            engine: EngineConfig::default(),
            ingest: Vec::new(),
            bus: BusConfig::default(),
            server: ServerConfig::default(),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(10),
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

impl Config {
    /// Returns the maximum memory of a program with this configuration, line by line.
    #[must_use]
    pub fn worst_case(&self) -> Vec<MemoryLine> {
        self.server.worst_case(&self.bus)
    }

    /// Returns the sum of [`worst_case`](Self::worst_case), in bytes.
    #[must_use]
    pub fn worst_case_bytes(&self) -> u64 {
        self.worst_case().iter().fold(0, |sum, line| sum.saturating_add(line.bytes()))
    }

    /// Returns the approximate time that matching one event may take for one client that fills
    /// [`ServerConfig::max_subscription_values`] with conditions that are tried one by one, at 3,000 instructions per
    /// microsecond. The loop divides it over turns.
    #[must_use]
    pub fn worst_match(&self) -> std::time::Duration {
        const INSTRUCTIONS_A_MICROSECOND: u64 = 3_000;
        let weight = self.server.max_subscription_values as u64;
        let instructions = weight.saturating_mul(crate::filter::INSTRUCTIONS_A_WEIGHT);
        std::time::Duration::from_micros(instructions / INSTRUCTIONS_A_MICROSECOND)
    }

    /// Describes which web pages may use the server and by which host names it may be called, each as a subject and a
    /// text. Blocks while a host name in `listen` is looked up.
    #[must_use]
    pub fn access(&self) -> [(&'static str, String); 2] {
        let is_local = self.listen.to_socket_addrs().is_ok_and(|mut addresses| {
            addresses.next().is_some_and(|address| address.ip().to_canonical().is_loopback())
        });
        describe_access(&self.server, is_local)
    }

    /// Returns a new bus with these settings. Allocates the rings.
    ///
    /// # Errors
    ///
    /// Returns an error if the number of shards or their capacity is out of range.
    pub fn bus(&self) -> Result<Bus, BusConfigError> {
        let BusConfig { shards, capacity, max_bytes, .. } = self.bus;
        Bus::builder().shards(shards).capacity(capacity).max_bytes(max_bytes).build()
    }

    /// Returns a server builder for `bus` with these settings. Binds nothing yet.
    pub fn server(&self, bus: &Bus) -> ServerBuilder {
        let server =
            Server::builder(bus).listen(self.listen.as_str()).loops(self.loops).config(self.server.clone());
        let ingest = self.ingest.iter().map(|ingest| ingest.clone().tls_ca_file(&self.engine.tls_ca_file));
        let server = ingest.fold(server, ServerBuilder::ingest);
        if self.engine.url.is_empty() { server } else { server.engine(self.engine.clone()) }
    }

    /// Checks settings against each other. Returns each key to change and why.
    pub(super) fn check(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !self.bus.capacity.is_power_of_two() {
            let near = self.bus.capacity.next_power_of_two();
            let what = format!("bus.capacity = {}: is not a power of two, as {near}", self.bus.capacity);
            faults.push(("bus.capacity", what));
        }
        let log = (!self.engine.url.is_empty()).then_some((self.bus.shards, self.engine.by_interest));
        if let Some(fault) = self.server.retain.fault(log) {
            faults.push((RETAIN, fault));
        }
        if let Some(budget) = self.server.max_memory_bytes
            && !self.server.retain.rules.is_empty()
            && self.server.retain.max_bytes >= budget
        {
            let what = "retain_max_bytes: kept logs count in max_memory_bytes and would leave nothing of it for clients: lower the one or raise the other";
            faults.push(("retain_max_bytes", what.to_owned()));
        }
        faults
    }

    /// Checks settings that work together, but not as their user may think. Returns each key to change and why.
    pub(super) fn doubts(&self) -> Vec<(&'static str, String)> {
        let (retain, engine) = (&self.server.retain, &self.engine);
        if retain.rules.is_empty() || engine.url.is_empty() {
            return Vec::new();
        }
        let mut doubts = Vec::new();
        if engine.url.starts_with("file:") {
            if retain.max_bytes as u64 > engine.max_bytes {
                let (kept, log) = (retain.max_bytes, engine.max_bytes);
                doubts.push((
                    "engine_max_bytes",
                    format!("engine_max_bytes: {log} bytes of files are fewer than the {kept} of retain_max_bytes: after a restart kept logs are shorter, and say so"),
                ));
            }
            return doubts;
        }
        for rule in retain.rules.iter().filter(|rule| rule.events as u64 > engine.history) {
            let (name, events, history) = (rule.matching(), rule.events, engine.history);
            doubts.push((
                "engine_history",
                format!("engine_history: {history} events of all streams are fewer than the {events} that retain {name} keeps of one: after a restart kept logs are shorter, and say so"),
            ));
        }
        doubts
    }
}
