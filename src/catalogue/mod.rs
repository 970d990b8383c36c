//! Event types of the systems that the server has dialects for, and makers of some of their events.
//!
//! Invariant: the lists are the documents'. Any other name may also be an event type; only a system's own clients may
//! refuse it.

pub mod agentos;
pub mod autosdlc;
pub mod fcc;
pub mod gathering;
pub mod hive;
