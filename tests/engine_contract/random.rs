//! Random sequences of faults in one trial. The seed is printed, and a run can be repeated with it.
//!
//! By default, one short sequence runs for each engine. `cargo xtask engines` sets more by the environment:
//! `FANWIRE_ENGINES_MINUTES` and `FANWIRE_ENGINES_SEED`.

use std::time::{Duration, Instant};

use crate::faults;
use crate::stage::{Engine, Setup, Stage};

/// A fault and its name.
type Step = (&'static str, fn(&mut Stage));

macro_rules! steps {
    ($($name:ident)*) => { &[$((stringify!($name), faults::$name)),*] };
}

const REDIS: &[Step] = steps! {
    paused killed node_killed deleted deleted_while_a_node_is_behind meta_deleted trimmed flushed evicted tail_lost
    read_only out_of_memory clock_ahead slow cut_off connections_cut of_another_type foreign_entries
};
const JETSTREAM: &[Step] = steps! {
    paused killed node_killed without_its_feature deleted deleted_while_a_node_is_behind trimmed flushed tail_lost
    out_of_memory oversized slow cut_off connections_cut foreign_entries readers_deleted
};
const PLAIN_NATS: &[Step] =
    steps! { paused killed node_killed oversized slow cut_off connections_cut foreign_entries };
// `clock_ahead` is left out: it changes the epoch of events that readers have seen, which is correct only once.
const FILE: &[Step] = steps! { killed tail_lost read_only disk_full disk_full_at_a_segments_end };

/// A small random number generator: xorshift.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs one trial with `count` faults.
fn sequence(engine: Engine, seed: u64, count: usize) {
    let mut random = Random::new(seed);
    let steps = match engine {
        Engine::Redis => REDIS,
        Engine::JetStream => JETSTREAM,
        Engine::PlainNats => PLAIN_NATS,
        Engine::File | Engine::Memory => FILE,
    };
    let chosen: Vec<Step> = (0..count).map(|_| steps[random.below(steps.len())]).collect();
    let shards = [1, 3][random.below(2)];
    let names: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
    println!("{engine:?}: seed {seed}: {shards} shards: {}", names.join(", "));
    let setup = Setup::of(engine).shards(shards).node(&["--loops", "2"]);
    let setup = if engine == Engine::File {
        setup.disk(4 << 10).node(&["--engine-max-bytes", "1MiB"])
    } else {
        setup.by_proxy()
    };
    let mut stage = Stage::begin(setup);
    stage.keeps_nodes = true;
    for (name, step) in chosen {
        step(&mut stage);
        stage.flows(&format!("after {name}"));
        if stage.has_faults() {
            break;
        }
    }
    stage.end();
}

fn sequences(engine: Engine) {
    let seed = number("FANWIRE_ENGINES_SEED").unwrap_or(1);
    let Some(minutes) = number("FANWIRE_ENGINES_MINUTES") else { return sequence(engine, seed, 2) };
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    for seed in seed.. {
        sequence(engine, seed, 6);
        if Instant::now() >= end {
            return;
        }
    }
}

#[test]
fn redis() {
    sequences(Engine::Redis);
}

#[test]
fn jetstream() {
    sequences(Engine::JetStream);
}

#[test]
fn plain_nats() {
    sequences(Engine::PlainNats);
}

#[test]
fn file() {
    sequences(Engine::File);
}
