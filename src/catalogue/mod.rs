//! The event types of the systems whose clients Fanwire serves, by system, and makers of some of their events.
//!
//! Imports `event` only. Always: the lists are the documents'; any other name is a type as good as these, and
//! nothing in the server refuses one that is not here, but where its own clients would.

pub mod agentos;
pub mod autosdlc;
pub mod fcc;
pub mod gathering;
pub mod hive;
