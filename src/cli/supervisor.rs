//! The service manager (systemd): takes the sockets that it holds, and reports the state of the service.
//!
//! Always: without a service manager, every function here does nothing. A message that cannot be sent is logged and has
//! no other effect.

use std::net::TcpListener;
use std::time::Duration;

use fanwire::server::{Liveness, ThreadFailure};
use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::error::CliError;

/// `ENOTRECOVERABLE` on Linux, the only system with systemd.
const NOT_RECOVERABLE: u32 = 131;

/// Takes the sockets that the service manager has opened for this process (`LISTEN_FDS`). Returns an empty list without
/// a service manager.
pub(super) fn sockets() -> Result<Vec<TcpListener>, CliError> {
    let mut held = ListenFd::from_env();
    let count = held.len();
    let take = |index| {
        let taken = held.take_tcp_listener(index);
        let taken = taken.map_err(|error| CliError::new(format!("socket {index} of LISTEN_FDS: {error}")));
        taken.map_err(|error| error.hint("Fanwire takes listening TCP sockets: ListenStream=ADDRESS:PORT."))
    };
    (0..count).map(take).filter_map(Result::transpose).collect()
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// Reports that the port is open.
pub(super) fn ready(addr: std::net::SocketAddr) {
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {addr}"))]);
}

/// Reports that the configuration is being read again. [`reloaded`] must follow.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// Reports that the configuration has been read.
pub(super) fn reloaded() {
    notify(&[NotifyState::Ready]);
}

/// Reports that the server is draining, and that this may take up to `limit`.
pub(super) fn stopping(limit: Duration) {
    let limit = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::Status("draining"), NotifyState::ExtendTimeoutUsec(limit)]);
}

/// Reports that a thread of the server failed and that the process ends.
pub(super) fn failed(failure: &ThreadFailure) {
    notify(&[NotifyState::Status(&failure.to_string()), NotifyState::Errno(NOT_RECOVERABLE)]);
}

/// Reports that another process is the service now.
pub(super) fn report_successor(pid: u32) {
    notify(&[NotifyState::MainPid(pid)]);
}

/// Reports to the watchdog, twice in each of its intervals, that every loop makes progress. Reports nothing while a
/// loop is stuck.
pub(super) fn watch(liveness: Liveness) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let half = interval / 2;
    std::thread::spawn(move || {
        loop {
            if liveness.check(half) {
                notify(&[NotifyState::Watchdog]);
            } else {
                tracing::error!("loop stuck for {half:?}: the watchdog gets no sign of life");
            }
            std::thread::sleep(half);
        }
    });
}
