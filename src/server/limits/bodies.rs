//! Incomplete request bodies: how much memory each client may hold in them, and all clients together.
//!
//! Always: while all bodies together are within their share of the memory budget, a client may use up to half of it.
//! Beyond that, clients with less than an equal share continue, and those with more are refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::sync::{Mutex, lock};

/// Part of the memory budget for incomplete bodies: a quarter.
const PART: usize = 4;

/// Client that a body is charged to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BodyOwner {
    /// Client with a token of this subject.
    Subject(Box<str>),
    /// Client at this address, without a token.
    Address(IpAddr),
    /// Unknown client.
    Unknown,
}

/// Limits of incomplete bodies; none without a memory budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyLimits {
    /// Maximum size of all bodies, in bytes.
    all: usize,
    /// Maximum size of one client's bodies, in bytes.
    client: usize,
}

impl BodyLimits {
    /// Returns the limits of a server with this memory budget, for bodies of up to `largest` bytes.
    pub(crate) fn new(max_memory: usize, largest: usize) -> Self {
        // Two bodies always fit, so that a small budget does not refuse a server's only publisher.
        let all = (max_memory / PART).max(largest.saturating_mul(2));
        Self { all, client: all / 2 }
    }
}

/// Reason why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooMuch {
    /// The client has used its share.
    Client,
    /// All bodies together have used up their share, and this client holds more than an equal part of it.
    All,
}

#[derive(Debug, Default)]
struct BodyTable {
    of: HashMap<BodyOwner, usize>,
    all: usize,
}

impl BodyTable {
    /// Returns an equal part of the total for each client with bodies here.
    fn fair_share(&self, limits: BodyLimits) -> usize {
        limits.all / self.of.len().max(1)
    }
}

/// Incomplete bodies of all loops. Clones share the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bodies(Arc<Mutex<BodyTable>>);

impl Bodies {
    /// Starts to count a body for a client.
    pub(crate) fn begin(&self, client: BodyOwner) -> Body {
        Body { bodies: self.clone(), client, bytes: 0 }
    }
}

/// Count of one incomplete body. Dropping it subtracts it.
#[derive(Debug)]
pub(crate) struct Body {
    bodies: Bodies,
    client: BodyOwner,
    bytes: usize,
}

impl Body {
    /// Records the current size of the body, in bytes.
    ///
    /// # Errors
    ///
    /// [`TooMuch`] if the client must stop.
    pub(crate) fn grow(&mut self, bytes: usize, limits: Option<BodyLimits>) -> Result<(), TooMuch> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let more = bytes - self.bytes;
        let mut table = lock(&self.bodies.0);
        let own = table.of.entry(self.client.clone()).or_default();
        *own += more;
        let own = *own;
        table.all += more;
        self.bytes = bytes;
        let Some(limits) = limits else { return Ok(()) };
        if own > limits.client && own > more {
            return Err(TooMuch::Client);
        }
        if table.all > limits.all && own > table.fair_share(limits) { Err(TooMuch::All) } else { Ok(()) }
    }

    /// Returns whether the client holds more than an equal part of the total.
    pub(crate) fn is_greedy(&self, limits: Option<BodyLimits>) -> bool {
        let table = lock(&self.bodies.0);
        limits.is_some_and(|limits| {
            table.of.get(&self.client).is_some_and(|own| *own > table.fair_share(limits))
        })
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut table = lock(&self.bodies.0);
        table.all -= self.bytes;
        if let Some(own) = table.of.get_mut(&self.client) {
            *own -= self.bytes;
            if *own == 0 {
                table.of.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Option<BodyLimits> = Some(BodyLimits { all: 100, client: 50 });

    fn subject(name: &str) -> BodyOwner {
        BodyOwner::Subject(name.into())
    }

    #[test]
    fn a_client_has_its_share_whatever_the_others_use() {
        let bodies = Bodies::default();
        let mut one = bodies.begin(subject("a"));
        let mut two = bodies.begin(subject("a"));
        assert_eq!(one.grow(30, LIMITS), Ok(()));
        assert_eq!(two.grow(20, LIMITS), Ok(()));
        assert_eq!(two.grow(21, LIMITS), Err(TooMuch::Client));
        drop(two);
        assert_eq!(one.grow(50, LIMITS), Ok(()));
        assert_eq!(bodies.begin(subject("b")).grow(40, LIMITS), Ok(()));
        drop(one);
        let table = lock(&bodies.0);
        assert_eq!((table.all, table.of.len()), (0, 0));
    }

    #[test]
    fn a_single_body_as_large_as_bodies_may_be_is_taken() {
        let bodies = Bodies::default();
        assert_eq!(bodies.begin(subject("a")).grow(60, LIMITS), Ok(()));
        assert_eq!(BodyLimits::new(10, 1000), BodyLimits { all: 2000, client: 1000 });
    }

    #[test]
    fn when_all_is_taken_those_with_more_than_an_even_part_are_refused() {
        let bodies = Bodies::default();
        let mut greedy: Vec<Body> = ["a", "b"].map(|name| bodies.begin(subject(name))).into();
        for body in &mut greedy {
            assert_eq!(body.grow(50, LIMITS), Ok(()));
        }
        let mut honest = bodies.begin(subject("c"));
        assert_eq!(honest.grow(20, LIMITS), Ok(()), "beyond all, and less than a third of it");
        assert!(!honest.is_greedy(LIMITS));
        assert_eq!(honest.grow(40, LIMITS), Err(TooMuch::All));
        assert!(greedy.iter().all(|body| body.is_greedy(LIMITS)));
    }
}
