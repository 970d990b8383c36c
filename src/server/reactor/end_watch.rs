//! The clients of a loop, by the kept logs with an end that their filters name.
//!
//! Always: a client is listed under exactly the names in its current filters, within its grant.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;

use super::token::Token;
use crate::kept::{LogEnd, LogName};

/// Clients to which ends are reported.
#[derive(Debug, Default)]
pub(super) struct EndWatch {
    clients: HashMap<LogName, SmallVec<[Token; 2]>>,
    named: HashMap<Token, WatchedLogs>,
    /// Ends to report.
    pub(super) pending: Vec<PendingEnds>,
    bytes: usize,
}

/// Logs that a client's filters name.
#[derive(Debug, Default)]
pub(super) struct WatchedLogs {
    /// By name: number of the client's filters that have it.
    pub(super) names: BTreeMap<LogName, u32>,
    /// Whether the client has one filter, which selects no other log.
    pub(super) is_closed: bool,
}

/// Ends to report to one client.
#[derive(Debug)]
pub(super) struct PendingEnds {
    pub(super) token: Token,
    /// Subscription to report to; `None` for each that names the log.
    pub(super) subscription: Option<Box<str>>,
    pub(super) ends: Vec<Arc<LogEnd>>,
    /// Whether later events were queued for the client before.
    pub(super) is_late: bool,
}

/// Memory of a client's name without its text, in bytes: its places in both tables.
const NAME_BYTES: usize = 2 * size_of::<LogName>() + 96;

impl EndWatch {
    /// Returns whether no client names a log with an end.
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Returns the clients that name this log in their filters.
    pub(super) fn clients(&self, name: &LogName) -> &[Token] {
        self.clients.get(name).map_or(&[], SmallVec::as_slice)
    }

    /// Returns the names, with the clients whose filters have them.
    pub(super) fn names(&self) -> impl Iterator<Item = (&LogName, &[Token])> {
        self.clients.iter().map(|(name, clients)| (name, clients.as_slice()))
    }

    /// Returns the logs that a client's filters name.
    pub(super) fn logs_of(&self, token: Token) -> Option<&WatchedLogs> {
        self.named.get(&token)
    }

    /// Sets whether a client has one filter, which selects no log but those that it is listed under.
    pub(super) fn set_closed(&mut self, token: Token, is_closed: bool) {
        if let Some(watched) = self.named.get_mut(&token) {
            watched.is_closed = is_closed;
        }
    }

    /// Adds a name of one more filter of a client.
    pub(super) fn add(&mut self, token: Token, name: LogName) {
        let watched = self.named.entry(token).or_default();
        watched.is_closed = false;
        let count = watched.names.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.bytes += NAME_BYTES + name.value.len();
            self.clients.entry(name).or_default().push(token);
        }
    }

    /// Removes a name of a filter that a client no longer has.
    pub(super) fn take(&mut self, token: Token, name: &LogName) {
        let Some(watched) = self.named.get_mut(&token) else { return };
        let Some(count) = watched.names.get_mut(name) else { return };
        *count -= 1;
        if *count == 0 {
            watched.names.remove(name);
            if watched.names.is_empty() {
                self.named.remove(&token);
            }
            self.unlist(token, name);
        }
    }

    /// Removes a client.
    pub(super) fn remove(&mut self, token: Token) {
        let Some(watched) = self.named.remove(&token) else { return };
        for name in watched.names.keys() {
            self.unlist(token, name);
        }
    }

    fn unlist(&mut self, token: Token, name: &LogName) {
        self.bytes -= NAME_BYTES + name.value.len();
        let Some(clients) = self.clients.get_mut(name) else { return };
        clients.retain(|client| *client != token);
        if clients.is_empty() {
            self.clients.remove(name);
        }
    }

    /// Returns the memory of the tables, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes + self.named.len() * size_of::<(Token, WatchedLogs)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::RetainBy;

    #[test]
    fn a_client_is_listed_while_a_filter_names_the_log() {
        let mut watch = EndWatch::default();
        let name = |value: &str| LogName::new(RetainBy::Stream, value);
        watch.add(1, name("a"));
        watch.add(1, name("a"));
        watch.add(2, name("a"));
        watch.add(1, name("b"));
        assert_eq!((watch.clients(&name("a")), watch.clients(&name("b"))), (&[1, 2][..], &[1][..]));
        watch.take(1, &name("a"));
        assert_eq!(watch.clients(&name("a")), [1, 2]);
        watch.take(1, &name("a"));
        watch.take(1, &name("a"));
        assert_eq!(watch.clients(&name("a")), [2]);
        watch.remove(1);
        watch.take(2, &name("a"));
        assert!(watch.is_empty() && watch.logs_of(1).is_none() && watch.logs_of(2).is_none());
        assert_eq!(watch.held_bytes(), 0);
    }
}
