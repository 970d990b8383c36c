//! Layers of settings: defaults, a file, the environment, flags; later layers win.
//!
//! Invariants:
//! - The origin of each value is known.
//! - All faults are reported at once, each with key, value, origin and the allowed values. Nothing is applied in
//!   part.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::file;
use super::keys::{self, KeyRow, When};
use super::retain::RETAIN;
use super::settings::Config;
use super::value::{FILE_KIND, SECRET_KIND, Words, as_toml};

/// Origin of a setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingOrigin {
    /// No layer has a value.
    Default,
    /// Line of a file, from 1; 0 is the file as a whole.
    File(PathBuf, usize),
    /// Environment variable.
    Environment(String),
    /// Flag of the command line.
    Flag(String),
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "{name}"),
            Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// Fault of a setting that is refused, or accepted with a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    key: String,
    origin: SettingOrigin,
    what: String,
}

impl ConfigFault {
    /// Returns the key, such as `drain.timeout`; empty if a file can't be read or is not TOML.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns where the value is.
    #[must_use]
    pub fn origin(&self) -> &SettingOrigin {
        &self.origin
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.what)
    }
}

/// Error of a refused configuration: every fault in it, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    faults: Vec<ConfigFault>,
}

impl ConfigError {
    /// Returns the faults, at least one.
    #[must_use]
    pub fn faults(&self) -> &[ConfigFault] {
        &self.faults
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            let before = if at > 0 { "\n" } else { "" };
            write!(f, "{before}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Sources of a configuration. Flags override the environment, which overrides the file, which overrides the
/// defaults.
///
/// ```
/// use fanwire::config::Sources;
///
/// let sources = Sources::new()
///     .environment([("FANWIRE_HEARTBEAT", "15s")])
///     .flag("max_connections", ["500"]);
/// let loaded = sources.load()?;
/// assert_eq!(loaded.config.server.max_connections, 500);
/// assert_eq!(loaded.origin("heartbeat").to_string(), "FANWIRE_HEARTBEAT");
/// # Ok::<(), fanwire::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    text: Option<String>,
    environment: BTreeMap<String, String>,
    flags: Vec<(String, Vec<String>)>,
}

impl Sources {
    /// Returns sources with the defaults only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a TOML file, which each [`load`](Self::load) reads.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Sets a TOML text instead of a file.
    pub(super) fn text(mut self, text: &str) -> Self {
        self.text = Some(text.to_owned());
        self
    }

    /// Adds environment variables, such as `std::env::vars()`. Variables of no setting are ignored.
    pub fn environment<N: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.environment.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Sets the value of a key over all other layers, as a command line does. Several values make a list.
    pub fn flag<V: Into<String>>(
        mut self,
        key: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        self.flags.push((key.into(), values.into_iter().map(Into::into).collect()));
        self
    }

    /// Returns variables that look like a misspelled setting, each with the name that was probably meant.
    pub fn strange_variables(&self) -> Vec<(String, String)> {
        let names: Vec<String> = keys::rows().map(variable).collect();
        let strange = |name: &&String| name.starts_with("FANWIRE_") && !names.contains(*name);
        let near = |name: &String| {
            let distance = |known: &&String| strsim::damerau_levenshtein(known, name);
            names.iter().min_by_key(distance).filter(|known| distance(known) <= 2).cloned()
        };
        self.environment.keys().filter(strange).filter_map(|name| Some((name.clone(), near(name)?))).collect()
    }

    /// Reads all sources. Blocks for the file.
    ///
    /// # Errors
    ///
    /// Returns every fault: a file that can't be read or is not TOML, unknown keys, values out of range, settings
    /// that contradict each other.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut loaded = Loaded { config: Config::default(), origins: BTreeMap::new(), warnings: Vec::new() };
        let mut faults = Vec::new();
        if let Some(text) = &self.text {
            loaded.take_file(Path::new("(text)"), text, &mut faults);
        }
        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path);
            match text {
                Ok(text) => loaded.take_file(path, &text, &mut faults),
                Err(error) => faults.push(ConfigFault {
                    key: String::new(),
                    origin: SettingOrigin::File(path.clone(), 0),
                    what: format!("cannot be read: {error}"),
                }),
            }
        }
        for row in keys::rows() {
            let name = variable(row);
            if let Some(value) = self.environment.get(&name) {
                loaded.take(row, &Words::One(value.clone()), SettingOrigin::Environment(name), &mut faults);
            }
        }
        for (key, values) in &self.flags {
            let Some(row) = keys::find(key) else {
                faults.push(unknown(key, SettingOrigin::Flag(key.clone())));
                continue;
            };
            let words = match &values[..] {
                [value] => Words::One(value.clone()),
                many => Words::Many(many.to_vec()),
            };
            loaded.take(row, &words, SettingOrigin::Flag(format!("--{}", flag(row))), &mut faults);
        }
        if faults.is_empty() {
            for (key, what) in loaded.config.check() {
                faults.push(ConfigFault { key: key.to_owned(), origin: loaded.origin(key), what });
            }
        }
        if !faults.is_empty() {
            return Err(ConfigError { faults });
        }
        for (key, what) in loaded.config.doubts() {
            let origin = loaded.origin(key);
            loaded.warnings.push(ConfigFault { key: key.to_owned(), origin, what });
        }
        Ok(loaded)
    }
}

