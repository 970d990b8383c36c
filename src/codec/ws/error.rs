//! Errors of a connection: one variant for each clause of RFC 6455 that a peer can break.

use std::fmt;

/// WebSocket version this server speaks (RFC 6455, 4.2.1).
pub(super) const VERSION: &str = "13";

/// Violation after which a connection's frames can't be read further. The server sends a close frame with
/// [`close_code`](Self::close_code) and closes the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A reserved bit without an extension that gives it a meaning (5.2).
    ReservedBits,
    /// A reserved opcode (5.2).
    ReservedOpcode(u8),
    /// A client's frame that is not masked (5.1).
    NotMasked,
    /// A server's frame that is masked (5.1).
    Masked,
    /// A control frame without FIN (5.5).
    FragmentedControl,
    /// A control frame with more than 125 bytes (5.5).
    LongControl,
    /// A length in more bytes than necessary (5.2).
    NonMinimalLength,
    /// A 64-bit length with its top bit set (5.2).
    LengthTopBit,
    /// A continuation with nothing to continue (5.4).
    UnexpectedContinuation,
    /// A text or binary frame before the end of a fragmented message (5.4).
    ExpectedContinuation,
    /// Text that is not UTF-8 (8.1).
    InvalidUtf8,
    /// A compressed message that can't be decompressed (RFC 7692, 7.2.2).
    BadDeflate,
    /// A close frame with one byte, where a code has two (5.5.1).
    ShortClose,
    /// A close code that no peer may send (7.4).
    InvalidCloseCode(u16),
    /// A close reason that is not UTF-8 (5.5.1).
    InvalidCloseReason,
    /// A frame longer than `max_frame_bytes`.
    FrameTooLong {
        /// Length in the frame's header, in bytes.
        len: u64,
        /// Limit in bytes.
        max: usize,
    },
    /// A message longer than `max_message_bytes`.
    MessageTooLong {
        /// Length of the message with the refused frame, in bytes.
        len: u64,
        /// Limit in bytes.
        max: usize,
    },
    /// A compressed message that is longer than `max_message_bytes` when decompressed.
    ExpandsTooFar {
        /// Limit in bytes.
        max: usize,
    },
}

impl ProtocolError {
    /// One value of each variant, for tests and for registering metrics.
    pub const EVERY: &[Self] = &[
        Self::ReservedBits,
        Self::ReservedOpcode(3),
        Self::NotMasked,
        Self::Masked,
        Self::FragmentedControl,
        Self::LongControl,
        Self::NonMinimalLength,
        Self::LengthTopBit,
        Self::UnexpectedContinuation,
        Self::ExpectedContinuation,
        Self::InvalidUtf8,
        Self::BadDeflate,
        Self::ShortClose,
        Self::InvalidCloseCode(0),
        Self::InvalidCloseReason,
        Self::FrameTooLong { len: 0, max: 0 },
        Self::MessageTooLong { len: 0, max: 0 },
        Self::ExpandsTooFar { max: 0 },
    ];

    /// Returns the code to close with (7.4.1).
    #[must_use]
    pub const fn close_code(&self) -> u16 {
        match self {
            Self::InvalidUtf8 | Self::InvalidCloseReason | Self::BadDeflate => 1007,
            Self::FrameTooLong { .. } | Self::MessageTooLong { .. } | Self::ExpandsTooFar { .. } => 1009,
            _ => 1002,
        }
    }

