//! One simulated node: a server with one loop, and the steps of its engine.

use std::collections::VecDeque;

use super::Checked;
use crate::bus::Bus;
use crate::engine::EngineConfig;
use crate::engine::stepped::{AppendFate, EngineSteps, SimulatedConnector, SimulatedLog};
use crate::event::Timestamp;
use crate::server::ServerConfig;
use crate::server::reactor::{LoopState, Token};
use crate::server::shared::Shared;
use crate::sim::net::{ClientEnd, ServerEnd};
use crate::sync::Arc;

/// One node: a server with one loop, and the steps of its engine.
pub(super) struct Node {
    pub(super) bus: Bus,
    pub(super) shared: Arc<Shared>,
    pub(super) steps: EngineSteps,
    pub(super) core: LoopState<ServerEnd>,
    pub(super) arriving: VecDeque<(ServerEnd, ClientEnd)>,
    pub(super) links: Vec<(Token, ClientEnd)>,
}

impl Node {
    pub(super) fn new(
        log: &Arc<SimulatedLog>,
        config: &ServerConfig,
        capacity: usize,
        is_single: bool,
    ) -> Self {
        let bus = Bus::builder().capacity(capacity).build().expect("it can be made");
        let mut engine = EngineConfig::new("redis://simulated");
        engine.history = 1_000_000;
        let shared = Shared::new(bus.clone(), config.clone(), 1);
        let (shared, mut steps) = shared.with_steps(engine, &SimulatedConnector(Arc::clone(log)));
        steps.is_single = is_single;
        let shared = Arc::new(shared);
        shared.workers.work_inline();
        let core = LoopState::new(Arc::clone(&shared), bus.reader(|| ()), 1, 0);
        Self { bus, shared, steps, core, arriving: VecDeque::new(), links: Vec::new() }
    }

    /// Runs one turn of the loop.
    pub(super) fn turn(&mut self, tick: u64, now: Timestamp) -> Checked {
        self.core.wake(tick, now);
        for (token, end) in self.links.clone() {
            let Some((readable, writable)) = end.take_readiness() else { continue };
            if readable && end.is_over() {
                self.core.record_end(token);
            }
            self.core.ready(token, readable, writable);
        }
        while let Some((server, end)) = self.arriving.pop_front() {
            if let Some(token) = self.core.admit(server) {
                self.links.push((token, end));
            }
        }
        self.links.retain(|(_, end)| !end.is_closed());
        self.core.turn();
        let audit = self.core.audit();
        if audit.difference != 0 {
            return Err(format!("the ledger is out by {}: {}", audit.difference, audit.ledger));
        }
        Ok(())
    }

    /// Returns whether the request of this connection waits for its loop, for example until that has read the client's last event.
    pub(super) fn has_deferred(&self, end: &ClientEnd) -> bool {
        self.links.iter().any(|(token, link)| link.is_same(end) && self.core.has_deferred(*token))
    }

    pub(super) fn append(&mut self, fate: AppendFate) -> bool {
        self.shared.engine.as_ref().is_some_and(|engine| self.steps.append(engine, fate))
    }

    pub(super) fn follow(&mut self, max: usize) -> bool {
        self.shared.engine.as_ref().is_some_and(|engine| self.steps.follow(engine, max))
    }

    pub(super) fn read_page(&mut self) -> bool {
        self.shared.engine.as_ref().is_some_and(|engine| self.steps.read_page(engine))
    }
}
