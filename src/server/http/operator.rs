//! Answers an operator's queries: the current counters, and those of the last minutes.

use serde_json::{Value, json};

use super::explain::interests_json;
use crate::engine::Engine;
use crate::event::{Timestamp, held_frame_bytes};
use crate::server::shared::Shared;
use crate::server::shared::report::LoopReport;
use crate::sync::lock;

/// Returns the answer to `/api/history`: the counters of the last minutes.
pub(crate) fn history_json(shared: &Shared, now: Timestamp) -> Value {
    shared.record_history(now);
    lock(&shared.monitor.history).json(now.0.div_euclid(1_000_000))
}

/// Returns the answer to `/api/stats`.
pub(crate) fn stats_json(shared: &Shared) -> Value {
    let metrics = &shared.metrics;
    let open = |kind| shared.connections(kind);
    let bus = shared.bus.stats();
    let shards: Vec<_> = (bus.shards.iter())
        .map(|s| json!({ "head": s.head, "oldest": s.oldest, "capacity": s.capacity }))
        .collect();
    let (ids, forgotten) = shared.clients.dedupe.counts();
    let (kept_logs, kept_bytes) = shared.kept.counts();
    let (ledger, laggards, held_bytes) = LoopReport::together(lock(&shared.loops.reports).iter());
    json!({
        "ledger": ledger,
        "laggards": laggards,
        "held_bytes": held_bytes + shared.held_bytes(),
        "name": "fanwire",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": shared.monitor.started.elapsed().as_secs(),
        "engine": shared.engine.as_ref().map_or_else(|| json!("memory"), Engine::stats),
        "epoch": shared.epoch().to_string(),
        "loops": shared.loops.count,
        "draining": shared.is_draining(),
        "connections": { "http": open("http"), "ws": open("ws"), "sse": open("sse") },
        "subscriptions": metrics.subscriptions.get(),
        "feeds": metrics.feeds.get(),
        "events_published": metrics.events_published.get(),
        "events_duplicate": metrics.events_duplicate.get(),
        "events_matched": metrics.events_matched.get(),
        "encodings": metrics.encodings.get(),
        "deliveries": metrics.deliveries.get(),
        "dropped": metrics.dropped.get(),
        "gaps": metrics.gaps.get(),
        "written_bytes": metrics.written_bytes.get(),
        "dedupe": { "ids": ids, "forgotten": forgotten },
        "kept": { "logs": kept_logs, "bytes": kept_bytes },
        "interests": interests_json(shared),
        "shards": shards,
        "ring_bytes": bus.held_bytes,
        "frame_bytes": held_frame_bytes(),
    })
}
