//! Events of `fanwire serve --demo`: made-up agents at work, at an even pace.
//!
//! Always: the same seed gives the same events. The events of a run have a sensible order (started before progress,
//! progress never backwards, one end). Every attribute is set by some event, so every kind of filter matches something.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fanwire::Event;
use fanwire::event::EventBuilder;
use serde_json::{Value, json};

use super::dice::Dice;

/// A thread that publishes the demo's events. Drop ends the thread.
#[derive(Debug)]
pub(super) struct Demo {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Demo {
    /// Starts a thread that publishes `rate` events a second, until `publish` returns false.
    pub(super) fn start(publish: impl Fn(Event) -> bool + Send + 'static, rate: u32) -> io::Result<Self> {
        let (stop, stopped) = sync_channel(0);
        let thread = std::thread::Builder::new().name("fanwire-demo".into()).spawn(move || {
            let mut story = DemoRun::new(0x5eed);
            let (start, mut published) = (Instant::now(), 0u32);
            let pause = Duration::from_secs(1) / rate.min(200);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                // The number is computed from the clock, so a high rate needs no short sleeps, and a late wake-up
                // catches up.
                let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u32;
                for _ in 0..due.saturating_sub(published).min(rate) {
                    // All demo events fit an event's limits (see the tests).
                    if let Ok(event) = story.next().build()
                        && !publish(event)
                    {
                        return;
                    }
                }
                published = due;
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is already on stderr. The server continues.
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
/// A kind of task: title, agent, messages.
type TaskKind = (&'static str, &'static str, [&'static str; 3]);

const TASKS: [TaskKind; 6] = [
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
/// Number of runs at the same time.
const RUNS: usize = 3;

/// Remaining events of one workflow, planned when it starts.
#[derive(Debug, Default)]
struct Script(VecDeque<EventBuilder>);

#[derive(Debug)]
struct DemoRun {
    dice: Dice,
    runs: Vec<Script>,
    run_number: u64,
    /// State of each provider. Only a change makes an event.
    providers: [&'static str; PROVIDERS.len()],
    /// Remaining events of the current self-check.
    selfcheck: Script,
}

impl DemoRun {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            runs: Vec::new(),
            run_number: 40,
            providers: ["UNKNOWN"; PROVIDERS.len()],
            selfcheck: Script::default(),
        }
    }

    /// Returns the next event.
    fn next(&mut self) -> EventBuilder {
        match self.dice.below(100) {
            0..12 => self.log(),
            12..20 => self.metric(),
            20..28 => self.provider(),
            28..33 => self.check(),
            _ => self.step(),
        }
    }

    /// Returns the next event of one of the runs. Starts a new run if one has ended.
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

    /// Plans a whole run.
    fn plan(&mut self) -> Script {
        self.run_number += 1;
        let dice = &mut self.dice;
        let (workflow, stream, channel) = dice.pick(&WORKFLOWS);
        let correlation = format!("run-{}", self.run_number);
        let labels = Labels { workflow, stream, channel, correlation, execution: dice.id("ex-") };

        let first = dice.below(TASKS.len() as u64) as usize;
        let count = 2 + dice.below(3) as usize;
        let failing = dice.percent(15).then(|| dice.below(count as u64) as usize);
        let mut tasks: Vec<VecDeque<EventBuilder>> = (0..count)
            .map(|n| labels.task(dice, TASKS[(first + n) % TASKS.len()], failing == Some(n)))
            .collect();

        let size = json!({"workflow": workflow, "tasks": count});
        let mut run = VecDeque::from([labels.of_workflow("workflow.started", size.clone())]);
        // At most two tasks of a run overlap. The next event comes from either of them at random.
        while !tasks.is_empty() {
            let which = dice.below(tasks.len().min(2) as u64) as usize;
            match tasks[which].pop_front() {
                Some(event) => run.push_back(event),
                None => drop(tasks.remove(which)),
            }
        }
        if failing.is_some() {
            let failure = json!({"workflow": workflow, "failed_tasks": 1});
            run.push_back(labels.of_workflow("workflow.failed", failure));
        } else {
            let score = dice.between(70, 100);
            let gate = |event_type, payload| labels.event(event_type, "governance", payload);
            run.push_back(gate("governance.gate.evaluated", json!({"gate": "quality", "score": score})));
            run.push_back(gate("governance.gate.passed", json!({"gate": "quality"})));
            run.push_back(labels.of_workflow("workflow.completed", size));
        }
        Script(run)
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

    /// Returns a probe that changed a provider's state: mostly back to READY, sometimes worse.
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
        let events = &mut self.selfcheck.0;
        for (n, check) in CHECKS.iter().enumerate() {
            let progress = (n + 1) * 100 / CHECKS.len();
            let ok = failed != Some(check);
            events.push_back(event(
                "selfcheck.progress",
                json!({"progress": progress, "check": check, "ok": ok}),
            ));
        }
        events.push_back(match failed {
            Some(check) => event("selfcheck.failed", json!({"error": format!("{check} is over its limit")})),
            None => event("selfcheck.completed", json!({"checks": CHECKS.len()})),
        });
        event("selfcheck.started", json!({"checks": CHECKS.len()}))
    }
}

/// Attributes that all events of a run share.
struct Labels {
    workflow: &'static str,
    stream: &'static str,
    channel: &'static str,
    correlation: String,
    execution: String,
}

impl Labels {
    fn event(&self, event_type: &str, source: &str, payload: Value) -> EventBuilder {
        Event::builder(event_type)
            .source(source)
            .stream(self.stream)
            .execution(&self.execution)
            .correlation(&self.correlation)
            .channel(self.channel)
            .json(payload.to_string())
    }

    fn of_workflow(&self, event_type: &str, payload: Value) -> EventBuilder {
        self.event(event_type, "orchestrator", payload).entity("workflow", self.workflow)
    }

    /// Returns the events of one task, from its start to its end.
    fn task(
        &self,
        dice: &mut Dice,
        (title, agent, messages): TaskKind,
        fails: bool,
    ) -> VecDeque<EventBuilder> {
        let id = dice.id("task_");
        let task = |event_type, payload| self.event(event_type, "core", payload).entity("task", &id);
        let status = |payload| self.event("agent.status", agent, payload).entity("agent", agent);
        let mut events = VecDeque::from([
            task("task.started", json!({"title": title, "agent": agent})),
            status(json!({"status": "working", "task_id": id})),
        ]);
        let mut progress = 0;
        loop {
            progress += 4 + dice.below(18);
            if progress >= 100 || (fails && progress > 50) {
                break;
            }
            let message = messages[(progress as usize * messages.len() / 100).min(messages.len() - 1)];
            events.push_back(task("task.progress", json!({"progress": progress, "message": message})));
        }
        if fails {
            let failure = json!({"error": dice.pick(&FAILURES), "progress": progress});
            events.push_back(task("task.failed", failure));
        } else {
            events.push_back(task("task.progress", json!({"progress": 100, "message": "Done"})));
            let tokens = 400 + dice.below(6000);
            let completed = json!({"duration_ms": tokens * 3, "tokens": tokens});
            events.push_back(task("task.completed", completed));
            if dice.percent(40) {
                let name = format!("{}.md", title.replace(' ', "-"));
                let file = json!({"name": name, "bytes": tokens * 4});
                events.push_back(self.event("deliverable.created", agent, file));
            }
        }
        events.push_back(status(json!({"status": "idle"})));
        events
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use fanwire::event::Attribute;

    use super::*;

    fn events(count: usize) -> Vec<Event> {
        let mut story = DemoRun::new(1);
        (0..count).map(|_| story.next().build().expect("a made-up event is valid")).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_events() {
        let text = |events: Vec<Event>| -> Vec<String> {
            events.iter().map(|event| format!("{event:?} {}", event.payload())).collect()
        };
        assert_eq!(text(events(500)), text(events(500)));
    }

    #[test]
    fn every_attribute_and_every_kind_of_event_turns_up_within_a_minute() {
        let events = events(20 * 60);
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
        for event in events(20_000) {
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
