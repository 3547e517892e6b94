//! TLS of listeners and of the connections that we open (S-160 to S-172), from files that may change while we run.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use reveille_proxy::ingress::Purpose;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use crate::{
    metrics::Metrics,
    settings::{ClusterTls, ListenerSettings, OutboundSettings, Roots},
    tickets::TicketKeys,
};

/// A TLS file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct TlsError {
    /// The setting that names it: `cert`, `key`, `client_ca`, `roots`, `ca`.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl TlsError {
    fn new(key: &'static str, reason: impl ToString) -> Self {
        Self { key, reason: reason.to_string() }
    }
}

/// A TLS configuration made of files, and made anew when they change. A change that cannot be used leaves it as it was.
pub(crate) struct Reloading<T> {
    name: String,
    files: Vec<(&'static str, PathBuf)>,
    build: Box<Build<T>>,
    current: ArcSwap<T>,
    /// Digest of the contents last looked at, good or bad, so that a bad file is reported once.
    seen: Mutex<[u8; 32]>,
    metrics: Arc<Metrics>,
}

type Build<T> = dyn Fn(&[Vec<u8>]) -> Result<Built<T>, TlsError> + Send + Sync;

/// A configuration and when its certificate ends, in Unix time.
pub(crate) struct Built<T> {
    config: T,
    expires: Option<i64>,
}

impl<T> Reloading<T> {
    fn load(
        name: &str,
        files: Vec<(&'static str, PathBuf)>,
        metrics: &Arc<Metrics>,
        build: impl Fn(&[Vec<u8>]) -> Result<Built<T>, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let read =
            |(key, path): &(&'static str, PathBuf)| std::fs::read(path).map_err(|error| unreadable(key, path, &error));
        let contents = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let built = build(&contents)?;
        let reloading = Self {
            name: name.to_owned(),
            files,
            build: Box::new(build),
            current: ArcSwap::from_pointee(built.config),
            seen: Mutex::new(digest(&contents)),
            metrics: Arc::clone(metrics),
        };
        reloading.expires(built.expires);
        Ok(reloading)
    }

    /// The configuration for the next handshake.
    pub(crate) fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Looks at the files. Says whether a new configuration was taken from them.
    pub(crate) async fn reload(&self) -> bool {
        let contents = match self.read().await {
            Ok(contents) => contents,
            Err(error) => {
                // A file that is being replaced may be missing for a moment; unlike a bad one it is worth looking again.
                tracing::warn!(listener = self.name, %error, "certificate files cannot be read");
                return false;
            }
        };
        let digest = digest(&contents);
        if std::mem::replace(&mut *self.seen.lock(), digest) == digest {
            return false;
        }
        match (self.build)(&contents) {
            Ok(built) => {
                self.current.store(Arc::new(built.config));
                self.expires(built.expires);
                tracing::info!(listener = self.name, "certificate replaced");
                true
            }
            Err(error) => {
                self.metrics.reload_failed(&self.name);
                tracing::error!(listener = self.name, %error, "new certificate cannot be used; the old one stays");
                false
            }
        }
    }

    async fn read(&self) -> Result<Vec<Vec<u8>>, TlsError> {
        let mut contents = Vec::with_capacity(self.files.len());
        for (key, path) in &self.files {
            contents.push(tokio::fs::read(path).await.map_err(|error| unreadable(key, path, &error))?);
        }
        Ok(contents)
    }

    fn expires(&self, at: Option<i64>) {
        if let Some(at) = at {
            self.metrics.certificate_expiry(&self.name).set(at as f64);
        }
    }
}

/// The TLS side of a listener.
pub(crate) fn server(
    settings: &ListenerSettings,
    shared: Option<&Arc<TicketKeys>>,
    metrics: &Arc<Metrics>,
) -> Result<Reloading<ServerConfig>, TlsError> {
    let missing = |key| move || TlsError::new(key, "a secure listener needs it");
    let mut files = vec![
        ("cert", settings.cert.clone().ok_or_else(missing("cert"))?),
        ("key", settings.key.clone().ok_or_else(missing("key"))?),
    ];
    files.extend(settings.client_ca.clone().map(|path| ("client_ca", path)));
    // Tickets outlive a change of certificate. Where clients prove who they are they do so each time, since a ticket would
    // carry an identity past the end of its certificate (S-170).
    let tickets: Option<Arc<dyn ProducesTickets>> = match (settings.client_ca.is_none(), settings.purpose, shared) {
        (true, Purpose::Public, Some(shared)) => Some(Arc::clone(shared) as _),
        (true, Purpose::Public | Purpose::Peer, _) => {
            Some(rustls::crypto::ring::Ticketer::new().map_err(|error| TlsError::new("cert", error))?)
        }
        _ => None,
    };
    Reloading::load(&settings.name, files, metrics, move |contents| {
        let [chain, key, ca @ ..] = contents else { return Err(TlsError::new("cert", "missing")) };
        server_config(chain, key, ca.first().map(Vec::as_slice), tickets.clone())
    })
}

fn server_config(
    chain: &[u8],
    key: &[u8],
    client_ca: Option<&[u8]>,
    tickets: Option<Arc<dyn ProducesTickets>>,
) -> Result<Built<ServerConfig>, TlsError> {
    let (chain, key, expires) = identity(chain, key)?;
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| TlsError::new("cert", error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots("client_ca", pem)?), provider)
                .build()
                .map_err(|error| TlsError::new("client_ca", error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    // Refuses a key that does not belong to the certificate.
    let mut config = builder.with_single_cert(chain, key).map_err(|error| TlsError::new("key", error))?;
    // S-163: chosen where offered; other offers only are refused; no offer at all is accepted.
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0; // S-169
    config.require_ems = true; // S-161
    config.send_tls13_tickets = usize::from(tickets.is_some());
    if let Some(tickets) = tickets {
        config.ticketer = tickets;
    }
    Ok(Built { config, expires })
}

/// The TLS side of connections that we open; nothing if nobody is trusted.
pub(crate) fn client(
    settings: &OutboundSettings,
    metrics: &Arc<Metrics>,
) -> Result<Option<Reloading<ClientConfig>>, TlsError> {
    let mut files = Vec::new();
    let system = match &settings.roots {
        Roots::None => return Ok(None),
        Roots::File(path) => {
            files.push(("roots", path.clone()));
            None
        }
        Roots::System => match system_roots() {
            Some(roots) => Some(roots),
            None => return Ok(None),
        },
    };
    match (&settings.cert, &settings.key) {
        (Some(cert), Some(key)) => files.extend([("cert", cert.clone()), ("key", key.clone())]),
        (None, None) => {}
        (Some(_), None) => return Err(TlsError::new("key", "missing, though there is a cert")),
        (None, Some(_)) => return Err(TlsError::new("cert", "missing, though there is a key")),
    }
    let loaded = Reloading::load("outbound", files, metrics, move |contents| {
        let (trusted, identity) = match (&system, contents) {
            (Some(system), identity) => (system.clone(), identity),
            (None, [pem, identity @ ..]) => (roots("roots", pem)?, identity),
            (None, []) => return Err(TlsError::new("roots", "missing")),
        };
        client_config(trusted, identity)
    });
    loaded.map(Some)
}

/// The TLS side of connections that we open to other nodes: trusts their authorities alone, and shows our certificate.
pub(crate) fn cluster(settings: &ClusterTls, metrics: &Arc<Metrics>) -> Result<Reloading<ClientConfig>, TlsError> {
    let files = vec![("ca", settings.ca.clone()), ("cert", settings.cert.clone()), ("key", settings.key.clone())];
    Reloading::load("cluster", files, metrics, |contents| {
        let [ca, identity @ ..] = contents else { return Err(TlsError::new("ca", "missing")) };
        let mut built = client_config(roots("ca", ca)?, identity)?;
        // The other node asks for certificates each time; a session of ours to resume would only be refused (S-170).
        built.config.resumption = Resumption::disabled();
        Ok(built)
    })
}

fn client_config(trusted: RootCertStore, own: &[Vec<u8>]) -> Result<Built<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> =
        WebPkiServerVerifier::builder_with_provider(Arc::new(trusted), Arc::clone(&provider))
            .build()
            .map_err(|error| TlsError::new("roots", error))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| TlsError::new("roots", error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let (mut config, expires) = match own {
        [chain, key] => {
            let (chain, key, expires) = identity(chain, key)?;
            (builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::new("key", error))?, expires)
        }
        _ => (builder.with_no_client_auth(), None),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = false; // S-169
    config.require_ems = true; // S-161
    Ok(Built { config, expires })
}

/// Whether a certificate carries one of these names in its subjectAltName, as DNS name or URI, whole and without wildcards
/// (RFC 5922 §7.2; S-164, S-166).
pub(crate) fn carries_name(certificate: &CertificateDer<'_>, names: &[String]) -> bool {
    let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(certificate) else { return false };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return false };
    alternatives.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(own) | GeneralName::URI(own) => {
            names.iter().any(|wanted| own.eq_ignore_ascii_case(wanted))
        }
        _ => false,
    })
}

/// Why a handshake failed, as a metric label.
pub(crate) fn failure(error: &io::Error) -> &'static str {
    let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else { return "io" };
    match cause {
        rustls::Error::NoApplicationProtocol => "alpn",
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => "certificate",
        rustls::Error::PeerIncompatible(_) => "incompatible",
        rustls::Error::AlertReceived(_) => "alert",
        _ => "protocol",
    }
}

