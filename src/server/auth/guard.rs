//! What a server with authentication asks: credentials to grants, and whether a grant still holds.
//!
//! Imports its siblings and `codec`. Always: a change (reload, revocation) is counted before whoever made it is
//! answered, so a loop that sees a later event sees the change too.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::api_keys::ApiKeys;
use super::config::{AuthConfig, AuthError};
use super::credential::{self, Credential};
use super::grant::{Grant, SavedGrant};
use super::jwt::{self, Verifier};
use super::revocation::{Revocation, Revocations, TooMany};
use super::seal::Seal;
use super::ticket::Tickets;
use super::{Denied, Fault, NoTicket, SavedSeal};
use crate::codec::http::Request;
use crate::event::{Since, Timestamp};
use crate::server::limits::budget::Budget;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, lock};

/// Keys and lists as the configuration named them last.
#[derive(Debug)]
struct Guard {
    verifier: Option<Verifier>,
    api_keys: Option<ApiKeys>,
    revoked: Revocations,
    anonymous: Option<Arc<Grant>>,
    config: AuthConfig,
}

/// The authentication of a server.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    /// `None`: everybody may come in, and that stays.
    guard: Option<ArcSwap<Guard>>,
    /// Held while the guard is replaced, so that reloads come one after the other.
    reloading: Mutex<()>,
    /// What was revoked since the start, beside the file.
    revoked: Mutex<Revocations>,
    tickets: Mutex<Tickets>,
    changes: AtomicU64,
    /// For places that clients with a narrowing grant are told.
    seal: Mutex<Option<Seal>>,
    /// Other nodes derive the same key.
    is_seal_shared: bool,
}

/// Tells an anonymous grant from those that keys vouch for; no key's proof is looked up for it.
const ANONYMOUS: u64 = 0;

fn seconds(now: Timestamp) -> i64 {
    now.0.div_euclid(1_000_000)
}

impl Guard {
    fn load(config: &AuthConfig) -> Result<Option<Self>, AuthError> {
        if !config.is_configured() {
            if config.anonymous.claims().is_some() {
                let what = "means nothing without keys: set auth.jwt or auth.api_keys_file too";
                return Err(AuthError::new("auth.anonymous", what));
            }
            return Ok(None);
        }
        let read = |key, path: &Option<std::path::PathBuf>| -> Result<Option<String>, AuthError> {
            let Some(path) = path else { return Ok(None) };
            let text = String::from_utf8(jwt::read(key, path)?);
            text.map(Some).map_err(|_| AuthError::new(key, "is not text in UTF-8"))
        };
        let api_keys = read("auth.api_keys_file", &config.api_keys_file)?
            .map(|text| ApiKeys::read(&text).map_err(|what| AuthError::new("auth.api_keys_file", what)))
            .transpose()?;
        let revoked = read("auth.revoked_file", &config.revoked_file)?
            .map(|text| Revocations::read(&text).map_err(|what| AuthError::new("auth.revoked_file", what)))
            .transpose()?;
        let anonymous = config
            .anonymous
            .claims()
            .map(|claims| Grant::new(&claims, None, ANONYMOUS).map(Arc::new))
            .transpose()
            .map_err(|what| AuthError::new("auth.anonymous", what))?;
        Ok(Some(Self {
            verifier: Verifier::load(&config.jwt)?,
            api_keys,
            revoked: revoked.unwrap_or_default(),
            anonymous,
            config: config.clone(),
        }))
    }

    fn verify(&self, token: &str, now: i64, budget: &mut Budget) -> Result<Arc<Grant>, Denied> {
        if token.len() > self.config.max_token_bytes {
            return Err(Fault::TooLong.into());
        }
        if let Some(found) = self.api_keys.as_ref().and_then(|keys| keys.find(token, now)) {
            return found;
        }
        let verifier = self.verifier.as_ref().ok_or(Fault::Key)?;
        let verified = verifier.verify(token, now, budget)?;
        let grant = Grant::new(&verified.claims, verified.expires, verified.proof);
        grant.map(Arc::new).map_err(|_| Fault::Grant.into())
    }