impl Config {
    /// Reads the settings of a TOML text; the rest have their defaults. Relative paths in it are relative to the working
    /// directory.
    ///
    /// # Errors
    ///
    /// Returns every fault in the text: lines that are not TOML, unknown keys, values out of range.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Sources::new().text(text).load().map(|loaded| loaded.config)
    }

    /// Returns the files and folders that settings name, with their keys. The server reads them at its start and at each
    /// reload.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let mut config = self.clone();
        keys::rows().filter_map(|row| Some((row.path, row.file(&mut config)?))).collect()
    }
}

fn unknown(path: &str, origin: SettingOrigin) -> ConfigFault {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let what = match keys::nearest(path) {
        // The key exists, but not in this section.
        Some(near) if near == name && !section.is_empty() => {
            format!("unknown key `{path}`: `{name}` is above the first [section]; did you mean `{near}`?")
        }
        Some(near) if near.rsplit_once('.').is_some_and(|(_, last)| last == name) => {
            let home = near.rsplit_once('.').map_or("", |(section, _)| section);
            format!("unknown key `{path}`: `{name}` is under [{home}]; did you mean `{near}`?")
        }
        Some(near) => format!("unknown key `{path}`; did you mean `{near}`?"),
        None => format!("unknown key `{path}`; `fanwire check --print-defaults` shows all"),
    };
    ConfigFault { key: path.to_owned(), origin, what }
}

/// Returns the flag of a setting, without its dashes.
pub(super) fn flag(row: &KeyRow) -> String {
    row.path.replace(['.', '_'], "-")
}

/// Returns the environment variable of a setting.
pub(super) fn variable(row: &KeyRow) -> String {
    format!("FANWIRE_{}", row.path.replace('.', "_").to_uppercase())
}

/// Configuration with the origin of each value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// Effective configuration.
    pub config: Config,
    origins: BTreeMap<&'static str, SettingOrigin>,
    warnings: Vec<ConfigFault>,
}

/// Setting with a new value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigChange {
    /// Key, such as `drain.timeout`.
    pub key: &'static str,
    /// New value as TOML.
    pub value: String,
    /// Whether a running server can apply it. Otherwise it takes effect at the next start.
    pub live: bool,
}

impl Loaded {
    fn take_file(&mut self, path: &Path, text: &str, faults: &mut Vec<ConfigFault>) {
        let origin = |line| SettingOrigin::File(path.to_owned(), line);
        let entries = match file::read(text) {
            Ok(entries) => entries,
            Err((line, what)) => {
                return faults.push(ConfigFault { key: String::new(), origin: origin(line), what });
            }
        };
        let mut kept = Vec::new();
        for entry in entries {
            let origin = origin(entry.line);
            let Some(row) = keys::find(&entry.path) else {
                faults.push(unknown(&entry.path, origin));
                continue;
            };
            let Some(mut words) = entry.words else {
                let what =
                    format!("{}: expected a text, a number, true or false, or a list of them", entry.path);
                faults.push(ConfigFault { key: entry.path, origin, what });
                continue;
            };
            if (row.lens)(&mut self.config).kind() == FILE_KIND {
                words = beside(path, words);
            }
            self.take(row, &words, origin.clone(), faults);
            if let Words::Many(more) = words
                && row.path == RETAIN
            {
                // Each [[retain]] is checked by itself, and adds to those before.
                kept.extend(more);
                if kept.len() > 1 && faults.is_empty() {
                    self.take(row, &Words::Many(kept.clone()), origin, faults);
                }
            }
        }
    }

