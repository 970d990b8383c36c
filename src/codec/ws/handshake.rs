//! The upgrade.

use std::fmt;

use crate::codec::http::{Method, Request, write_head};

#[derive(Debug)]
pub struct Upgrade {
    pub accept: String,
    pub protocols: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeError {
    NotGet,
    NoUpgrade,
    BadVersion,
    BadKey,
}

impl UpgradeError {
    pub fn status(self) -> u16 {
        match self {
            Self::BadVersion | Self::NoUpgrade => 426,
            _ => 400,
        }
    }
    pub fn label(self) -> &'static str {
        "upgrade"
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

pub fn check_upgrade(request: &Request) -> Result<Upgrade, UpgradeError> {
    if request.method != Method::Get {
        return Err(UpgradeError::NotGet);
    }
    if !request.header_has_token("upgrade", "websocket") || !request.header_has_token("connection", "upgrade")
    {
        return Err(UpgradeError::NoUpgrade);
    }
    if request.header("sec-websocket-version") != Some("13") {
        return Err(UpgradeError::BadVersion);
    }
    let key = request.header("sec-websocket-key").filter(|k| k.len() == 24).ok_or(UpgradeError::BadKey)?;
    let protocols = request.header("sec-websocket-protocol").unwrap_or_default();
    Ok(Upgrade {
        accept: tungstenite::handshake::derive_accept_key(key.as_bytes()),
        protocols: protocols.split(',').map(|p| p.trim().to_owned()).collect(),
    })
}

pub fn write_upgrade(out: &mut Vec<u8>, accept: &str, protocol: Option<&str>) {
    let mut headers =
        vec![("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)];
    headers.extend(protocol.map(|p| ("Sec-WebSocket-Protocol", p)));
    write_head(out, 101, &headers);
}
