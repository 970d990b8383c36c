//! Signs and verifies tokens with ring, which TLS uses too.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::jwk::{EllipticCurve, ThumbprintHash};
use jsonwebtoken::signature::{Error, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::agreement::{self, EphemeralPrivateKey};
use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use ring::{digest, hmac};

/// Implementation of signatures for `jsonwebtoken`.
pub(super) static RING: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(TokenSigner::new(*algorithm, key)?)),
    verifier_factory: |algorithm, key| Ok(Box::new(SignatureCheck::new(*algorithm, key)?)),
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |der| Ok(components_of(&rsa_pair(der)?)),
        rsa_pub_components_from_public_key: |der| rsa_components(der).ok_or_else(|| rsa_fault("no PKCS#1")),
        ec_pub_components_from_private_key: |der, algorithm| {
            let (curve, bytes) = match algorithm {
                Algorithm::ES256 => (EllipticCurve::P256, 32),
                _ => (EllipticCurve::P384, 48),
            };
            let pair = ec_pair(algorithm, der)?;
            let point = pair.public_key().as_ref();
            let (x, y) = point.get(1..).and_then(|both| both.split_at_checked(bytes)).unwrap_or_default();
            Ok((curve, x.to_vec(), y.to_vec()))
        },
        ed_pub_components_from_private_key: |der, _| Ok(ed_pair(der)?.public_key().as_ref().to_vec()),
        compute_digest: |data, hash| {
            let algorithm = match hash {
                ThumbprintHash::SHA256 => &digest::SHA256,
                ThumbprintHash::SHA384 => &digest::SHA384,
                ThumbprintHash::SHA512 => &digest::SHA512,
                other => return Err(ErrorKind::Provider(format!("{other:?} is not known here")).into()),
            };
            Ok(digest::digest(algorithm, data).as_ref().to_vec())
        },
    },
};

enum PrivateKey {
    Shared(hmac::Key),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
}

struct TokenSigner {
    algorithm: Algorithm,
    key: PrivateKey,
}

impl TokenSigner {
    fn new(algorithm: Algorithm, key: &EncodingKey) -> Result<Self> {
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        let bytes = key.as_bytes();
        let key = match algorithm.family() {
            AlgorithmFamily::Hmac => PrivateKey::Shared(hmac::Key::new(hmac_of(algorithm), bytes)),
            AlgorithmFamily::Ec => PrivateKey::Ec(ec_pair(algorithm, bytes)?),
            AlgorithmFamily::Ed => PrivateKey::Ed(ed_pair(bytes)?),
            AlgorithmFamily::Rsa => PrivateKey::Rsa(rsa_pair(bytes)?, rsa_encoding(algorithm)),
        };
        Ok(Self { algorithm, key })
    }
}

impl Signer<Vec<u8>> for TokenSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let (rng, failed) = (SystemRandom::new(), |_| Error::new());
        Ok(match &self.key {
            PrivateKey::Shared(key) => hmac::sign(key, message).as_ref().to_vec(),
            PrivateKey::Ec(pair) => pair.sign(&rng, message).map_err(failed)?.as_ref().to_vec(),
            PrivateKey::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            PrivateKey::Rsa(pair, encoding) => {
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &rng, message, &mut signed).map_err(failed)?;
                signed
            }
        })
    }
}

