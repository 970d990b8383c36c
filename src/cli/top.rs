//! `fanwire top`: the operator's view in a terminal.
//!
//! Always: the screen shows the server's latest answer, and an unreachable server is reported on the same
//! screen. If stdout is not a terminal, one frame is printed as plain text.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _, Write as _, stdin, stdout};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde::Deserialize;

use super::error::CliError;
use super::remote::{Access, Remote};
use super::style::{BOLD, DIM, GREEN, RED, YELLOW, human_bytes as bytes};
use super::target::{Target, error_text};
use super::trust;

/// Options of `fanwire top`.
#[derive(clap::Args, Debug)]
pub(super) struct TopArgs {
    /// The server
    #[arg(
        value_name = "URL",
        env = "FANWIRE_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8765"
    )]
    url: Target,
    #[command(flatten)]
    access: Access,
    /// Seconds between two samples
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Print one frame and exit, also on a terminal
    #[arg(long)]
    once: bool,
}

/// Number of samples kept for the charts.
const SAMPLES: usize = 60;
/// Rows of a table in a frame without a height.
const ROWS_PLAIN: usize = 20;

/// Control sequences that open the alternate screen without a cursor, and that restore the terminal.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The fields of `/api/stats` that are shown.
#[derive(Clone, Debug, Deserialize)]
struct Stats {
    version: String,
    epoch: String,
    uptime_seconds: u64,
    loops: u64,
    draining: bool,
    engine: serde_json::Value,
    connections: Connections,
    subscriptions: u64,
    feeds: u64,
    #[serde(flatten)]
    totals: Totals,
    held_bytes: u64,
    ledger: StatsLedger,
    #[serde(default)]
    interests: Vec<InterestRow>,
    laggards: Vec<LaggardRow>,
    shards: Vec<ShardRow>,
}

