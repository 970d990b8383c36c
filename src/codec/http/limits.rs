//! Limits of a request.

/// How large a request may be.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Bytes of the request line and the headers; over it 431.
    pub max_head_bytes: usize,
    /// How many headers, at most 64; over it 431.
    pub max_headers: usize,
    /// Bytes of the request's target; over it 414.
    pub max_target_bytes: usize,
    /// Bytes of the body; over it 413.
    pub max_body_bytes: u64,
}

/// No limit can be higher: the parsed headers stand on the stack.
pub(super) const HEADERS_MAX: usize = 64;

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_head_bytes: 16 * 1024,
            max_headers: HEADERS_MAX,
            max_target_bytes: 8 * 1024,
            max_body_bytes: 4 * 1024 * 1024,
        }
    }
}
