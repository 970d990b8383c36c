//! The live page, served from the binary. Imports nothing.

/// The whole page: one file, nothing from elsewhere.
pub(crate) const INDEX: &str = include_str!("index.html");
