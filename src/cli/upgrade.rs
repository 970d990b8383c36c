//! Upgrade without downtime: at SIGUSR2 `fanwire serve` starts the program again, from the same path and with
//! the same arguments, and hands over its sockets and clients.
//!
//! Always: the two processes talk over the successor's stdin, which no other process has. If the successor
//! fails, for whatever reason, this process goes on.

use std::env;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use fanwire::ServerHandle;
use fanwire::server::Inheritance;

use super::error::CliError;

/// Environment variable of a successor: its stdin is the old process's end of a handover.
const VARIABLE: &str = "FANWIRE_SUCCEEDS";

/// Returns the path of the program. An upgrade starts the file at this path, which a package may have replaced.
pub(super) fn program() -> Option<PathBuf> {
    env::current_exe().ok()
}

/// Claims what the previous process hands over, if one started this process for that.
pub(super) fn inheritance() -> Result<Option<Inheritance>, CliError> {
    if env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let socket = socket.map_err(|error| CliError::new(format!("stdin: {error}")))?;
    Inheritance::claim(socket).map(Some).map_err(CliError::new)
}

/// Starts a successor, hands everything over, and returns its process id. After an error this process is
/// unchanged.
pub(super) fn upgrade(server: &ServerHandle, program: &PathBuf, limit: Duration) -> Result<u32, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| failed("cannot make a pair of sockets", &error))?;
    let successor = Command::new(program)
        .args(env::args_os().skip(1))
        .env(VARIABLE, std::process::id().to_string())
        // The watchdog belongs to the main process.
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

/// Ends a successor that failed, whatever its state.
fn end(successor: &mut Child) {
    let _ = successor.kill();
    let _ = successor.wait();
}
