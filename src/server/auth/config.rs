//! Configuration of authentication: keys, files and times.
//!
//! Invariants:
//! - A secret is shown nowhere.
//! - The default is no authentication.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::claims::{Claims, PublishRight};
use super::template::{Template, Templates};

/// A text that is never shown. Its `Debug` output is a placeholder.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself, to write settings to a file.
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

/// Authentication of clients, and their rights.
///
/// If nothing is set there is no authentication: every client may read and publish, and the server listens on this machine only,
/// unless `insecure` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthConfig {
    /// `auth.jwt`: keys that sign tokens, and claims that a token must have.
    pub jwt: JwtConfig,
    /// `auth.api_keys_file`: file with a line of JSON for each API key, as `fanwire token --api-key` makes them. Default: none.
    pub api_keys_file: Option<PathBuf>,
    /// `auth.revoked_file`: file with a line of JSON for each token or subject that is refused although its token is valid:
    /// `{"jti":"…"}` or `{"sub":"…"}`. Default: none.
    pub revoked_file: Option<PathBuf>,
    /// `auth.anonymous`: rights of clients without a token. Default: none, so they are refused.
    pub anonymous: AnonymousConfig,
    /// `auth.grant`: rights of every token in addition to its claims.
    pub grant: GrantConfig,
    /// Whether the embedding program gives rights to the clients whose connections it has accepted
    /// ([`StreamRequest::claims`](crate::server::StreamRequest::claims)). Other clients need a token, as with keys. Default:
    /// false.
    pub by_program: bool,
    /// `auth.cookie`: name of the cookie that may hold a token. It counts for requests from the server's own origin and from
    /// those in `cors_origins`. Default: `auth-token`.
    pub cookie: String,
    /// `auth.max_token_bytes`: maximum length of a token; longer ones are refused unread. Default: 8,192.
    pub max_token_bytes: usize,
    /// `auth.ticket_ttl`: validity of a ticket from `POST /ticket`. Default: 30 s.
    pub ticket_ttl: Duration,
    /// `auth.max_tickets`: maximum number of unused tickets; beyond it, 503. One subject may have a tenth of them;
    /// beyond it, 429. Default: 10,000.
    pub max_tickets: usize,
    /// `auth.max_revocations`: maximum number of tokens and subjects revoked by `POST /api/revoke`; beyond it, 507,
    /// because a revocation is never dropped for another. Default: 10,000.
    pub max_revocations: usize,
}

/// Rights of every token and API key in addition to its claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrantConfig {
    /// `auth.grant.channels`: channels that the holder may see in addition to those of the claim `channels`, as templates: in
    /// `user:{sub}` the token's `sub` takes the place of the braces. Also known: `{jti}`. A token without any list and
    /// without `filter` sees only these channels. A token whose claims name other lists but no channels may see every
    /// channel anyway. Default: none.
    pub channels: Vec<String>,
}

impl GrantConfig {
    /// Returns the templates, or the fault of one.
    pub(super) fn templates(&self) -> Result<Templates, AuthError> {
        let templates: Result<Vec<Template>, String> =
            self.channels.iter().map(|text| Template::parse(text)).collect();
        templates.map(Templates::from).map_err(|what| AuthError::new("auth.grant.channels", what))
    }
}

/// Rights of clients without a token. They have the meaning of [`Claims`], except that an empty list counts as absent.
/// If all lists are empty, there are no rights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnonymousConfig {
    /// `auth.anonymous.streams`: visible streams. Default: none.
    pub streams: Vec<String>,
    /// `auth.anonymous.types`: visible types. Default: none.
    pub types: Vec<String>,
    /// `auth.anonymous.channels`: visible channels. Default: none.
    pub channels: Vec<String>,
    /// `auth.anonymous.entities`: visible entities, as `kind:id`. Default: none.
    pub entities: Vec<String>,
    /// `auth.anonymous.filter`: filter that every visible event must match as well. Default: none.
    pub filter: String,
    /// `auth.anonymous.publish`: types that may be published; `*` is every type. Default: none.
    pub publish: Vec<String>,
    /// `auth.anonymous.purge`: whether kept logs may be purged, all of whose events are visible. Default: false.
    pub purge: bool,
}

