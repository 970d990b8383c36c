//! Codecs between bytes and structs: HTTP, WebSocket, Server-Sent Events, DEFLATE. No events, no I/O, no clock.

pub mod deflate;
pub mod http;
pub(crate) mod portable;
pub mod sse;
pub mod ws;
