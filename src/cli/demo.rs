//! What `fanwire serve --demo` publishes: agents at work, made up, at an even pace.
//!
//! Imports public items only. Always: the same seed makes the same story; a run's events come in an order that
//! makes sense (started before progress, progress never backwards, one end); every attribute is set somewhere,
//! so that every filter has something to show.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fanwire::Event;
use fanwire::event::EventBuilder;
use serde_json::{Value, json};

use super::dice::Dice;

/// A thread that publishes the story; dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Demo {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Demo {
    /// Starts to publish `rate` events a second, until `publish` answers false.
    pub(super) fn start(publish: impl Fn(Event) -> bool + Send + 'static, rate: u32) -> io::Result<Self> {
        let (stop, stopped) = sync_channel(0);
        let thread = std::thread::Builder::new().name("fanwire-demo".into()).spawn(move || {
            let mut story = Story::new(0x5eed);
            let (start, mut told) = (Instant::now(), 0u32);
            let pause = Duration::from_secs(1) / rate.min(200);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                // By the clock, so that a high rate needs no short sleeps and a late wake catches up.
                let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u32;
                for _ in 0..due.saturating_sub(told).min(rate) {
                    // Every part of the story fits an event's limits (see the tests).
                    if let Ok(event) = story.next().build()
                        && !publish(event)
                    {
                        return;
                    }
                }
                told = due;
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has told its story on stderr; the server goes on.
            let _ = thread.join();
        }
    }
}

const WORKFLOWS: [(&str, &str, &str); 5] = [
    ("nightly-report", "schedule", "research"),
    ("triage-issue", "webhook", "dev-team"),
    ("review-change", "webhook", "dev-team"),
    ("index-documents", "api", "research"),
    ("answer-customer", "api", "support"),
];
const TASKS: [(&str, &str, [&str; 3]); 6] = [
    ("plan", "planner-01", ["Reading the brief", "Splitting the work", "Ordering the steps"]),
    ("search", "researcher-02", ["Querying the index", "Reading sources", "Ranking passages"]),
    ("write code", "coder-001", ["Opening the files", "Editing", "Compiling"]),
    ("test", "tester-01", ["Collecting tests", "Running unit tests", "Running end-to-end tests"]),
    ("review", "reviewer-01", ["Reading the diff", "Checking edge cases", "Writing remarks"]),
    ("summarize", "writer-01", ["Gathering results", "Drafting", "Polishing"]),
];
const FAILURES: [&str; 4] = [
    "tool call timed out after 30 s",
    "context window exceeded",
    "2 of 41 tests failed",
    "provider refused: rate limit",
];
const PROVIDERS: [(&str, &str, u64); 4] = [
    ("ollama", "http://127.0.0.1:11434", 45),
    ("llama-server", "http://127.0.0.1:8080", 60),
    ("hosted-large", "https://models.example/v1", 320),
    ("embeddings", "https://embed.example/v1", 90),
];
const LOGS: [(&str, &str); 8] = [
    ("info", "picked up task"),
    ("debug", "tool call: search(query=\"rate limits\")"),
    ("info", "tool call: read_file(src/lib.rs)"),
    ("debug", "cache hit, skipping embedding"),
    ("info", "plan revised: 1 step added"),
    ("warn", "answer was cut off, asking again"),
    ("warn", "retry 2 of 3 after a timeout"),
    ("error", "tool returned invalid JSON, asking for a correction"),
];
const CHECKS: [&str; 4] = ["disk", "memory", "providers", "queue"];
/// Runs under way at once.
const RUNS: usize = 3;

/// One workflow from start to end, planned when it starts, told bit by bit.
#[derive(Debug, Default)]
struct Run(VecDeque<EventBuilder>);