impl AnonymousConfig {
    /// Returns the rights as claims, or `None` if clients without a token are refused.
    pub(super) fn claims(&self) -> Option<Claims> {
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let mut claims = Claims {
            streams: some(&self.streams),
            types: some(&self.types),
            channels: some(&self.channels),
            entities: some(&self.entities),
            filter: (!self.filter.is_empty()).then(|| self.filter.clone()),
            purge: self.purge,
            ..Claims::default()
        };
        if !self.publish.is_empty() {
            claims.publish = PublishRight::Types(self.publish.clone());
        }
        (claims != Claims::default()).then_some(claims)
    }
}

/// Verification of JSON Web Tokens. Each key has one algorithm, independent of the token's header.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwtConfig {
    /// `auth.jwt.hs256_secret`: secret of HS256 tokens, 32 random bytes or more.
    pub hs256_secret: Option<Secret>,
    /// `auth.jwt.hs384_secret`: secret of HS384 tokens.
    pub hs384_secret: Option<Secret>,
    /// `auth.jwt.hs512_secret`: secret of HS512 tokens.
    pub hs512_secret: Option<Secret>,
    /// `auth.jwt.public_key_file`: file with a public key in PEM. RSA (2,048 bits or more) is for RS256, P-256 for ES256, P-384
    /// for ES384, Ed25519 for EdDSA.
    pub public_key_file: Option<PathBuf>,
    /// `auth.jwt.jwks_file`: file with a JSON Web Key Set. A key's `alg` is its algorithm; without `alg`, the rule for PEM applies.
    pub jwks_file: Option<PathBuf>,
    /// `auth.jwt.audience`: accepted values of `aud`. Empty: a token must have no `aud`, because a token with one is meant for
    /// another service.
    pub audience: Vec<String>,
    /// `auth.jwt.issuer`: accepted values of `iss`. Empty: any.
    pub issuer: Vec<String>,
    /// `auth.jwt.leeway`: tolerated clock difference for `exp` and `nbf`. Default: 0 s.
    pub leeway: Duration,
    /// `auth.jwt.require_exp`: whether tokens without expiry are refused. Default: true.
    pub require_exp: bool,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            jwt: JwtConfig::default(),
            api_keys_file: None,
            revoked_file: None,
            anonymous: AnonymousConfig::default(),
            grant: GrantConfig::default(),
            cookie: "auth-token".to_owned(),
            max_token_bytes: 8192,
            ticket_ttl: Duration::from_secs(30),
            max_tickets: 10_000,
            by_program: false,
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
    /// Returns whether authentication is configured.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.jwt.is_configured() || self.api_keys_file.is_some() || self.by_program
    }
}

impl JwtConfig {
    pub(super) fn is_configured(&self) -> bool {
        self.secrets().next().is_some() || self.public_key_file.is_some() || self.jwks_file.is_some()
    }

    /// Returns the secrets that are set, each with the name of its algorithm.
    pub(super) fn secrets(&self) -> impl Iterator<Item = (&'static str, &Secret)> {
        let named =
            [("HS256", &self.hs256_secret), ("HS384", &self.hs384_secret), ("HS512", &self.hs512_secret)];
        named.into_iter().filter_map(|(name, secret)| Some((name, secret.as_ref()?)))
    }
}

/// Error in the configuration of authentication.
#[derive(Debug)]
pub struct AuthError {
    key: &'static str,
    what: String,
}

impl AuthError {
    pub(super) fn new(key: &'static str, what: impl fmt::Display) -> Self {
        Self { key, what: what.to_string() }
    }

    /// Returns the configuration key at fault.
    #[must_use]
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
