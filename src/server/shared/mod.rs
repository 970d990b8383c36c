//! State that all loops of one server share.

pub(crate) mod history;
pub(crate) mod workers;
