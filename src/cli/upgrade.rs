//! An upgrade without an end: at SIGUSR2 `fanwire serve` starts the program anew, from where it was started, with the
//! same arguments, and gives it all that it has.
//!
//! Imports public items only. Always: the two talk over the successor's stdin, which nobody else has; where the
//! successor fails, for whatever reason, this process goes on.

use std::env;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use fanwire::ServerHandle;
use fanwire::server::Inheritance;

use super::CliError;

/// Says that somebody at the other end of stdin wants to give.
const VARIABLE: &str = "FANWIRE_SUCCEEDS";

/// Where the program is, and is looked for at an upgrade: a package replaces the file.
pub(super) fn program() -> Option<PathBuf> {
    env::current_exe().ok()
}

/// What the process before this one gives, if one started it for that.
pub(super) fn inheritance() -> Result<Option<Inheritance>, CliError> {
    if env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let socket = socket.map_err(|error| CliError::new(format!("stdin: {error}")))?;
    Inheritance::claim(socket).map(Some).map_err(CliError::new)
}

/// Starts a successor and gives it everything; answers its process id. On an error all is as it was.
pub(super) fn upgrade(server: &ServerHandle, program: &PathBuf, limit: Duration) -> Result<u32, String> {
    let told = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let (ours, theirs) = UnixStream::pair().map_err(|error| told("a pair of sockets", &error))?;
    let successor = Command::new(program)
        .args(env::args_os().skip(1))
        .env(VARIABLE, std::process::id().to_string())
        // The watchdog looks at whoever is the main process.
        .env_remove("WATCHDOG_PID")
        .stdin(OwnedFd::from(theirs))
        .spawn();
    let mut successor = successor.map_err(|error| told(&program.display().to_string(), &error))?;
    let pid = successor.id();
    let given = server.hand_over(ours, limit, || end(&mut successor));
    match given {
        Ok(clients) => {
            tracing::info!(successor = pid, clients, "handed over: clients with TLS are told to come back");
            Ok(pid)
        }
        Err(error) => {
            end(&mut successor);
            Err(error.to_string())
        }
    }
}

/// A successor that failed may be half way: it ends here, whatever it is at.
fn end(successor: &mut Child) {
    let _ = successor.kill();
    let _ = successor.wait();
}
