//! What the tests of whole edges on loopback share.

// Each test binary uses its own part.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus::{Registry, TextEncoder};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reveille_edge::{
    Edge, EdgeSettings, LimitsSettings, ListenerSettings, OutboundSettings, Roots, TimeoutSettings, TokenRing,
};
use reveille_proxy::ingress::{Inbound, Ingress};
use reveille_registrar::flow::{FlowRef, NodeTag, Transport};
use rustls::{ClientConfig, RootCertStore, pki_types::PrivateKeyDer};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::{Mutex, mpsc},
};

/// The Call-ID of a message that the ingress fails on.
pub(crate) const FAULT: &str = "fault";

/// An ingress that notes what it gets.
pub(crate) struct Recorder {
    messages: mpsc::UnboundedSender<Inbound>,
    closed: mpsc::UnboundedSender<FlowRef>,
    pub(crate) overloaded: AtomicBool,
}

impl Ingress for Recorder {
    fn deliver(&self, inbound: Inbound) -> Result<(), Inbound> {
        if self.overloaded.load(Ordering::Relaxed) {
            return Err(inbound);
        }
        assert_ne!(call_id(&inbound), FAULT, "a fault in the proxy");
        let _ = self.messages.send(inbound);
        Ok(())
    }

    fn flow_closed(&self, flow: &FlowRef) {
        let _ = self.closed.send(*flow);
    }
}

/// A running edge and what it reported.
pub(crate) struct Bench {
    pub(crate) edge: Edge,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) registry: Registry,
    messages: Mutex<mpsc::UnboundedReceiver<Inbound>>,
    closed: Mutex<mpsc::UnboundedReceiver<FlowRef>>,
}

impl Bench {
    pub(crate) fn start(settings: EdgeSettings) -> Self {
        let (message_sender, messages) = mpsc::unbounded_channel();
        let (closed_sender, closed) = mpsc::unbounded_channel();
        let recorder =
            Arc::new(Recorder { messages: message_sender, closed: closed_sender, overloaded: AtomicBool::new(false) });
        let registry = Registry::new();
        let edge = Edge::bind(settings, Arc::clone(&recorder) as Arc<dyn Ingress>, &registry).unwrap();
        Self { edge, recorder, registry, messages: Mutex::new(messages), closed: Mutex::new(closed) }
    }

    pub(crate) fn addr(&self, listener: usize) -> SocketAddr {
        self.edge.bound()[listener].addr
    }

    pub(crate) async fn next(&self) -> Inbound {
        soon(async { self.messages.lock().await.recv().await }).await.unwrap()
    }

    pub(crate) async fn closed(&self) -> FlowRef {
        soon(async { self.closed.lock().await.recv().await }).await.unwrap()
    }

    /// The value of a metric, all its labels added up.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let values = text
            .lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }
}

/// Bounds what a fault would let wait for ever.
/// Longer than anything takes here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("took too long")
}

pub(crate) fn loopback(transport: Transport) -> ListenerSettings {
    ListenerSettings::new(transport.uri_param(), transport, "127.0.0.1:0".parse().unwrap())
}

pub(crate) fn settings(listeners: Vec<ListenerSettings>) -> EdgeSettings {
    EdgeSettings {
        node: NodeTag(1),
        epoch: 7,
        listeners,
        limits: LimitsSettings::default(),
        timeouts: TimeoutSettings::default(),
        outbound: OutboundSettings { roots: Roots::None, ..OutboundSettings::default() },
        cluster: None,
        tokens: TokenRing::random(),
        tickets: None,
        sip: reveille_sip::limits::Limits::default(),
    }
}

pub(crate) fn request(method: &str, call_id: &str) -> String {
    format!(
        "{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5999;rport;branch=z9hG4bK{call_id}\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

pub(crate) fn call_id(inbound: &Inbound) -> String {
    inbound.message.call_id().unwrap().to_owned()
}

pub(crate) async fn read_some(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut space = [0; 4096];
    let count = soon(stream.read(&mut space)).await.unwrap();
    String::from_utf8(space[..count].to_vec()).unwrap()
}

/// An authority, and files of what it issued.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Writes (again) `FILE.pem` and `FILE.key` for these names.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) =
            (self.dir.path().join(format!("{file}.pem")), self.dir.path().join(format!("{file}.key")));
        std::fs::write(&cert_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert_file, key_file)
    }

    /// A TLS listener with a certificate for `localhost` and 127.0.0.1.
    pub(crate) fn listener(&self) -> ListenerSettings {
        let (cert, key) = self.issue("server", &["localhost", "127.0.0.1"]);
        ListenerSettings { cert: Some(cert), key: Some(key), ..loopback(Transport::Tls) }
    }

    /// A client that trusts this authority, offers these protocols, and shows a certificate of these names, if any.
    pub(crate) fn client(&self, alpn: &[&str], own: Option<&[&str]>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(names) => {
                let key = KeyPair::generate().unwrap();
                let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
                let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}
