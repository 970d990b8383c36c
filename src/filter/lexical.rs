//! Characters of the text form: which ones need no quotes, and how others are quoted.

use std::fmt;

use crate::event::json::write_string;

pub(super) fn is_bare(c: char) -> bool {
    !(c.is_whitespace()
        || c.is_control()
        || matches!(c, ',' | '"' | '\'' | '=' | '!' | '<' | '>' | '&' | '(' | ')'))
}

pub(super) fn is_bare_key(c: char) -> bool {
    is_bare(c) && c != '.'
}

/// Writes `text` in double quotes, with JSON's escapes where needed.
pub(super) fn write_quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut json = String::with_capacity(text.len() + 2);
    write_string(text, &mut json);
    f.write_str(&json)
}