    /// Returns a short fixed name, for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved_bits",
            Self::ReservedOpcode(_) => "reserved_opcode",
            Self::NotMasked => "not_masked",
            Self::Masked => "masked",
            Self::FragmentedControl => "fragmented_control",
            Self::LongControl => "long_control",
            Self::NonMinimalLength => "non_minimal_length",
            Self::LengthTopBit => "length_top_bit",
            Self::UnexpectedContinuation => "unexpected_continuation",
            Self::ExpectedContinuation => "expected_continuation",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::BadDeflate => "bad_deflate",
            Self::ShortClose => "short_close",
            Self::InvalidCloseCode(_) => "invalid_close_code",
            Self::InvalidCloseReason => "invalid_close_reason",
            Self::FrameTooLong { .. } => "frame_too_long",
            Self::MessageTooLong { .. } => "message_too_long",
            Self::ExpandsTooFar { .. } => "expands_too_far",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBits => f.write_str("reserved bit set without an extension"),
            Self::ReservedOpcode(code) => write!(f, "opcode {code} is reserved"),
            Self::NotMasked => f.write_str("frames from a client must be masked"),
            Self::Masked => f.write_str("frames from a server must not be masked"),
            Self::FragmentedControl => f.write_str("control frames must not be fragmented"),
            Self::LongControl => f.write_str("control frames hold at most 125 bytes"),
            Self::NonMinimalLength => f.write_str("length in more bytes than necessary"),
            Self::LengthTopBit => f.write_str("64-bit length with its top bit set"),
            Self::UnexpectedContinuation => f.write_str("continuation frame with no message to continue"),
            Self::ExpectedContinuation => f.write_str("new message before the fragmented one ended"),
            Self::InvalidUtf8 => f.write_str("text is not UTF-8"),
            Self::BadDeflate => f.write_str("compressed message is not deflate data"),
            Self::ShortClose => f.write_str("close payload of one byte"),
            Self::InvalidCloseCode(code) => write!(f, "close code {code} must not be sent"),
            Self::InvalidCloseReason => f.write_str("close reason is not UTF-8"),
            Self::FrameTooLong { len, max } => {
                write!(f, "frame of {len} bytes is over max_frame_bytes {max}")
            }
            Self::MessageTooLong { len, max } => {
                write!(f, "message of {len} bytes is over max_message_bytes {max}")
            }
            Self::ExpandsTooFar { max } => {
                write!(f, "compressed message expands to more than max_message_bytes {max}")
            }
        }
    }
}

impl std::error::Error for ProtocolError {}

/// Reason why a request can't open a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The method is not `GET`.
    NotGet,
    /// The request is HTTP/1.0.
    OldHttp,
    /// `Upgrade` does not name `websocket`.
    NoUpgrade,
    /// `Connection` does not name `upgrade`.
    NoConnectionUpgrade,
    /// `Sec-WebSocket-Version` is missing or not 13.
    BadVersion,
    /// No `Sec-WebSocket-Key`.
    MissingKey,
    /// The key is not 16 bytes in base64, or there are several.
    BadKey,
    /// `Sec-WebSocket-Protocol` is not a list of tokens, or names one twice.
    BadProtocol,
    /// `Sec-WebSocket-Extensions` is not a list of extensions.
    BadExtensions,
    /// The request has a body. Its bytes would be read as frames.
    HasBody,
}

impl UpgradeError {
    /// One value of each variant, for tests and for registering metrics.
    pub const EVERY: &[Self] = &[
        Self::NotGet,
        Self::OldHttp,
        Self::NoUpgrade,
        Self::NoConnectionUpgrade,
        Self::BadVersion,
        Self::MissingKey,
        Self::BadKey,
        Self::BadProtocol,
        Self::BadExtensions,
        Self::HasBody,
    ];

    /// Returns the status of the response.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NotGet => 405,
            Self::NoUpgrade | Self::BadVersion => 426,
            _ => 400,
        }
    }

    /// Returns a short fixed name, for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotGet => "not_get",
            Self::OldHttp => "old_http",
            Self::NoUpgrade => "no_upgrade",
            Self::NoConnectionUpgrade => "no_connection_upgrade",
            Self::BadVersion => "bad_version",
            Self::MissingKey => "missing_key",
            Self::BadKey => "bad_key",
            Self::BadProtocol => "bad_protocol",
            Self::BadExtensions => "bad_extensions",
            Self::HasBody => "has_body",
        }
    }

    /// Returns headers of the response in addition to those of every error: they state the requirements of a correct request.
    /// `Upgrade` is a hop-by-hop header, so the caller must also name it in `Connection`.
    #[must_use]
    pub const fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::NotGet => &[("Allow", "GET")],
            Self::NoUpgrade => &[("Upgrade", "websocket")],
            Self::BadVersion => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)],
            _ => &[],
        }
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotGet => "a WebSocket is opened with GET",
            Self::OldHttp => "a WebSocket is opened with HTTP/1.1",
            Self::NoUpgrade => "this path speaks WebSocket: send `Upgrade: websocket`",
            Self::NoConnectionUpgrade => "`Connection` does not name `upgrade`",
            Self::BadVersion => "the only Sec-WebSocket-Version served is 13",
            Self::MissingKey => "Sec-WebSocket-Key is missing",
            Self::BadKey => "Sec-WebSocket-Key is not one base64 value of 16 bytes",
            Self::BadProtocol => "Sec-WebSocket-Protocol is not a list of different tokens",
            Self::BadExtensions => "Sec-WebSocket-Extensions is not a list of extensions",
            Self::HasBody => "a WebSocket is opened without a body",
        })
    }
}

impl std::error::Error for UpgradeError {}
