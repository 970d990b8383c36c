//! The command line: one file a subcommand, what they share here.
//!
//! Imports public items only, as an embedder would. Always: answers go to stdout, everything else to stderr;
//! the exit code is 0 for done, 1 for a failure that was told, 2 for a command line that makes no sense.

mod bench;
mod check;
mod demo;
mod dev_cert;
mod dice;
mod files;
mod filters;
mod health;
mod publish;
mod remote;
mod serve;
mod settings;
mod supervisor;
mod tail;
mod target;
mod token;
mod top;
mod trust;
mod upgrade;
mod verify;

use std::fmt;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::{Parser, Subcommand};
use fanwire::config::Origin;

/// Events from the code that makes them to every screen that wants them.
#[derive(Debug, Parser)]
#[command(name = "fanwire", version, about, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: WebSocket, SSE, publish, metrics and the live page on one port
    Serve(serve::Args),
    /// Send events to a server: one from options, or many from a file or stdin
    Publish(publish::Args),
    /// Follow a server's events in the terminal
    Tail(tail::Args),
    /// Make a token or an API key: who may see and do what, and for how long
    Token(token::Args),
    /// Make a certificate for tests, and an authority to trust for it: https:// on this machine
    DevCert(dev_cert::Args),
    /// Check filters, and explain what they say to an event
    Check(check::Args),
    /// Load a server with many clients and see what it costs
    Bench(bench::Args),
    /// See what a server does: rates, clients, interests, laggards, shards
    Top(top::Args),
    /// Check a running server's promises: nothing lost untold, nothing twice, in order, whatever breaks
    Verify(verify::Args),
}

/// A failure as the user reads it: what happened, and what to do next.
#[derive(Debug)]
struct CliError {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl CliError {
    fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), hint: None, code: 1 }
    }

    fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

/// A configuration that has faults, all of them told.
fn refused_config(error: fanwire::config::ConfigError) -> CliError {
    let faults = error.faults().len();
    let faults = if faults == 1 { "a fault".to_owned() } else { format!("{faults} faults") };
    let is_flag = |fault: &fanwire::config::ConfigFault| matches!(fault.origin(), Origin::Flag(_));
    let code = if error.faults().iter().all(is_flag) { 2 } else { 1 };
    CliError { code, ..CliError::new(format!("the configuration has {faults}:\n{error}")) }
}

const RED: Style = AnsiColor::Red.on_default();
const DIM: Style = Style::new().dimmed();

/// A size for people.
fn human_bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut units = ["KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while size >= 1024.0 {
        let Some(next) = units.next() else { break };
        (size, unit) = (size / 1024.0, next);
    }
    format!("{size:.1} {unit}")
}

/// Parses the command line, runs the command and turns its end into an exit code.
pub(crate) fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Publish(args) => publish::run(args),
        Command::Tail(args) => tail::run(args),
        Command::Token(args) => token::run(&args),
        Command::DevCert(args) => dev_cert::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(args),
        Command::Top(args) => top::run(&args),
        Command::Verify(args) => verify::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{RED}error:{RED:#} {}", error.message);
            if let Some(hint) = error.hint {
                anstream::eprintln!("{hint}");
            }
            ExitCode::from(error.code)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_of_serve_is_an_environment_variable_and_a_key_too() {
        let mut cli = Cli::command();
        let serve = cli.find_subcommand_mut("serve").expect("serve is a subcommand");
        let keys: Vec<&str> = fanwire::config::keys().iter().map(|key| key.path).collect();
        let ids = |arg: &clap::Arg| arg.get_id().as_str().to_owned();
        // The two halves of `listen` are its other spelling.
        let others = ["help", "version", "host", "port"];
        for arg in serve.get_arguments().filter(|arg| !others.contains(&ids(arg).as_str())) {
            let name = ids(arg).replace('.', "_");
            let env = arg.get_env().and_then(|env| env.to_str()).unwrap_or_default();
            assert_eq!(env, format!("FANWIRE_{}", name.to_uppercase()));
            assert_eq!(arg.get_long(), Some(&*name.replace('_', "-")));
            assert!(name == "config" || keys.contains(&&*ids(arg)), "{name}");
        }
    }
}
