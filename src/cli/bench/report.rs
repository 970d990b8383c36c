//! The result of a run: text for people, JSON for scripts.

use std::fmt;

use serde_json::json;

use super::load::LoadResult;
use super::plan::LoadPlan;

/// Result of a run, with the plan of that run.
pub(super) struct BenchReport<'a> {
    plan: &'a LoadPlan,
    outcome: &'a LoadResult,
    memory: Memory,
}

/// Resident bytes of the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Memory before and after the clients connected.
    pub(super) idle: Option<(u64, u64)>,
    /// Memory before and after the measured load.
    pub(super) loaded: Option<(u64, u64)>,
}

impl<'a> BenchReport<'a> {
    pub(super) fn new(plan: &'a LoadPlan, outcome: &'a LoadResult, memory: Memory) -> Self {
        Self { plan, outcome, memory }
    }

    fn micros_a_delivery(&self) -> Option<f64> {
        let cpu = self.outcome.cpu?.as_secs_f64();
        (self.outcome.delivered > 0).then(|| cpu * 1e6 / self.outcome.delivered as f64)
    }

    fn bytes_a_connection(&self) -> Option<f64> {
        let (before, after) = self.memory.idle?;
        Some((after as f64 - before as f64) / self.plan.options.connections.max(1) as f64)
    }

    /// Returns the result as one JSON object. Times are in microseconds.
    pub(super) fn json(&self) -> String {
        let LoadResult { published, expected, delivered, gaps, missed, latency, elapsed, cpu, .. } =
            self.outcome;
        let quantiles: Vec<_> = [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0]
            .iter()
            .map(|percent| json!([percent, latency.value_at_percentile(*percent)]))
            .collect();
        json!({
            "connections": self.plan.options.connections,
            "transport": self.plan.options.transport.to_string(),
            "window": self.plan.options.window,
            "rate": self.plan.options.rate,
            "burst": self.plan.options.burst,
            "payload_bytes": self.plan.options.payload,
            "publish": self.plan.options.publish.name(),
            "filters": self.plan.options.keys.filters,
            "watch": self.plan.options.keys.watch,
            "keys": self.plan.options.keys.count(),
            "zipf": self.plan.options.keys.zipf,
            "unwanted": self.outcome.checked.map(|checked| checked.unwanted),
            "wrong_clients": self.outcome.checked.map(|checked| checked.wrong_clients),
            "sleepers_percent": self.plan.options.sleepers,
            "slow_percent": self.plan.options.slow,
            "slow_delivered": self.outcome.slow_delivered,
            "slow_missed": self.outcome.slow_missed,
            "seconds": elapsed.as_secs_f64(),
            "published": published,
            "expected": expected,
            "delivered": delivered,
            "gaps": gaps,
            "missed": missed,
            "published_per_second": *published as f64 / elapsed.as_secs_f64(),
            "server_cpu_us_per_event": cpu.map(|c| c.as_secs_f64() * 1e6 / (*published).max(1) as f64),
            "deliveries_per_second": *delivered as f64 / elapsed.as_secs_f64(),
            "server_cpu_seconds": cpu.map(|c| c.as_secs_f64()),
            "server_user_share": self.outcome.user_share,
            "server_cpu_us_per_delivery": self.micros_a_delivery(),
            "server_bytes_per_connection": self.bytes_a_connection(),
            "server_resident_before": self.memory.loaded.map(|m| m.0),
            "server_resident_after": self.memory.loaded.map(|m| m.1),
            "latency_us": {
                "p50": latency.value_at_quantile(0.5),
                "p90": latency.value_at_quantile(0.9),
                "p99": latency.value_at_quantile(0.99),
                "p99.9": latency.value_at_quantile(0.999),
                "max": latency.max(),
            },
            "latency_percentiles_us": quantiles,
        })
        .to_string()
    }
}

/// Returns the result of a connect and disconnect test: the server's resident bytes after the first clients and after
/// the last.
pub(super) fn churn(plan: &LoadPlan, total: usize, memory: Option<(u64, u64)>, as_json: bool) -> String {
    let growth = memory.map(|(before, after)| 100.0 * (after as f64 / before.max(1) as f64 - 1.0));
    if as_json {
        return json!({
            "connected": total, "at_once": plan.options.connections, "transport": plan.options.transport.to_string(),
            "resident_before": memory.map(|m| m.0), "resident_after": memory.map(|m| m.1), "growth_percent": growth,
        })
        .to_string();
    }
    match (memory, growth) {
        (Some((before, after)), Some(growth)) => format!(
            "{total} clients connected and left; the server's memory went from {} KiB to {} KiB ({growth:+.1}%)",
            before / 1024,
            after / 1024
        ),
        _ => format!("{total} clients connected and left"),
    }
}

impl fmt::Display for BenchReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadResult { published, expected, delivered, gaps, missed, latency, elapsed, .. } = self.outcome;
        let seconds = elapsed.as_secs_f64();
        writeln!(
            f,
            "published   {published} events in {seconds:.2} s, {:.0}/s",
            *published as f64 / seconds
        )?;
        let share = 100.0 * *delivered as f64 / (*expected).max(1) as f64;
        writeln!(
            f,
            "delivered   {delivered} of {expected} ({share:.2}%), {:.0}/s",
            *delivered as f64 / seconds
        )?;
        writeln!(f, "lost        {missed} events in {gaps} gaps")?;
        if let Some(checked) = self.outcome.checked {
            writeln!(
                f,
                "checked     {} deliveries that the client had not asked for, {} clients without exactly their events",
                checked.unwanted, checked.wrong_clients
            )?;
        }
        if self.plan.options.slow > 0 {
            let LoadResult { slow_delivered, slow_missed, .. } = self.outcome;
            writeln!(f, "slow        {slow_delivered} delivered, {slow_missed} lost, reported by gaps")?;
        }
        let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
        writeln!(
            f,
            "latency ms  p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}",
            ms(0.5),
            ms(0.9),
            ms(0.99),
            ms(0.999),
            latency.max() as f64 / 1000.0
        )?;
        if let (Some(cpu), Some(micros)) = (self.outcome.cpu, self.micros_a_delivery()) {
            let share = 100.0 * cpu.as_secs_f64() / seconds;
            write!(f, "server CPU  {micros:.3} us a delivery, {share:.0}% of a core")?;
            match self.outcome.user_share {
                Some(user) => writeln!(f, ", {:.0}% of it the server's own code", 100.0 * user)?,
                None => writeln!(f)?,
            }
        } else if let Some(cpu) = self.outcome.cpu {
            let micros = cpu.as_secs_f64() * 1e6 / (*published).max(1) as f64;
            writeln!(
                f,
                "server CPU  {micros:.3} us an event, {:.0}% of a core",
                100.0 * cpu.as_secs_f64() / seconds
            )?;
        }
        if let Some(bytes) = self.bytes_a_connection() {
            writeln!(f, "memory      {bytes:.0} bytes a connection (resident, kernel memory apart)")?;
        }
        if let Some((before, after)) = self.memory.loaded {
            writeln!(f, "            {} KiB before the load, {} KiB after it", before / 1024, after / 1024)?;
        }
        Ok(())
    }
}
