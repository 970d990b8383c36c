//! Everything that the program can be told, composed of the rooms' own settings.
//!
//! Imports `bus`, `engine` and `server`. Always: `keys` is the only list of settings; flags, environment variables, the
//! TOML file, `fanwire check --print-defaults` and docs/configuration.md are made of it. How to add a setting is
//! said in its head.

mod file;
mod keys;
mod layers;
mod print;
mod slip;
#[cfg(test)]
mod tests;
mod value;

use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::bus::{Bus, BusConfig, BusConfigError};
use crate::engine::{EngineConfig, Ingest};
use crate::server::{MemoryLine, Server, ServerBuilder, ServerConfig};

pub use layers::{ConfigChange, ConfigError, ConfigFault, Loaded, Origin, Sources};
pub use print::{ConfigKey, defaults_toml, keys};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The whole configuration of a bus, its server and the program around them.
///
/// [`Sources`] reads one from a TOML file, the environment and flags.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Address and port to listen on; port 0 takes a free one. `127.0.0.1:8765`.
    pub listen: String,
    /// Threads that serve connections, 1 to 256. 1.
    pub loops: usize,
    /// Whether the program publishes a made-up run of agents. No.
    pub demo: bool,
    /// Events per second of the demo. 20.
    pub demo_rate: u32,
    /// Where order and history live, if not in this process: no address, no engine.
    pub engine: EngineConfig,
    /// Channels of other systems whose messages are published here.
    pub ingest: Vec<Ingest>,
    /// Rings and their capacity.
    pub bus: BusConfig,
    /// Limits and times of the server.
    pub server: ServerConfig,
    /// How long clients are still taken after readiness went, when the server ends. None.
    pub drain_delay: Duration,
    /// How long clients may take what is under way when the server ends. 10 s.
    pub drain_timeout: Duration,
    /// What the program logs: a level, or directives as `info,fanwire=debug`. `info`.
    pub log_level: String,
    /// How its log lines look. Text.
    pub log_format: LogFormat,
}

impl Config {
    /// What a program with this configuration may hold in memory at the most, line by line.
    pub fn worst_case(&self) -> Vec<MemoryLine> {
        self.server.worst_case(&self.bus)
    }

    /// The files and folders that settings name, with their keys: they are read at the start and at each reload.
    pub fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let mut config = self.clone();
        keys::rows().filter_map(|row| Some((row.path, row.file(&mut config)?))).collect()
    }

    /// The sum of [`worst_case`](Self::worst_case), in bytes.
    pub fn worst_case_bytes(&self) -> u64 {
        self.worst_case().iter().fold(0, |sum, line| sum.saturating_add(line.bytes()))
    }
}

impl Config {
    /// Says which web pages may speak to the server, and by which names it may be called: what is said, and of what.
    /// Blocks where `listen` has a name to look up.
    pub fn access(&self) -> [(&'static str, String); 2] {
        let is_local = self.listen.to_socket_addrs().is_ok_and(|mut addresses| {
            addresses.next().is_some_and(|address| address.ip().to_canonical().is_loopback())
        });
        self.server.describe_access(is_local)
    }
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
    /// The settings of a TOML text, with defaults for the rest. Relative paths in it are beside the working
    /// folder.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Sources::new().text(text).load().map(|loaded| loaded.config)
    }

    /// A bus as configured.
    pub fn bus(&self) -> Result<Bus, BusConfigError> {
        let BusConfig { shards, capacity, max_bytes, .. } = self.bus;
        Bus::builder().shards(shards).capacity(capacity).max_bytes(max_bytes).build()
    }

    /// A server of a bus, as configured.
    pub fn server(&self, bus: &Bus) -> ServerBuilder {
        let server =
            Server::builder(bus).listen(self.listen.as_str()).loops(self.loops).config(self.server.clone());
        let ingest = self.ingest.iter().map(|ingest| ingest.clone().tls_ca_file(&self.engine.tls_ca_file));
        let server = ingest.fold(server, ServerBuilder::ingest);
        if self.engine.url.is_empty() { server } else { server.engine(self.engine.clone()) }
    }

    /// What is wrong with settings that are each right: the key to change, and why.
    fn check(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !self.bus.capacity.is_power_of_two() {
            let near = self.bus.capacity.next_power_of_two();
            let what = format!("bus.capacity = {}: is not a power of two, as {near}", self.bus.capacity);
            faults.push(("bus.capacity", what));
        }
        faults
    }
}
