//! The server's settings as command line options, made from the library's table of keys.
//!
//! Always: every key is a flag and an environment variable. A flag's value is parsed like the same key's value in a
//! file.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use fanwire::config::{self, Sources};

/// Builds `listen` from a separate address and port. A missing half takes its default.
fn listen(host: Option<&String>, port: Option<&u16>) -> Option<String> {
    if host.is_none() && port.is_none() {
        return None;
    }
    let default = config::Config::default().listen;
    let (usual_host, usual_port) = default.rsplit_once(':')?;
    let host = host.map_or(usual_host, String::as_str);
    let port = port.map_or_else(|| usual_port.to_owned(), u16::to_string);
    let is_bare_v6 = host.contains(':') && !host.starts_with('[');
    Some(if is_bare_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// A configuration file, and the flags that override it.
#[derive(Debug, Default)]
pub(super) struct Settings {
    file: Option<PathBuf>,
    flags: Vec<(&'static str, Vec<String>)>,
}

impl Settings {
    /// Returns the sources of the configuration: the file, the process environment, and the flags.
    pub(super) fn sources(&self) -> Sources {
        let mut sources = Sources::new();
        if let Some(file) = &self.file {
            sources = sources.file(file);
        }
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        sources = sources.environment(environment);
        self.flags.iter().fold(sources, |sources, (key, values)| sources.flag(*key, values.clone()))
    }
}

fn arg(key: config::ConfigKey) -> Arg {
    let range = if key.range.is_empty() { String::new() } else { format!(" [{}]", key.range) };
    let default = key.default.as_deref().filter(|default| !["[]", "\"\"", "false"].contains(default));
    let default =
        default.map(|default| format!(" [default: {}]", default.trim_matches('"'))).unwrap_or_default();
    let help = format!("{}{range}{default}", key.help);
    let arg = Arg::new(key.path).long(key.flag).help(help).help_heading(key.heading).value_name(key.kind);
    let arg = arg.env(key.variable).hide_env_values(true);
    match key.kind {
        "BOOL" => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ if key.is_list => arg.action(ArgAction::Append),
        _ => arg,
    }
}

impl clap::Args for Settings {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config").long("config").env("FANWIRE_CONFIG").value_name("FILE");
        let file = file
            .help("Settings from a TOML file; flags and environment variables override it")
            .value_parser(clap::value_parser!(PathBuf));
        let host = Arg::new("host").long("host").value_name("ADDR");
        let host = host.help("Address of --listen, with its default port");
        let port = Arg::new("port").long("port").value_name("PORT").value_parser(clap::value_parser!(u16));
        let port = port.help("Port of --listen, with its default address");
        command.args([file, host, port]).args(config::keys().into_iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Self { file: matches.get_one::<PathBuf>("config").cloned(), flags: Vec::new() };
        for key in config::keys() {
            // The configuration reads the environment itself, so that it can report where a value came from.
            if matches.value_source(key.path) != Some(clap::parser::ValueSource::CommandLine) {
                continue;
            }
            let values = matches.get_many::<String>(key.path).into_iter().flatten().cloned().collect();
            settings.flags.push((key.path, values));
        }
        if let Some(listen) = listen(matches.get_one("host"), matches.get_one("port")) {
            if settings.flags.iter().any(|(key, _)| *key == "listen") {
                let text =
                    "--listen cannot be used with --host or --port: give either the one or the others\n";
                return Err(clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, text));
            }
            settings.flags.push(("listen", vec![listen]));
        }
        Ok(settings)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
