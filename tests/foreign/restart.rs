//! A server is restarted with all clients connected: each client survives, and learns that its position is gone.

use std::time::Instant;

use serde_json::{Value, json};

use crate::clients::{CLIENTS, Client, Place};
use crate::referee::{LIMIT, PACE, Stage, got};
use crate::support::Server;

/// The table has one case here.
const CASE: &str = "restart";

/// The server, with its configuration.
struct Published {
    server: Server,
    ids: Vec<String>,
}

impl Published {
    fn next(&mut self) {
        let event = json!({"type": "test.numbered", "payload": {"n": self.ids.len() + 1}});
        let answer = self.server.publish(event.to_string());
        self.ids.push(answer["last_event_id"].as_str().expect("an id").to_owned());
    }

    /// Publishes until each client has got three more events than now.
    fn reach_all(&mut self, stage: &Stage) {
        let (begin, end) = (self.ids.len(), Instant::now() + LIMIT);
        loop {
            self.next();
            stage.assert_running();
            let late: Vec<&str> = CLIENTS
                .iter()
                .map(|client| client.name)
                .filter(|client| last(&stage.reports(client, CASE)) < begin + 3)
                .collect();
            if late.is_empty() {
                return;
            }
            if Instant::now() > end {
                let reports = stage.reports(late[0], CASE);
                let from = reports.len().saturating_sub(30);
                panic!(
                    "{late:?} get nothing; the last reports of the first:\n{}",
                    reports[from..].join("\n")
                );
            }
            std::thread::sleep(PACE);
        }
    }
}

fn last(lines: &[String]) -> usize {
    lines.iter().rev().find_map(|line| got(line)).map_or(0, |(n, _)| n)
}

pub(crate) fn run() {
    let options = ["--retry", "1s", "--drain-window", "2s"];
    let mut published = Published { server: Server::with(&options), ids: Vec::new() };
    published.next();
    let addr = published.server.addr;
    let stage = Stage::start(&CLIENTS.iter().map(|client| (client, CASE, addr)).collect::<Vec<_>>());
    published.reach_all(&stage);
    let before = published.ids.len();
    published.server.signal("TERM");
    assert_eq!(published.server.wait().code(), Some(0), "{}", published.server.log());
    published.server = Server::at(&addr.to_string(), &options);
    published.reach_all(&stage);
    for client in CLIENTS {
        let lines = stage.reports(client.name, CASE);
        if let Err(fault) = judge(client, &lines, &published.ids, before) {
            panic!("{}: {fault}\n -- its reports --\n{}", client.name, lines.join("\n"));
        }
    }
}

/// Checks that events arrived in order, and each once within each life of the server, and that between the two lives
/// the client learned that its position is gone.
fn judge(client: &Client, lines: &[String], ids: &[String], before: usize) -> Result<(), String> {
    let mut newest: Option<usize> = None;
    let (mut gap, mut from) = (None, None);
    for line in lines {
        if line.starts_with("dead") || line.starts_with("error") || line.starts_with("closed") {
            return Err(format!("it reported: {line}"));
        }
        if let Some(text) = line.strip_prefix("gap ") {
            gap = Some(serde_json::from_str::<Value>(text).map_err(|error| format!("{error} in {text}"))?);
        } else if let Some(id) = line.strip_prefix("from ") {
            from = Some(id.to_owned());
        } else if let Some((n, id)) = got(line) {
            if ids.get(n - 1).map(String::as_str) != Some(id) {
                return Err(format!("event {n} came as {id}"));
            }
            if let Some(newest) = newest.replace(n) {
                let is_new_life = newest <= before && n > before;
                if !is_new_life && newest + 1 != n {
                    return Err(format!("event {n} came after {newest}"));
                }
                if is_new_life {
                    told_of_the_end(client, gap.take(), from.take())?;
                }
            }
        }
    }
    if newest.is_none_or(|newest| newest <= before) { Err("it saw no new event".into()) } else { Ok(()) }
}

fn told_of_the_end(client: &Client, gap: Option<Value>, from: Option<String>) -> Result<(), String> {
    match (client.place, gap) {
        (Place::Nowhere, None) if from.is_some() => Ok(()),
        (Place::Nowhere, gap) => Err(format!("it received {gap:?} and that it begins at {from:?}")),
        (_, Some(gap)) if gap["missed"].is_null() && gap["recoverable"] == false => Ok(()),
        (_, gap) => Err(format!("between the servers it received {gap:?}")),
    }
}
