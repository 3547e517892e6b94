//! Reading and verifying compact JSON Web Tokens, by hand: the product signs with a library, the lab checks without it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::Value;

/// A token split and decoded, its signature not yet verified.
pub(super) struct Jwt<'a> {
    /// The JOSE header.
    pub(super) header: Value,
    /// The claims.
    pub(super) claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

/// The signature algorithms push services ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// ECDSA on P-256 with SHA-256; the signature is r and s side by side, never DER (RFC 7518 §3.4).
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl<'a> Jwt<'a> {
    /// Splits and decodes; `None` for anything that is not three base64url parts with JSON objects in the first two.
    pub(super) fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| -> Option<Value> {
            let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
            value.is_object().then_some(value)
        };
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            signed,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    /// Whether the header names `algorithm` and the signature verifies under `key` (P-256 point, or PKCS#1 DER for RSA).
    pub(super) fn verifies(&self, algorithm: Algorithm, key: &[u8]) -> bool {
        let (name, verifier): (_, &'static dyn VerificationAlgorithm) = match algorithm {
            Algorithm::Es256 => ("ES256", &ECDSA_P256_SHA256_FIXED),
            Algorithm::Rs256 => ("RS256", &RSA_PKCS1_2048_8192_SHA256),
        };
        self.header.get("alg").and_then(Value::as_str) == Some(name)
            && UnparsedPublicKey::new(verifier, key).verify(self.signed.as_bytes(), &self.signature).is_ok()
    }

    /// A claim that must be a string.
    pub(super) fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    /// A claim that must be a point in time, as whole seconds since 1970.
    pub(super) fn seconds(&self, claim: &str) -> Option<u64> {
        self.claims.get(claim).and_then(Value::as_u64)
    }
}
