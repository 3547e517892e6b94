//! Private keys, read from files (P-125).

use std::path::Path;

use p256::{SecretKey, ecdsa::SigningKey, pkcs8::DecodePrivateKey};
use ring::rsa;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::SettingsError;

/// A text file that holds a secret. Warns where others than its owner may read it.
pub(crate) fn read(path: &Path, key: &str) -> Result<Zeroizing<String>, SettingsError> {
    let at = |error: std::io::Error| SettingsError::new(key, format_args!("{}: {error}", path.display()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_err(at)?.permissions().mode();
        if mode & 0o077 != 0 {
            let mode = format!("{:o}", mode & 0o777);
            tracing::warn!(setting = key, %mode, "a key file can be read by others than its owner; 0600 would do");
        }
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(at)
}

/// A P-256 key: PEM, PKCS#8 (`.p8`) or SEC1 (`EC PRIVATE KEY`).
pub(crate) fn p256_key(pem: &str, key: &str) -> Result<SigningKey, SettingsError> {
    let secret = if pem.contains("BEGIN EC PRIVATE KEY") {
        // openssl writes the curve's parameters first, in a block of their own.
        let start = pem.find("-----BEGIN EC PRIVATE KEY").unwrap_or_default();
        SecretKey::from_sec1_pem(pem.get(start..).unwrap_or_default()).ok()
    } else {
        SecretKey::from_pkcs8_pem(pem).ok()
    };
    // The decoder's own words say nothing of use, and no part of a key belongs into an error.
    secret.map(SigningKey::from).ok_or_else(|| SettingsError::new(key, "holds no P-256 private key in PEM form"))
}

/// A Google service account, from its JSON file.
pub(crate) struct ServiceAccount {
    pub(crate) email: String,
    pub(crate) key_id: String,
    pub(crate) key: rsa::KeyPair,
}

impl ServiceAccount {
    /// Reads the file. Its `token_uri` must not choose where our signed assertion goes (P-159): where it differs from the
    /// configured one it is ignored, and the log says so.
    pub(crate) fn parse(json: &str, token_endpoint: &str, key: &str) -> Result<Self, SettingsError> {
        let file: AccountFile = serde_json::from_str(json)
            // serde_json's message may quote what it found.
            .map_err(|error| SettingsError::new(key, format_args!("not a service account, line {}", error.line())))?;
        if file.token_uri.as_deref().is_some_and(|uri| uri != token_endpoint) {
            tracing::info!(setting = key, "the service account's token_uri is not used; the configured endpoint is");
        }
        let pem = Zeroizing::new(file.private_key);
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| SettingsError::new(key, "private_key is not a PEM private key"))?;
        let pair = match &der {
            PrivateKeyDer::Pkcs8(der) => rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => rsa::KeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(SettingsError::new(key, "private_key is not an RSA key")),
        };
        let pair = pair.map_err(|error| SettingsError::new(key, format_args!("private_key: {error}")))?;
        Ok(Self { email: file.client_email, key_id: file.private_key_id.unwrap_or_default(), key: pair })
    }
}

#[derive(Deserialize)]
struct AccountFile {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    token_uri: Option<String>,
}
