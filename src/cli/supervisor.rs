//! What the service manager (systemd) hands over and wants to hear: sockets that it holds, and how the service is.
//!
//! Imports public items only. Always: without a service manager nothing here does anything; a message that can't be
//! sent is logged, and stops nobody.

use std::net::TcpListener;
use std::time::Duration;

use fanwire::server::{Pulse, ThreadFailure};
use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::CliError;

/// `ENOTRECOVERABLE` of Linux, where systemd is.
const NOT_RECOVERABLE: u32 = 131;

/// The sockets that the service manager listens on for us (`LISTEN_FDS`); none where it does not.
pub(super) fn sockets() -> Result<Vec<TcpListener>, CliError> {
    let mut held = ListenFd::from_env();
    let count = held.len();
    let take = |index| {
        let taken = held.take_tcp_listener(index);
        let taken = taken.map_err(|error| CliError::new(format!("socket {index} of LISTEN_FDS: {error}")));
        taken.map_err(|error| error.hint("Fanwire takes TCP sockets that listen: ListenStream=ADDRESS:PORT."))
    };
    (0..count).map(take).filter_map(Result::transpose).collect()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager was not told");
    }
}

/// The port is open.
pub(super) fn ready(addr: std::net::SocketAddr) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {addr}"))]);
}

/// The configuration is being read anew; [`reloaded`] must follow.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The configuration was read.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The server goes; it may take so long.
pub(super) fn stopping(limit: Duration) {
    let limit = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::Status("draining"), NotifyState::ExtendTimeoutUsec(limit)]);
}

/// A thread of the server failed, and the process ends.
pub(super) fn failed(failure: &ThreadFailure) {
    tell(&[NotifyState::Status(&failure.to_string()), NotifyState::Errno(NOT_RECOVERABLE)]);
}

/// Another process is the service now.
pub(super) fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// Tells the service manager, twice in each of its intervals, that every loop turns; not where one does not.
pub(super) fn watch(pulse: Pulse) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let half = interval / 2;
    std::thread::spawn(move || {
        loop {
            if pulse.beats(half) {
                tell(&[NotifyState::Watchdog]);
            } else {
                tracing::error!("a loop has not turned for {half:?}");
            }
            std::thread::sleep(half);
        }
    });
}
