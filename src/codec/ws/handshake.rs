//! The server's side of the opening handshake (RFC 6455, 4.2).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest as _, Sha1};

use super::error::{UpgradeError, VERSION};
use super::extension::PerMessageDeflate;
use crate::codec::http::{BodyFraming, Method, Request, is_token_byte, write_head};

/// Suffix that every server appends to the key (1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Keys are nonces: the bits beyond 16 bytes are ignored.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Accepted request to open a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Value of the response's `Sec-WebSocket-Accept`.
    pub accept: String,
    /// Subprotocols offered, in the client's order of preference.
    pub protocols: Vec<String>,
    /// Compression of messages, if the client offers it and this build supports it.
    pub deflate: Option<PerMessageDeflate>,
}

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
#[must_use]
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(KEY_SUFFIX);
    STANDARD.encode(hash.finalize())
}

/// Returns whether a request asks for a WebSocket, even by a malformed handshake.
#[must_use]
pub fn is_upgrade(request: &Request) -> bool {
    request.method == Method::Get && request.header_has_token("upgrade", "websocket")
}

/// Checks that `request` opens a WebSocket, and returns what the response needs.
///
/// # Errors
///
/// An [`UpgradeError`] with the status to respond with.
pub fn check_upgrade(request: &Request) -> Result<Upgrade, UpgradeError> {
    if request.method != Method::Get {
        return Err(UpgradeError::NotGet);
    }
    if !request.header_has_token("upgrade", "websocket") {
        return Err(UpgradeError::NoUpgrade);
    }
    if !request.http11 {
        return Err(UpgradeError::OldHttp);
    }
    if !request.header_has_token("connection", "upgrade") {
        return Err(UpgradeError::NoConnectionUpgrade);
    }
    if !request.headers_named("sec-websocket-version").eq([VERSION]) {
        return Err(UpgradeError::BadVersion);
    }
    let mut keys = request.headers_named("sec-websocket-key");
    let key = keys.next().ok_or(UpgradeError::MissingKey)?;
    if keys.next().is_some() || !KEY_BASE64.decode(key).is_ok_and(|bytes| bytes.len() == 16) {
        return Err(UpgradeError::BadKey);
    }
    if request.body != BodyFraming::None {
        return Err(UpgradeError::HasBody);
    }
    let deflate = PerMessageDeflate::negotiate(request)?;
    Ok(Upgrade { accept: accept_key(key), protocols: protocols(request)?, deflate })
}

fn protocols(request: &Request) -> Result<Vec<String>, UpgradeError> {
    let mut protocols = Vec::new();
    for value in request.headers_named("sec-websocket-protocol") {
        // Empty list elements are ignored (RFC 9110, 5.6.1.2).
        let elements = value.split(',').map(|p| p.trim_matches([' ', '\t'])).filter(|p| !p.is_empty());
        for protocol in elements {
            if !protocol.bytes().all(is_token_byte) || protocols.iter().any(|p| p == protocol) {
                return Err(UpgradeError::BadProtocol);
            }
            protocols.push(protocol.to_owned());
        }
    }
    Ok(protocols)
}

/// Appends the response that opens the WebSocket. `protocol` is one of those offered, or `None`. `deflate` is the
/// result of [`check_upgrade`], or `None` to send uncompressed messages.
pub fn write_upgrade(
    out: &mut Vec<u8>,
    accept: &str,
    protocol: Option<&str>,
    deflate: Option<PerMessageDeflate>,
) {
    let extensions = deflate.map(PerMessageDeflate::header);
    let mut headers =
        vec![("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)];
    headers.extend(protocol.map(|protocol| ("Sec-WebSocket-Protocol", protocol)));
    headers.extend(extensions.as_deref().map(|extensions| ("Sec-WebSocket-Extensions", extensions)));
    write_head(out, 101, &headers);
}
