//! What `fanwire verify` found, for people and for programs. Imports its siblings only.
//! Always: every number is one that was counted; every fault has a line.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::super::{DIM, RED};
use super::ledger::{Fault, Kind};
use super::reader::{Over, Reader};
use super::{Args, Publisher, Run, lock};

const GREEN: Style = AnsiColor::Green.on_default();
/// Faults printed to people; the JSON has all.
const FAULTS_SHOWN: usize = 20;

/// The whole account.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    url: String,
    /// No fault was found.
    kept: bool,
    seed: u64,
    seconds: f64,
    lanes: usize,
    /// Events that readers were to get, and that they were not to.
    published: u64,
    noise: u64,
    /// Events whose publish had no clear answer: nobody was owed them.
    unsure: u64,
    throttled: u64,
    delivered: u64,
    readers: Vec<Row>,
    /// Why connections were lost, some of the reasons.
    notes: Vec<String>,
    faults: Vec<Fault>,
}

/// One reader.
#[derive(Debug, Serialize)]
struct Row {
    reader: String,
    over: &'static str,
    lane: usize,
    connections: u64,
    /// Cut by itself, and lost or refused otherwise.
    cuts: u64,
    lost: u64,
    delivered: u64,
    gaps: u64,
    /// Events that gaps told of.
    missed: u64,
}

impl Report {
    pub(super) fn new(
        args: &Args,
        seed: u64,
        run: &Run,
        publisher: &Publisher<'_>,
        readers: &[Reader],
    ) -> Self {
        let rows = readers.iter().map(|reader| Row {
            reader: reader.account.reader().to_owned(),
            over: if reader.over == Over::WebSocket { "websocket" } else { "sse" },
            lane: reader.account.lane(),
            connections: reader.account.connection,
            cuts: reader.cuts,
            lost: reader.refused,
            delivered: reader.account.delivered,
            gaps: reader.account.gaps,
            missed: reader.account.missed,
        });
        let faults: Vec<Fault> = readers.iter().flat_map(|reader| reader.account.faults.clone()).collect();
        let sum = |of: fn(&super::Lane) -> u64| publisher.lanes.iter().map(of).sum();
        Self {
            url: args.url.to_string(),
            kept: faults.is_empty(),
            seed,
            seconds: (run.start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            lanes: publisher.lanes.len(),
            published: sum(|lane| lane.last),
            noise: publisher.noise,
            unsure: sum(|lane| lane.unsure.len() as u64),
            throttled: publisher.throttled,
            delivered: readers.iter().map(|reader| reader.account.delivered).sum(),
            readers: rows.collect(),
            notes: lock(&run.notes).clone(),
            faults,
        }
    }

    pub(super) fn faults(&self) -> usize {
        self.faults.len()
    }

    /// A closed stdout means that nobody asks.
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
            "  published  {} events in {} lanes, and {} that nobody asked for",
            self.published, self.lanes, self.noise
        )?;
        if self.unsure > 0 {
            writeln!(
                out,
                "             {} of them without a clear answer: nobody was owed these",
                self.unsure
            )?;
        }
        if self.throttled > 0 {
            writeln!(out, "             the server asked to wait {} times", self.throttled)?;
        }
        writeln!(out, "  delivered  {}", self.delivered)?;
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
            let Fault { kind, reader, lane, text, .. } = fault;
            writeln!(out, "  {RED}{:<9}{RED:#}{reader}, lane {lane}: {text}", kind.name())?;
        }
        if self.faults.len() > FAULTS_SHOWN {
            writeln!(out, "  … and {} more (--json has all)", self.faults.len() - FAULTS_SHOWN)?;
        }
        if let Some(slow) = self.readers.iter().find(|row| row.reader == "slow").filter(|row| row.gaps == 0) {
            writeln!(
                out,
                "  {DIM}the slow reader got all {} events: try a larger --slow{DIM:#}",
                slow.delivered
            )?;
        }
        Ok(())
    }
}

/// What is promised, and the faults that break it.
const PROMISES: [(&str, &[Kind]); 5] = [
    ("nothing is lost that no gap told of", &[Kind::Lost]),
    ("nothing comes twice", &[Kind::Twice]),
    ("each lane comes in its order", &[Kind::Disorder]),
    ("what comes is what was published and wanted", &[Kind::Changed, Kind::Unwanted]),
    ("who comes back is let in", &[Kind::Away]),
];
