//! Other people's clients against the built server, through a proxy that acts like nginx, load balancers and
//! CDNs.
//!
//! A table: each client ([`clients`]) meets all cases ([`cases`]) at once, while events are published all the
//! time. The [`referee`] then compares each client's report with the published events and with the proxy's
//! record:
//!
//! - Every event arrived once, in order. A client that cannot resume learned where the new stream begins.
//! - A client that resumes sent its position in its library's form.
//! - No client reconnected sooner than after its library's own waiting time.
//!
//! [`restart`] ends the server under all of them, and starts another. [`pools`] keep connections idle for 6 and
//! for 60 seconds. docs/front-end.md has the table of clients.

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod clients;
mod pools;
mod referee;
mod restart;

#[test]
fn every_client_gets_every_event_once_whatever_a_proxy_does() {
    referee::run();
}

#[test]
fn every_client_survives_a_restart_and_gets_a_gap() {
    restart::run();
}

#[test]
fn pools_may_idle_for_a_minute() {
    pools::idle();
}

#[test]
fn the_guide_lists_the_clients_that_are_tested() {
    clients::check_the_guide();
}
