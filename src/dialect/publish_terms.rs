//! Conditions that a publisher sets for one event. They are not part of the event.

use super::keys::plain_key;
use crate::event::EventId;

/// Maximum length of a dedupe id or an idempotency key, in bytes.
const DEDUPE_NAME_BYTES_MAX: usize = 256;

/// Checks the length of a dedupe id or an idempotency key. `what` names it in an error.
pub(crate) fn check_dedupe_name(what: &str, name: &str) -> Result<(), String> {
    match name.len() {
        0 => Err(format!("{what} is empty")),
        bytes if bytes > DEDUPE_NAME_BYTES_MAX => {
            Err(format!("{what} has {bytes} bytes; at most {DEDUPE_NAME_BYTES_MAX} are allowed"))
        }
        _ => Ok(()),
    }
}

/// Conditions under which a publisher wants an event to be published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishTerms {
    /// Id by which the publisher identifies the event. A second event with this id is not published.
    pub(crate) dedupe_id: Option<Box<str>>,
    /// Whether the event begins the next life of a kept log that has ended.
    pub(crate) reopen: bool,
    /// Last event that the publisher expects in the kept log. If the log has another one, the event is refused.
    pub(crate) expected_last_id: Option<ExpectedLast>,
}

/// Last event of a kept log, as a publisher expects it; `None` for no log yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedLast(pub(crate) Option<EventId>);

/// Fields of [`PublishTerms`], as JSON.
#[derive(Clone, Copy, Default)]
pub(super) struct TermFields<'a> {
    pub(super) dedupe_id: Option<&'a str>,
    pub(super) reopen: Option<&'a str>,
    pub(super) expected_last_id: Option<&'a str>,
}

impl TermFields<'_> {
    /// Reads the conditions. An error is the fault's text.
    pub(super) fn read(self) -> Result<PublishTerms, String> {
        let text = |key: &str, value: Option<&str>| match value.map(|value| (value, plain_key(value))) {
            None => Ok(None),
            Some((_, Some(text))) => Ok(Some(text.into_owned())),
            Some((_, None)) => Err(format!("{key}: expected a string")),
        };
        let dedupe_id = text("dedupe_id", self.dedupe_id)?;
        if let Some(id) = &dedupe_id {
            check_dedupe_name("dedupe_id", id)?;
        }
        let reopen = match self.reopen {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err("reopen is true or false".to_owned()),
        };
        let expected_last_id = match text("expected_last_id", self.expected_last_id)?.as_deref() {
            None => None,
            Some("") => Some(ExpectedLast(None)),
            Some(id) => {
                let id: EventId = id.parse().map_err(|error| format!("expected_last_id: {error}"))?;
                Some(ExpectedLast(Some(id)))
            }
        };
        Ok(PublishTerms { dedupe_id: dedupe_id.map(Into::into), reopen, expected_last_id })
    }
}
