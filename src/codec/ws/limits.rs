//! Role of a decoder, and limits of the messages it accepts.

use serde::{Deserialize, Serialize};

/// End of the connection that decodes. It decides how the frames it reads must look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Reads a client's frames: masked.
    #[default]
    Server,
    /// Reads a server's frames: not masked.
    Client,
}

/// Size limits of messages from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WsLimits {
    /// Maximum length of a message in bytes, all fragments together, after decompression. Default: 64 KiB.
    pub max_message_bytes: usize,
    /// Maximum payload of one frame, in bytes. Default: 64 KiB.
    pub max_frame_bytes: usize,
}

impl Default for WsLimits {
    fn default() -> Self {
        Self { max_message_bytes: 64 * 1024, max_frame_bytes: 64 * 1024 }
    }
}
