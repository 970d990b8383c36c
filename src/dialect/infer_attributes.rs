//! Inference of attributes from the payload, for events of systems without attributes of their own.
//!
//! Invariants:
//! - Only types of the catalogues are considered, only attributes that the publisher did not name are set, and the payload
//!   does not change.
//! - [`complete`] is the only maker of a [`Complete`] event, and rights are checked for complete events only. An event is
//!   therefore routed by exactly the attributes for which its publisher's right was checked.

mod inferred;
#[cfg(feature = "dialects")]
mod payload;

use std::ops::Deref;

use super::publish_terms::{ExpectedLast, PublishTerms};
use crate::event::{Event, EventBuilder, EventError};
pub(super) use inferred::Implied;

/// An event from a publisher with its final attributes.
///
/// Every way into the server (HTTP, WebSocket dialects, CloudEvents, ingest) makes its events with [`complete`]. The
/// check of the right to publish and the publication itself take this type, so no code can check an event before its
/// attributes are final.
#[derive(Clone, Debug)]
pub(crate) struct Complete {
    event: Event,
    /// Conditions of its publisher, if it has any.
    terms: Option<Box<PublishTerms>>,
    /// Line of the request body that held the event, from 1; 0 if there is none.
    line: u32,
}

impl Complete {
    /// Returns the event.
    pub(crate) fn into_event(self) -> Event {
        self.event
    }

    /// Returns the event with this trace context, which is no routing attribute.
    pub(crate) fn traced(self, parent: &str, state: Option<&str>) -> Self {
        Self { event: self.event.traced(parent, state), ..self }
    }

    /// Returns the event with these conditions.
    pub(super) fn under(self, terms: PublishTerms) -> Self {
        let terms = Some(terms).filter(|terms| *terms != PublishTerms::default()).map(Box::new);
        Self { terms, ..self }
    }

    /// Returns the event with its line in the request body.
    pub(crate) fn at_line(self, line: usize) -> Self {
        Self { line: u32::try_from(line).unwrap_or(u32::MAX), ..self }
    }

    /// Returns the line of the request body that held the event; 0 if there is none.
    pub(crate) fn line(&self) -> u32 {
        self.line
    }

    /// Returns whether the event begins the next life of a kept log.
    pub(crate) fn reopens(&self) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.reopen)
    }

    /// Returns the last event that its publisher expects in its kept log.
    pub(crate) fn expected_last_id(&self) -> Option<ExpectedLast> {
        self.terms.as_ref()?.expected_last_id
    }

    /// Returns the id by which a second publication of the event is recognized.
    pub(crate) fn dedupe_id(&self) -> Option<&str> {
        self.terms.as_ref()?.dedupe_id.as_deref()
    }
}

impl Deref for Complete {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

/// Builds the event after setting the attributes that its payload implies and its publisher did not name.
///
/// An attribute that was set to the empty value counts as named: the publisher says that there is none.
pub(crate) fn complete(builder: EventBuilder) -> Result<Complete, EventError> {
    complete_with_key(builder, None)
}

/// Builds the event as [`complete`] does, from an object with AutoSDLC's `key`, which names the entity if the payload
/// does not.
pub(crate) fn complete_with_key(
    mut builder: EventBuilder,
    key: Option<&str>,
) -> Result<Complete, EventError> {
    let (event_type, payload) = builder.type_and_payload();
    let mut inferred = payload::infer(event_type, payload);
    if let Some(key) = key {
        inferred.entity = inferred.entity.or_else(|| payload::infer_from_key(event_type, key));
    }
    inferred.fill(&mut builder);
    builder.build().map(|event| Complete { event, terms: None, line: 0 })
}

/// Returns the attributes that payloads of this type may imply.
///
/// Nodes of earlier versions read the log with a fixed list of types, which must stay a part of this one (see
/// [`write_stored`](super::envelope::write_stored)).
pub(super) fn implied_by(event_type: &str) -> Implied {
    payload::implied(event_type)
}

/// Without the catalogues of other systems, no payload implies an attribute.
#[cfg(not(feature = "dialects"))]
mod payload {
    use super::inferred::{Implied, Inferred};

    pub(super) fn implied(_: &str) -> Implied {
        Implied::default()
    }

    pub(super) fn infer(_: &str, _: &str) -> Inferred {
        Inferred::default()
    }

    pub(super) fn infer_from_key(_: &str, _: &str) -> Option<(&'static str, String)> {
        None
    }
}
