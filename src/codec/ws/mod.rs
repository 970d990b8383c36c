//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692): the server's side of the handshake, an encoder of frames, a
//! decoder of messages.
//!
//! Always:
//! - A message that lies in one read is unmasked in place and returned without a copy.
//! - A [`Decoder`] holds a buffer only while a frame or message is split.

mod close;
mod decoder;
mod error;
mod extension;
mod frame;
mod handshake;
mod limits;
#[cfg(test)]
mod tests;
mod utf8;

pub use close::{CloseFrame, close_frame, is_valid_close_code};
pub use decoder::{Decoder, WsMessage};
pub use error::{ProtocolError, UpgradeError};
pub use extension::PerMessageDeflate;
pub(crate) use frame::PING;
pub use frame::{FrameHeader, OpCode, encode, encode_deflated, frame, header, payload_of, unmask};
pub use handshake::{Upgrade, accept_key, check_upgrade, is_upgrade, write_upgrade};
pub use limits::{Role, WsLimits};
