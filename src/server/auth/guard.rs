//! Authentication of a server: turns credentials into grants, and checks that grants still hold.
//!
//! Invariant: a change (reload, revocation) is counted before its request is answered, so a loop that reads a later event sees
//! the change too.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::api_keys::ApiKeys;
use super::config::{AuthConfig, AuthError};
use super::credential::{self, Credential};
use super::grant::{Grant, SavedGrant};
use super::jwt::{self, Verifier};
use super::revocation::{Revocation, Revocations, TooMany};
use super::seal::Seal;
use super::template::Templates;
use super::ticket::Tickets;
use super::{Claims, Denied, Fault, NoTicket, SavedSeal, Shown};
use crate::codec::http::Request;
use crate::event::{Since, Timestamp};
use crate::server::limits::budget::Budget;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, lock};

/// Keys and lists of the current configuration.
#[derive(Debug)]
struct Guard {
    verifier: Option<Verifier>,
    api_keys: Option<ApiKeys>,
    revoked: Revocations,
    anonymous: Option<Arc<Grant>>,
    /// Channels that every grant adds.
    templates: Templates,
    config: AuthConfig,
}

/// Authentication of a server.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    /// Current guard; `None` if there is no authentication, which never changes.
    guard: Option<ArcSwap<Guard>>,
    /// Held while the guard is replaced, so that reloads do not overlap.
    reloading: Mutex<()>,
    /// Revocations since the start, in addition to those of the file.
    revoked: Mutex<Revocations>,
    tickets: Mutex<Tickets>,
    /// Number of changes that may end a grant.
    changes: AtomicU64,
    /// Seals the positions that clients with a narrowing grant receive.
    seal: Mutex<Option<Seal>>,
    /// Whether other nodes derive the same seal key.
    is_seal_shared: bool,
}

/// Proof of an anonymous grant, which rests on no key.
const ANONYMOUS: u64 = 0;

