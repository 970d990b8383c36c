//! Rights of one client: its grant, and its rate limits.
//!
//! Always:
//! - A client that must send a token, and has not, sees nothing and publishes nothing.
//! - These checks come before a filter becomes interest.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::context::Context;
use crate::dialect::{ClientError, Complete, ErrorCode, OnLag, OwnChannel, Subscribe, WireProtocol};
use crate::event::{Attribute, Timestamp};
use crate::filter::Filter;
use crate::filter::saved::{Exact, SavedFilter};
use crate::server::auth::{Denied, Grant, SavedGrant};
use crate::server::limits::rates;
use crate::server::limits::rates::{Buckets, Limited, SavedBuckets};
use crate::server::tick::{TICK_MS, Tick};

/// Rights of a client. The default is everything, as without authentication.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    grant: Option<Arc<Grant>>,
    /// Tick when the client connected, if it must send a token and has not.
    locked: Option<Tick>,
    /// Subscription of the path, which waits for the token.
    waiting: Option<Box<Subscribe>>,
    buckets: Option<Box<Buckets>>,
}

/// Saved form of a client's rights, for another process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedRights {
    grant: Option<SavedGrant>,
    /// Ticks since the client connected, if it must send a token and has not.
    locked: Option<Tick>,
    waiting: Option<SavedSubscribe>,
    buckets: Option<SavedBuckets>,
}

/// Subscription of a path. It has no past: in a dialect that waits for a token, no path requests one.
#[derive(Debug, Serialize, Deserialize)]
struct SavedSubscribe {
    subscription_id: Option<String>,
    filters: Vec<String>,
    /// Exact forms of the filters; absent in data of a version that saved texts only.
    #[serde(default)]
    exact: Vec<Option<Exact>>,
    history: Option<usize>,
    on_lag: OnLag,
}

impl SavedSubscribe {
    fn new(subscribe: &Subscribe) -> Self {
        let filters = std::iter::once(&subscribe.filter).chain(&subscribe.or);
        let forms = filters.map(|filter| SavedFilter::from(filter).into_forms());
        let (filters, exact) = forms.unzip();
        Self {
            subscription_id: subscribe.subscription_id.clone(),
            filters,
            exact,
            history: subscribe.history,
            on_lag: subscribe.on_lag,
        }
    }

    fn restored(self) -> Option<Box<Subscribe>> {
        let exact = self.exact.into_iter().chain(std::iter::repeat(None));
        let saved = self.filters.into_iter().zip(exact);
        let mut filters =
            saved.filter_map(|(text, exact)| Filter::try_from(SavedFilter::from_forms(text, exact)).ok());
        let first = Subscribe::from(filters.next()?);
        Some(Box::new(Subscribe {
            subscription_id: self.subscription_id,
            or: filters.collect(),
            history: self.history,
            on_lag: self.on_lag,
            ..first
        }))
    }
}

impl Rights {
    pub(crate) fn save(&self, tick: Tick) -> SavedRights {
        SavedRights {
            grant: self.grant.as_ref().map(|grant| grant.save()),
            locked: self.locked.map(|since| tick.saturating_sub(since)),
            waiting: self.waiting.as_deref().map(SavedSubscribe::new),
            buckets: self.buckets.as_ref().map(|buckets| buckets.save(tick)),
        }
    }

    /// Returns the rights of a predecessor's client in this process: no more than there, and only if its credentials
    /// are valid here too.
    pub(crate) fn restored(saved: SavedRights, cx: &Context<'_>) -> Self {
        let grant = saved.grant.and_then(|grant| cx.shared.auth.restore(grant, cx.now));
        let must_show = grant.is_none() && !cx.shared.auth.is_open();
        let had = saved.locked.unwrap_or_default();
        Self {
            grant,
            locked: must_show.then(|| cx.tick.saturating_sub(had)),
            waiting: saved.waiting.and_then(SavedSubscribe::restored),
            buckets: saved.buckets.map(|buckets| Box::new(Buckets::restored(buckets, cx.tick))),
        }
    }

    /// Returns the rights of a client with this grant, or without one.
    pub(crate) fn new(grant: Option<Arc<Grant>>, cx: &Context<'_>) -> Self {
        let must_show = grant.is_none() && !cx.shared.auth.is_open();
        Self { grant, locked: must_show.then_some(cx.tick), ..Self::default() }
    }

    /// Returns whether the rights are less than everything.
    pub(crate) fn are_special(&self) -> bool {
        self.grant.is_some() || self.locked.is_some()
    }

    /// Returns whether the client must send a token before anything else.
    pub(crate) fn is_locked(&self) -> bool {
        self.locked.is_some()
    }

    pub(crate) fn grant(&self) -> Option<&Grant> {
        self.grant.as_deref()
    }

    /// Returns the filter of the events that the client may see, if its grant has one.
    pub(crate) fn sees(&self) -> Option<&Filter> {
        self.grant.as_deref().map(Grant::filter)
    }

    /// Keeps the subscription of the path for later.
    pub(crate) fn wait_with(&mut self, subscribe: Box<Subscribe>) {
        self.waiting = Some(subscribe);
    }

