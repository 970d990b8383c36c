//! An echo session, for running the connection code under a WebSocket conformance suite. Not part of the crate's
//! interface.
//!
//! Always: a connection differs from others by its session only. A message is returned in one frame of its kind,
//! compressed if that was agreed on.

use bytes::Bytes;

use crate::codec::deflate::{Deflater, TAIL};
use crate::codec::ws::{OpCode, PerMessageDeflate, encode_deflated, frame};
use crate::dialect::Incoming;

const LEVEL: u32 = 6;

/// Stand-in for a connection's session.
#[derive(Debug)]
pub(crate) struct Echo {
    deflater: Option<Deflater>,
    agreed: Option<PerMessageDeflate>,
}

impl Echo {
    pub(crate) fn new(agreed: Option<PerMessageDeflate>) -> Self {
        Self { deflater: agreed.and_then(|agreed| Deflater::new(agreed.window_bits, LEVEL)), agreed }
    }

    /// Returns the frame that repeats a message.
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
