//! From an older version to this one under load: nodes of both on one log, and a process that hands over to the
//! next.
//!
//! The older version is the binary that `FANWIRE_OLD` names (`cargo xtask engines --old PATH` sets it). Without it,
//! both processes run the binary built here.

use std::path::{Path, PathBuf};

use crate::faults;
use crate::place::Place;
use crate::stage::{Engine, Setup, Stage};

fn new() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_fanwire"))
}

fn old() -> PathBuf {
    std::env::var_os("FANWIRE_OLD").map_or_else(new, PathBuf::from)
}

/// Three older nodes are replaced one by one, and the log's server is killed while both versions run.
fn rolls(engine: Engine) {
    let mut stage = Stage::begin(Setup::of(engine).programs(vec![old(); 3]));
    stage.keeps_nodes = true;
    for at in 0..3 {
        let fault = stage.nodes[at].replace(None);
        if let Some(what) = fault {
            stage.fault(what);
        }
        stage.flows(&format!("after node {at} was replaced"));
        if at == 1 {
            faults::killed(&mut stage);
            stage.flows("after the log's server died under nodes of two versions");
        }
    }
    stage.end();
}

/// A process hands over to the next with its clients and a publisher connected.
fn hands_over(engine: Engine) {
    let place = Place::new();
    let copies: Vec<PathBuf> = (0..2).map(|number| place.path().join(format!("fanwire-{number}"))).collect();
    std::fs::create_dir_all(place.path()).expect("a folder");
    let count = if engine == Engine::Memory { 1 } else { 2 };
    for copy in &copies {
        std::fs::copy(old(), copy).expect("copied");
    }
    let mut stage = Stage::begin(Setup::of(engine).programs(copies[..count].to_vec()));
    for at in 0..count {
        stage.nodes[at].hand_over(Path::new(&new()));
        stage.flows(&format!("after node {at} handed over"));
    }
    stage.end();
}

#[test]
fn a_rolling_upgrade_on_redis_loses_nothing() {
    rolls(Engine::Redis);
}

#[test]
fn a_rolling_upgrade_on_jetstream_loses_nothing() {
    rolls(Engine::JetStream);
}

#[test]
fn a_handover_without_an_engine_loses_nothing() {
    hands_over(Engine::Memory);
}

#[test]
fn a_handover_on_redis_loses_nothing() {
    hands_over(Engine::Redis);
}

#[test]
fn a_handover_on_jetstream_loses_nothing() {
    hands_over(Engine::JetStream);
}
