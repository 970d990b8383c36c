//! Other people's clients before the built server, through a proxy that does what nginx, balancers and CDNs do.
//!
//! A table: each client ([`clients`]) meets each case ([`cases`]) at once, while events are published all the time. The
//! [`referee`] then holds what each client told beside what was published and what the proxy saw:
//!
//! - every event came once, in order; or the client, which does not resume, was told where it begins again;
//! - a client that resumes named its place in the form that its library has;
//! - no client came back sooner than its library's own waiting time.
//!
//! [`restart`] ends the server under them all, and starts another. [`pools`] keep connections idle for 6 and for 60 seconds. docs/front-end.md has the table of clients.

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
fn every_client_outlives_a_restart_and_is_told() {
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
