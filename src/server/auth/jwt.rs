//! JSON Web Tokens (RFC 7519): the keys that sign them, and their verification.
//!
//! Invariants:
//! - A key has one algorithm, fixed when it is loaded. It is used with no other, whatever the token's header says (RFC
//!   8725, 3.1).
//! - No claim is read before the signature is verified.
//! - The caller supplies the time.

use std::path::Path;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation};
use sha2::{Digest, Sha256};

use super::claims::Claims;
use super::config::{AuthError, JwtConfig};
use super::signatures::{RING, is_on_curve, modulus_and_exponent};
use super::{Denied, Fault};
use crate::server::limits::budget;
use crate::server::limits::budget::Budget;

/// Maximum number of keys in a set: a token is tried with each key that fits.
const KEYS_MAX: usize = 64;

/// Maximum number of public keys that one token is tried with. In larger sets, keys have ids and tokens name them.
const SIGNATURES_MAX: usize = 8;

/// Minimum size of an RSA key, in bits. Smaller keys can be factored (RFC 7518, 3.3).
const RSA_BITS_MIN: usize = 2048;

/// Minimum size of a secret, in bytes. Smaller secrets can be guessed (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
    validation: Validation,
    /// Identity of the key, which does not reveal it.
    proof: u64,
}

/// Keys, and the claims that a token must have.
#[derive(Debug)]
pub(super) struct Verifier {
    keys: Vec<Key>,
    leeway: i64,
    require_exp: bool,
}

/// A valid token.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) claims: Claims,
    pub(super) proof: u64,
    /// Second from which the token is invalid.
    pub(super) expires: Option<i64>,
}

/// Installs the implementation of signatures. Must come before any other call of `jsonwebtoken`, which otherwise installs one that
/// panics.
pub(super) fn choose_provider() {
    // An earlier choice by the program stands, and is equally good.
    let _ = RING.install_default();
}

impl Verifier {
    /// Loads the keys, or returns `None` if none is configured.
    pub(super) fn load(config: &JwtConfig) -> Result<Option<Self>, AuthError> {
        if !config.is_configured() {
            return Ok(None);
        }
        choose_provider();
        let mut keys = Vec::new();
        for (name, secret) in config.secrets() {
            let (key, algorithm) = match name {
                "HS384" => ("auth.jwt.hs384_secret", Algorithm::HS384),
                "HS512" => ("auth.jwt.hs512_secret", Algorithm::HS512),
                _ => ("auth.jwt.hs256_secret", Algorithm::HS256),
            };
            let bytes = secret.bytes();
            match bytes.len() {
                0 => return Err(AuthError::new(key, "is empty")),
                short @ 1..SECRET_BYTES_MIN => tracing::warn!(
                    key,
                    bytes = short,
                    "a secret under {SECRET_BYTES_MIN} bytes can be guessed from one token: take random ones"
                ),
                _ => {}
            }
            keys.push((None, algorithm, DecodingKey::from_secret(bytes), bytes.to_vec()));
        }
        if let Some(path) = &config.public_key_file {
            let name = "auth.jwt.public_key_file";
            let pem = read(name, path)?;
            let (algorithm, key) = from_pem(&pem).map_err(|what| AuthError::new(name, what))?;
            keys.push((None, algorithm, key, pem));
        }
        if let Some(path) = &config.jwks_file {
            let name = "auth.jwt.jwks_file";
            let fault = |what: String| AuthError::new(name, what);
            let set: JwkSet = serde_json::from_slice(&read(name, path)?)
                .map_err(|error| fault(format!("is no key set: {error}")))?;
            let before = keys.len();
            for jwk in &set.keys {
                match from_jwk(jwk) {
                    Ok(Some((algorithm, key))) => {
                        let print = serde_json::to_vec(&jwk.algorithm).unwrap_or_default();
                        keys.push((jwk.common.key_id.clone(), algorithm, key, print));
                    }
                    // A set may hold keys for other purposes.
                    Ok(None) => {}
                    Err(what) => {
                        let id = jwk.common.key_id.as_deref().unwrap_or("without kid");
                        return Err(fault(format!("key {id}: {what}")));
                    }
                }
            }
            if keys.len() == before {
                return Err(fault("holds no key that signs tokens".to_owned()));
            }
        }
        if keys.len() > KEYS_MAX {
            return Err(AuthError::new("auth.jwt", format!("{} keys are over {KEYS_MAX}", keys.len())));
        }
        let keys = keys.into_iter().map(|(id, algorithm, key, material)| Key {
            id,
            algorithm,
            decoding: key,
            validation: validation(algorithm, config),
            proof: proof(&[format!("{algorithm:?}").as_bytes(), &material]),
        });
        Ok(Some(Self {
            keys: keys.collect(),
            leeway: i64::try_from(config.leeway.as_secs()).unwrap_or(i64::MAX),
            require_exp: config.require_exp,
        }))
    }