    fn vouches(&self, proof: u64) -> bool {
        self.verifier.as_ref().is_some_and(|keys| keys.has(proof))
            || self.api_keys.as_ref().is_some_and(|keys| keys.has(proof))
    }
}

impl Auth {
    /// Reads what the configuration names. Blocks for the files.
    pub(crate) fn load(config: &AuthConfig) -> Result<Self, AuthError> {
        let guard = Guard::load(config)?.map(ArcSwap::from_pointee);
        let derived = Seal::of_secrets(config.jwt.secrets());
        let is_seal_shared = derived.is_some();
        let seal = guard.as_ref().and_then(|_| derived.or_else(Seal::random));
        Ok(Self { guard, seal: Mutex::new(seal), is_seal_shared, ..Self::default() })
    }

    /// Returns a place in a form that says nothing to a client. `None` where there is no authentication.
    pub(crate) fn seal(&self, since: &Since, random: u64) -> Option<Since> {
        Some(lock(&self.seal).clone()?.seal(since, random))
    }

    /// Returns the place in a sealed text, if it was sealed here or by a node with the same secrets.
    pub(crate) fn open_seal(&self, text: &str) -> Option<Since> {
        lock(&self.seal).clone()?.open(text)
    }

    /// Returns the key of sealed places, for a successor.
    pub(crate) fn save_seal(&self) -> Option<SavedSeal> {
        lock(&self.seal).as_ref().map(|seal| SavedSeal(seal.key()))
    }

    /// Goes on with a predecessor's key, unless the configuration has one.
    pub(crate) fn take_seal(&self, saved: SavedSeal) {
        if self.guard.is_some() && !self.is_seal_shared {
            *lock(&self.seal) = Some(Seal::restored(saved.0));
        }
    }

    /// Reads it again; on an error all stays as it was.
    pub(crate) fn reload(&self, config: &AuthConfig) -> Result<(), AuthError> {
        match (&self.guard, Guard::load(config)?) {
            (None, None) => {}
            (Some(guard), Some(mut fresh)) => {
                let reloading = lock(&self.reloading);
                let before = guard.load();
                if before.config.anonymous == fresh.config.anonymous {
                    // Clients keep their grant: it is told by its address.
                    fresh.anonymous.clone_from(&before.anonymous);
                }
                guard.store(Arc::new(fresh));
                drop(reloading);
                self.changed();
            }
            _ => {
                let what = "cannot be switched on or off while the server runs: restart it";
                return Err(AuthError::new("auth", what));
            }
        }
        Ok(())
    }

    fn guard(&self) -> Option<arc_swap::Guard<Arc<Guard>>> {
        self.guard.as_ref().map(ArcSwap::load)
    }

