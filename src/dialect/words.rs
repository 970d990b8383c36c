//! Shortens and splits clients' words.

/// Shortens a client's word for a reply to that client.
pub(crate) fn shortened(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(at, _)| &text[..at])
}

/// Splits `kind:id`, as in query strings and messages; a kind alone stands for every id.
pub(crate) fn split_entity(text: &str) -> (String, String) {
    let (kind, id) = text.split_once(':').unwrap_or((text, "**"));
    (kind.to_owned(), id.to_owned())
}
