//! A push service in the test's own process: HTTP/2 over TLS on loopback, answering as each test scripts it.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by several test binaries"
)]

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::Registry;
use rcgen::{CertificateParams, KeyPair};
use reveille_pns::{
    ApnsSettings, BoxFuture, FcmSettings, Hosting, Limits, Resolver, Services, Settings, WebPushSettings, start,
};
use reveille_push::{Outcome, Provider, PushClass, PushJob, PushServices, PushTarget, Ticket};
use reveille_runtime::{Fatal, RuntimeMetrics, clock};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{net::TcpListener, net::TcpStream, sync::oneshot};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use url::Url;

pub const HOST: &str = "push.example.net";

/// A request as the push service saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub type Script = dyn Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync;

pub fn answer(status: u16, body: &str) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

/// Certificates and key files.
pub struct Files {
    dir: tempfile::TempDir,
    tls: Arc<ServerConfig>,
}

impl Files {
    pub fn new() -> Self {
        Self::with_alpn(b"h2")
    }

    pub fn with_alpn(alpn: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![HOST.to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], der)
            .unwrap();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let files = Self { dir, tls: Arc::new(tls) };
        files.new_key("key.p8");
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn new_key(&self, name: &str) {
        write_private(&self.path(name), &KeyPair::generate().unwrap().serialize_pem());
    }

    pub fn service_account(&self) -> PathBuf {
        use rsa::pkcs8::EncodePrivateKey;
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        let json = serde_json::json!({
            "type": "service_account",
            "client_email": "sender@acme-phone-prod.iam.example",
            "private_key_id": "k1",
            "private_key": key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap().as_str(),
            // Never to be contacted (P-159).
            "token_uri": "https://elsewhere.example/token",
        });
        write_private(&self.path("account.json"), &json.to_string());
        self.path("account.json")
    }
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A listener with everything it has seen.
pub struct Server {
    pub port: u16,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub connections: Arc<Mutex<usize>>,
}

impl Server {
    /// Answers every request as `script` says.
    pub async fn start(files: &Files, script: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        Self::with_first(files, script, |_| None).await
    }

    /// As [`Server::start`], but connections that `special` wants (by their number, from 0) are handed to the future it gives.
    pub async fn with_first(
        files: &Files,
        script: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static,
        special: impl Fn(usize) -> Option<fn(TlsStream<TcpStream>) -> BoxFuture<'static, ()>> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let script: Arc<Script> = Arc::new(script);
        let acceptor = TlsAcceptor::from(Arc::clone(&files.tls));
        let (log, count) = (Arc::clone(&seen), Arc::clone(&connections));
        tokio::spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else { return };
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let number = *count.lock().unwrap();
                *count.lock().unwrap() += 1;
                match special(number) {
                    Some(serve) => drop(tokio::spawn(serve(tls))),
                    None => drop(tokio::spawn(serve(tls, Arc::clone(&script), Arc::clone(&log)))),
                }
            }
        });
        Self { port, seen, connections }
    }

    pub fn url(&self) -> Url {
        Url::parse(&format!("https://{HOST}:{}", self.port)).unwrap()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

async fn serve(tls: TlsStream<TcpStream>, script: Arc<Script>, log: Arc<Mutex<Vec<Seen>>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (script, log) = (Arc::clone(&script), Arc::clone(&log));
        async move {
            let (head, body) = request.into_parts();
            let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
            let seen = Seen { path, headers: head.headers, body: body.collect().await?.to_bytes() };
            log.lock().unwrap().push(seen.clone());
            Ok::<_, hyper::Error>(script(&seen))
        }
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(tls), service)
        .await;
}

/// Every name is this machine.
pub struct Loopback;

impl Resolver for Loopback {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Vec<IpAddr>> {
        Box::pin(std::future::ready(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]))
    }
}

pub fn apns(files: &Files, server: &Server) -> ApnsSettings {
    ApnsSettings {
        name: "main".to_owned(),
        team_id: "9TEAM42XYZ".to_owned(),
        key_id: "ABC123DEFG".to_owned(),
        key_file: files.path("key.p8"),
        topics: vec!["org.example.phone".to_owned()],
        sandbox: false,
        voip_refresh: false,
        endpoint: Some(server.url()),
        ca_file: Some(files.path("ca.pem")),
    }
}

