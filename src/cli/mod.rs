//! The command line, one file for each subcommand. It uses the library's public items only, as an embedder's program
//! does.
//!
//! Always: results go to stdout, everything else to stderr. The exit code is 0 for success, 1 for a reported failure,
//! 2 for an invalid command line, and 70 after a thread of the server failed.

mod bench;
mod check;
mod demo;
mod dev_cert;
mod dice;
mod error;
mod files;
mod filters;
mod health;
mod history;
mod publish;
mod remote;
mod serve;
mod settings;
mod style;
mod supervisor;
mod tail;
mod target;
mod token;
mod top;
mod trust;
mod upgrade;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use self::style::RED;

/// Carries events from the code that makes them to every screen that wants them.
#[derive(Debug, Parser)]
#[command(name = "fanwire", version, about, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommands {
    /// Run the server: WebSocket, SSE, publish, metrics and the live page on one port
    Serve(serve::ServeArgs),
    /// Send events to a server: one from options, or many from a file or stdin
    Publish(publish::PublishArgs),
    /// Follow a server's events in the terminal
    Tail(tail::TailArgs),
    /// Print a server's past events, page by page
    History(history::HistoryArgs),
    /// Make a token or an API key, with its rights and its lifetime
    Token(token::TokenArgs),
    /// Make a test certificate and its authority, for https:// on this machine
    DevCert(dev_cert::DevCertArgs),
    /// Check filters and explain their verdict on an event; check a configuration or a server
    Check(check::CheckArgs),
    /// Load a server with many clients and measure its cost
    Bench(bench::BenchArgs),
    /// Watch a server: rates, clients, interests, laggards, shards
    Top(top::TopArgs),
    /// Check a running server's promises: no unreported loss, no duplicates, order kept, whatever breaks
    Verify(verify::VerifyArgs),
}

/// Parses the command line, runs the command and returns its exit code.
pub(crate) fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Subcommands::Serve(args) => serve::run(&args),
        Subcommands::Publish(args) => publish::run(args),
        Subcommands::Tail(args) => tail::run(args),
        Subcommands::History(args) => history::run(args),
        Subcommands::Token(args) => token::run(&args),
        Subcommands::DevCert(args) => dev_cert::run(&args),
        Subcommands::Check(args) => check::run(&args),
        Subcommands::Bench(args) => bench::run(args),
        Subcommands::Top(args) => top::run(&args),
        Subcommands::Verify(args) => verify::run(&args),
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
        // `host` and `port` together are another form of `listen`.
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
