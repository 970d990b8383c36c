//! Result of `fanwire verify`: text for people, JSON for programs.
//!
//! Always: every number was counted, not estimated. The JSON holds every violation.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};

use serde::Serialize;

use super::super::style::{DIM, GREEN, RED};
use super::ledger::{Violation, ViolationKind};
use super::reader::{Over, VerifyReader};
use super::run::{VerifyRun, lock};

/// Number of violations printed as text. The JSON has all.
const FAULTS_SHOWN: usize = 20;

/// Numbers of the publisher's side.
pub(super) struct PublisherCounts {
    pub(super) lanes: usize,
    /// Number of events meant for the readers.
    pub(super) events: u64,
    /// Number of events that no reader subscribed to.
    pub(super) noise: u64,
    /// Number of events that may or may not be published.
    pub(super) unsure: u64,
    /// Number of times that the server asked to wait.
    pub(super) throttled: u64,
}

/// The whole result.
#[derive(Debug, Serialize)]
pub(super) struct VerifyReport {
    url: String,
    /// Whether every promise was kept.
    kept: bool,
    seed: u64,
    seconds: f64,
    lanes: usize,
    /// Number of events meant for the readers.
    published: u64,
    noise: u64,
    /// Number of events that may or may not be published. No reader has to get them.
    unsure: u64,
    throttled: u64,
    delivered: u64,
    /// Number of delivered events that arrived merged into a later one.
    merged: u64,
    readers: Vec<Row>,
    /// Some of the reasons why connections were lost.
    notes: Vec<String>,
    faults: Vec<Violation>,
}

/// Row of one reader.
#[derive(Debug, Serialize)]
struct Row {
    reader: String,
    over: &'static str,
    lane: usize,
    connections: u64,
    /// Connections that the reader cut, and connections that ended otherwise.
    cuts: u64,
    lost: u64,
    delivered: u64,
    /// Number of these that arrived merged into a later one.
    merged: u64,
    gaps: u64,
    /// Number of events that gaps reported as missed.
    missed: u64,
    /// Number of times that the reader changed its keys.
    changes: u64,
}

impl VerifyReport {
    pub(super) fn new(
        url: String,
        seed: u64,
        run: &VerifyRun,
        published: PublisherCounts,
        readers: &[VerifyReader],
    ) -> Self {
        let rows = readers.iter().map(|reader| Row {
            reader: reader.account.reader().to_owned(),
            over: if reader.over == Over::WebSocket { "websocket" } else { "sse" },
            lane: reader.account.lane(),
            connections: reader.account.connection,
            cuts: reader.cuts,
            lost: reader.refused,
            delivered: reader.account.delivered,
            merged: reader.account.merged,
            gaps: reader.account.gaps,
            missed: reader.account.missed,
            changes: reader.account.watch.as_ref().map_or(0, |watch| watch.changes),
        });
        let faults: Vec<Violation> =
            readers.iter().flat_map(|reader| reader.account.faults.clone()).collect();
        Self {
            url,
            kept: faults.is_empty(),
            seed,
            seconds: (run.start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            lanes: published.lanes,
            published: published.events,
            noise: published.noise,
            unsure: published.unsure,
            throttled: published.throttled,
            delivered: readers.iter().map(|reader| reader.account.delivered).sum(),
            merged: readers.iter().map(|reader| reader.account.merged).sum(),
            readers: rows.collect(),
            notes: lock(&run.notes).clone(),
            faults,
        }
    }

    pub(super) fn faults(&self) -> usize {
        self.faults.len()
    }

    /// Prints the report. A closed stdout is no error: nothing reads the report.
    pub(super) fn print(&self, as_json: bool) {
        let mut text = String::new();
        if as_json {
            text = serde_json::to_string_pretty(self).unwrap_or_default();
            text.push('\n');
        } else {
            // Writing to a string cannot fail.
            let _ = self.write(&mut text);
        }
        let _ = anstream::AutoStream::auto(stdout()).write_all(text.as_bytes());
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "fanwire verify {}: {} s, seed {}", self.url, self.seconds, self.seed)?;
        writeln!(
            out,
            "  published  {} events in {} lanes, and {} that no reader asked for",
            self.published, self.lanes, self.noise
        )?;
        if self.unsure > 0 {
            writeln!(
                out,
                "             {} of them without a clear answer: readers may miss these",
                self.unsure
            )?;
        }
        if self.throttled > 0 {
            writeln!(out, "             the server asked to wait {} times", self.throttled)?;
        }
        write!(out, "  delivered  {}", self.delivered)?;
        if self.merged > 0 {
            write!(out, ", {} of them merged into a later one", self.merged)?;
        }
        writeln!(out)?;
        writeln!(
            out,
            "\n  {DIM}{:<9}{:>5}{:>13}{:>7}{:>7}{:>11}{:>7}{:>9}{DIM:#}",
            "reader", "lane", "connections", "cuts", "lost", "delivered", "gaps", "missed"
        )?;
        for row in &self.readers {
            writeln!(
                out,
                "  {:<9}{:>5}{:>13}{:>7}{:>7}{:>11}{:>7}{:>9}",
                row.reader,
                row.lane,
                row.connections,
                row.cuts,
                row.lost,
                row.delivered,
                row.gaps,
                row.missed
            )?;
        }
        let changes: u64 = self.readers.iter().map(|row| row.changes).sum();
        if changes > 0 {
            writeln!(out, "  {DIM}readers changed their watch lists {changes} times{DIM:#}")?;
        }
        for note in &self.notes {
            writeln!(out, "  {DIM}{note}{DIM:#}")?;
        }
        writeln!(out)?;
        for (promise, kinds) in PROMISES {
            let broken = self.faults.iter().filter(|fault| kinds.contains(&fault.kind)).count();
            let verdict = if broken == 0 {
                format!("{GREEN}kept{GREEN:#}")
            } else {
                format!("{RED}broken {broken} times{RED:#}")
            };
            writeln!(out, "  {promise:<44}{verdict}")?;
        }
        for fault in self.faults.iter().take(FAULTS_SHOWN) {
            let Violation { kind, reader, lane, text, .. } = fault;
            writeln!(out, "  {RED}{:<9}{RED:#}{reader}, lane {lane}: {text}", kind.name())?;
        }
        if self.faults.len() > FAULTS_SHOWN {
            writeln!(out, "  … and {} more (--json has all)", self.faults.len() - FAULTS_SHOWN)?;
        }
        if let Some(slow) = self.readers.iter().find(|row| row.reader == "slow").filter(|row| row.gaps == 0) {
            writeln!(
                out,
                "  {DIM}the slow reader got all {} events; for a gap, try a larger --slow{DIM:#}",
                slow.delivered
            )?;
        }
        Ok(())
    }
}

/// The promises, each with the violations that break it.
const PROMISES: [(&str, &[ViolationKind]); 5] = [
    ("no event is lost without a gap", &[ViolationKind::Lost]),
    ("nothing is delivered twice", &[ViolationKind::Twice]),
    ("each lane is delivered in order", &[ViolationKind::Disorder]),
    ("events are unchanged and subscribed to", &[ViolationKind::Changed, ViolationKind::Unwanted]),
    ("a reader can reconnect", &[ViolationKind::Away]),
];
