//! Configuration from a TOML file, the environment and flags, composed of the settings of each subsystem.
//!
//! Invariant: the table in `keys` is the only list of settings. Flags, environment variables, TOML keys,
//! `fanwire check --print-defaults` and docs/configuration.md are derived from it; its head says how to add a setting.

mod file;
mod keys;
mod layers;
mod print;
mod retain;
mod settings;
#[cfg(test)]
mod tests;
mod toml_hint;
mod value;

pub use layers::{ConfigChange, ConfigError, ConfigFault, Loaded, SettingOrigin, Sources};
pub use print::{ConfigKey, defaults_toml, keys};
pub use settings::{Config, LogFormat};