/// Chain, key, and the end of the chain's first certificate.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Option<i64>);

fn identity(chain: &[u8], key: &[u8]) -> Result<Identity, TlsError> {
    let chain = certificates("cert", chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::new("key", "no private key in PEM"))?;
    let leaf = chain.first().and_then(|leaf| x509_parser::certificate::X509Certificate::from_der(leaf).ok());
    let expires = leaf.map(|(_, leaf)| leaf.validity().not_after.timestamp());
    Ok((chain, key, expires))
}

fn certificates(key: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(TlsError::new(key, "no certificate in PEM")),
    }
}

fn roots(key: &'static str, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for authority in certificates(key, pem)? {
        store.add(authority).map_err(|error| TlsError::new(key, error))?;
    }
    Ok(store)
}

fn system_roots() -> Option<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        tracing::warn!("this system has no certificate authorities: TLS connections to others cannot be opened");
        return None;
    }
    Some(store)
}

/// Only what S-160 and S-161 allow is in it: TLS 1.3, and ECDHE with AEAD for 1.2.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn unreadable(key: &'static str, path: &Path, error: &io::Error) -> TlsError {
    TlsError::new(key, format!("{}: {error}", path.display()))
}

fn digest(contents: &[Vec<u8>]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for content in contents {
        context.update(&(content.len() as u64).to_be_bytes());
        context.update(content);
    }
    context.finish().as_ref().try_into().unwrap_or_default()
}

