//! Publishes while all clients meet all cases, and judges each client's report.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cases::{CASES, CROSS_ORIGIN, Case};
use crate::clients::{CLIENTS, Client, GivesUp, Place};
use crate::support::Server;
use crate::support::hostile::{Cut, Hostile, Own, Plan, RetryAfter, Seen};
use crate::support::script::Script;

/// Time limit of the table. On two free cores it takes less than 40 s.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// Time between two events.
pub(crate) const PACE: Duration = Duration::from_millis(200);

/// Time without events, longer than the proxy of the case `idle` waits for a byte.
const QUIET: Duration = Duration::from_secs(7);

/// Lines that each client reported in each case.
pub(crate) type Reports = Arc<Mutex<BTreeMap<(String, String), Vec<String>>>>;

/// All clients' scripts, and their reports.
pub(crate) struct Stage {
    pub(crate) reports: Reports,
    /// Last output of scripts that ended before the test.
    ended: Arc<Mutex<Vec<String>>>,
}

impl Stage {
    /// Starts each script with its clients: the address of each, in a case of this name.
    pub(crate) fn start(jobs: &[(&Client, &str, SocketAddr)]) -> Self {
        let (reports, ended) = (Reports::default(), Arc::<Mutex<Vec<String>>>::default());
        let scripts: BTreeSet<&'static str> = jobs.iter().map(|(client, ..)| client.script).collect();
        for name in scripts {
            let jobs = jobs.iter().filter(|(client, ..)| client.script == name);
            let jobs: Vec<_> = jobs
                .map(|(client, case, addr)| {
                    let url = format!("http://{addr}");
                    let host = if *case == CROSS_ORIGIN { "localhost" } else { "127.0.0.1" };
                    let page = format!("http://{host}:{}", addr.port());
                    json!({"client": client.name, "name": case, "url": url, "page": page})
                })
                .collect();
            let mut script = Script::start(name, &[&json!(jobs).to_string()]).limited(2 * LIMIT);
            let (reports, ended) = (Arc::clone(&reports), Arc::clone(&ended));
            std::thread::spawn(move || {
                while let Some(line) = script.line() {
                    let mut words = line.splitn(3, ' ');
                    let mut word = || words.next().unwrap_or_default().to_owned();
                    let (client, case, line) = (word(), word(), word());
                    reports.lock().expect("no panic holds it").entry((client, case)).or_default().push(line);
                }
                let text = format!("{name} ended, and said:\n{}", script.stderr());
                ended.lock().expect("no panic holds it").push(text);
            });
        }
        Self { reports, ended }
    }

    /// Returns a client's report in a case so far.
    pub(crate) fn reports(&self, client: &str, case: &str) -> Vec<String> {
        let reports = self.reports.lock().expect("no panic holds it");
        reports.get(&(client.to_owned(), case.to_owned())).cloned().unwrap_or_default()
    }

    pub(crate) fn assert_running(&self) {
        let ended = self.ended.lock().expect("no panic holds it").join("\n");
        assert!(ended.is_empty(), "{ended}");
    }
}

/// One client in one case.
struct Pair<'a> {
    client: &'a Client,
    case: &'a Case,
    proxy: &'a Hostile,
    /// Number of events published by the time of its first request that is not cut.
    calm: Option<usize>,
}

impl Pair<'_> {
    /// Returns the number of the last event that it reported.
    fn last(&self, reports: &Reports) -> usize {
        let reports = reports.lock().expect("no panic holds it");
        let lines = reports.get(&(self.client.name.to_owned(), self.case.name.to_owned()));
        lines.and_then(|lines| lines.iter().rev().find_map(|line| got(line))).map_or(0, |(n, _)| n)
    }

    /// Returns whether the client has finished its case, and receives the events published now.
    fn is_through(&mut self, reports: &Reports, published: usize) -> bool {
        if self.calm.is_none() && self.proxy.seen(self.client.name).len() > self.case.calm_from {
            self.calm = Some(published);
        }
        self.calm.is_some_and(|calm| self.last(reports) > calm + 2)
    }
}

pub(crate) fn got(line: &str) -> Option<(usize, &str)> {
    let (number, id) = line.strip_prefix("got ")?.split_once(' ')?;
    Some((number.parse().ok()?, id))
}

