//! permessage-deflate: which of a client's offers is taken, and how (RFC 7692, 5 and 7.1). Imports `codec::http`
//! and `codec::deflate`.
//!
//! Always: what a client asks of the server's side is granted to the letter or the offer is passed over; the
//! client is always told not to look back at its earlier messages, so no window is kept for any client.

use super::error::UpgradeError;
use crate::codec::deflate::{AVAILABLE, WINDOW_BITS_MAX};
use crate::codec::http::{Request, is_token_byte};

const NAME: &str = "permessage-deflate";

/// What was agreed on for the server's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMessageDeflate {
    /// Whether a message may look back at those before it.
    pub context_takeover: bool,
    /// How far: the window has `1 << window_bits` bytes; 8 to 15.
    pub window_bits: u8,
    /// Whether the offer named a window: then the answer has to (RFC 7692, 7.1.2.1), the default size too.
    pub names_window: bool,
}

impl PerMessageDeflate {
    /// The first offer that can be taken; `None` where there is none. A header that is no list of extensions is
    /// an error, for RFC 6455 (9.1) ends the connection there.
    pub(super) fn negotiate(request: &Request) -> Result<Option<Self>, UpgradeError> {
        let mut taken = None;
        for value in request.headers_named("sec-websocket-extensions") {
            let mut rest = value;
            loop {
                rest = rest.trim_start_matches([' ', '\t', ',']);
                if rest.is_empty() {
                    break;
                }
                let (offer, behind) = Offer::read(rest).ok_or(UpgradeError::BadExtensions)?;
                rest = behind;
                if taken.is_none() && AVAILABLE {
                    taken = offer.accept();
                }
            }
        }
        Ok(taken)
    }

    /// The answer's `Sec-WebSocket-Extensions`.
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

/// An extension as offered: its name, and its parameters in order.
struct Offer<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<String>)>,
}

impl<'a> Offer<'a> {
    /// Reads one offer, up to the comma behind it or the end.
    fn read(text: &'a str) -> Option<(Self, &'a str)> {
        let (name, mut rest) = token(text)?;
        let mut parameters = Vec::new();
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            if rest.is_empty() || rest.starts_with(',') {
                return Some((Self { name, parameters }, rest));
            }
            let (parameter, behind) = token(rest.strip_prefix(';')?.trim_start_matches([' ', '\t']))?;
            rest = behind.trim_start_matches([' ', '\t']);
            let mut value = None;
            if let Some(behind) = rest.strip_prefix('=') {
                let (read, behind) = read_value(behind.trim_start_matches([' ', '\t']))?;
                value = Some(read);
                rest = behind;
            }
            parameters.push((parameter, value));
        }
    }

    /// What is agreed on where this offer is taken; `None` where it can't be (7.1: a parameter that is unknown,
    /// comes twice, or has a value that it can't have).
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
                // What it may do is told anyway, or is no matter to us: any window can be read.
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

/// 8 to 15, without zeros before it (7.1.2.1).
fn window_bits(text: &str) -> Option<u8> {
    let bits = text.parse().ok().filter(|bits| (8..=WINDOW_BITS_MAX).contains(bits))?;
    (!text.starts_with(['0', '+'])).then_some(bits)
}

fn token(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| !is_token_byte(byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token, or one in quotes.
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
