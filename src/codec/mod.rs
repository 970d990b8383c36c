//! Bytes to structs and back: stand-in behind the final interface.
#![allow(unreachable_pub, missing_docs, missing_debug_implementations, dead_code)]

pub mod deflate;
pub mod http;
pub(crate) mod portable;
pub mod sse;
pub mod ws;