    fn changed(&self) {
        // Release: pairs with the loops' Acquire in `changes`: who sees the count sees what it counts.
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Grows with each change that may end a grant: ask [`Auth::ended`] of every grant then.
    pub(crate) fn changes(&self) -> u64 {
        // Acquire: pairs with the Release in `changed`. An event published after the change was answered carries the
        // same order through the ring, so the loop that reads the event reads the new count.
        self.changes.load(Ordering::Acquire)
    }

    /// Whether everybody may come in, with all rights.
    pub(crate) fn is_open(&self) -> bool {
        self.guard.is_none()
    }

    /// The grant of whom a request comes from. `None`: it shows nothing; there may be no need to.
    pub(crate) fn admit(
        &self,
        request: &Request,
        origins: &[String],
        now: Timestamp,
        budget: &mut Budget,
    ) -> Result<Option<Arc<Grant>>, Denied> {
        let Some(guard) = self.guard() else { return Ok(None) };
        match credential::find(request, &guard.config.cookie, origins) {
            None => Ok(guard.anonymous.clone()),
            Some(Credential::Token(token)) => self.check(&guard, &token, now, budget).map(Some),
            Some(Credential::Ticket(ticket)) => {
                let grant = lock(&self.tickets).take(&ticket, now.0).ok_or(Denied::Ticket)?;
                match self.ended(&grant, now) {
                    None => Ok(Some(grant)),
                    Some(denied) => Err(denied),
                }
            }
        }
    }

    /// The grant of a token or an API key. Where everybody may come in, any text is good, and `None` the answer.
    pub(crate) fn verify(
        &self,
        token: &str,
        now: Timestamp,
        budget: &mut Budget,
    ) -> Result<Option<Arc<Grant>>, Denied> {
        let Some(guard) = self.guard() else { return Ok(None) };
        self.check(&guard, token, now, budget).map(Some)
    }

    fn check(
        &self,
        guard: &Guard,
        token: &str,
        now: Timestamp,
        budget: &mut Budget,
    ) -> Result<Arc<Grant>, Denied> {
        let grant = guard.verify(token, seconds(now), budget)?;
        if self.is_revoked(guard, &grant, seconds(now)) { Err(Denied::Revoked) } else { Ok(grant) }
    }

    fn is_revoked(&self, guard: &Guard, grant: &Grant, now: i64) -> bool {
        guard.revoked.has(grant, now) || lock(&self.revoked).has(grant, now)
    }

    /// Why a grant no longer holds, if so: its time is up, it was revoked, or its key is gone.
    pub(crate) fn ended(&self, grant: &Grant, now: Timestamp) -> Option<Denied> {
        let guard = self.guard()?;
        let second = seconds(now);
        if grant.proof() == ANONYMOUS {
            let same =
                guard.anonymous.as_ref().is_some_and(|anonymous| std::ptr::eq(&raw const **anonymous, grant));
            return (!same).then_some(Denied::Missing);
        }
        if grant.expires().is_some_and(|expires| expires <= second) {
            return Some(Denied::Expired);
        }
        let gone = !guard.vouches(grant.proof()) || self.is_revoked(&guard, grant, second);
        gone.then_some(Denied::Revoked)
    }

    /// A ticket with this grant's rights, and for how many seconds it is good.
    pub(crate) fn make_ticket(&self, grant: &Arc<Grant>, now: Timestamp) -> Result<(String, u64), NoTicket> {
        let guard = self.guard().ok_or(NoTicket::Full)?;
        let AuthConfig { ticket_ttl, max_tickets, .. } = guard.config;
        let until = now.0.saturating_add(i64::try_from(ticket_ttl.as_micros()).unwrap_or(i64::MAX));
        let ticket = lock(&self.tickets).make(Arc::clone(grant), now.0, until, max_tickets)?;
        Ok((ticket, ticket_ttl.as_secs()))
    }

    /// Bytes held for tickets that are out.
    pub(crate) fn held_bytes(&self) -> usize {
        lock(&self.tickets).held_bytes()
    }

    /// A grant of the process before this one, if it still holds here.
    pub(crate) fn restore(&self, saved: SavedGrant, now: Timestamp) -> Option<Arc<Grant>> {
        let guard = self.guard()?;
        if saved.proof == ANONYMOUS {
            return guard.anonymous.clone();
        }
        let grant = Grant::new(saved.claims(), saved.expires, saved.proof).ok().map(Arc::new)?;
        self.ended(&grant, now).is_none().then_some(grant)
    }

    /// What was revoked since the start, for another process.
    pub(crate) fn save_revoked(&self) -> Vec<Revocation> {
        lock(&self.revoked).all()
    }

    /// Takes a revocation in, or says how many there may be.
    pub(crate) fn revoke(&self, one: Revocation, now: Timestamp) -> Result<usize, usize> {
        let Some(guard) = self.guard() else { return Ok(0) };
        let max = guard.config.max_revocations;
        let mut revoked = lock(&self.revoked);
        let added = revoked.add(one, seconds(now), max);
        let count = revoked.len();
        drop(revoked);
        match added {
            Ok(()) => {
                self.changed();
                Ok(count)
            }
            Err(TooMany) => Err(max),
        }
    }
}
