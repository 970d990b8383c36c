//! Faults of a request: one variant for each, with the status of the response.

use std::fmt;

use super::limits::HttpLimits;

/// Reason why a request was refused. The connection must be closed, because the start of the next request is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The bytes are not a request line.
    NotHttp,
    /// A line ends without a carriage return.
    BareLineFeed,
    /// A carriage return without a line feed.
    BareCarriageReturn,
    /// A control character in the head.
    ControlCharacter,
    /// A header is malformed: no colon, no name, a space before the colon, a folded line.
    BadHeader,
    /// The target is neither a path nor a URL.
    BadTarget,
    /// The head is too long.
    HeadTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// There are too many headers.
    TooManyHeaders {
        /// Headers allowed.
        limit: usize,
    },
    /// The target is too long.
    TargetTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// The version is neither HTTP/1.1 nor 1.0.
    Version,
    /// HTTP/1.1 without a Host.
    NoHost,
    /// More than one Host.
    SeveralHosts,
    /// A Host that is not a name or an address.
    BadHost,
    /// Two lengths that may differ.
    TwoLengths,
    /// Content-Length is not a number.
    BadLength,
    /// The request must have a body with a length.
    LengthRequired,
    /// A transfer encoding other than chunked.
    TransferEncoding,
    /// An expectation other than 100-continue.
    Expectation,
    /// The body is too long.
    BodyTooLong {
        /// Bytes allowed.
        limit: u64,
    },
    /// A chunk has no valid size, or is longer than its size.
    BadChunk,
    /// A chunk's extensions, or the trailers, are too long.
    ChunkLineTooLong {
        /// Bytes allowed.
        limit: usize,
    },
}

impl RequestError {
    pub(super) fn from_parser(error: httparse::Error, limits: &HttpLimits) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooManyHeaders { limit: limits.max_headers },
            httparse::Error::HeaderName | httparse::Error::HeaderValue => Self::BadHeader,
            httparse::Error::Version
            | httparse::Error::Token
            | httparse::Error::NewLine
            | httparse::Error::Status => Self::NotHttp,
        }
    }

    /// Returns the status of the response.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NotHttp
            | Self::BareLineFeed
            | Self::BareCarriageReturn
            | Self::ControlCharacter
            | Self::BadHeader
            | Self::BadTarget
            | Self::NoHost
            | Self::SeveralHosts
            | Self::BadHost
            | Self::TwoLengths
            | Self::BadLength
            | Self::BadChunk => 400,
            Self::LengthRequired => 411,
            Self::BodyTooLong { .. } => 413,
            Self::TargetTooLong { .. } => 414,
            Self::Expectation => 417,
            Self::HeadTooLong { .. } | Self::TooManyHeaders { .. } | Self::ChunkLineTooLong { .. } => 431,
            Self::TransferEncoding => 501,
            Self::Version => 505,
        }
    }

    /// Returns a short fixed name, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotHttp => "not_http",
            Self::BareLineFeed => "bare_line_feed",
            Self::BareCarriageReturn => "bare_carriage_return",
            Self::ControlCharacter => "control_character",
            Self::BadHeader => "bad_header",
            Self::BadTarget => "bad_target",
            Self::HeadTooLong { .. } => "head_too_long",
            Self::TooManyHeaders { .. } => "too_many_headers",
            Self::TargetTooLong { .. } => "target_too_long",
            Self::Version => "http_version",
            Self::NoHost => "no_host",
            Self::SeveralHosts => "several_hosts",
            Self::BadHost => "bad_host",
            Self::TwoLengths => "two_lengths",
            Self::BadLength => "bad_length",
            Self::LengthRequired => "length_required",
            Self::TransferEncoding => "transfer_encoding",
            Self::Expectation => "expectation",
            Self::BodyTooLong { .. } => "body_too_long",
            Self::BadChunk => "bad_chunk",
            Self::ChunkLineTooLong { .. } => "chunk_line_too_long",
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHttp => f.write_str("not an HTTP/1.1 request"),
            Self::BareLineFeed => f.write_str("a line ends without a carriage return"),
            Self::BareCarriageReturn => f.write_str("a carriage return without a line feed"),
            Self::ControlCharacter => f.write_str("control character in the head"),
            Self::BadHeader => f.write_str("malformed header"),
            Self::BadTarget => f.write_str("the target is neither a path nor a URL"),
            Self::HeadTooLong { limit } => write!(f, "head is over the limit of {limit} bytes"),
            Self::TooManyHeaders { limit } => write!(f, "more headers than the limit of {limit}"),
            Self::TargetTooLong { limit } => write!(f, "target is over the limit of {limit} bytes"),
            Self::Version => f.write_str("only HTTP/1.1 and HTTP/1.0 are spoken here"),
            Self::NoHost => f.write_str("the Host header is missing"),
            Self::SeveralHosts => f.write_str("more than one Host header"),
            Self::BadHost => {
                f.write_str("the Host header is no host: a name or an address, and perhaps a port")
            }
            Self::TwoLengths => f.write_str("two lengths of one body"),
            Self::BadLength => f.write_str("Content-Length is not a number"),
            Self::LengthRequired => f.write_str("send Content-Length or Transfer-Encoding: chunked"),
            Self::TransferEncoding => {
                f.write_str("the only transfer encoding taken is chunked, over HTTP/1.1")
            }
            Self::Expectation => f.write_str("the only expectation met is 100-continue"),
            Self::BodyTooLong { limit } => write!(f, "body is over the limit of {limit} bytes"),
            Self::BadChunk => f.write_str("malformed chunk"),
            Self::ChunkLineTooLong { limit } => {
                write!(f, "chunk extensions or trailers are over the limit of {limit} bytes")
            }
        }
    }
}

impl std::error::Error for RequestError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_own_word_and_names_its_limit() {
        use RequestError as E;
        let all = [
            E::NotHttp,
            E::BareLineFeed,
            E::BareCarriageReturn,
            E::ControlCharacter,
            E::BadHeader,
            E::BadTarget,
            E::HeadTooLong { limit: 77 },
            E::TooManyHeaders { limit: 77 },
            E::TargetTooLong { limit: 77 },
            E::Version,
            E::NoHost,
            E::SeveralHosts,
            E::TwoLengths,
            E::BadLength,
            E::LengthRequired,
            E::TransferEncoding,
            E::Expectation,
            E::BodyTooLong { limit: 77 },
            E::BadChunk,
            E::ChunkLineTooLong { limit: 77 },
        ];
        let mut labels: Vec<_> = all.iter().map(RequestError::label).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), all.len());
        for error in all {
            assert!((400..=505).contains(&error.status()));
            assert_eq!(format!("{error:?}").contains("77"), error.to_string().contains("77"), "{error}");
        }
    }
}
