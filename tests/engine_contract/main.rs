//! The contract of engines: one table of faults for every log, with the built server and the real Redis, NATS
//! and files, and one set of referees.
//!
//! A trial ([`stage`]) has three nodes (one on files) under load. It makes one fault ([`faults`]) and ends it.
//! The referees ([`referee`], [`clocks`]) then compare the publishers' answers with the events that each node's
//! reader received:
//!
//! - An event answered with 200 is delivered to each reader exactly once, or a gap takes its place. No id is used
//!   twice.
//! - No publisher waits longer than `engine_accept_timeout`.
//! - While a node refuses events, `/readyz` reports that it is not ready. It recovers without a restart.
//! - SIGTERM ends a node during the fault and after it. Its memory stays bounded.
//!
//! Each row is its own test, so that rows run in parallel. `cargo xtask engines` runs long random sequences.

#[path = "../support/mod.rs"]
mod support;

mod clocks;
mod faults;
mod node;
mod place;
mod planted;
mod random;
mod referee;
mod rows;
mod segment;
mod stage;
mod upgrades;

macro_rules! contract {
    ($($module:ident: $engine:ident { $($row:ident)* })*) => {
        $(mod $module {
            $(#[test] fn $row() { crate::rows::$row(crate::stage::Engine::$engine); })*
        })*
    };
}

contract! {
    redis: Redis {
        paused killed node_killed deleted deleted_while_a_node_is_behind meta_deleted trimmed flushed evicted tail_lost
        read_only out_of_memory disk_full oversized large_batch clock_ahead slow cut_off connections_cut of_another_type
        foreign_entries presence_changes several_shards one_of_several_deleted
        one_of_several_deleted_while_a_node_is_behind
    }
    jetstream: JetStream {
        paused killed node_killed without_its_feature deleted deleted_while_a_node_is_behind trimmed flushed tail_lost
        out_of_memory account_full disk_full oversized large_batch slow cut_off connections_cut foreign_entries
        readers_deleted presence_changes several_shards one_of_several_deleted
        one_of_several_deleted_while_a_node_is_behind
    }
    plain_nats: PlainNats {
        paused killed node_killed oversized large_batch slow cut_off connections_cut foreign_entries several_shards
    }
    file: File {
        killed tail_lost clock_ahead read_only disk_full disk_full_at_a_segments_end ended_with_a_full_disk oversized
        large_batch several_shards
    }
}