/// SIP over TLS in the ALPN registry.
const ALPN: &[u8] = b"sip/2";

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::*;

    // S-160, S-161: what we offer and accept.
    #[test]
    fn s160_s161_only_tls12_ecdhe_aead_and_tls13() {
        let suites: Vec<_> = provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
        let allowed = [
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ];
        assert!(!suites.is_empty() && suites.iter().all(|suite| allowed.contains(suite)), "{suites:?}");
    }

    // S-161, S-163, S-169, S-170: the rest of the server's configuration.
    #[test]
    fn s169_no_early_data_no_server_cache_one_ticket() {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let tickets = rustls::crypto::ring::Ticketer::new().unwrap();
        let public = server_config(chain.as_bytes(), key.as_bytes(), None, Some(tickets)).unwrap();
        assert!(public.expires.is_some());
        let config = public.config;
        assert_eq!((config.max_early_data_size, config.send_tls13_tickets, config.require_ems), (0, 1, true));
        assert_eq!(config.alpn_protocols, [b"sip/2"]);
        assert!(!config.session_storage.can_cache());
        let mutual = server_config(chain.as_bytes(), key.as_bytes(), Some(chain.as_bytes()), None).unwrap().config;
        assert_eq!((mutual.send_tls13_tickets, mutual.ticketer.enabled()), (0, false));
    }

    // S-164, S-166: names are compared whole.
    #[test]
    fn s164_wildcards_match_nothing() {
        let san = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.der().clone();
        let names = ["edge.example.com".to_owned(), "*.other.example".to_owned()];
        assert!(carries_name(&san("edge.example.com"), &names));
        assert!(carries_name(&san("EDGE.example.com"), &names));
        assert!(!carries_name(&san("*.example.com"), &names));
        assert!(!carries_name(&san("a.other.example"), &names));
        assert!(!carries_name(&CertificateDer::from(vec![1, 2, 3]), &names));
    }

    #[test]
    fn mismatched_and_broken_files_are_named() {
        let (one, two) = (
            rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap(),
            rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap(),
        );
        let (cert, key, other) = (one.cert.pem(), one.signing_key.serialize_pem(), two.signing_key.serialize_pem());
        let fault = |cert: &str, key: &str, ca: Option<&[u8]>| {
            server_config(cert.as_bytes(), key.as_bytes(), ca, None).err().map(|error| error.key)
        };
        assert_eq!(fault(&cert, &key, None), None);
        assert_eq!(fault("", &key, None), Some("cert"));
        assert_eq!(fault(&cert, "nonsense", None), Some("key"));
        assert_eq!(fault(&cert, &other, None), Some("key"));
        assert_eq!(fault(&cert, &key, Some(b"nonsense")), Some("client_ca"));
    }
}
