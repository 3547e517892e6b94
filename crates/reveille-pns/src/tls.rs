//! TLS toward the push services: 1.2 or later, chain and name checked, HTTP/2 only (P-113). There is no switch to weaken it.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::ring::default_provider};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::SettingsError;

/// The client side: the system's roots, or those of `ca_file` in their place. `key` is the setting's name, for errors.
pub(crate) fn client(ca_file: Option<&Path>, key: &str) -> Result<Arc<ClientConfig>, SettingsError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| SettingsError::new(key, error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| SettingsError::new(key, error))?;
                roots.add(certificate).map_err(|error| SettingsError::new(key, error))?;
            }
        }
        // A root or two that the system has and rustls cannot read is common, and no reason to stop.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        let what = if ca_file.is_some() { "holds no certificate" } else { "the system has no root certificates" };
        return Err(SettingsError::new(key, what));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| SettingsError::new(key, error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
