//! JSON Web Tokens in the two forms the push services take (RFC 7515 compact serialisation).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use ring::{rand::SystemRandom, rsa, signature::RSA_PKCS1_SHA256};
use serde_json::Value;

/// Signs with ES256. The signature is deterministic (RFC 6979): equal claims make equal tokens on every node (P-143).
pub(crate) fn es256(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let input = signing_input(header, claims);
    let signature: Signature = key.sign(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

/// Signs with RS256; `None` where the key cannot sign.
pub(crate) fn rs256(key: &rsa::KeyPair, header: &Value, claims: &Value) -> Option<String> {
    let input = signing_input(header, claims);
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature).ok()?;
    Some(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn signing_input(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}
