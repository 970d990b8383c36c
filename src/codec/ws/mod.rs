//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692): the handshake's server side, frames out, messages in.
//! Imports `codec::http` and `codec::deflate` only.
//!
//! Always: a message wholly inside one read is handed on where it lies, unmasked in place, without a copy;
//! a [`Decoder`] holds a buffer only while a frame or message is split.

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
pub use frame::{FrameHeader, OpCode, encode, encode_deflated, frame, header, payload_of, unmask};
pub use handshake::{Upgrade, accept_key, check_upgrade, write_upgrade};
pub use limits::{Role, WsLimits};
