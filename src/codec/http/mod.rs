//! HTTP/1.1 (RFC 9112): parses a request's head and body, writes a response.
//!
//! Always:
//! - The parser is strict where two readers of one request could disagree about where it ends, and tolerant elsewhere.
//! - Every fault is a [`RequestError`] with the status of the response.
//! - No input makes the parser allocate more than [`HttpLimits`] allows.

mod body;
mod error;
mod head;
mod limits;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use body::BodyDecoder;
pub use error::RequestError;
pub use head::{head_len, parse_request};
pub use limits::HttpLimits;
pub(crate) use request::is_token_byte;
pub use request::{BodyFraming, Method, Request, percent_decode};
pub use response::{date, reason, write_head, write_response};
