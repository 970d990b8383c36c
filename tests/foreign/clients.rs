//! The clients of the table, and the guide's statements about them.

use std::time::Duration;

use serde_json::Value;

use crate::support::script::in_project;

/// Form in which a client sends its last position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The `Last-Event-ID` header.
    Header,
    /// `lastEventId` in the query.
    Query,
    /// The program's `since` in its subscription.
    Since,
    /// The client sends no position: it learns where the new stream begins.
    Nowhere,
}

/// Answers after which a client does not reconnect, so that its program creates another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivesUp {
    Never,
    /// Any answer except a stream.
    Refused,
    /// Chromium: any answer except a stream. It also accepts an answer with half a head.
    RefusedOrHalf,
    /// Any answer except a stream, 500, and 502 to 504. It treats an informational answer as the final one.
    Unforeseen,
}

/// Source of a client's version.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Version {
    Npm(&'static str),
    Pip(&'static str),
    /// Installed on the machine.
    Any,
}

pub(crate) struct Client {
    pub name: &'static str,
    /// Script that runs the client.
    pub script: &'static str,
    pub version: Version,
    pub place: Place,
    pub gives_up: GivesUp,
    /// Minimum time before it reconnects.
    pub floor: Duration,
    /// Name in the guide, and the way it reconnects and resumes.
    pub title: &'static str,
    pub habit: &'static str,
}

const NODE: &str = "foreign_node.mjs";
const CHROMIUM: &str = "browser_foreign.mjs";
const PYTHON: &str = "foreign_python.py";
/// A second, less the error of timers with whole milliseconds.
const SECOND: Duration = Duration::from_millis(950);

pub(crate) const CLIENTS: &[Client] = &[
    Client {
        name: "chromium-eventsource",
        script: CHROMIUM,
        version: Version::Any,
        place: Place::Header,
        gives_up: GivesUp::RefusedOrHalf,
        floor: SECOND,
        title: "Chromium's `EventSource`",
        habit: "by itself, by `Last-Event-ID`; any answer but a stream ends it for good",
    },
    Client {
        name: "event-source-polyfill",
        script: CHROMIUM,
        version: Version::Npm("event-source-polyfill"),
        place: Place::Query,
        gives_up: GivesUp::RefusedOrHalf,
        floor: SECOND,
        title: "`event-source-polyfill`",
        habit: "by itself, by `lastEventId` in the query; any answer but a stream ends it for good",
    },
    Client {
        name: "eventsource",
        script: NODE,
        version: Version::Npm("eventsource"),
        place: Place::Header,
        gives_up: GivesUp::Refused,
        floor: SECOND,
        title: "`eventsource` (Node)",
        habit: "by itself, by `Last-Event-ID`; any answer but a stream ends it for good",
    },
    Client {
        name: "fetch-event-source",
        script: CHROMIUM,
        version: Version::Npm("@microsoft/fetch-event-source"),
        place: Place::Header,
        gives_up: GivesUp::Never,
        floor: SECOND,
        title: "`@microsoft/fetch-event-source`",
        habit: "by `Last-Event-ID`, where `onclose` and `onopen` throw as in its manual; heartbeats call `onmessage` without data",
    },
    Client {
        name: "httpx-sse",
        script: PYTHON,
        version: Version::Pip("httpx-sse"),
        place: Place::Header,
        gives_up: GivesUp::Never,
        floor: SECOND,
        title: "`httpx-sse` (Python)",
        habit: "by its manual's loop: the last `id` in `Last-Event-ID`, after the time that `retry` names",
    },
    Client {
        name: "curl",
        script: NODE,
        version: Version::Any,
        place: Place::Nowhere,
        gives_up: GivesUp::Never,
        floor: SECOND,
        title: "`curl -N --retry 5`",
        habit: "in a loop; heeds `Retry-After` in both forms; does not resume: the first `id` says where the new stream begins",
    },
    Client {
        name: "chromium-websocket",
        script: CHROMIUM,
        version: Version::Any,
        place: Place::Since,
        gives_up: GivesUp::Never,
        floor: SECOND,
        title: "Chromium's `WebSocket`",
        habit: "by the page: a new one a second after each `close`, with `since` in `subscribe`",
    },
    Client {
        name: "reconnecting-websocket",
        script: NODE,
        version: Version::Npm("reconnecting-websocket"),
        place: Place::Since,
        gives_up: GivesUp::Never,
        floor: SECOND,
        title: "`reconnecting-websocket`",
        habit: "by itself; subscribes anew at each `open`, with `since`",
    },
    Client {
        name: "partysocket",
        script: NODE,
        version: Version::Npm("partysocket"),
        place: Place::Since,
        gives_up: GivesUp::Never,
        floor: SECOND,
        title: "`partysocket`",
        habit: "by itself; subscribes anew at each `open`, with `since`",
    },
    Client {
        name: "websockets",
        script: PYTHON,
        version: Version::Pip("websockets"),
        place: Place::Since,
        gives_up: GivesUp::Unforeseen,
        // The client waits only after failures, and then for a random time up to five seconds.
        floor: Duration::ZERO,
        title: "`websockets` (Python)",
        habit: "by its loop, `async for`, which 1xx and 200 end; subscribes anew on each connection, with `since`",
    },
    Client {
        name: "aiohttp",
        script: PYTHON,
        version: Version::Pip("aiohttp"),
        place: Place::Since,
        gives_up: GivesUp::Never,
        floor: SECOND,
        title: "`aiohttp` (Python)",
        habit: "by the program's loop; subscribes anew on each connection, with `since`",
    },
    Client {
        name: "wscat",
        script: NODE,
        version: Version::Npm("wscat"),
        place: Place::Nowhere,
        gives_up: GivesUp::Never,
        floor: SECOND,
        title: "`wscat`",
        habit: "in a loop; does not resume: the `last_event_id` of the `ack` says where the new subscription begins",
    },
];

/// Clients with connection pools, which the guide lists next to streams.
const POOLS: &[(&str, Version, &str)] = &[
    ("`requests.Session` (Python)", Version::Pip("requests"), "as it is"),
    (
        "`aiohttp` (Python)",
        Version::Pip("aiohttp"),
        "`TCPConnector(keepalive_timeout=70)`; its default is 15 s",
    ),
    ("`undici` `Agent` (Node)", Version::Npm("undici"), "`keepAliveTimeout: 70_000`; its default is 4 s"),
    ("`http.Agent` (Node)", Version::Any, "`keepAlive: true`; its default is 5 s"),
    ("nginx `keepalive`", Version::Any, "`keepalive_timeout 70s`; its default is 60 s"),
];

fn version(version: Version) -> String {
    let read = |path| std::fs::read_to_string(in_project(path)).expect("a list of packages");
    match version {
        Version::Any => "the system's".into(),
        Version::Npm(name) => {
            let list: Value =
                serde_json::from_str(&read("tests/clients/package.json")).expect("a list of packages");
            list["dependencies"][name].as_str().unwrap_or_else(|| panic!("{name} is not listed")).to_owned()
        }
        Version::Pip(name) => {
            let list = read("tests/clients/requirements.txt");
            let found = list.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("=="));
            found.unwrap_or_else(|| panic!("{name} is not listed")).to_owned()
        }
    }
}

/// The guide has a row for each client, with its version and its limits in the table.
pub(crate) fn check_the_guide() {
    let guide = std::fs::read_to_string(in_project("docs/front-end.md")).expect("the guide");
    let clients = CLIENTS.iter().map(|client| (client.title, client.version, client.habit));
    let pools = POOLS.iter().map(|&(title, version, habit)| (title, version, habit));
    let rows: Vec<String> = clients
        .chain(pools)
        .map(|(title, pinned, habit)| format!("| {title} | {} | {habit} |", version(pinned)))
        .collect();
    let missing: Vec<&str> =
        rows.iter().map(String::as_str).filter(|row| !guide.lines().any(|line| line == *row)).collect();
    assert!(
        missing.is_empty(),
        "docs/front-end.md, \"Other people's clients\", lacks:\n{}",
        missing.join("\n")
    );
}