/// Proof of a grant that the embedding program gave, which rests on no key of the server.
const BY_PROGRAM: u64 = 1;

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
            if !config.grant.channels.is_empty() {
                let what = "means nothing without keys: set auth.jwt or auth.api_keys_file too";
                return Err(AuthError::new("auth.grant.channels", what));
            }
            return Ok(None);
        }
        let templates = config.grant.templates()?;
        let read = |key, path: &Option<std::path::PathBuf>| -> Result<Option<String>, AuthError> {
            let Some(path) = path else { return Ok(None) };
            let text = String::from_utf8(jwt::read(key, path)?);
            text.map(Some).map_err(|_| AuthError::new(key, "is not text in UTF-8"))
        };
        let api_keys = read("auth.api_keys_file", &config.api_keys_file)?
            .map(|text| {
                ApiKeys::read(&text, &templates).map_err(|what| AuthError::new("auth.api_keys_file", what))
            })
            .transpose()?;
        let revoked = read("auth.revoked_file", &config.revoked_file)?
            .map(|text| Revocations::read(&text).map_err(|what| AuthError::new("auth.revoked_file", what)))
            .transpose()?;
        let anonymous = config
            .anonymous
            .claims()
            .map(|claims| Grant::new(&claims, None, ANONYMOUS, &templates).map(Arc::new))
            .transpose()
            .map_err(|what| AuthError::new("auth.anonymous", what))?;
        Ok(Some(Self {
            verifier: Verifier::load(&config.jwt)?,
            api_keys,
            revoked: revoked.unwrap_or_default(),
            anonymous,
            templates,
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
        let grant = Grant::new(&verified.claims, verified.expires, verified.proof, &self.templates);
        grant.map(Arc::new).map_err(|_| Fault::Grant.into())
    }

    fn has_proof(&self, proof: u64) -> bool {
        (proof == BY_PROGRAM && self.config.by_program)
            || self.verifier.as_ref().is_some_and(|keys| keys.has(proof))
            || self.api_keys.as_ref().is_some_and(|keys| keys.has(proof))
    }
}

impl Auth {
    /// Loads the keys and lists of the configuration. Blocks while it reads the files.
    pub(crate) fn load(config: &AuthConfig) -> Result<Self, AuthError> {
        let guard = Guard::load(config)?.map(ArcSwap::from_pointee);
        let derived = Seal::of_secrets(config.jwt.secrets());
        let is_seal_shared = derived.is_some();
        let seal = guard.as_ref().and_then(|_| derived.or_else(Seal::random));
        Ok(Self { guard, seal: Mutex::new(seal), is_seal_shared, ..Self::default() })
    }

    /// Returns a position in a form that a client can't read, or `None` without authentication.
    pub(crate) fn seal(&self, since: &Since, random: u64) -> Option<Since> {
        Some(lock(&self.seal).clone()?.seal(since, random))
    }

    /// Returns the position in a sealed text, if this node or one with the same secrets sealed it.
    pub(crate) fn open_seal(&self, text: &str) -> Option<Since> {
        lock(&self.seal).clone()?.open(text)
    }

    /// Returns the seal's key, for a successor process.
    pub(crate) fn save_seal(&self) -> Option<SavedSeal> {
        lock(&self.seal).as_ref().map(|seal| SavedSeal(seal.key()))
    }

    /// Takes over the predecessor's key, unless the configuration determines one.
    pub(crate) fn take_seal(&self, saved: SavedSeal) {
        if self.guard.is_some() && !self.is_seal_shared {
            *lock(&self.seal) = Some(Seal::restored(saved.0));
        }
    }

    /// Loads the keys and lists again. On an error the current ones stay. Blocks while it reads the files.
    pub(crate) fn reload(&self, config: &AuthConfig) -> Result<(), AuthError> {
        match (&self.guard, Guard::load(config)?) {
            (None, None) => {}
            (Some(guard), Some(mut fresh)) => {
                let reloading = lock(&self.reloading);
                let before = guard.load();
                if before.config.anonymous == fresh.config.anonymous
                    && before.config.grant == fresh.config.grant
                {
                    // The anonymous grant is recognized by its address, so clients keep it only if the object is kept.
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
        // Release: pairs with the loops' Acquire in `changes`: a loop that sees the count sees the change.
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Returns the number of changes that may end a grant. When it grows, the caller must check every grant with
    /// [`Auth::ended`].
    pub(crate) fn changes(&self) -> u64 {
        // Acquire: pairs with the Release in `changed`. An event published after the change was answered carries this order
        // through the ring, so the loop that reads the event reads the new count.
        self.changes.load(Ordering::Acquire)
    }

    /// Returns whether there is no authentication, so that every client has all rights.
    pub(crate) fn is_open(&self) -> bool {
        self.guard.is_none()
    }

    /// Returns the grant of a request's credential; `None` if the request has no credential.
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

    /// Returns the grant of a token or an API key, or `None` without authentication.
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

    /// Returns why a grant no longer holds, if so: it has expired, was revoked, its key is gone, or a reload changed its rights.
    pub(crate) fn ended(&self, grant: &Grant, now: Timestamp) -> Option<Denied> {
        let guard = self.guard()?;
        let second = seconds(now);
        if grant.proof() == ANONYMOUS {
            let same =
                guard.anonymous.as_ref().is_some_and(|anonymous| std::ptr::eq(&raw const **anonymous, grant));
            let why = if guard.anonymous.is_some() { Denied::Outdated } else { Denied::Missing };
            return (!same).then_some(why);
        }
        if grant.expires().is_some_and(|expires| expires <= second) {
            return Some(Denied::Expired);
        }
        if !guard.has_proof(grant.proof()) || self.is_revoked(&guard, grant, second) {
            return Some(Denied::Revoked);
        }
        (!grant.rests_on(&guard.templates)).then_some(Denied::Outdated)
    }

    /// Returns a ticket with the grant's rights, and its validity in seconds.
    pub(crate) fn make_ticket(&self, grant: &Arc<Grant>, now: Timestamp) -> Result<(String, u64), NoTicket> {
        let guard = self.guard().ok_or(NoTicket::Full)?;
        let AuthConfig { ticket_ttl, max_tickets, .. } = guard.config;
        let until = now.0.saturating_add(i64::try_from(ticket_ttl.as_micros()).unwrap_or(i64::MAX));
        let ticket = lock(&self.tickets).make(Arc::clone(grant), now.0, until, max_tickets)?;
        Ok((ticket, ticket_ttl.as_secs()))
    }

    /// Returns the memory of unused tickets, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        lock(&self.tickets).held_bytes()
    }

    /// Returns the outcome of claims that the embedding program gives to a client, or the fault in the claims or the config.
    pub(crate) fn admit_by_program(&self, claims: &Claims, now: Timestamp) -> Result<Shown, String> {
        if !self.guard().is_some_and(|guard| guard.config.by_program) {
            return Err(
                "the program gives claims, but auth.by_program of the server's config is false".to_owned()
            );
        }
        let templates = self.guard().map(|guard| Arc::clone(&guard.templates)).unwrap_or_default();
        let grant = Grant::new(claims, claims.exp, BY_PROGRAM, &templates)?;
        Ok(match self.ended(&grant, now) {
            None => Ok(Some(Arc::new(grant))),
            Some(denied) => Err(denied),
        })
    }

    /// Returns a grant of the predecessor process, if it still holds here.
    pub(crate) fn restore(&self, saved: SavedGrant, now: Timestamp) -> Option<Arc<Grant>> {
        let guard = self.guard()?;
        if saved.proof == ANONYMOUS {
            return guard.anonymous.clone();
        }
        let grant = Grant::new(saved.claims(), saved.expires, saved.proof, &guard.templates);
        let grant = grant.ok().map(Arc::new)?;
        self.ended(&grant, now).is_none().then_some(grant)
    }

    /// Returns the revocations since the start, for a successor process.
    pub(crate) fn save_revoked(&self) -> Vec<Revocation> {
        lock(&self.revoked).all()
    }

    /// Adds a revocation and returns their number. The error is the maximum number.
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
