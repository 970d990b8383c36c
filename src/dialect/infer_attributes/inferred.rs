//! Attributes that a payload can imply, and those that one implies.

use crate::event::{Attribute, EventBuilder};

/// Attributes that payloads of one type may imply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::dialect) struct Implied {
    pub(in crate::dialect) entity: bool,
    pub(in crate::dialect) channel: bool,
    pub(in crate::dialect) stream: bool,
    pub(in crate::dialect) execution: bool,
}

/// Attributes that a payload implies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Inferred {
    pub(super) entity: Option<(&'static str, String)>,
    pub(super) channel: Option<String>,
    pub(super) stream: Option<String>,
    pub(super) execution: Option<String>,
}

impl Inferred {
    /// Sets the attributes that the builder does not name.
    pub(super) fn fill(self, builder: &mut EventBuilder) {
        for (attribute, value) in [
            (Attribute::Channel, self.channel),
            (Attribute::Stream, self.stream),
            (Attribute::Execution, self.execution),
        ] {
            if let Some(value) = value.filter(|_| !builder.names(attribute)) {
                builder.set(attribute, &value);
            }
        }
        let names_entity = builder.names(Attribute::EntityKind) || builder.names(Attribute::EntityId);
        if let Some((kind, id)) = self.entity.filter(|_| !names_entity) {
            builder.set(Attribute::EntityKind, kind);
            builder.set(Attribute::EntityId, &id);
        }
    }
}
