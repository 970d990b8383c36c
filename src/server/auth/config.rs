//! What an operator says about authentication: keys, files, times. Imports its siblings only.
//!
//! Always: a secret shows itself nowhere but where it is used; the default is no authentication.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::claims::{Claims, PublishRight};

/// A text that is not shown: its `Debug` says only that there is one.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes it in.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for settings to be written down.
    #[cfg(feature = "config-file")]
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<T: Into<Box<str>>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// Who may come in, and with what rights. With nothing set there is no authentication: then everybody may read
/// and publish, and the server listens on this machine only unless it is told `insecure`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthConfig {
    /// `auth.jwt`: the keys that sign tokens, and what a token must say.
    pub jwt: JwtConfig,
    /// `auth.api_keys_file`: a line of JSON for each API key, as `fanwire token --api-key` makes them. None.
    pub api_keys_file: Option<PathBuf>,
    /// `auth.revoked_file`: a line of JSON for each token or subject that is refused though its token is good:
    /// `{"jti":"…"}` or `{"sub":"…"}`. None.
    pub revoked_file: Option<PathBuf>,
    /// `auth.anonymous`: what clients without a token may see and publish. Nothing: they are refused.
    pub anonymous: AnonymousConfig,
    /// `auth.cookie`: the cookie that may hold a token. It counts for requests of the server's own origin and
    /// of those in `cors_origins`. `auth-token`.
    pub cookie: String,
    /// `auth.max_token_bytes`: longer tokens are refused unread. 8,192.
    pub max_token_bytes: usize,
    /// `auth.ticket_ttl`: how long a ticket of `POST /ticket` is good. 30 s.
    pub ticket_ttl: Duration,
    /// `auth.max_tickets`: tickets that are out and not used; beyond, 503. One subject may have a tenth of
    /// them; beyond, 429. 10,000.
    pub max_tickets: usize,
    /// `auth.max_revocations`: tokens and subjects revoked by `POST /api/revoke`; beyond, 507: a revocation
    /// is never forgotten for another. 10,000.
    pub max_revocations: usize,
}

/// The rights of clients that show no token. As in [`Claims`], but an empty list is as an absent one; with all empty
/// they have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnonymousConfig {
    /// `auth.anonymous.streams`: streams they may see. None.
    pub streams: Vec<String>,
    /// `auth.anonymous.types`: types they may see. None.
    pub types: Vec<String>,
    /// `auth.anonymous.channels`: channels they may see. None.
    pub channels: Vec<String>,
    /// `auth.anonymous.entities`: entities they may see, as `kind:id`. None.
    pub entities: Vec<String>,
    /// `auth.anonymous.filter`: a filter that all they may see must match, too. None.
    pub filter: String,
    /// `auth.anonymous.publish`: types they may publish; `*` is every type. None.
    pub publish: Vec<String>,
}

impl AnonymousConfig {
    /// `None`: clients without a token are refused.
    pub(super) fn claims(&self) -> Option<Claims> {
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let mut claims = Claims {
            streams: some(&self.streams),
            types: some(&self.types),
            channels: some(&self.channels),
            entities: some(&self.entities),
            filter: (!self.filter.is_empty()).then(|| self.filter.clone()),
            ..Claims::default()
        };
        if !self.publish.is_empty() {
            claims.publish = PublishRight::Types(self.publish.clone());
        }
        (claims != Claims::default()).then_some(claims)
    }
}

/// How JSON Web Tokens are checked. Each key has one algorithm, whatever a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwtConfig {
    /// `auth.jwt.hs256_secret`: the secret of HS256 tokens. Give it 32 random bytes or more.
    pub hs256_secret: Option<Secret>,
    /// `auth.jwt.hs384_secret`: the secret of HS384 tokens.
    pub hs384_secret: Option<Secret>,
    /// `auth.jwt.hs512_secret`: the secret of HS512 tokens.
    pub hs512_secret: Option<Secret>,
    /// `auth.jwt.public_key_file`: a public key in PEM. RSA (2,048 bits or more) is for RS256, P-256 for ES256,
    /// P-384 for ES384, Ed25519 for EdDSA.
    pub public_key_file: Option<PathBuf>,
    /// `auth.jwt.jwks_file`: a JSON Web Key Set. A key's `alg` is its algorithm; without one it is as for PEM.
    pub jwks_file: Option<PathBuf>,
    /// `auth.jwt.audience`: a token must have one of these as `aud`. Empty: a token must have no `aud`, for it
    /// would be meant for others.
    pub audience: Vec<String>,
    /// `auth.jwt.issuer`: a token's `iss` must be one of these. Empty: any.
    pub issuer: Vec<String>,
    /// `auth.jwt.leeway`: how far clocks may differ, for `exp` and `nbf`. None, 0 s.
    pub leeway: Duration,
    /// `auth.jwt.require_exp`: refuse tokens that never expire. Yes.
    pub require_exp: bool,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            jwt: JwtConfig::default(),
            api_keys_file: None,
            revoked_file: None,
            anonymous: AnonymousConfig::default(),
            cookie: "auth-token".to_owned(),
            max_token_bytes: 8192,
            ticket_ttl: Duration::from_secs(30),
            max_tickets: 10_000,
            max_revocations: 10_000,
        }
    }
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            hs256_secret: None,
            hs384_secret: None,
            hs512_secret: None,
            public_key_file: None,
            jwks_file: None,
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway: Duration::ZERO,
            require_exp: true,
        }
    }
}

impl AuthConfig {
    /// Whether anything says who may come in.
    pub fn is_configured(&self) -> bool {
        self.jwt.is_configured() || self.api_keys_file.is_some()
    }
}

impl JwtConfig {
    pub(super) fn is_configured(&self) -> bool {
        self.secrets().next().is_some() || self.public_key_file.is_some() || self.jwks_file.is_some()
    }

    /// The secrets that are set, each with the name of its algorithm.
    pub(super) fn secrets(&self) -> impl Iterator<Item = (&'static str, &Secret)> {
        let named =
            [("HS256", &self.hs256_secret), ("HS384", &self.hs384_secret), ("HS512", &self.hs512_secret)];
        named.into_iter().filter_map(|(name, secret)| Some((name, secret.as_ref()?)))
    }
}

/// The configuration of authentication is not usable.
#[derive(Debug)]
pub struct AuthError {
    key: &'static str,
    what: String,
}

impl AuthError {
    pub(super) fn new(key: &'static str, what: impl fmt::Display) -> Self {
        Self { key, what: what.to_string() }
    }

    /// The configuration's key at fault.
    pub fn key(&self) -> &'static str {
        self.key
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

impl std::error::Error for AuthError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let mut config = AuthConfig::default();
        config.jwt.hs256_secret = Some("hunter2".into());
        assert!(config.is_configured());
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!AuthConfig::default().is_configured());
    }
}
