//! Files that the configuration names: they must be there, be readable, and hold what they are said to hold. No reason ever
//! quotes a file's content.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustls::{
    SignatureScheme,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{Checker, join};

impl Checker {
    /// A file that must be given and readable.
    pub(super) fn required_file(&mut self, key: &str, path: Option<&Path>) -> Option<PathBuf> {
        match path {
            Some(path) => self.file(key, path),
            None => {
                self.fault(key, "is required");
                None
            }
        }
    }

    /// A file that must be readable.
    pub(super) fn file(&mut self, key: &str, path: &Path) -> Option<PathBuf> {
        self.content(key, path).map(|(path, _)| path)
    }

    /// A file with a secret: a warning where every user of the machine can read it (P-125).
    pub(super) fn secret_file(&mut self, key: &str, path: Option<&Path>) -> Option<(PathBuf, Vec<u8>)> {
        let Some(path) = path else {
            self.fault(key, "is required");
            return None;
        };
        let (path, content) = self.content(key, path)?;
        if std::fs::metadata(&path).is_ok_and(|file| file.permissions().mode() & 0o007 != 0) {
            self.warn(format!("{key}: {} can be read by every user of this machine", path.display()));
        }
        Some((path, content))
    }

    fn content(&mut self, key: &str, path: &Path) -> Option<(PathBuf, Vec<u8>)> {
        // Someone may have put the secret itself where its file belongs: such a "path" is not repeated.
        if path.to_string_lossy().contains(['\n', '\r']) {
            self.fault(key, "must be the path of a file, not its content");
            return None;
        }
        let path = self.resolve(path);
        match std::fs::read(&path) {
            Ok(content) if content.is_empty() => self.fault(key, format!("{} is empty", path.display())),
            Ok(content) => return Some((path, content)),
            Err(error) => self.fault(key, format!("{} cannot be read: {error}", path.display())),
        }
        None
    }

    /// Authorities to trust: a readable PEM file with at least one certificate.
    pub(super) fn authorities(&mut self, key: &str, path: Option<&Path>) -> Option<PathBuf> {
        let (path, content) = self.content(key, path?)?;
        match certificates(&content) {
            Some(_) => Some(path),
            None => {
                self.fault(key, format!("{} holds no PEM certificates", path.display()));
                None
            }
        }
    }

    /// A certificate chain and its private key, which must fit each other.
    pub(super) fn certificate(&mut self, at: &str, cert: &Path, key: &Path) {
        let chain = std::fs::read(cert).ok().and_then(|content| certificates(&content));
        if chain.is_none() {
            self.fault(&join(at, "cert"), format!("{} holds no PEM certificates", cert.display()));
        }
        let Ok(private) = PrivateKeyDer::from_pem_file(key) else {
            self.fault(&join(at, "key"), format!("{} holds no PEM private key", key.display()));
            return;
        };
        let Ok(signer) = any_supported_type(&private) else {
            self.fault(&join(at, "key"), format!("{} holds a key of an unsupported kind", key.display()));
            return;
        };
        if let Some(chain) = chain
            && let Err(error) = CertifiedKey::new(chain, signer).keys_match()
        {
            self.fault(&join(at, "key"), format!("{} does not fit the certificate: {error}", key.display()));
        }
    }

    /// A PEM private key on P-256, for ES256 signatures: APNs and VAPID.
    pub(super) fn p256_key(&mut self, key: &str, path: Option<&Path>) -> Option<PathBuf> {
        let (path, content) = self.secret_file(key, path)?;
        if signs(&content, SignatureScheme::ECDSA_NISTP256_SHA256) {
            return Some(path);
        }
        self.fault(key, format!("{} holds no PEM private key on P-256", path.display()));
        None
    }
}

/// Whether `pem` holds a private key that can sign by `scheme`.
pub(super) fn signs(pem: &[u8], scheme: SignatureScheme) -> bool {
    PrivateKeyDer::from_pem_slice(pem)
        .ok()
        .and_then(|private| any_supported_type(&private).ok())
        .is_some_and(|signer| signer.choose_scheme(&[scheme]).is_some())
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    (!chain.is_empty()).then_some(chain)
}