    fn take(&mut self, row: &KeyRow, words: &Words, origin: SettingOrigin, faults: &mut Vec<ConfigFault>) {
        let mut setting = (row.lens)(&mut self.config);
        match setting.set(words) {
            Ok(()) => {
                if let Some(what) = setting.warning(words) {
                    let what = format!("{}: {what}", row.path);
                    self.warnings.push(ConfigFault {
                        key: row.path.to_owned(),
                        origin: origin.clone(),
                        what,
                    });
                }
                self.origins.insert(row.path, origin);
            }
            Err(what) => {
                let given = match words {
                    _ if row.may_hold_secrets() => "(secret)".to_owned(),
                    Words::One(text) => text.clone(),
                    Words::Many(words) => format!("[{}]", words.join(", ")),
                    Words::Nothing => String::new(),
                };
                let what = format!("{} = {given}: {what}", row.path);
                faults.push(ConfigFault { key: row.path.to_owned(), origin, what });
            }
        }
    }

    /// Returns the values that were accepted but should be written differently, with what to write.
    #[must_use]
    pub fn warnings(&self) -> &[ConfigFault] {
        &self.warnings
    }

    /// Returns the origin of a key's value.
    #[must_use]
    pub fn origin(&self, key: &str) -> SettingOrigin {
        self.origins.get(key).cloned().unwrap_or(SettingOrigin::Default)
    }

    /// Returns the differences from `running`, and a configuration that a running server can apply: the live settings
    /// of this one, and all other settings of `running`.
    #[must_use]
    pub fn changes_from(&self, running: &Config) -> (Vec<ConfigChange>, Config) {
        let mut new = self.config.clone();
        let mut running = running.clone();
        let mut changes = Vec::new();
        for row in keys::rows() {
            let words = (row.lens)(&mut new).words();
            if words == (row.lens)(&mut running).words() {
                continue;
            }
            let live = row.when == When::Live;
            if live && (row.lens)(&mut running).set(&words).is_err() {
                debug_assert!(false, "{} does not read what it prints", row.path);
                continue;
            }
            changes.push(ConfigChange { key: row.path, value: row.shown(&mut new), live });
        }
        (changes, running)
    }

    /// Returns every key with its effective value as TOML and its origin. Secrets are hidden.
    #[must_use]
    pub fn effective(&self) -> Vec<(&'static str, String, SettingOrigin)> {
        let mut config = self.config.clone();
        keys::rows().map(|row| (row.path, row.shown(&mut config), self.origin(row.path))).collect()
    }
}

impl KeyRow {
    /// Returns the value as TOML; secrets are hidden.
    pub(super) fn shown(&self, config: &mut Config) -> String {
        let value = as_toml(&*(self.lens)(config));
        match value {
            Some(_) if self.is_secret() => "\"(secret)\"".to_owned(),
            Some(value) => value,
            None => "(none)".to_owned(),
        }
    }

    /// Returns the file or folder that the setting names, if any.
    pub(super) fn file(&self, config: &mut Config) -> Option<PathBuf> {
        let setting = (self.lens)(config);
        match setting.words() {
            Words::One(path) if setting.kind() == FILE_KIND => Some(path.into()),
            _ => None,
        }
    }

    /// Returns whether the setting is a boolean.
    pub(super) fn is_switch(&self) -> bool {
        (self.lens)(&mut Config::default()).kind() == "BOOL"
    }

    /// Returns whether a malformed value may hold a password and must not be repeated.
    pub(super) fn may_hold_secrets(&self) -> bool {
        self.is_secret() || self.path == "ingest"
    }

    pub(super) fn is_secret(&self) -> bool {
        (self.lens)(&mut Config::default()).kind() == SECRET_KIND
    }
}

/// Resolves relative paths against the folder of their file.
pub(super) fn beside(file: &Path, words: Words) -> Words {
    let folder = file.parent().unwrap_or(Path::new(""));
    let join = |text: String| {
        if text.is_empty() { text } else { folder.join(text).display().to_string() }
    };
    match words {
        Words::One(text) => Words::One(join(text)),
        Words::Many(all) => Words::Many(all.into_iter().map(join).collect()),
        Words::Nothing => Words::Nothing,
    }
}
