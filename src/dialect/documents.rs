//! The schemas of the dialects' own documents.

use serde_json::Value;

#[cfg(feature = "dialects")]
use super::autosdlc::MessageValidator;

/// Validators of the documents that the server is configured to enforce.
#[derive(Debug, Default)]
pub(crate) struct DocumentSchemas {
    #[cfg(feature = "dialects")]
    pub(crate) autosdlc: Option<Box<MessageValidator>>,
}

impl DocumentSchemas {
    /// Checks the payload of an event if a document defines its type; other types pass. The error lists all faults.
    pub(crate) fn check_event(&self, event_type: &str, payload: &Value) -> Result<(), Vec<String>> {
        #[cfg(feature = "dialects")]
        if let Some(validator) = &self.autosdlc {
            return validator.validate_data(event_type, payload);
        }
        let _ = (event_type, payload);
        Ok(())
    }

    /// Returns whether a document has this event type.
    pub(crate) fn knows(&self, event_type: &str) -> bool {
        #[cfg(feature = "dialects")]
        return self.autosdlc.is_some() && crate::catalogue::autosdlc::event_type(event_type).is_some();
        #[cfg(not(feature = "dialects"))]
        {
            let _ = event_type;
            false
        }
    }
}