    /// Verifies a token at this second.
    ///
    /// An attempt with a public key is expensive, so a token that does not name its key is tried with a bounded number.
    pub(super) fn verify(&self, token: &str, now: i64, budget: &mut Budget) -> Result<Verified, Denied> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Fault::Malformed)?;
        if header.crit.is_some() {
            // `crit` demands that a reader which does not know these extensions refuses (RFC 7515, 4.1.11).
            return Err(Fault::Malformed.into());
        }
        let mut fault = Fault::Key;
        let mut signatures = 0;
        for key in &self.keys {
            let named = key.id.is_none() || header.kid.is_none() || key.id == header.kid;
            if !named || key.algorithm != header.alg {
                continue;
            }
            if key.algorithm.family() == AlgorithmFamily::Hmac {
                budget.spend(budget::SHARED_SECRET);
            } else {
                signatures += 1;
                if signatures > SIGNATURES_MAX {
                    break;
                }
                budget.spend_signature();
            }
            match jsonwebtoken::decode::<Claims>(token, &key.decoding, &key.validation) {
                Ok(data) => return self.is_good(data.claims, key.proof, now),
                Err(error) => {
                    fault = fault_of(&error);
                    if fault != Fault::Signature {
                        break;
                    }
                }
            }
        }
        Err(fault.into())
    }

    /// Returns whether a key is still configured.
    pub(super) fn has(&self, proof: u64) -> bool {
        self.keys.iter().any(|key| key.proof == proof)
    }

    fn is_good(&self, claims: Claims, proof: u64, now: i64) -> Result<Verified, Denied> {
        if claims.nbf.is_some_and(|nbf| nbf > now.saturating_add(self.leeway)) {
            return Err(Denied::NotYet);
        }
        let expires = claims.exp.map(|exp| exp.saturating_add(self.leeway));
        if expires.is_some_and(|expires| expires <= now) {
            return Err(Denied::Expired);
        }
        if self.require_exp && expires.is_none() {
            return Err(Fault::NoExpiry.into());
        }
        Ok(Verified { claims, proof, expires })
    }
}

fn validation(algorithm: Algorithm, config: &JwtConfig) -> Validation {
    let mut validation = Validation::new(algorithm);
    // The times are checked below, against the caller's clock.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.required_spec_claims.clear();
    if !config.audience.is_empty() {
        validation.set_audience(&config.audience);
        validation.required_spec_claims.insert("aud".to_owned());
    }
    if !config.issuer.is_empty() {
        validation.set_issuer(&config.issuer);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    validation
}

fn fault_of(error: &Error) -> Fault {
    match error.kind() {
        ErrorKind::InvalidSignature => Fault::Signature,
        ErrorKind::InvalidAudience => Fault::Audience,
        ErrorKind::InvalidIssuer => Fault::Issuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Fault::Audience,
        ErrorKind::MissingRequiredClaim(_) => Fault::Issuer,
        ErrorKind::Json(_) | ErrorKind::InvalidClaimFormat(_) => Fault::Claims,
        _ => Fault::Malformed,
    }
}

/// Returns 8 bytes of the key's hash: enough to tell keys apart, and too few to reveal one.
pub(super) fn proof(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_be_bytes(first)
}

pub(super) fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, AuthError> {
    std::fs::read(path).map_err(|error| AuthError::new(key, format!("{}: {error}", path.display())))
}

fn from_pem(pem: &[u8]) -> Result<(Algorithm, DecodingKey), String> {
    if pem.windows(11).any(|window| window == b"PRIVATE KEY") {
        return Err("is a private key: the server needs the public one only".to_owned());
    }
    if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        return checked(Algorithm::EdDSA, key);
    }
    if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        return checked(algorithm_of_curve(key.try_get_as_bytes().map_or(0, <[u8]>::len))?, key);
    }
    match DecodingKey::from_rsa_pem(pem) {
        Ok(key) => checked(Algorithm::RS256, key),
        Err(_) => Err("is no public key in PEM, of RSA, P-256, P-384 or Ed25519".to_owned()),
    }
}

fn algorithm_of_curve(bytes: usize) -> Result<Algorithm, String> {
    match bytes {
        65 => Ok(Algorithm::ES256),
        97 => Ok(Algorithm::ES384),
        _ => Err("is of a curve that is not taken: P-256 and P-384 are".to_owned()),
    }
}

/// Reads a key of a set, or returns `None` if the key is not for signatures.
fn from_jwk(jwk: &Jwk) -> Result<Option<(Algorithm, DecodingKey)>, String> {
    if matches!(&jwk.common.public_key_use, Some(used) if *used != PublicKeyUse::Signature) {
        return Ok(None);
    }
    let by_kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P384 => Algorithm::ES384,
        _ => return Ok(None),
    };
    let algorithm = match jwk.common.key_algorithm {
        None => by_kind,
        Some(named) => match Algorithm::try_from(named) {
            Ok(algorithm) if algorithm.family() == by_kind.family() => algorithm,
            Ok(other) => return Err(format!("its alg {other:?} is not for its kind of key")),
            Err(_) => return Ok(None),
        },
    };
    let key = DecodingKey::from_jwk(jwk).map_err(|_| "its values are not base64url".to_owned())?;
    checked(algorithm, key).map(Some)
}

/// Checks that the verifier accepts the key, and that it is strong enough.
fn checked(algorithm: Algorithm, key: DecodingKey) -> Result<(Algorithm, DecodingKey), String> {
    let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    match key.family() {
        AlgorithmFamily::Hmac if bytes == 0 => return Err("is empty".to_owned()),
        AlgorithmFamily::Ed if bytes != 32 => return Err(format!("has {bytes} bytes, Ed25519 has 32")),
        AlgorithmFamily::Ec if algorithm_of_curve(bytes)? != algorithm => {
            return Err("its curve is not the algorithm's".to_owned());
        }
        AlgorithmFamily::Rsa => {
            let bits = rsa_bits(&key).ok_or_else(|| "is no RSA public key".to_owned())?;
            if bits < RSA_BITS_MIN {
                return Err(format!("RSA of {bits} bits is under {RSA_BITS_MIN}"));
            }
        }
        _ => {}
    }
    let is_usable = is_on_curve(algorithm, key.try_get_as_bytes().unwrap_or_default())
        && jsonwebtoken::crypto::verify("", b"", &key, algorithm).is_ok();
    if is_usable { Ok((algorithm, key)) } else { Err("is no usable key".to_owned()) }
}

fn rsa_bits(key: &DecodingKey) -> Option<usize> {
    let (modulus, _) = modulus_and_exponent(key.kind())?;
    Some(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize)
}