#[derive(Debug)]
struct Story {
    dice: Dice,
    runs: Vec<Run>,
    run_number: u64,
    /// Each provider's state; events come from changes only.
    providers: [&'static str; PROVIDERS.len()],
    /// What is left of a self-check under way.
    selfcheck: Run,
}

impl Story {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            runs: Vec::new(),
            run_number: 40,
            providers: ["UNKNOWN"; PROVIDERS.len()],
            selfcheck: Run::default(),
        }
    }

    /// What happens next.
    fn next(&mut self) -> EventBuilder {
        match self.dice.below(100) {
            0..12 => self.log(),
            12..20 => self.metric(),
            20..28 => self.provider(),
            28..33 => self.check(),
            _ => self.step(),
        }
    }

    /// Moves one of the runs on, and starts a new one where one has ended.
    fn step(&mut self) -> EventBuilder {
        if self.runs.len() < RUNS {
            let run = self.plan();
            self.runs.push(run);
        }
        let which = self.dice.below(self.runs.len() as u64) as usize;
        match self.runs[which].0.pop_front() {
            Some(event) => event,
            None => {
                self.runs.swap_remove(which);
                self.step()
            }
        }
    }

    fn plan(&mut self) -> Run {
        self.run_number += 1;
        let dice = &mut self.dice;
        let (workflow, stream, channel) = dice.pick(&WORKFLOWS);
        let correlation = format!("run-{}", self.run_number);
        let execution = dice.id("ex-");
        let event = |event_type: &str, source: &str, payload: Value| {
            Event::builder(event_type)
                .source(source)
                .stream(stream)
                .execution(&execution)
                .correlation(&correlation)
                .channel(channel)
                .json(payload.to_string())
        };
        let about = |event: EventBuilder| event.entity("workflow", workflow);

        let first = dice.below(TASKS.len() as u64) as usize;
        let count = 2 + dice.below(3) as usize;
        let failing = dice.percent(15).then(|| dice.below(count as u64) as usize);
        let mut tasks: Vec<VecDeque<EventBuilder>> = Vec::new();
        for n in 0..count {
            let (title, agent, messages) = TASKS[(first + n) % TASKS.len()];
            let id = dice.id("task_");
            let task = |event_type: &str, source: &str, payload| {
                event(event_type, source, payload).entity("task", &id)
            };
            let mut told = VecDeque::from([
                task("task.started", "core", json!({"title": title, "agent": agent})),
                event("agent.status", agent, json!({"status": "working", "task_id": id}))
                    .entity("agent", agent),
            ]);
            let mut progress = 0;
            loop {
                progress += 4 + dice.below(18);
                if progress >= 100 || (failing == Some(n) && progress > 50) {
                    break;
                }
                let message = messages[(progress as usize * messages.len() / 100).min(messages.len() - 1)];
                told.push_back(task(
                    "task.progress",
                    "core",
                    json!({"progress": progress, "message": message}),
                ));
            }
            if failing == Some(n) {
                told.push_back(task(
                    "task.failed",
                    "core",
                    json!({"error": dice.pick(&FAILURES), "progress": progress}),
                ));
            } else {
                told.push_back(task("task.progress", "core", json!({"progress": 100, "message": "Done"})));
                let tokens = 400 + dice.below(6000);
                told.push_back(task(
                    "task.completed",
                    "core",
                    json!({"duration_ms": tokens * 3, "tokens": tokens}),
                ));
                if dice.percent(40) {
                    let name = format!("{}.md", title.replace(' ', "-"));
                    told.push_back(event(
                        "deliverable.created",
                        agent,
                        json!({"name": name, "bytes": tokens * 4}),
                    ));
                }
            }
            told.push_back(event("agent.status", agent, json!({"status": "idle"})).entity("agent", agent));
            tasks.push(told);
        }

        let mut run = VecDeque::new();
        run.push_back(about(event(
            "workflow.started",
            "orchestrator",
            json!({"workflow": workflow, "tasks": count}),
        )));
        // Tasks of a run overlap: two at a time, taken from at random.
        while !tasks.is_empty() {
            let which = dice.below(tasks.len().min(2) as u64) as usize;
            match tasks[which].pop_front() {
                Some(event) => run.push_back(event),
                None => drop(tasks.remove(which)),
            }
        }
        if failing.is_some() {
            run.push_back(about(event(
                "workflow.failed",
                "orchestrator",
                json!({"workflow": workflow, "failed_tasks": 1}),
            )));
        } else {
            let score = dice.between(70, 100);
            run.push_back(event(
                "governance.gate.evaluated",
                "governance",
                json!({"gate": "quality", "score": score}),
            ));
            run.push_back(event("governance.gate.passed", "governance", json!({"gate": "quality"})));
            run.push_back(about(event(
                "workflow.completed",
                "orchestrator",
                json!({"workflow": workflow, "tasks": count}),
            )));
        }
        Run(run)
    }

    fn log(&mut self) -> EventBuilder {
        let (_, agent, _) = self.dice.pick(&TASKS);
        let (level, message) = self.dice.pick(&LOGS);
        let payload = json!({"level": level, "message": message});
        Event::builder("agent.log")
            .source(agent)
            .entity("agent", agent)
            .channel("logs")
            .json(payload.to_string())
    }

    fn metric(&mut self) -> EventBuilder {
        let (_, agent, _) = self.dice.pick(&TASKS);
        let payload = json!({
            "cpu_percent": self.dice.between(2, 95),
            "tokens_per_s": self.dice.between(12, 90),
            "queue": self.dice.below(7),
        });
        Event::builder("agent.metric")
            .source(agent)
            .entity("agent", agent)
            .channel("metrics")
            .json(payload.to_string())
    }

    /// A probe that changed a provider's state: mostly back to READY, sometimes worse.
    fn provider(&mut self) -> EventBuilder {
        let which = self.dice.below(PROVIDERS.len() as u64) as usize;
        let (id, endpoint, usual) = PROVIDERS[which];
        let state = match (self.providers[which], self.dice.percent(70)) {
            ("READY", true) | ("ERROR", false) => "DEGRADED",
            ("READY", false) => "ERROR",
            _ => "READY",
        };
        self.providers[which] = state;
        let (latency, last_error) = match state {
            "READY" => (json!(self.dice.between(usual / 2, usual * 2)), Value::Null),
            "DEGRADED" => {
                (json!(self.dice.between(usual * 8, usual * 20)), json!("slow answers: p95 over limit"))
            }
            _ => (Value::Null, json!("connect: connection refused")),
        };
        let payload =
            json!({"state": state, "endpoint": endpoint, "latency_ms": latency, "last_error": last_error});
        Event::builder("provider.status_changed")
            .source("core")
            .entity("provider", id)
            .json(payload.to_string())
    }

    fn check(&mut self) -> EventBuilder {
        if let Some(event) = self.selfcheck.0.pop_front() {
            return event;
        }
        let id = self.dice.id("check_");
        let event = |event_type, payload: Value| {
            Event::builder(event_type).source("core").entity("selfcheck", &id).json(payload.to_string())
        };
        let failed = self.dice.percent(20).then(|| self.dice.pick(&CHECKS));
        let told = &mut self.selfcheck.0;
        for (n, check) in CHECKS.iter().enumerate() {
            let progress = (n + 1) * 100 / CHECKS.len();
            let ok = failed != Some(check);
            told.push_back(event(
                "selfcheck.progress",
                json!({"progress": progress, "check": check, "ok": ok}),
            ));
        }
        told.push_back(match failed {
            Some(check) => event("selfcheck.failed", json!({"error": format!("{check} is over its limit")})),
            None => event("selfcheck.completed", json!({"checks": CHECKS.len()})),
        });
        event("selfcheck.started", json!({"checks": CHECKS.len()}))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use fanwire::event::Attribute;

    use super::*;

    fn told(count: usize) -> Vec<Event> {
        let mut story = Story::new(1);
        (0..count).map(|_| story.next().build().expect("a made-up event is valid")).collect()
    }

    #[test]
    fn the_same_seed_tells_the_same_story() {
        let text = |events: Vec<Event>| -> Vec<String> {
            events.iter().map(|event| format!("{event:?} {}", event.payload())).collect()
        };
        assert_eq!(text(told(500)), text(told(500)));
    }

    #[test]
    fn every_attribute_and_every_kind_of_event_turns_up_within_a_minute() {
        let events = told(20 * 60);
        for attribute in Attribute::ALL {
            let values: HashSet<_> = events.iter().filter_map(|event| event.attribute(attribute)).collect();
            assert!(values.len() > 1, "{attribute}: {values:?}");
        }
        let types: HashSet<_> = events.iter().map(Event::event_type).collect();
        for expected in [
            "workflow.started",
            "workflow.completed",
            "task.progress",
            "task.failed",
            "agent.log",
            "agent.metric",
            "provider.status_changed",
            "selfcheck.completed",
        ] {
            assert!(types.contains(expected), "{expected} not in {types:?}");
        }
    }

    #[test]
    fn progress_never_goes_back_and_nothing_follows_the_end_of_a_task() {
        let mut seen: HashMap<String, u64> = HashMap::new();
        for event in told(20_000) {
            let (Some(("task", id)), Some(kind)) = (event.entity(), event.event_type().strip_prefix("task."))
            else {
                continue;
            };
            let payload: Value = serde_json::from_str(event.payload()).expect("a payload is JSON");
            let now = match kind {
                "started" => 0,
                "progress" => payload["progress"].as_u64().expect("progress is a number"),
                _ => u64::MAX,
            };
            let before = seen.insert(id.to_owned(), now);
            assert_eq!(before.is_none(), kind == "started", "{event:?} of {id}");
            assert!(before.is_none_or(|before| before < now), "{event:?} of {id}: {now} after {before:?}");
        }
    }
}
