//! The opening handshake, server's side (RFC 6455, 4.2). Imports `codec::http`, and its sibling `extension`.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest as _, Sha1};

use super::error::{UpgradeError, VERSION};
use super::extension::PerMessageDeflate;
use crate::codec::http::{BodyFraming, Method, Request, is_token_byte, write_head};

/// What every server appends to the key (1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Keys are nonces: nobody reads the bits that do not fit into 16 bytes.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// A request that may become a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The answer's `Sec-WebSocket-Accept`.
    pub accept: String,
    /// The subprotocols offered, the client's favourite first.
    pub protocols: Vec<String>,
    /// How messages may be compressed, where the client offers it and this build can; `None` otherwise.
    pub deflate: Option<PerMessageDeflate>,
}

/// The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(KEY_SUFFIX);
    STANDARD.encode(hash.finalize())
}

/// Whether `request` opens a WebSocket, and with what answer.
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
        // Empty elements of a list are no elements (RFC 9110, 5.6.1.2).
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

/// Appends the answer that makes the connection a WebSocket. `protocol` is one of those offered, or none;
/// `deflate` is what [`check_upgrade`] found, or none.
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
