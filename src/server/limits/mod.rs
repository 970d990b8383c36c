//! Limits that hold for clients: rates, bytes of bodies, and the work of one turn.

pub(crate) mod bodies;
pub(crate) mod budget;
pub(crate) mod client_address;
pub(crate) mod rates;
