//! Limits of a request.

/// Size limits of a request.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Maximum size of the request line and the headers, in bytes. A longer head gets 431.
    pub max_head_bytes: usize,
    /// Maximum number of headers, at most 64. More get 431.
    pub max_headers: usize,
    /// Maximum length of the request's target, in bytes. A longer one gets 414.
    pub max_target_bytes: usize,
    /// Maximum length of the body, in bytes. A longer one gets 413.
    pub max_body_bytes: u64,
}

/// Upper bound of `max_headers`: the parsed headers are on the stack.
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
