//! Budget of work: the amount that one turn of a loop may spend on its peers' bytes and subscriptions.
//!
//! Every loop over a peer's input takes a `&mut Budget`, charges it for each step and stops when it is spent. The rest
//! continues in the next turn, after the loop has served its other connections.
//!
//! Invariants:
//! - A unit is about 1,000 instructions, about 0.35 us. Costs are counted under callgrind (benches/instructions.rs).
//! - A step is charged once its cost is known, so the last step may overdraw a budget, by at most [`STEP_MAX`]. So a
//!   turn costs at most [`TURN`] + [`STEP_MAX`] = 6,000 units: 6 million instructions, about 2 ms. Test builds panic
//!   beyond. [`HANDSHAKES_A_TURN`] TLS handshakes come on top.

/// Units that one turn of a loop spends on its peers before the rest waits for the next turn.
pub(crate) const TURN: u32 = 2_000;

/// Units that one connection may take of a turn, so that a busy one leaves some to others. Units that are left at the
/// end of a turn are given out in further parts of this size.
pub(crate) const CLIENT: u32 = 500;

/// Units of one connection in a turn until it has sent the required token: 0.15 ms with the largest step.
pub(crate) const UNAUTHENTICATED: u32 = 100;

/// Units that all newcomers together may take of a turn: about 30 upgrades or 80 subscriptions, 0.35 ms and as long in the
/// kernel. Events are delivered in each turn, so a storm of newcomers delays an event by about that.
pub(crate) const NEWCOMERS: u32 = 1_000;

/// Part of a turn that is left to newcomers while some wait, so that no flood of other clients keeps them out.
pub(crate) const NEWCOMERS_MIN: u32 = 500;

/// Largest step before authentication: one message as long as a token may be, parsed for its type only.
#[cfg(test)]
pub(crate) const UNAUTHENTICATED_STEP_MAX: u32 = 300;

/// Largest step that can't be divided, in units: one message of `max_message_bytes` and its effects.
pub(crate) const STEP_MAX: u32 = 4_000;

/// Expensive part of a TLS handshake: a key exchange and a signature, 0.3 ms with P-256 and up to 1 ms with RSA.
pub(crate) const HANDSHAKE: u32 = 1_000;

/// Number of TLS handshakes that a turn begins, in addition to its budget; the others wait in order. Two take 0.7 ms
/// with P-256.
pub(crate) const HANDSHAKES_A_TURN: u32 = 2;

/// Last step of a TLS handshake: keys are derived, and a ticket is made.
pub(crate) const HANDSHAKE_END: u32 = 150;

/// Verification of a token by a public key: one signature.
#[cfg(feature = "auth")]
pub(crate) const SIGNATURE: u32 = 500;

/// Verification of a token by a shared secret, or of an API key by the list.
#[cfg(feature = "auth")]
pub(crate) const SHARED_SECRET: u32 = 20;

/// Budget of work, in units.
#[derive(Debug)]
pub(crate) struct Budget {
    granted: u32,
    spent: u32,
    /// Number of signatures checked.
    signatures: u32,
    /// Whether work was stopped, whatever is left.
    stopped: bool,
}

impl Budget {
    /// Returns a budget of this many units.
    pub(crate) fn new(units: u32) -> Self {
        Self { granted: units, spent: 0, signatures: 0, stopped: false }
    }

    /// Charges for one step. Call this before the step if its cost is known, otherwise after it.
    pub(crate) fn spend(&mut self, units: u32) {
        self.spent = self.spent.saturating_add(units);
    }

    /// Charges for the check of a signature by a public key, and counts it.
    #[cfg(feature = "auth")]
    pub(crate) fn spend_signature(&mut self) {
        self.signatures += 1;
        self.spend(SIGNATURE);
    }

    /// Returns the number of signatures checked.
    pub(crate) fn signatures(&self) -> u32 {
        self.signatures
    }

    /// Charges for `bytes` that cost this many instructions each, at least one unit.
    pub(crate) fn spend_bytes(&mut self, bytes: usize, instructions: usize) {
        let units = bytes.saturating_mul(instructions) / 1_000 + 1;
        self.spend(u32::try_from(units).unwrap_or(u32::MAX));
    }

    /// Ends the work of this turn, whatever is left of the budget.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Returns whether more was spent than the last step may overdraw.
    #[cfg(test)]
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.spent > self.granted.saturating_add(STEP_MAX)
    }

    /// Takes back a [`stop`](Self::stop).
    pub(crate) fn resume(&mut self) {
        self.stopped = false;
    }

    /// Returns whether no further step may begin.
    pub(crate) fn is_spent(&self) -> bool {
        self.stopped || self.left() == 0
    }

    /// Returns the units that are left.
    pub(crate) fn left(&self) -> u32 {
        self.granted.saturating_sub(self.spent)
    }

    /// Returns the units spent so far.
    pub(crate) fn spent(&self) -> u32 {
        self.spent
    }

    /// Returns a budget for one of several users of this one: at most `units`, and no more than is left. Return what it
    /// spent by [`settle`](Self::settle).
    pub(crate) fn share(&self, units: u32) -> Self {
        Self::new(units.min(self.left()))
    }

    /// Charges for what a share of this budget has spent.
    pub(crate) fn settle(&mut self, share: &Self) {
        self.spend(share.spent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_and_a_share_is_part_of_it() {
        let mut turn = Budget::new(10);
        let mut share = turn.share(4);
        share.spend(3);
        assert!(!share.is_spent());
        share.spend_bytes(5_000, 1);
        assert!(share.is_spent());
        turn.settle(&share);
        assert_eq!((turn.spent(), turn.left()), (9, 1));
        assert_eq!(turn.share(4).left(), 1);
        turn.stop();
        assert!(turn.is_spent());
        turn.resume();
        assert!(!turn.is_spent());
    }

    #[test]
    fn an_overdraft_beyond_one_step_is_found() {
        let mut turn = Budget::new(10);
        turn.spend(STEP_MAX + 10);
        assert!(!turn.is_overdrawn());
        turn.spend(1);
        assert!(turn.is_overdrawn());
    }
}
