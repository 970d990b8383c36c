//! The cases: what a proxy does with each of a client's stream requests, counted from 0.

use std::time::Duration;

use crate::support::hostile::{Cut, Own, Pieces, Plan, RetryAfter, Rewrite};

/// One way in which a proxy handles its clients' requests.
pub(crate) struct Case {
    pub name: &'static str,
    pub plan: fn(usize) -> Plan,
    /// Number of requests whose answers may be cut or refused. The answers to later ones are not.
    pub calm_from: usize,
}

const AS_NGINX: Rewrite =
    Rewrite { lower_case: true, chunked: true, old: true, plain: true, merged: false, stripped: false };
const AS_CDN: Rewrite =
    Rewrite { lower_case: true, chunked: true, merged: true, stripped: true, plain: true, old: false };

const PLAIN: Plan = Plan {
    delay: Duration::ZERO,
    interim: &[],
    own: None,
    cut: None,
    pieces: Pieces::AsTheyCome,
    rewrite: Rewrite {
        lower_case: false,
        merged: false,
        stripped: false,
        chunked: false,
        old: false,
        plain: true,
    },
    names: None,
    idle: None,
};

/// Returns a plan: the first stream ends after five events, and the next requests get these answers.
fn refusing(request: usize, answers: &[Own]) -> Plan {
    match request.checked_sub(1).map(|at| answers.get(at)) {
        None => Plan { cut: Some(Cut::Behind(5)), ..PLAIN },
        Some(own) => Plan { own: own.copied(), ..PLAIN },
    }
}

const fn refused(status: u16, retry_after: Option<RetryAfter>) -> Own {
    Own::Refused { status, retry_after }
}

fn nginx(request: usize) -> Plan {
    let cut = (request < 2).then_some(Cut::Behind(4 + request));
    Plan { cut, rewrite: AS_NGINX, ..PLAIN }
}

fn cdn(request: usize) -> Plan {
    let cut = (request < 2).then_some(Cut::Inside(4 + request));
    Plan { cut, rewrite: AS_CDN, pieces: Pieces::Held(2048, Duration::from_millis(300)), ..PLAIN }
}

fn single_bytes(request: usize) -> Plan {
    // The answer is compressed if the client accepts that, so the cut can be anywhere.
    let cut = (request < 2).then_some(Cut::Bytes(1003 + 57 * request));
    Plan { cut, pieces: Pieces::Single(1500), rewrite: Rewrite::default(), ..PLAIN }
}

/// Returns a plan with informational answers; the last requests get none, for clients that give up at them.
fn informed(request: usize, interim: &'static [u16]) -> Plan {
    if request < 2 { Plan { cut: Some(Cut::Behind(3)), interim, ..PLAIN } } else { PLAIN }
}

fn early_hints(request: usize) -> Plan {
    informed(request, &[103, 103])
}

fn unasked_continue(request: usize) -> Plan {
    informed(request, &[100])
}

fn busy_for_seconds(request: usize) -> Plan {
    refusing(request, &[refused(503, Some(RetryAfter::Seconds(3)))])
}

fn busy_until_a_date(request: usize) -> Plan {
    refusing(request, &[refused(503, Some(RetryAfter::Date(4)))])
}

fn bad_gateways(request: usize) -> Plan {
    refusing(request, &[refused(502, None), refused(504, None)])
}

fn page(request: usize) -> Plan {
    refusing(request, &[Own::Page])
}

fn no_answer(request: usize) -> Plan {
    refusing(request, &[Own::Nothing, Own::HalfAHead])
}

fn half_close(request: usize) -> Plan {
    let cut = (request < 1).then_some(Cut::Half(4));
    Plan { cut, ..PLAIN }
}

fn idle(_: usize) -> Plan {
    Plan { idle: Some(Duration::from_secs(6)), ..PLAIN }
}

fn port_80(request: usize) -> Plan {
    let cut = (request < 1).then_some(Cut::Behind(3));
    Plan { cut, names: Some(("127.0.0.1:80", "http://127.0.0.1")), ..PLAIN }
}

fn port_443(request: usize) -> Plan {
    let cut = (request < 1).then_some(Cut::Behind(3));
    Plan { cut, names: Some(("localhost:443", "https://localhost")), ..PLAIN }
}

fn slow(request: usize) -> Plan {
    let cut = (request < 1).then_some(Cut::Inside(6));
    Plan { cut, delay: Duration::from_millis(250), ..PLAIN }
}

/// In this case the browser's page has another origin than the proxy.
pub(crate) const CROSS_ORIGIN: &str = "cross-origin";

fn cross_origin(request: usize) -> Plan {
    Plan { cut: (request < 2).then_some(Cut::Behind(3)), ..PLAIN }
}

const fn case(name: &'static str, calm_from: usize, plan: fn(usize) -> Plan) -> Case {
    Case { name, plan, calm_from }
}

pub(crate) const CASES: &[Case] = &[
    case("nginx", 2, nginx),
    case("cdn", 2, cdn),
    case("single-bytes", 2, single_bytes),
    case("early-hints", 2, early_hints),
    case("continue", 2, unasked_continue),
    case("503-seconds", 2, busy_for_seconds),
    case("503-date", 2, busy_until_a_date),
    case("502-504", 3, bad_gateways),
    case("html", 2, page),
    case("no-answer", 3, no_answer),
    case("half-close", 1, half_close),
    case("idle", 0, idle),
    case("port-80", 1, port_80),
    case("port-443", 1, port_443),
    case("slow", 1, slow),
    case(CROSS_ORIGIN, 2, cross_origin),
];
