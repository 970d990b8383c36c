//! Role of a decoder, and limits of the messages it accepts.

use serde::{Deserialize, Serialize};

/// Which end of the connection decodes, and so what the frames it reads must be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Reads a client's frames: masked.
    #[default]
    Server,
    /// Reads a server's frames: not masked.
    Client,
}

/// How large what a peer sends may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WsLimits {
    /// A message, all fragments together, in bytes, and what a compressed one expands to. Default 64 KiB.
    pub max_message_bytes: usize,
    /// The payload of one frame, in bytes. Default 64 KiB.
    pub max_frame_bytes: usize,
}

impl Default for WsLimits {
    fn default() -> Self {
        Self { max_message_bytes: 64 * 1024, max_frame_bytes: 64 * 1024 }
    }
}