    /// Replaces the rights by those of a token. Returns the subscription that waited for it.
    pub(crate) fn unlock(
        &mut self,
        token: &str,
        cx: &mut Context<'_>,
    ) -> Result<Option<Box<Subscribe>>, Denied> {
        if let Some(grant) = cx.shared.auth.verify(token, cx.now, cx.budget)? {
            self.grant = Some(grant);
            self.locked = None;
        }
        Ok(self.waiting.take())
    }

    /// Returns the part of a filter that becomes interest.
    pub(crate) fn narrow(&self, filter: &Filter) -> Filter {
        match &self.grant {
            Some(grant) => grant.narrow(filter),
            None if self.is_locked() => Filter::nothing(),
            None => filter.clone(),
        }
    }

    /// Checks that a filter names only values that the client may see.
    pub(crate) fn may_see(&self, filter: &Filter, spelled: bool) -> Result<(), ClientError> {
        match &self.grant {
            Some(grant) => may_see_spelled(grant, filter, spelled),
            None => Ok(()),
        }
    }

    /// Returns the maximum number of patterns that an event from the client is matched against.
    pub(crate) fn patterns(&self) -> usize {
        self.grant.as_ref().map_or(0, |grant| grant.patterns())
    }

    pub(crate) fn may_publish(&self, event: &Complete) -> Result<(), ClientError> {
        let allowed = match &self.grant {
            Some(grant) => grant.may_publish(event),
            None if self.is_locked() => Err("publishing".to_owned()),
            None => Ok(()),
        };
        allowed.map_err(|what| forbidden(&what))
    }

    /// Counts a message of this kind, and refuses it if it is over the limit.
    pub(crate) fn admit_message(
        &mut self,
        kind: &'static str,
        protocol: &dyn WireProtocol,
        cx: &Context<'_>,
    ) -> Result<(), Limited> {
        rates::admit(&mut self.buckets, &cx.config.limits, protocol.usual_limits(), kind, cx.tick)
    }

    /// Returns the tick by which the client must have sent a token.
    pub(crate) fn deadline(&self, cx: &Context<'_>) -> Option<Tick> {
        self.locked.map(|since| since + cx.config.handshake_ticks())
    }

    /// Returns the tick when the client's grant expires.
    pub(crate) fn expiry(&self, cx: &Context<'_>) -> Option<Tick> {
        expiry(self.grant()?, cx.tick, cx.now)
    }
}

/// Returns the tick when a grant expires; the current one if it has expired.
pub(crate) fn expiry(grant: &Grant, tick: Tick, now: Timestamp) -> Option<Tick> {
    let left = grant.expires()?.saturating_mul(1_000_000).saturating_sub(now.0);
    Some(tick.saturating_add(u64::try_from(left).unwrap_or(0).div_ceil(TICK_MS * 1000)))
}

/// Puts the client's own channels in place of templates that a subscription names. Returns them.
pub(super) fn name_own_channels(
    grant: &Grant,
    subscribe: &mut Subscribe,
) -> Result<Vec<OwnChannel>, ClientError> {
    let Subscribe { filter, or, .. } = subscribe;
    let filters = || std::iter::once(&*filter).chain(&*or);
    if !filters().any(|filter| grant.names_template(filter)) {
        return Ok(Vec::new());
    }
    let own = filters().flat_map(|filter| grant.own_channels(filter)).collect();
    let about = Attribute::Channel.index() as u8;
    if or.iter().all(|part| filter.differs_only_in(about, part)) {
        // The channels are in the order of their values, so those of all parts are divided again.
        let whole = with_own_channels(grant, Filter::joined(filters()))?;
        let mut parts = whole.in_parts();
        *or = parts.split_off(1);
        *filter = parts.pop().unwrap_or_default();
    } else {
        for filter in std::iter::once(filter).chain(or) {
            *filter = with_own_channels(grant, std::mem::take(filter))?;
        }
    }
    Ok(own)
}

/// Returns the filter with the client's own channels instead of templates that it names.
pub(crate) fn with_own_channels(grant: &Grant, filter: Filter) -> Result<Filter, ClientError> {
    grant.with_own_channels(filter).map_err(|what| forbidden(&what))
}

/// Checks that a filter names only values within a grant. The error names the others.
pub(crate) fn may_see(grant: &Grant, filter: &Filter) -> Result<(), ClientError> {
    may_see_spelled(grant, filter, false)
}

fn may_see_spelled(grant: &Grant, filter: &Filter, spelled: bool) -> Result<(), ClientError> {
    if grant.sees_nothing() {
        return Err(forbidden("seeing events"));
    }
    // Both lists may be long: 256 long values against 256 patterns of many segments would take a loop seconds.
    filter.check_join(grant.filter())?;
    let beyond = grant.beyond(filter, spelled);
    if beyond.is_empty() { Ok(()) } else { Err(forbidden(&beyond.join(", "))) }
}

/// Returns the error for something beyond a grant.
pub(super) fn forbidden(what: &str) -> ClientError {
    ClientError::new(ErrorCode::Forbidden, format!("beyond what the token allows: {what}"))
}

impl Limited {
    /// Returns the error for the client.
    pub(crate) fn error(self, kind: &str) -> ClientError {
        let Self { max, window_seconds, retry_seconds, .. } = self;
        let text = format!(
            "rate limit of {max} {kind} messages in {window_seconds} s reached: try again in {retry_seconds} s"
        );
        ClientError::new(ErrorCode::RateLimited, text)
    }
}
