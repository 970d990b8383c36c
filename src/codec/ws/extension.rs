//! Negotiates permessage-deflate (RFC 7692, 5 and 7.1).
//!
//! Always:
//! - Parameters that a client demands of the server are granted exactly, or the offer is skipped.
//! - The client is always told not to refer to its earlier messages, so the server keeps no window for any client.

use super::error::UpgradeError;
use crate::codec::deflate::{AVAILABLE, WINDOW_BITS_MAX};
use crate::codec::http::{Request, is_token_byte};

const NAME: &str = "permessage-deflate";

/// Agreement on how the server's messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMessageDeflate {
    /// Whether a message may refer to earlier ones.
    pub context_takeover: bool,
    /// Size of the window in address bits, 8 to 15: it has `1 << window_bits` bytes.
    pub window_bits: u8,
    /// Whether the offer named a window. Then the response must name one too, even of the default size (RFC 7692,
    /// 7.1.2.1).
    pub names_window: bool,
}

impl PerMessageDeflate {
    /// Returns the first acceptable offer, or `None`. A header that is not a list of extensions is an error, because
    /// RFC 6455 (9.1) closes the connection then.
    pub(super) fn negotiate(request: &Request) -> Result<Option<Self>, UpgradeError> {
        let mut taken = None;
        for value in request.headers_named("sec-websocket-extensions") {
            let mut rest = value;
            loop {
                rest = rest.trim_start_matches([' ', '\t', ',']);
                if rest.is_empty() {
                    break;
                }
                let (offer, after) = ExtensionOffer::read(rest).ok_or(UpgradeError::BadExtensions)?;
                rest = after;
                if taken.is_none() && AVAILABLE {
                    taken = offer.accept();
                }
            }
        }
        Ok(taken)
    }

    /// Returns the response's `Sec-WebSocket-Extensions`.
    pub(super) fn header(self) -> String {
        let mut header = format!("{NAME}; client_no_context_takeover");
        if !self.context_takeover {
            header.push_str("; server_no_context_takeover");
        }
        if self.names_window {
            header.push_str("; server_max_window_bits=");
            header.push_str(&self.window_bits.to_string());
        }
        header
    }
}

/// Extension that a client offers: its name, and its parameters in order.
struct ExtensionOffer<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<String>)>,
}

impl<'a> ExtensionOffer<'a> {
    /// Parses one offer, up to the comma after it or the end.
    fn read(text: &'a str) -> Option<(Self, &'a str)> {
        let (name, mut rest) = token(text)?;
        let mut parameters = Vec::new();
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            if rest.is_empty() || rest.starts_with(',') {
                return Some((Self { name, parameters }, rest));
            }
            let (parameter, after) = token(rest.strip_prefix(';')?.trim_start_matches([' ', '\t']))?;
            rest = after.trim_start_matches([' ', '\t']);
            let mut value = None;
            if let Some(after) = rest.strip_prefix('=') {
                let (read, after) = read_value(after.trim_start_matches([' ', '\t']))?;
                value = Some(read);
                rest = after;
            }
            parameters.push((parameter, value));
        }
    }

    /// Returns the agreement if this offer is acceptable: no parameter is unknown, repeated, or has an invalid value
    /// (7.1).
    fn accept(&self) -> Option<PerMessageDeflate> {
        if !self.name.eq_ignore_ascii_case(NAME) {
            return None;
        }
        let mut agreed =
            PerMessageDeflate { context_takeover: true, window_bits: WINDOW_BITS_MAX, names_window: false };
        for (at, (parameter, value)) in self.parameters.iter().enumerate() {
            if self.parameters[..at].iter().any(|(before, _)| before == parameter) {
                return None;
            }
            match (*parameter, value.as_deref()) {
                ("server_no_context_takeover", None) => agreed.context_takeover = false,
                ("server_max_window_bits", Some(bits)) => {
                    agreed.window_bits = window_bits(bits)?;
                    agreed.names_window = true;
                }
                // The response always has the first. The second does not matter: any window can be read.
                ("client_no_context_takeover" | "client_max_window_bits", None) => {}
                ("client_max_window_bits", Some(bits)) => {
                    window_bits(bits)?;
                }
                _ => return None,
            }
        }
        Some(agreed)
    }
}

/// Parses 8 to 15, without leading zeros (7.1.2.1).
fn window_bits(text: &str) -> Option<u8> {
    let bits = text.parse().ok().filter(|bits| (8..=WINDOW_BITS_MAX).contains(bits))?;
    (!text.starts_with(['0', '+'])).then_some(bits)
}

fn token(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| !is_token_byte(byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Parses a token, or a token in quotes.
fn read_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let is_token = !value.is_empty() && value.bytes().all(is_token_byte);
                return is_token.then(|| (value, &quoted[at + 1..]));
            }
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}
