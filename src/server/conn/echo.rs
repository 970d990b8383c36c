//! A server that says what it hears: the connection code under a conformance suite, which can't know what an
//! event is.
//!
//! Imports `codec`, `dialect` and its siblings. No part of the crate's interface. Always: a connection is the same as any
//! other but for its session; a message comes back in one frame of its kind, compressed where that was agreed on.

use bytes::Bytes;

use crate::bus::Bus;
use crate::codec::deflate::{Deflater, TAIL};
use crate::codec::ws::{OpCode, PerMessageDeflate, encode_deflated, frame};
use crate::dialect::Incoming;
use crate::server::{Server, ServerConfig, ServerError, ServerHandle};

/// The longest message that the suite sends is 16 MiB.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

const LEVEL: u32 = 6;

/// One connection's side of the conversation.
#[derive(Debug)]
pub(crate) struct Echo {
    deflater: Option<Deflater>,
    agreed: Option<PerMessageDeflate>,
}

impl Echo {
    pub(crate) fn new(agreed: Option<PerMessageDeflate>) -> Self {
        Self { deflater: agreed.and_then(|agreed| Deflater::new(agreed.window_bits, LEVEL)), agreed }
    }

    /// What comes back.
    pub(crate) fn answer(&mut self, message: Incoming<'_>) -> Bytes {
        let (op, payload) = match message {
            Incoming::Text(text) => (OpCode::Text, text.as_bytes()),
            Incoming::Binary(bytes) => (OpCode::Binary, bytes),
        };
        let (Some(deflater), Some(agreed)) = (&mut self.deflater, self.agreed) else {
            return frame(op, payload);
        };
        if payload.is_empty() {
            return frame(op, payload);
        }
        if !agreed.context_takeover {
            deflater.start_afresh();
        }
        let mut data = Vec::new();
        deflater.block(payload, &mut data);
        data.truncate(data.len() - TAIL.len());
        let mut out = Vec::with_capacity(data.len() + 10);
        encode_deflated(&mut out, op, &data);
        out.into()
    }
}

/// Serves WebSockets at every path of this address, and says back what comes.
pub fn serve(listen: &str, deflate: bool) -> Result<ServerHandle, ServerError> {
    let config = ServerConfig {
        echo: true,
        compression: deflate,
        max_message_bytes: MESSAGE_BYTES_MAX,
        ..ServerConfig::default()
    };
    Server::builder(&Bus::new()).listen(listen).config(config).spawn()
}