pub(crate) fn run() {
    // The heartbeat is shorter than the time limit of the proxy of the case `idle`, as 30 s is shorter than nginx's 60
    // s.
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let page = format!("http://localhost:{}", elsewhere.local_addr().expect("bound").port());
    let server = Server::with(&["--retry", "1s", "--heartbeat", "2s", "--cors-origin", &page]);
    let mut elsewhere = Some(elsewhere);
    let mut proxy = |case: &Case| match elsewhere.take_if(|_| case.name == CROSS_ORIGIN) {
        Some(listener) => Hostile::at(listener, server.addr, case.plan),
        None => Hostile::before(server.addr, case.plan),
    };
    let proxies: Vec<Hostile> = CASES.iter().map(&mut proxy).collect();
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for client in CLIENTS {
        let cases = CASES.iter().zip(&proxies);
        pairs.extend(cases.map(|(case, proxy)| Pair { client, case, proxy, calm: None }));
    }
    let mut ids: Vec<String> = Vec::new();
    let mut publish = || {
        let event = json!({"type": "test.numbered", "payload": {"n": ids.len() + 1}});
        let answer = server.publish(event.to_string());
        ids.push(answer["last_event_id"].as_str().expect("an id").to_owned());
        ids.len()
    };
    publish();
    let jobs = pairs.iter().map(|pair| (pair.client, pair.case.name, pair.proxy.addr));
    let stage = Stage::start(&jobs.collect::<Vec<_>>());
    let reports = &stage.reports;

    let end = Instant::now() + LIMIT;
    let mut late = Vec::new();
    while Instant::now() < end {
        let published = publish();
        stage.assert_running();
        late = (0..pairs.len()).filter(|&at| !pairs[at].is_through(reports, published)).collect();
        if late.is_empty() {
            break;
        }
        std::thread::sleep(PACE);
    }
    // No events for a while: only heartbeats keep an idle stream alive.
    std::thread::sleep(QUIET);
    let last = (0..3).map(|_| publish()).last().expect("three");
    while Instant::now() < end && pairs.iter().any(|pair| pair.last(reports) < last) {
        std::thread::sleep(PACE);
    }
    let mut faults = Vec::new();
    for (at, pair) in pairs.iter().enumerate() {
        let (lines, seen) =
            (stage.reports(pair.client.name, pair.case.name), pair.proxy.seen(pair.client.name));
        let judged = if late.contains(&at) {
            Err("did not get through the case".into())
        } else {
            judge(pair, &lines, &seen, &ids)
        };
        if let Err(fault) = judged {
            faults.push(report(pair, &fault, &lines, &seen));
        }
    }
    assert!(faults.is_empty(), "{} of {} pairs:\n\n{}", faults.len(), pairs.len(), faults.join("\n\n"));
    server.assert_serving();
}

/// Returns the fault, the client's last report, and its library's last request.
fn report(pair: &Pair<'_>, fault: &str, lines: &[String], seen: &[Seen]) -> String {
    let requests: Vec<String> = seen
        .iter()
        .map(|seen| format!("  {} {:?}\n    met {:?}", seen.target, seen.headers, seen.plan))
        .collect();
    let from = lines.len().saturating_sub(30);
    format!(
        "{} in the case {}: {fault}\n -- its last reports --\n  {}\n -- its requests --\n{}",
        pair.client.name,
        pair.case.name,
        lines[from..].join("\n  "),
        requests.join("\n")
    )
}

fn judge(pair: &Pair<'_>, lines: &[String], seen: &[Seen], ids: &[String]) -> Result<(), String> {
    // The client stores an id before the last line end of its event has arrived. A cut between the two, possible only
    // at single bytes, loses the event.
    let hits = seen.iter().filter(|seen| matches!(seen.plan.cut, Some(Cut::Bytes(_)))).count();
    let lost_max = if pair.client.name == "fetch-event-source" { hits } else { 0 };
    events_are_whole(pair.client, lines, ids, lost_max)?;
    places_are_named(pair.client, seen, ids)?;
    waits_are_kept(pair.client, seen)?;
    let refused = seen.iter().filter(|seen| gives_up(pair.client, &seen.plan)).count();
    let died = lines.iter().filter(|line| line.starts_with("dead")).count();
    if died != refused {
        return Err(format!("it gave up {died} times, and met {refused} answers that should make it"));
    }
    Ok(())
}

/// Returns whether this answer makes the client give up.
fn gives_up(client: &Client, plan: &Plan) -> bool {
    let is_page = matches!(plan.own, Some(Own::Page));
    match client.gives_up {
        GivesUp::Never => false,
        GivesUp::Refused => is_page || matches!(plan.own, Some(Own::Refused { .. })),
        // Chromium accepts half a head as a whole one.
        GivesUp::RefusedOrHalf => is_page || matches!(plan.own, Some(Own::Refused { .. } | Own::HalfAHead)),
        GivesUp::Unforeseen => is_page || !plan.interim.is_empty(),
    }
}

