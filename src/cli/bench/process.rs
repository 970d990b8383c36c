//! CPU time and memory of the server's process, as the kernel reports them.

use std::fs;
use std::time::Duration;

/// A process under observation.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
}

impl Process {
    pub(super) fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Returns the CPU time of all threads, from the scheduler's accounting. `None` if the kernel does not report it.
    pub(super) fn cpu(&self) -> Option<Duration> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid)).ok()? {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            nanos += text.split(' ').next()?.parse::<u64>().ok()?;
        }
        Some(Duration::from_nanos(nanos))
    }

    /// Returns the CPU time by kind (user, system). `None` if the kernel does not report it.
    pub(super) fn ticks(&self) -> Option<Ticks> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The process name before it may hold any character, also a bracket.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11).map(str::parse);
        Some(Ticks { user: fields.next()?.ok()?, system: fields.next()?.ok()? })
    }

    /// Returns the resident memory in bytes. `None` if the kernel does not report it.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    }
}

/// CPU time of a process by kind, in the kernel's ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    user: u64,
    system: u64,
}

impl Ticks {
    /// Returns the share of the CPU time between two samples that the process's own code took.
    pub(super) fn user_share((before, after): (Self, Self)) -> Option<f64> {
        let user = after.user.saturating_sub(before.user);
        let total = user + after.system.saturating_sub(before.system);
        (total > 0).then(|| user as f64 / total as f64)
    }
}