pub fn fcm(files: &Files, server: &Server) -> FcmSettings {
    FcmSettings {
        name: "main".to_owned(),
        project: "acme-phone-prod".to_owned(),
        aliases: vec!["123456789012".to_owned()],
        service_account_file: files.service_account(),
        endpoint: Some(server.url()),
        messages_per_minute: 540_000,
        target_field: "token".to_owned(),
        token_endpoint: Some(server.url().join("/token").unwrap()),
        ca_file: Some(files.path("ca.pem")),
    }
}

pub fn webpush(files: &Files, server: &Server) -> WebPushSettings {
    WebPushSettings {
        vapid_key_file: files.path("key.p8"),
        former_vapid_key_files: Vec::new(),
        payload_keys_file: None,
        urgent_requests: false,
        subject: "mailto:ops@example.net".to_owned(),
        allow_hosts: vec![format!("{HOST}:{}", server.port)],
        allow_addresses: vec!["127.0.0.0/8".parse().unwrap()],
        ca_file: Some(files.path("ca.pem")),
    }
}

pub struct Node {
    pub services: Services,
    pub registry: Registry,
}

pub async fn node(settings: Settings) -> Node {
    node_with(settings, Arc::new(Loopback)).await
}

/// With a resolver of the test's own.
pub async fn node_with(settings: Settings, resolver: Arc<dyn Resolver>) -> Node {
    let registry = Registry::new();
    let runtime = RuntimeMetrics::new(&registry).unwrap();
    let (fatal, _) = Fatal::new();
    let hosting = Hosting { registry: registry.clone(), runtime, fatal, resolver: Some(resolver), shared: None };
    let services = start(settings, hosting).await.unwrap();
    services.warm_up(Duration::from_secs(5)).await;
    Node { services, registry }
}

impl Node {
    pub async fn push(&self, target: &PushTarget, class: PushClass) -> Outcome {
        self.submit(target, class, Duration::from_secs(8), Ticket::new()).await.unwrap()
    }

    pub fn submit(
        &self,
        target: &PushTarget,
        class: PushClass,
        patience: Duration,
        ticket: Ticket,
    ) -> oneshot::Receiver<Outcome> {
        self.submit_again(target, class, (patience, patience), 0, ticket)
    }

    /// The first refresh push of a binding that lasts for `rest`, or a later one.
    pub async fn refresh(&self, target: &PushTarget, rest: Duration, repeat: u32) -> Outcome {
        let times = (Duration::from_secs(8), rest);
        self.submit_again(target, PushClass::Refresh, times, repeat, Ticket::new()).await.unwrap()
    }

    fn submit_again(
        &self,
        target: &PushTarget,
        class: PushClass,
        (patience, ttl): (Duration, Duration),
        repeat: u32,
        ticket: Ticket,
    ) -> oneshot::Receiver<Outcome> {
        let (reply, verdict) = oneshot::channel();
        let job = PushJob {
            id: 1,
            target: target.clone(),
            class,
            deadline: clock::now() + patience,
            ttl,
            repeat,
            ticket,
            reply: Box::new(move |outcome| {
                let _ = reply.send(outcome);
            }),
            correlation: 77,
        };
        assert!(self.services.submit(job).is_ok());
        verdict
    }

    /// The value of a counter, 0 where it has not been counted.
    pub fn value(&self, name: &str) -> u64 {
        let text = reveille_runtime::metrics::encode(&self.registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    pub fn metric(&self, line: &str) -> bool {
        reveille_runtime::metrics::encode(&self.registry).unwrap().lines().any(|found| found == line)
    }
}

pub fn apns_target(token: &str) -> PushTarget {
    PushTarget::new(Provider::Apns, Some("9TEAM42XYZ.org.example.phone.voip"), token).unwrap()
}

pub fn fcm_target(token: &str) -> PushTarget {
    PushTarget::new(Provider::Fcm, Some("acme-phone-prod"), token).unwrap()
}

pub fn webpush_target(server: &Server, path: &str) -> PushTarget {
    PushTarget::new(Provider::WebPush, None, &format!("https://{HOST}:{}{path}", server.port)).unwrap()
}

pub fn limits() -> Limits {
    Limits { breaker_threshold: 2, ..Limits::default() }
}