/// Counters since the server's start.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Totals {
    deliveries: u64,
    written_bytes: u64,
    dropped: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Connections {
    http: u64,
    ws: u64,
    sse: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct StatsLedger {
    matched: u64,
    written: u64,
    pending: u64,
    dropped: u64,
    conflated: u64,
    /// Absent from a server of an older version.
    #[serde(default)]
    merged: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct InterestRow {
    filters: Vec<String>,
    dialect: String,
    transport: String,
    #[serde(default)]
    lean: bool,
    members: u64,
    kept_events: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct LaggardRow {
    connection: String,
    speaks: String,
    events: u64,
    bytes: u64,
    milliseconds: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct ShardRow {
    head: u64,
    oldest: u64,
    capacity: u64,
}

/// The fields of `/api/history` that are shown.
#[derive(Debug, Deserialize)]
struct HistoryAnswer {
    published: Vec<f64>,
    delivered: Vec<f64>,
    written_bytes: Vec<f64>,
    missed: Vec<f64>,
}

/// The charted series, each with its latest samples.
#[derive(Debug, Default)]
struct Charts {
    published: VecDeque<f64>,
    delivered: VecDeque<f64>,
    bytes: VecDeque<f64>,
    missed: VecDeque<f64>,
}

/// Everything known about the server.
struct View {
    remote: Remote,
    stats: Option<(Stats, Instant)>,
    fault: Option<String>,
    charts: Charts,
}

/// Draws until interrupted. Prints one frame if stdout is not a terminal.
pub(super) fn run(args: &TopArgs) -> Result<(), CliError> {
    let remote = Remote::new(args.url.clone(), &args.access)?;
    let mut view = View { remote, stats: None, fault: None, charts: Charts::default() };
    if args.once || !stdout().is_terminal() {
        view.sample().map_err(unreachable)?;
        // A rate needs two samples.
        std::thread::sleep(Duration::from_secs(1));
        view.sample().map_err(unreachable)?;
        let frame = view.frame(None);
        // A closed stdout means that nothing reads the frame.
        let _ = anstream::AutoStream::auto(stdout()).write_all(frame.as_bytes());
        return Ok(());
    }
    view.sample().map_err(unreachable)?;
    let (stop, stopped) = channel();
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ])
    .map_err(|error| CliError::new(format!("cannot wait for signals: {error}")))?;
    let quit = stop.clone();
    std::thread::spawn(move || signals.forever().try_for_each(|_| stop.send(())));
    std::thread::spawn(move || {
        // A closed stdin ends this thread. The view continues.
        let keys = stdin().lock().bytes().map_while(Result::ok);
        keys.filter(|key| matches!(key, b'q' | b'Q' | 3)).try_for_each(|_| quit.send(()))
    });
    let _screen = Screen::enter();
    loop {
        Screen::draw(&view.frame(Screen::size()));
        match stopped.recv_timeout(Duration::from_secs(args.every)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
        view.fault = view.sample().err().map(|error| error.message);
    }
}

/// Adds the next step to the error of the first sample.
fn unreachable(error: CliError) -> CliError {
    match error.hint {
        Some(_) => error,
        None => {
            error.hint("Is the server running? With authentication, the token must have the right `admin`.")
        }
    }
}

/// The terminal in drawing mode. Drop restores it.
struct Screen {
    /// State of the terminal to restore.
    before: Option<Termios>,
}

impl Screen {
    fn enter() -> Self {
        let before = tcgetattr(stdin()).ok();
        if let Some(before) = &before {
            // Keys arrive one by one and are not echoed. Ctrl-C stays a signal.
            let mut keys = before.clone();
            keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            let _ = tcsetattr(stdin(), OptionalActions::Now, &keys);
        }
        let _ = stdout().write_all(ENTER.as_bytes());
        Self { before }
    }

    /// Returns columns and rows.
    fn size() -> Option<(usize, usize)> {
        let size = tcgetwinsize(stdout()).ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
    }

    /// Redraws without flicker: moves home, clears each line to its end, then clears the rest below.
    fn draw(frame: &str) {
        // Colours follow the environment. Cursor movements are always written.
        let plain = (anstream::AutoStream::choice(&stdout()) == anstream::ColorChoice::Never)
            .then(|| anstream::adapter::strip_str(frame).to_string());
        let mut out = String::from("\x1b[H");
        for line in plain.as_deref().unwrap_or(frame).lines() {
            out.push_str(line);
            out.push_str("\x1b[K\r\n");
        }
        out.truncate(out.len().saturating_sub(2));
        out.push_str("\x1b[J");
        let mut stdout = stdout().lock();
        let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
        let _ = stdout().write_all(LEAVE.as_bytes()).and_then(|()| stdout().flush());
    }
}

impl View {
    /// Takes a sample from the server, and stores the rates since the previous one.
    fn sample(&mut self) -> Result<(), CliError> {
        let mut answer = self.remote.get("/api/stats").call().map_err(|error| {
            trust::refusal(&error, &self.remote.url)
                .unwrap_or_else(|| CliError::new(format!("cannot reach the server: {error}")))
        })?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().read_to_string().map_err(CliError::new)?;
        if status != 200 {
            return Err(CliError::new(format!("{} (status {status})", error_text(&body))));
        }
        let stats: Stats = serde_json::from_str(&body)
            .map_err(|error| CliError::new(format!("this is not a fanwire server's answer: {error}")))?;
        let now = Instant::now();
        if let Some((before, at)) = self.stats.as_ref().filter(|(before, _)| before.epoch == stats.epoch) {
            let seconds = now.duration_since(*at).as_secs_f64().max(0.001);
            let heads = |stats: &Stats| stats.shards.iter().map(|shard| shard.head).sum::<u64>();
            for (chart, then, now) in [
                (&mut self.charts.published, heads(before), heads(&stats)),
                (&mut self.charts.delivered, before.totals.deliveries, stats.totals.deliveries),
                (&mut self.charts.bytes, before.totals.written_bytes, stats.totals.written_bytes),
                (&mut self.charts.missed, before.totals.dropped, stats.totals.dropped),
            ] {
                chart.push_back(now.saturating_sub(then) as f64 / seconds);
                if chart.len() > SAMPLES {
                    chart.pop_front();
                }
            }
        }
        if self.stats.is_none() {
            self.load_history();
        }
        self.stats = Some((stats, now));
        Ok(())
    }

    /// Fills the charts with the server's own history. A server of an older version has none.
    fn load_history(&mut self) {
        let answer = self.remote.get("/api/history").call();
        let text = answer.ok().filter(|answer| answer.status().as_u16() == 200);
        let text = text.and_then(|mut answer| answer.body_mut().read_to_string().ok());
        let Some(past) = text.and_then(|text| serde_json::from_str::<HistoryAnswer>(&text).ok()) else {
            return;
        };
        for (chart, seconds) in [
            (&mut self.charts.published, past.published),
            (&mut self.charts.delivered, past.delivered),
            (&mut self.charts.bytes, past.written_bytes),
            (&mut self.charts.missed, past.missed),
        ] {
            chart.extend(&seconds[seconds.len().saturating_sub(SAMPLES)..]);
        }
    }

    /// Returns the whole screen as text, limited to this width and height if they are given.
    fn frame(&self, size: Option<(usize, usize)>) -> String {
        let (width, height) = size.unwrap_or((100, usize::MAX));
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out, width.max(40), height);
        out
    }

    fn write(&self, out: &mut String, width: usize, height: usize) -> std::fmt::Result {
        let Some((stats, _)) = &self.stats else { return Ok(()) };
        let state = if stats.draining {
            format!("{YELLOW}draining{YELLOW:#}")
        } else {
            format!("{GREEN}serving{GREEN:#}")
        };
        let state =
            self.fault.as_ref().map_or(state, |fault| format!("{RED}{}{RED:#}", cut(fault, width / 2)));
        let engine = stats.engine.as_str().map_or_else(|| "engine".to_owned(), str::to_owned);
        let Stats { version, loops, .. } = stats;
        writeln!(out, "{BOLD}fanwire {version}{BOLD:#}  {}  {state}", self.remote.url)?;
        writeln!(
            out,
            "{DIM}up {}, {loops} loops, {engine}, epoch {}{DIM:#}\n",
            uptime(stats.uptime_seconds),
            stats.epoch
        )?;

        let bar = width.saturating_sub(26).min(SAMPLES);
        for (name, chart, unit) in [
            ("in", &self.charts.published, "events/s"),
            ("out", &self.charts.delivered, "events/s"),
            ("written", &self.charts.bytes, "/s"),
            ("missed", &self.charts.missed, "events/s"),
        ] {
            let now = chart.back().copied().unwrap_or(0.0);
            let style = if name == "missed" && now > 0.0 { YELLOW } else { BOLD };
            let number = if unit == "/s" { bytes(now as u64) } else { grouped(now.round() as u64) };
            writeln!(
                out,
                "{name:<8}{style}{number:>9}{style:#} {DIM}{unit:<8}{DIM:#} {}",
                spark(chart, bar)
            )?;
        }
        let Connections { http, ws, sse } = stats.connections;
        let held = bytes(stats.held_bytes);
        let (subscriptions, feeds) = (grouped(stats.subscriptions), grouped(stats.feeds));
        writeln!(
            out,
            "\nclients  {} {DIM}({ws} ws, {sse} sse, {http} http){DIM:#}, {subscriptions} subscriptions, {feeds} feeds, {held} held",
            ws + sse
        )?;
        let StatsLedger { matched, written, pending, dropped, conflated, merged } = stats.ledger;
        let [matched, written, pending, dropped, conflated, merged] =
            [matched, written, pending, dropped, conflated, merged].map(grouped);
        writeln!(
            out,
            "ledger   {matched} = {written} written + {pending} pending + {dropped} dropped + {conflated} conflated + {merged} merged"
        )?;

        // The tables share the rest of the screen: shards first, then laggards, then interests.
        let shards = stats.shards.len().min(8);
        let room = height.saturating_sub(out.lines().count() + shards + 8);
        let room = if height == usize::MAX { 2 * ROWS_PLAIN } else { room };
        let laggards = stats.laggards.len().clamp(1, room.div_ceil(2).max(1));
        let interests = room.saturating_sub(laggards).clamp(1, 50);
        write_tables(out, stats, width, (shards, laggards, interests))
    }
}

/// Writes this many rows each of shards, laggards and interests.
fn write_tables(
    out: &mut String,
    stats: &Stats,
    width: usize,
    (shards, laggards, interests): (usize, usize, usize),
) -> std::fmt::Result {
    writeln!(out, "\n{DIM}{:<6}{:>16}{:>16}   kept{DIM:#}", "shard", "newest", "oldest")?;
    for (number, shard) in stats.shards.iter().take(shards).enumerate() {
        let ShardRow { head, oldest, capacity } = *shard;
        let share = (head.saturating_sub(oldest) * 100).checked_div(capacity).unwrap_or(0);
        writeln!(
            out,
            "{number:<6}{:>16}{:>16}   {share} % of {}",
            grouped(head),
            grouped(oldest),
            grouped(capacity)
        )?;
    }
    writeln!(
        out,
        "\n{DIM}{:<18}{:<8}{:>10}{:>12}{:>12}{DIM:#}",
        "laggard", "speaks", "events", "bytes", "time"
    )?;
    if stats.laggards.is_empty() {
        writeln!(out, "{DIM}no client is behind{DIM:#}")?;
    }
    for laggard in stats.laggards.iter().take(laggards) {
        let LaggardRow { connection, speaks, events, milliseconds, .. } = laggard;
        let lag = format!("{:.1} s", *milliseconds as f64 / 1000.0);
        writeln!(
            out,
            "{connection:<18}{speaks:<8}{:>10}{:>12}{lag:>12}",
            grouped(*events),
            bytes(laggard.bytes)
        )?;
    }
    let wide = width.saturating_sub(42).max(12);
    writeln!(out, "\n{DIM}{:<wide$} {:<16}{:>10}{:>12}{DIM:#}", "interest", "spoken", "clients", "kept")?;
    if stats.interests.is_empty() {
        writeln!(out, "{DIM}no subscriptions{DIM:#}")?;
    }
    for interest in stats.interests.iter().take(interests) {
        let text = if interest.filters.iter().any(String::is_empty) {
            "everything".to_owned()
        } else {
            interest.filters.join("  or  ")
        };
        let spoken = format!(
            "{}{} {}",
            if interest.lean { "lean " } else { "" },
            interest.dialect,
            interest.transport
        );
        writeln!(
            out,
            "{:<wide$} {spoken:<16}{:>10}{:>12}",
            cut(&text, wide),
            grouped(interest.members),
            grouped(interest.kept_events)
        )?;
    }
    Ok(())
}

/// Returns at most `max` characters. Control characters never reach the terminal.
fn cut(text: &str, max: usize) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    if text.chars().count() <= max {
        return text.chars().map(clean).collect();
    }
    let mut cut: String = text.chars().take(max.saturating_sub(1)).map(clean).collect();
    cut.push('…');
    cut
}

/// Returns the latest `width` numbers as a line of blocks. The highest number is a full block.
fn spark(numbers: &VecDeque<f64>, width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let newest = || numbers.iter().skip(numbers.len().saturating_sub(width));
    let top = newest().copied().fold(f64::MIN_POSITIVE, f64::max);
    newest().map(|number| BLOCKS[((number / top * 7.0).round() as usize).min(7)]).collect()
}

/// Formats `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn uptime(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let url = "http://127.0.0.1:1".parse().expect("valid");
        let stats = serde_json::json!({
            "version": "9.9.9", "epoch": "1", "uptime_seconds": 3725, "loops": 2, "draining": false, "engine": "memory",
            "connections": {"http": 1, "ws": 2, "sse": 3}, "subscriptions": 4, "feeds": 5, "deliveries": 6, "written_bytes": 7,
            "dropped": 8, "held_bytes": 4096, "ledger": {"matched": 1_234_567, "written": 1, "pending": 2, "dropped": 3, "conflated": 4, "merged": 5},
            "interests": [{"filters": ["type=\u{1b}[31mx"], "dialect": "native", "transport": "ws", "members": 2, "kept_events": 0}],
            "laggards": [{"connection": "1f", "speaks": "ws", "events": 10, "bytes": 2048, "milliseconds": 1500}],
            "shards": [{"head": 100, "oldest": 50, "capacity": 200}],
        });
        let stats = serde_json::from_value(stats).expect("as the server says it");
        View {
            remote: Remote::new(url, &Access::default()).unwrap_or_else(|error| panic!("{error:?}")),
            stats: Some((stats, Instant::now())),
            fault: None,
            charts: Charts::default(),
        }
    }

    #[test]
    fn a_frame_shows_the_servers_answer_and_fits_the_screen() {
        let view = view();
        let frame = anstream::adapter::strip_str(&view.frame(Some((80, 24)))).to_string();
        for words in [
            "fanwire 9.9.9",
            "up 1 h 2 min",
            "1,234,567 = 1 written + 2 pending + 3 dropped + 4 conflated + 5 merged",
            "25 % of 200",
            "2.0 KiB",
            "1.5 s",
            "5 (2 ws, 3 sse, 1 http)",
        ] {
            assert!(frame.contains(words), "{words}: {frame}");
        }
        assert!(frame.lines().count() <= 24, "{frame}");
        assert!(frame.lines().all(|line| line.chars().count() <= 90), "{frame}");
    }

    #[test]
    fn text_of_clients_moves_no_cursor() {
        let frame = view().frame(None);
        assert!(!frame.contains("\u{1b}[31mx") && frame.contains("type=\u{fffd}[31mx"), "{frame}");
    }

    #[test]
    fn a_line_of_blocks_ends_with_the_newest() {
        let numbers: VecDeque<f64> = [0.0, 4.0, 8.0].into();
        assert_eq!(spark(&numbers, 2), "▅█");
        assert_eq!(spark(&[0.0, 0.0].into(), 9), "▁▁");
    }
}
