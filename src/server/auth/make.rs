//! Creation of tokens and API keys, for `fanwire token`, for programs that issue them, and for tests.
//!
//! Invariant: a private key is shown nowhere.

use std::fmt;

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::claims::Claims;
use super::config::Secret;
use super::{api_keys, jwt, ticket};

/// Key that signs tokens: a secret that the server has too, or a private key to the server's public key.
#[derive(Clone)]
pub struct SigningKey {
    algorithm: Algorithm,
    key: EncodingKey,
    id: Option<String>,
}

/// Error of a key that can't sign.
#[derive(Debug)]
pub struct SigningKeyError(&'static str);

impl fmt::Display for SigningKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for SigningKeyError {}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.algorithm)
    }
}

impl SigningKey {
    /// Returns a key that signs with HS256 and this secret.
    #[must_use]
    pub fn hs256(secret: &Secret) -> Self {
        Self::of(Algorithm::HS256, EncodingKey::from_secret(secret.bytes()))
    }

    /// Returns a key that signs with HS384 and this secret.
    #[must_use]
    pub fn hs384(secret: &Secret) -> Self {
        Self::of(Algorithm::HS384, EncodingKey::from_secret(secret.bytes()))
    }

    /// Returns a key that signs with HS512 and this secret.
    #[must_use]
    pub fn hs512(secret: &Secret) -> Self {
        Self::of(Algorithm::HS512, EncodingKey::from_secret(secret.bytes()))
    }

    /// Returns a key that signs with a private key in PEM: Ed25519 (EdDSA), P-256 (ES256) and P-384 (ES384) in PKCS#8, RSA
    /// (RS256) in PKCS#1 or PKCS#8.
    ///
    /// # Errors
    ///
    /// Fails if the text is no private key of these kinds.
    pub fn pem(pem: &[u8]) -> Result<Self, SigningKeyError> {
        let bad = SigningKeyError("not a private key in PEM, of Ed25519, P-256 or P-384 (PKCS#8), or of RSA");
        if !pem.windows(11).any(|window| window == b"PRIVATE KEY") {
            return Err(bad);
        }
        jwt::choose_provider();
        let candidates = [
            (Algorithm::EdDSA, EncodingKey::from_ed_pem(pem)),
            (Algorithm::ES256, EncodingKey::from_ec_pem(pem)),
            (Algorithm::ES384, EncodingKey::from_ec_pem(pem)),
            (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)),
        ];
        let usable = |(algorithm, key): (Algorithm, jsonwebtoken::errors::Result<EncodingKey>)| {
            let key = Self::of(algorithm, key.ok()?);
            key.sign(&Claims::default()).is_ok().then_some(key)
        };
        candidates.into_iter().find_map(usable).ok_or(bad)
    }

    fn of(algorithm: Algorithm, key: EncodingKey) -> Self {
        jwt::choose_provider();
        Self { algorithm, key, id: None }
    }

    /// Sets the key's id in its tokens (`kid`), for servers with several keys.
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Returns the algorithm's name, as `HS256`.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.algorithm {
            Algorithm::HS384 => "HS384",
            Algorithm::HS512 => "HS512",
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::RS256 => "RS256",
            Algorithm::EdDSA => "EdDSA",
            _ => "HS256",
        }
    }

    /// Returns a signed token with these claims.
    ///
    /// # Errors
    ///
    /// Fails if the key cannot sign, as an RSA key that is too short.
    pub fn sign(&self, claims: &Claims) -> Result<String, SigningKeyError> {
        let header = Header { kid: self.id.clone(), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|_| SigningKeyError("the key does not sign"))
    }
}

/// API key: a long random text for its holder, and a line for the server's file.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    key: String,
    line: String,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl ApiKey {
    /// Creates a key with these rights. `id` names it in the file, and is its subject if the claims have none. Returns `None` if
    /// the system provides no random bits.
    #[must_use]
    pub fn new(id: &str, claims: &Claims) -> Option<Self> {
        let key = format!("fwk_{}", ticket::random_text()?);
        let mut line = serde_json::Map::new();
        line.insert("id".to_owned(), id.into());
        line.insert("hash".to_owned(), api_keys::hash_text(&key).into());
        if let Ok(serde_json::Value::Object(claims)) = serde_json::to_value(claims) {
            line.extend(claims);
        }
        Some(Self { key, line: serde_json::Value::Object(line).to_string() })
    }

    /// Returns a random id, for example for a token, or `None` if the system provides no random bits.
    #[must_use]
    pub fn random_id() -> Option<String> {
        let mut text = ticket::random_text()?;
        text.truncate(22);
        Some(text)
    }

    /// Returns the text that the holder sends as a token. The server does not store it, so it can be handed over only once.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the line for `auth.api_keys_file`.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }
}