/// Checks that every event arrived once and in order, from the first to the last, or that the client learned where the
/// new stream began.
fn events_are_whole(
    client: &Client,
    lines: &[String],
    ids: &[String],
    lost_max: usize,
) -> Result<(), String> {
    let mut lost = 0;
    let mut before: Option<usize> = None;
    // Number at which the new stream begins, as the client learned it.
    let mut from: Option<usize> = None;
    for line in lines {
        if let Some(id) = line.strip_prefix("from ") {
            let place = ids.iter().position(|known| known == id);
            from = Some(place.ok_or_else(|| format!("no event is called {id}"))? + 1);
        } else if let Some((n, id)) = got(line) {
            if ids.get(n - 1).map(String::as_str) != Some(id) {
                return Err(format!("event {n} came as {id}, and is {:?}", ids.get(n - 1)));
            }
            let begin = if client.place == Place::Nowhere { from.take().or(before) } else { before.or(from) };
            lost += usize::from(begin.is_some_and(|begin| begin + 2 == n));
            let is_next = begin.is_none_or(|begin| begin + 1 == n || (begin + 2 == n && lost <= lost_max));
            if !is_next || before.is_some_and(|before| before >= n) {
                return Err(format!(
                    "event {n} came after {before:?}, with the beginning reported as {begin:?}"
                ));
            }
            before = Some(n);
        } else if ["gap", "closed", "error"].iter().any(|word| line.starts_with(word)) {
            return Err(format!("received {line}"));
        }
    }
    if before != Some(ids.len()) {
        return Err(format!("of {} events it got {before:?} last", ids.len()));
    }
    Ok(())
}

/// Checks that each request after the first names an event, in the library's form, and never an older one than the
/// previous request.
fn places_are_named(client: &Client, seen: &[Seen], ids: &[String]) -> Result<(), String> {
    let mut before = 0;
    for (at, seen) in seen.iter().enumerate() {
        let header = seen.header("last-event-id").map(str::to_owned);
        let query = |name| {
            let (_, rest) = seen.target.split_once(&format!("{name}="))?;
            Some(rest.split('&').next().unwrap_or_default().to_owned())
        };
        let named = match client.place {
            Place::Header => header.or_else(|| query("last_event_id")),
            Place::Query => query("lastEventId").or_else(|| query("last_event_id")),
            Place::Since | Place::Nowhere => {
                return header.map_or(Ok(()), |id| Err(format!("it named {id}")));
            }
        };
        let place = match &named {
            // The client had received no event by then. If it failed to send its position, events are missing.
            None if before == 0 => 0,
            None => return Err(format!("request {at} names no event")),
            Some(id) => {
                ids.iter().position(|known| known == id).ok_or(format!("no event is called {id}"))? + 1
            }
        };
        if place < before {
            return Err(format!("request {at} names event {place}, the one before it {before}"));
        }
        before = place;
    }
    Ok(())
}

/// Checks that no request was sent sooner than after the library's waiting time, or the time in `Retry-After` if the
/// library obeys it.
fn waits_are_kept(client: &Client, seen: &[Seen]) -> Result<(), String> {
    for (at, pair) in seen.windows(2).enumerate() {
        // A client starts to wait after the proxy has seen its request, so it waited no longer than this.
        let waited = pair[1].began - pair[0].began;
        let asked = match pair[0].plan.own {
            Some(Own::Refused { retry_after: Some(RetryAfter::Seconds(seconds)), .. }) => seconds,
            // A date has no fractions of a second.
            Some(Own::Refused { retry_after: Some(RetryAfter::Date(seconds)), .. }) => seconds - 1,
            _ => 0,
        };
        let asked = if client.name == "curl" { Duration::from_secs(asked.into()) } else { Duration::ZERO };
        // A GET that was closed without an answer may be repeated immediately (RFC 9112, 9.3.1). aiohttp does so, and
        // so does Chromium on a connection that was already open.
        let is_repeat = matches!(pair[0].plan.own, Some(Own::Nothing));
        if waited < client.floor.max(asked) && !is_repeat {
            return Err(format!("request {} came {waited:?} after the one before", at + 1));
        }
    }
    Ok(())
}
