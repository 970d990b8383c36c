//! Clients that come from another node, which has read the engine's log further than this one has.
//!
//! Imports the room's core. Always: what such a client asked for is done when this loop has read that far, so the
//! client gets nothing twice; after some seconds it is done all the same, and the client is told a gap. Meanwhile
//! it is not read.

use super::super::connection::{Effect, ReplayFrom};
use super::super::wheel::Tick;
use super::log_places::{Behind, behind, marks};
use super::{Core, Socket, Token, token_of};
use crate::event::Since;

/// How long a client waits for this node to catch up.
const PATIENCE_TICKS: Tick = 50;

/// What is put off for one client.
pub(super) struct PutOff {
    token: Token,
    since: Since,
    until: Tick,
    effects: Vec<Effect>,
}

impl<S: Socket> Core<S> {
    /// Whether this effect has to wait for the loop to catch up.
    pub(super) fn is_ahead(&self, effect: &Effect) -> Option<Since> {
        let Effect::Replay { from: ReplayFrom::After(since), .. } = effect else { return None };
        self.shared.engine.as_ref()?;
        self.is_not_yet(since).then(|| since.clone())
    }

    fn is_not_yet(&self, since: &Since) -> bool {
        (marks(&self.shared, since).into_iter())
            .any(|id| behind(&self.shared, id, self.reader.position(id.shard)) == Behind::NotYet)
    }

    pub(super) fn put_off(&mut self, slot: usize, since: Since, effects: Vec<Effect>) {
        let conn = &mut self.conns[slot];
        conn.awaits += 1;
        let token = token_of(slot, conn.generation);
        self.ahead.push(PutOff { token, since, until: self.tick + PATIENCE_TICKS, effects });
    }

    /// A connection closes: it no longer waits for anything.
    pub(super) fn forget_put_off(&mut self, slot: usize) {
        let conn = &mut self.conns[slot];
        let token = token_of(slot, conn.generation);
        self.ahead.retain(|put_off| {
            let other = put_off.token != token;
            conn.awaits -= u32::from(!other);
            other
        });
    }

    /// Does what no longer has to wait.
    pub(super) fn catch_up(&mut self) {
        let mut at = 0;
        while let Some(put_off) = self.ahead.get(at) {
            if self.tick < put_off.until
                && self.find(put_off.token).is_some()
                && self.is_not_yet(&put_off.since)
            {
                at += 1;
                continue;
            }
            let PutOff { token, effects, .. } = self.ahead.swap_remove(at);
            let Some(slot) = self.find(token) else { continue };
            let conn = &mut self.conns[slot];
            conn.awaits -= 1;
            if conn.unread || conn.connection.holds_input() {
                self.queue(slot);
            }
            for effect in effects {
                if self.find(token).is_some() {
                    self.obey(slot, effect);
                }
            }
            if self.find(token).is_some() {
                self.flush(slot);
            }
        }
    }
}