impl JwtSigner for TokenSigner {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

enum PublicKey {
    Shared(hmac::Key),
    Encoded(UnparsedPublicKey<Vec<u8>>),
    Rsa(&'static RsaParameters, RsaPublicKeyComponents<Vec<u8>>),
}

struct SignatureCheck {
    algorithm: Algorithm,
    key: PublicKey,
}

impl SignatureCheck {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self> {
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        let key = match (algorithm.family(), key.kind()) {
            (AlgorithmFamily::Hmac, DecodingKeyKind::SecretOrDer(bytes)) => {
                PublicKey::Shared(hmac::Key::new(hmac_of(algorithm), bytes))
            }
            (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(bytes)) => {
                let curve: &'static dyn signature::VerificationAlgorithm = match algorithm {
                    Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
                    _ => &signature::ECDSA_P384_SHA384_FIXED,
                };
                PublicKey::Encoded(UnparsedPublicKey::new(curve, bytes.clone()))
            }
            (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(bytes)) => {
                PublicKey::Encoded(UnparsedPublicKey::new(&signature::ED25519, bytes.clone()))
            }
            (AlgorithmFamily::Rsa, kind) => {
                let (n, e) = modulus_and_exponent(kind).ok_or_else(|| rsa_fault("no public key"))?;
                PublicKey::Rsa(rsa_parameters(algorithm), RsaPublicKeyComponents { n, e })
            }
            _ => return Err(ErrorKind::InvalidKeyFormat.into()),
        };
        Ok(Self { algorithm, key })
    }
}

impl Verifier<Vec<u8>> for SignatureCheck {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> std::result::Result<(), Error> {
        let outcome = match &self.key {
            PublicKey::Shared(key) => hmac::verify(key, message, signed),
            PublicKey::Encoded(key) => key.verify(message, signed),
            PublicKey::Rsa(parameters, key) => key.verify(parameters, message, signed),
        };
        outcome.map_err(|_| Error::new())
    }
}

impl JwtVerifier for SignatureCheck {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// Returns whether a public key of a curve is a point on it. Key agreement checks that; verification alone would accept
/// the key and fail for each signature.
pub(super) fn is_on_curve(algorithm: Algorithm, point: &[u8]) -> bool {
    let curve = match algorithm {
        Algorithm::ES256 => &agreement::ECDH_P256,
        Algorithm::ES384 => &agreement::ECDH_P384,
        _ => return true,
    };
    let Ok(own) = EphemeralPrivateKey::generate(curve, &SystemRandom::new()) else { return false };
    agreement::agree_ephemeral(own, &agreement::UnparsedPublicKey::new(curve, point), |_| ()).is_ok()
}

/// Returns modulus and exponent of an RSA public key, without leading zeros.
pub(super) fn modulus_and_exponent(key: &DecodingKeyKind) -> Option<(Vec<u8>, Vec<u8>)> {
    match key {
        DecodingKeyKind::SecretOrDer(der) => rsa_components(der),
        DecodingKeyKind::RsaModulusExponent { n, e } => Some((unsigned(n), unsigned(e))),
    }
}

fn hmac_of(algorithm: Algorithm) -> hmac::Algorithm {
    match algorithm {
        Algorithm::HS384 => hmac::HMAC_SHA384,
        Algorithm::HS512 => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    }
}

fn rsa_encoding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::RS384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_SHA512,
        _ => &signature::RSA_PKCS1_SHA256,
    }
}

fn rsa_parameters(algorithm: Algorithm) -> &'static RsaParameters {
    match algorithm {
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => &signature::RSA_PKCS1_2048_8192_SHA256,
    }
}

fn ec_pair(algorithm: Algorithm, pkcs8: &[u8]) -> Result<EcdsaKeyPair> {
    let curve: &'static EcdsaSigningAlgorithm = match algorithm {
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        _ => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
    };
    EcdsaKeyPair::from_pkcs8(curve, pkcs8, &SystemRandom::new())
        .map_err(|_| ErrorKind::InvalidEcdsaKey.into())
}

fn ed_pair(pkcs8: &[u8]) -> Result<Ed25519KeyPair> {
    // OpenSSL's PKCS#8 has no public key to check.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|_| ErrorKind::InvalidEddsaKey.into())
}

fn rsa_pair(pkcs1: &[u8]) -> Result<RsaKeyPair> {
    RsaKeyPair::from_der(pkcs1).map_err(|why| rsa_fault(&why.to_string()))
}

fn rsa_fault(why: &str) -> jsonwebtoken::errors::Error {
    ErrorKind::InvalidRsaKey(why.to_owned()).into()
}

fn components_of(pair: &RsaKeyPair) -> (Vec<u8>, Vec<u8>) {
    let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
    (n, e)
}

/// Returns modulus and exponent of an RSA public key in PKCS#1 (RFC 8017, A.1.1).
fn rsa_components(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 0x02;
    let (body, rest) = der_value(der, SEQUENCE)?;
    let (n, more) = der_value(body, INTEGER)?;
    let (e, end) = der_value(more, INTEGER)?;
    (rest.is_empty() && end.is_empty()).then(|| (unsigned(n), unsigned(e)))
}

/// Returns the content of a DER value with this tag, and the bytes after it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (&first, rest) = rest.split_first()?;
    if first < 0x80 {
        return rest.split_at_checked(usize::from(first));
    }
    let (length, rest) =
        rest.split_at_checked(usize::from(first & 0x7f)).filter(|(length, _)| length.len() <= 2)?;
    rest.split_at_checked(length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
}

fn unsigned(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number[zeros..].to_vec()
}
