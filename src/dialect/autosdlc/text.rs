//! The text and the ids of AutoSDLC's messages.

use std::borrow::Cow;
use std::io::Read as _;

use flate2::read::GzDecoder;

use crate::dialect::command::Incoming;
use crate::dialect::uuid::Uuid;
use crate::event::Event;

/// Returns the text of a message, decompressed if necessary to at most `bytes_max` bytes. The error describes the
/// fault.
pub(crate) fn text_of(message: Incoming<'_>, bytes_max: usize) -> Result<Cow<'_, str>, String> {
    match message {
        Incoming::Text(text) => Ok(text.into()),
        Incoming::Binary(bytes) if bytes.starts_with(&[0x1f, 0x8b]) => {
            let mut text = String::new();
            let one_more = bytes_max.saturating_add(1) as u64;
            match GzDecoder::new(bytes).take(one_more).read_to_string(&mut text) {
                Ok(len) if len > bytes_max => Err(format!("more than {bytes_max} bytes, uncompressed")),
                Ok(_) => Ok(text.into()),
                Err(error) => Err(format!("gzip: {error}")),
            }
        }
        Incoming::Binary(bytes) => {
            simdutf8::basic::from_utf8(bytes).map(Cow::from).map_err(|_| "neither gzip nor text".to_owned())
        }
    }
}

/// Returns a client's `clientId`.
pub(crate) fn client_id(client: u64) -> String {
    Uuid::of_client(client).to_string()
}

/// Returns the client with this `clientId`.
pub(crate) fn client_of(id: &str) -> Option<u64> {
    Uuid::to_client(id)
}

/// Returns an event's `id`, equal for every client.
pub(crate) fn message_id(event: &Event) -> String {
    Uuid::of_event(event.id()).to_string()
}
