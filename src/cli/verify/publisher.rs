//! Publisher of `fanwire verify`: numbered events in lanes, and events that no reader subscribes to (noise) between
//! them.
//!
//! Always: an event without a clear answer to its publish is marked as unsure, so no reader has to get it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::error::CliError;
use super::super::remote::Remote;
use super::super::target::error_text;
use super::run::{EVENT_TYPE, RIGHTS_HINT, SETTLE, SLOW_PAD_BYTES, VerifyRun, lock, pad, sleep_until};
use super::watch::KEY_KIND;

/// Time between two batches.
const BATCH: Duration = Duration::from_millis(20);
/// Type of events in the same streams that no reader subscribes to.
const NOISE_TYPE: &str = "fanwire.verify.noise";
/// One event in this many is followed by an event of noise.
const NOISE_EVERY: u64 = 8;

/// Progress of a lane.
#[derive(Debug, Default)]
pub(super) struct LaneProgress {
    /// Last number that was sent.
    pub(super) last: u64,
    /// Numbers of events that may or may not be published.
    pub(super) unsure: BTreeSet<u64>,
    is_over: bool,
}

/// Publisher of all lanes.
pub(super) struct LanePublisher<'a> {
    remote: &'a Remote,
    run: &'a VerifyRun,
    rate: u64,
    slow_events: u64,
    seconds: u64,
    pub(super) lanes: Vec<LaneProgress>,
    /// Number of events that no reader subscribes to.
    pub(super) noise: u64,
    /// Number of times that the server asked to wait.
    pub(super) throttled: u64,
}

impl<'a> LanePublisher<'a> {
    /// Creates the publisher. `lanes` counts the lanes without the slow reader's, `rate` is each lane's events a second,
    /// and `slow_mib` is the total size of the slow lane's events.
    pub(super) fn new(
        remote: &'a Remote,
        run: &'a VerifyRun,
        lanes: usize,
        rate: u32,
        slow_mib: u32,
        seconds: u64,
    ) -> Self {
        let lanes = lanes + usize::from(run.slow_lane.is_some());
        let slow_events = u64::from(slow_mib) * 1024 * 1024 / SLOW_PAD_BYTES as u64;
        Self {
            remote,
            run,
            rate: rate.into(),
            slow_events,
            seconds,
            lanes: (0..lanes).map(|_| LaneProgress::default()).collect(),
            noise: 0,
            throttled: 0,
        }
    }

    /// Publishes at an even rate for the time of the run, then a last event in each lane. Blocks.
    pub(super) fn publish(&mut self) -> Result<(), CliError> {
        let start = Instant::now();
        let end = start + Duration::from_secs(self.seconds);
        let mut next = start;
        while Instant::now() < end {
            let elapsed = start.elapsed().as_secs_f64();
            for lane in 0..self.lanes.len() {
                let due = if self.run.slow_lane == Some(lane) {
                    // All events of the slow lane are published within the first two thirds of the time, so that the
                    // reader has time to read the retained ones.
                    let share = (elapsed * 1.5 / self.seconds as f64).min(1.0);
                    (share * self.slow_events as f64) as u64
                } else {
                    (elapsed * self.rate as f64) as u64
                };
                // Limits a batch if the server is slow: the rest is published later, or not at all.
                let due = due.min(self.lanes[lane].last + 200);
                self.send(lane, due, false)?;
            }
            next += BATCH;
            sleep_until(next);
        }
        // The last event of each lane is sent until the server confirms it.
        for lane in 0..self.lanes.len() {
            let end = Instant::now() + SETTLE;
            while !self.lanes[lane].is_over && Instant::now() < end {
                let last = self.lanes[lane].last + 1;
                if !self.send(lane, last, true)? {
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
            if !self.lanes[lane].is_over {
                return Err(
                    CliError::new("the server stopped taking events").hint(lock(&self.run.notes).join("; "))
                );
            }
        }
        Ok(())
    }

    /// Publishes a lane's events up to a number, in one batch. Returns whether the server confirmed them.
    fn send(&mut self, lane: usize, up_to: u64, is_last: bool) -> Result<bool, CliError> {
        let first = self.lanes[lane].last + 1;
        if first > up_to {
            return Ok(true);
        }
        let (stream, size) = (self.run.stream(lane), self.run.pad_bytes(lane));
        let mut body = String::new();
        for n in first..=up_to {
            let mut payload = json!({"n": n, "pad": pad(n, size)});
            if is_last && n == up_to {
                payload["last"] = json!(true);
            }
            let mut event = json!({"type": EVENT_TYPE, "source": "fanwire-verify", "stream_id": stream, "payload": payload});
            if let Some(key) = self.run.key(lane, n, is_last && n == up_to) {
                event["entity"] = json!({"kind": KEY_KIND, "id": key.to_string()});
            }
            // Writing to a string cannot fail.
            let _ = writeln!(body, "{event}");
            if n % NOISE_EVERY == 0 {
                self.noise += 1;
                let noise = json!({"type": NOISE_TYPE, "source": "fanwire-verify", "stream_id": stream, "payload": {"n": n}});
                let _ = writeln!(body, "{noise}");
            }
        }
        loop {
            let sent = self.remote.post("/publish").content_type("application/x-ndjson").send(&body);
            let answer = sent.and_then(|mut answer| {
                let wait =
                    answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                Ok((answer.status().as_u16(), wait, answer.body_mut().read_to_string()?))
            });
            match answer {
                Ok((200, ..)) => {
                    self.lanes[lane].last = up_to;
                    self.lanes[lane].is_over |= is_last;
                    return Ok(true);
                }
                Ok((429, wait, _)) => {
                    self.throttled += 1;
                    let wait = Duration::from_secs(wait.unwrap_or(1));
                    if wait > SETTLE {
                        return Err(CliError::new(format!(
                            "the server asks to wait {} s before the next publish",
                            wait.as_secs()
                        )));
                    }
                    std::thread::sleep(wait);
                }
                Ok((status @ 400..500, _, body)) => {
                    return Err(CliError::new(format!(
                        "publishing was refused: {} (status {status})",
                        error_text(&body)
                    ))
                    .hint(RIGHTS_HINT));
                }
                unclear => {
                    // These events may have been published or not, so readers may miss them.
                    self.run.record(&match unclear {
                        Ok((status, _, body)) => format!("publish: {} (status {status})", error_text(&body)),
                        Err(error) => format!("publish: {error}"),
                    });
                    self.lanes[lane].unsure.extend(first..=up_to);
                    self.lanes[lane].last = up_to;
                    return Ok(false);
                }
            }
        }
    }
}
