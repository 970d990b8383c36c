//! Requests to concatenate a string of neighbours.

use std::ops::Range;
use std::sync::Arc;

use super::on_lag::OnLag;
use super::words::shortened;
use crate::event::StringPointer;

/// String of an event's payload that neighbours are merged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConcatTarget {
    /// The pointer as the client wrote it.
    text: Box<str>,
    pointer: StringPointer,
}

impl ConcatTarget {
    /// Reads a JSON Pointer into the event object. The error says what is wrong.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("/payload").filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let pointer = rest.and_then(StringPointer::parse);
        let pointer = pointer.ok_or_else(|| {
            format!("concat '{}' is no JSON Pointer into the payload, as /payload/delta is", shortened(text))
        })?;
        Ok(Self { text: text.into(), pointer })
    }

    /// Returns the pointer as the client wrote it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the place of the string's body in a payload.
    pub(crate) fn find(&self, payload: &str) -> Option<Range<usize>> {
        self.pointer.find(payload)
    }
}

/// Merge of neighbours that a client requested.
#[derive(Clone, Debug)]
pub(crate) struct Concat {
    pub(crate) target: Arc<ConcatTarget>,
    /// Whether the past that the client requests is merged.
    pub(crate) compacts: bool,
}

impl Concat {
    /// Reads `compact` and `concat` of a request with this policy.
    pub(crate) fn read(
        compact: Option<&str>,
        concat: Option<&str>,
        on_lag: OnLag,
    ) -> Result<Option<Self>, String> {
        if compact.is_some_and(|compact| compact != "concat") {
            return Err("compact can only be concat".to_owned());
        }
        if compact.is_some() && on_lag.may_omit() {
            return Err(
                "compact delivers everything: it can't stand beside on_lag conflate or sample".to_owned()
            );
        }
        match (concat, compact.is_some() || on_lag == OnLag::Concat) {
            (Some(text), true) => {
                let target = Arc::new(ConcatTarget::read(text)?);
                Ok(Some(Self { target, compacts: compact.is_some() }))
            }
            (None, true) => {
                Err("concat is missing: the JSON Pointer of the string to merge, as /payload/delta"
                    .to_owned())
            }
            (Some(_), false) => Err("concat needs compact=concat or on_lag=concat".to_owned()),
            (None, false) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_lies_in_the_payload() {
        for text in ["/payload/delta", "/payload", "/payload/a~1b/0"] {
            assert_eq!(ConcatTarget::read(text).expect("a target").text(), text);
        }
        for text in ["", "/", "delta", "/event_type", "/payloads", "payload/delta", "/payload/~2"] {
            assert!(ConcatTarget::read(text).is_err(), "{text}");
        }
    }
}
