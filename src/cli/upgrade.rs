//! Upgrade without downtime: at SIGUSR2 `fanwire serve` starts the program again, from the same path and with
//! the same arguments, and hands over its sockets and clients.
//!
//! Always: the two processes communicate over the successor's stdin, which no other process has. If the successor fails
//! for any reason, this process continues to serve.

use std::env;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use fanwire::ServerHandle;
use fanwire::server::Inheritance;

use super::error::CliError;

/// Environment variable that marks a process as a successor: its stdin is a socket to the old process.
const VARIABLE: &str = "FANWIRE_SUCCEEDS";

/// Returns the path of the program. An upgrade starts the file at this path, which a package may have replaced.
pub(super) fn program() -> Option<PathBuf> {
    env::current_exe().ok()
}

/// Receives what the previous process hands over, if this process was started as a successor.
pub(super) fn inheritance() -> Result<Option<Inheritance>, CliError> {
    if env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let socket = socket.map_err(|error| CliError::new(format!("stdin: {error}")))?;
    Inheritance::claim(socket).map(Some).map_err(CliError::new)
}

/// Starts a successor, hands over the sockets and clients, and returns the successor's process id. After an error this
/// process continues unchanged.
pub(super) fn upgrade(server: &ServerHandle, program: &PathBuf, limit: Duration) -> Result<u32, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| failed("cannot make a pair of sockets", &error))?;
    let successor = Command::new(program)
        .args(env::args_os().skip(1))
        .env(VARIABLE, std::process::id().to_string())
        // The service manager's watchdog watches the main process only.
        .env_remove("WATCHDOG_PID")
        .stdin(OwnedFd::from(theirs))
        .spawn();
    let mut successor = successor.map_err(|error| failed(&program.display().to_string(), &error))?;
    let pid = successor.id();
    let given = server.hand_over(ours, limit, || end(&mut successor));
    match given {
        Ok(clients) => {
            tracing::info!(successor = pid, clients, "handed over; clients with TLS are asked to reconnect");
            Ok(pid)
        }
        Err(error) => {
            end(&mut successor);
            Err(error.to_string())
        }
    }
}

/// Kills a successor that failed.
fn end(successor: &mut Child) {
    let _ = successor.kill();
    let _ = successor.wait();
}
