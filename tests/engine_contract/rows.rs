//! The table: the faults tried on each engine, with their needs.

use std::time::Duration;

use crate::faults;
use crate::place::Place;
use crate::stage::{Engine, Setup, Stage};

fn trial(setup: Setup, fault: fn(&mut Stage)) {
    let mut stage = Stage::begin(setup);
    fault(&mut stage);
    stage.end();
}

/// Faults that need only nodes and their log.
macro_rules! plain_rows {
    ($($name:ident)*) => { $(pub(crate) fn $name(engine: Engine) { trial(Setup::of(engine), faults::$name); })* };
}

plain_rows! {
    paused killed node_killed without_its_feature deleted deleted_while_a_node_is_behind meta_deleted trimmed flushed
    evicted tail_lost out_of_memory clock_ahead of_another_type foreign_entries readers_deleted
}

pub(crate) fn slow(engine: Engine) {
    trial(Setup::of(engine).by_proxy(), faults::slow);
}

pub(crate) fn cut_off(engine: Engine) {
    trial(Setup::of(engine).by_proxy(), faults::cut_off);
}

pub(crate) fn connections_cut(engine: Engine) {
    trial(Setup::of(engine).by_proxy(), faults::connections_cut);
}

pub(crate) fn oversized(engine: Engine) {
    // Redis accepts up to 512 MB by default.
    let options: &[&str] = if engine == Engine::Redis { &["--proto-max-bulk-len", "1mb"] } else { &[] };
    trial(Setup::of(engine).server(options), faults::oversized);
}

pub(crate) fn large_batch(engine: Engine) {
    let options = ["--engine-max-waiting-events", "100000"];
    trial(Setup::of(engine).node(&options).accept(Duration::from_secs(20)), faults::large_batch);
}

pub(crate) fn several_shards(engine: Engine) {
    trial(Setup::of(engine).shards(3).node(&["--loops", "2"]), faults::killed);
}

pub(crate) fn one_of_several_deleted(engine: Engine) {
    trial(Setup::of(engine).shards(3).node(&["--loops", "2"]), faults::one_of_several_deleted);
}

pub(crate) fn one_of_several_deleted_while_a_node_is_behind(engine: Engine) {
    let setup = Setup::of(engine).shards(3).node(&["--loops", "2"]);
    trial(setup, faults::one_of_several_deleted_while_a_node_is_behind);
}

pub(crate) fn presence_changes(engine: Engine) {
    let options = ["--presence-channels", "room.*", "--presence-grace", "0s"];
    trial(Setup::of(engine).node(&options), faults::presence_changes);
}

pub(crate) fn account_full(engine: Engine) {
    let place = Place::new();
    std::fs::create_dir_all(place.path()).expect("a folder");
    let file = place.path().join("nats.conf");
    std::fs::write(&file, "jetstream { max_file_store: 300KB }\n").expect("a file");
    trial(Setup::of(engine).server(&["-c", file.to_str().expect("UTF-8")]), faults::account_full);
}

pub(crate) fn read_only(engine: Engine) {
    trial(Setup::of(engine).node(files(engine)), faults::read_only);
}

pub(crate) fn disk_full(engine: Engine) {
    let (kib, server): (_, &[&str]) = match engine {
        // With `always`, Redis exits when it cannot write.
        Engine::Redis => (4 << 10, &["--appendfsync", "everysec"]),
        Engine::JetStream => (24 << 10, &[]),
        Engine::File | Engine::PlainNats | Engine::Memory => (2 << 10, &[]),
    };
    trial(Setup::of(engine).disk(kib).server(server).node(files(engine)), faults::disk_full);
}

pub(crate) fn disk_full_at_a_segments_end(engine: Engine) {
    trial(Setup::of(engine).disk(2 << 10).node(files(engine)), faults::disk_full_at_a_segments_end);
}

pub(crate) fn ended_with_a_full_disk(engine: Engine) {
    trial(Setup::of(engine).disk(2 << 10).node(files(engine)), faults::ended_with_a_full_disk);
}

/// The smallest files that a node may keep, of eight segments.
fn files(engine: Engine) -> &'static [&'static str] {
    if engine == Engine::File { &["--engine-max-bytes", "1MiB"] } else { &[] }
}
