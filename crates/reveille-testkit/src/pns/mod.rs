//! The lab push service: APNs, FCM, Web Push and a webhook behind one HTTP/2 and TLS listener on the loopback interface.
//!
//! It checks what the real services check, and then some, so that a test may say "no unauthenticated push request ever left"
//! (P-122) by reading a counter: [`LabPns::unauthenticated`]. A device registered with it receives a [`Wake`] for each push
//! it accepts, unless its [`Verdict`] says otherwise.

mod apns;
mod control;
mod device;
mod fault;
mod fcm;
mod hook;
mod jwt;
mod keys;
mod server;
mod state;
mod tamper;
mod webpush;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::control::LabControl;
pub use self::device::{Device, DeviceKind, Provider, Service, Verdict, Wake};
pub use self::fault::Listener;
pub use self::keys::LabFiles;
pub use self::state::{Counts, LabRequest};

use self::device::DeviceId;
use self::keys::{Keys, names};
use self::state::State;
use crate::ca::LabCa;

/// How to run the lab.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// Where to listen; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Life of the access tokens that the OAuth 2 endpoint issues.
    pub access_token_life: Duration,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS` of each connection.
    pub max_concurrent_streams: u32,
    /// What it is instead until a push with a good credential came over the connection, as Apple does it with 1 (P-149).
    pub streams_before_auth: Option<u32>,
    /// Keep a log of requests; the counters run regardless.
    pub log_requests: bool,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            access_token_life: Duration::from_secs(3599),
            max_concurrent_streams: 1000,
            streams_before_auth: None,
            log_requests: true,
        }
    }
}

/// The URLs of the lab.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Base URL for APNs, without a trailing slash.
    pub apns: String,
    /// Base URL for the APNs sandbox, without a trailing slash.
    pub apns_sandbox: String,
    /// Base URL for FCM, without a trailing slash.
    pub fcm: String,
    /// The OAuth 2 token endpoint, whole; also the `aud` of an assertion.
    pub fcm_token: String,
    /// Origin of Web Push URLs: `https://push.localhost:PORT`.
    pub webpush: String,
    /// Host and port of Web Push URLs, as an allow-list names them.
    pub webpush_host: String,
    /// Where batches for the webhook go.
    pub webhook: String,
    /// The lab's root certificate, PEM.
    pub ca_pem: String,
}

/// Why the lab could not start.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The listener could not be bound or a file not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A key could not be generated or encoded.
    #[error("cannot make the lab's keys: {0}")]
    Keys(String),
    /// A certificate could not be made.
    #[error("cannot make the lab's certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS server could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

impl LabError {
    fn keys(error: impl std::fmt::Display) -> Self {
        Self::Keys(error.to_string())
    }
}

/// A running lab push service; dropping it closes the listener and every connection.
pub struct LabPns {
    lab: Arc<Lab>,
    ca: LabCa,
    addr: SocketAddr,
    next_device: AtomicU64,
    control: watch::Sender<server::Control>,
    /// Whether the port is open.
    listening: watch::Receiver<bool>,
    acceptor: JoinHandle<()>,
}

/// What the request handlers share.
struct Lab {
    keys: Keys,
    state: Arc<State>,
    endpoints: Endpoints,
    config: LabConfig,
    /// Requests beyond [`LabConfig::streams_before_auth`].
    over_limit: Arc<AtomicU64>,
}

impl LabPns {
    /// Makes keys and certificates, binds and serves.
    ///
    /// # Errors
    /// When one of these steps fails.
    pub async fn start(config: LabConfig) -> Result<Self, LabError> {
        let keys = tokio::task::spawn_blocking(Keys::generate).await.map_err(LabError::keys)??;
        let ca = LabCa::new()?;
        let names = ["localhost", names::WEBPUSH_HOST, names::APNS_SANDBOX_HOST, "127.0.0.1", "::1"];
        let tls = server::Acceptors {
            sound: server::tls_config(&ca.issue(&names)?)?,
            unknown_root: server::tls_config(&LabCa::new()?.issue(&names)?)?,
            wrong_name: server::tls_config(&ca.issue(&["elsewhere.localhost"])?)?,
        };
        let listener = tokio::net::TcpListener::bind(config.addr).await?;
        let addr = listener.local_addr()?;
        let base = format!("https://localhost:{}", addr.port());
        let webpush_host = format!("{}:{}", names::WEBPUSH_HOST, addr.port());
        let endpoints = Endpoints {
            fcm_token: format!("{base}/token"),
            apns: base.clone(),
            apns_sandbox: format!("https://{}:{}", names::APNS_SANDBOX_HOST, addr.port()),
            webhook: format!("{base}/hook"),
            fcm: base,
            webpush: format!("https://{webpush_host}"),
            webpush_host,
            ca_pem: ca.pem(),
        };
        let lab = Arc::new(Lab { keys, state: Arc::default(), endpoints, config, over_limit: Arc::default() });
        let (control, watching) = watch::channel(server::Control::default());
        let (open, listening) = watch::channel(true);
        let acceptor = tokio::spawn(server::accept(listener, tls, Arc::clone(&lab), watching, open));
        Ok(Self { lab, ca, addr, next_device: AtomicU64::new(1), control, listening, acceptor })
    }

    /// Where the lab listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URLs of the lab.
    pub fn endpoints(&self) -> &Endpoints {
        &self.lab.endpoints
    }

    /// The authority behind the lab's certificate; it can sign certificates for SIP nodes too.
    pub fn ca(&self) -> &LabCa {
        &self.ca
    }

    /// Writes the credentials of a node into `dir` (mode 0600): keys, service account, root certificate.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_credentials(&self, dir: &Path) -> Result<LabFiles, LabError> {
        Ok(self.lab.keys.write(dir, &self.ca.pem(), self.lab.endpoints.clone())?)
    }

    /// The application server key of this lab's Web Push, as `k` and `sip.vapid` carry it (P-026).
    pub fn vapid_public_key(&self) -> String {
        webpush::encode_key(&self.lab.keys.vapid_public())
    }

    /// Makes up an app instance; a [`Provider`] stands for its usual kind of device.
    pub fn register_device(&self, kind: impl Into<DeviceKind>) -> Device {
        let kind = kind.into();
        let id = DeviceId(self.next_device.fetch_add(1, Ordering::Relaxed));
        let (param, prid, tokens) = device::address(kind, &self.lab.endpoints.webpush);
        let wakes = self.lab.state.add_device(id, kind.provider(), &prid, &tokens);
        if kind == DeviceKind::WebPush {
            for (_, path) in &tokens {
                self.lab.state.subscribe(path, self.vapid_public_key());
            }
        }
        Device { provider: kind.provider(), param, prid, wakes }
    }

    /// Decides how pushes to the device with this PRID are treated from now on; `false` if there is no such device.
    pub fn set_verdict(&self, prid: &str, verdict: Verdict) -> bool {
        self.lab.state.set_verdict(prid, verdict)
    }

    /// Pushes accepted for this PRID, over all its tokens.
    pub fn accepted(&self, prid: &str) -> u64 {
        self.lab.state.device_counts(prid).1
    }

    /// Well-formed, authenticated pushes that reached this PRID, whatever their verdict.
    pub fn pushed(&self, prid: &str) -> u64 {
        self.lab.state.device_counts(prid).0
    }

    /// The counters of one provider.
    pub fn counts(&self, provider: Provider) -> Counts {
        self.lab.state.counts(provider)
    }

    /// Requests of one provider that came without a credential or with a wrong one (P-122: must stay zero).
    pub fn unauthenticated(&self, provider: Provider) -> u64 {
        self.counts(provider).unauthenticated
    }

    /// [`Self::unauthenticated`] over all providers.
    pub fn unauthenticated_total(&self) -> u64 {
        Provider::ALL.into_iter().map(|one| self.unauthenticated(one)).sum()
    }

    /// Wake-ups dropped because a test left too many unread.
    pub fn wakes_lost(&self) -> u64 {
        self.lab.state.wakes_lost()
    }

    /// The newest requests, oldest first; empty where the log is off.
    pub fn requests(&self) -> Vec<LabRequest> {
        self.lab.state.log()
    }

    /// Refuses every credential of `provider` seen so far as expired; new ones are good.
    pub fn revoke_credentials(&self, provider: Provider) {
        self.lab.state.revoke(provider);
    }

    /// Sends GOAWAY on every open connection and lets streams in progress finish.
    pub fn drain_connections(&self) {
        self.control.send_modify(|control| control.drains += 1);
    }

    /// Cuts every open connection, mid-stream.
    pub fn cut_connections(&self) {
        self.control.send_modify(|control| control.cuts += 1);
    }

    /// Whatever comes over open connections from now on is swallowed, and nothing leaves: the peer has gone without a word.
    pub fn mute_connections(&self) {
        self.control.send_modify(|control| control.mutes += 1);
    }

    /// Each of the next `connections` connections processes `requests` requests and says GOAWAY at the one after them, naming
    /// the last it took: what was sent beyond that was never processed (RFC 9113 §6.8).
    pub fn go_away_after(&self, requests: u32, connections: u64) {
        self.control.send_modify(|control| control.goaway = Some((requests, Arc::new(AtomicU64::new(connections)))));
    }

    /// The next `times` pushes of `provider` that are in order meet with `verdict`, whatever their device's own.
    pub fn set_next(&self, provider: Provider, verdict: Verdict, times: u32) {
        self.lab.state.set_next(provider, verdict, times);
    }

    /// How the lab treats whoever connects from now on. Returns once it does.
    pub async fn set_listener(&self, listener: Listener) {
        self.control.send_modify(|control| control.listener = listener);
        let open = listener != Listener::Refused;
        let mut listening = self.listening.clone();
        let _ = listening.wait_for(|is| *is == open).await;
    }

    /// While `false`, new connections are closed as soon as they are accepted; open ones are cut.
    pub fn set_reachable(&self, reachable: bool) {
        self.control.send_modify(|control| {
            control.listener = if reachable { Listener::Sound } else { Listener::Closed };
            if !reachable {
                control.cuts += 1;
            }
        });
    }

    /// Makes a new VAPID key. Subscriptions made until now take pushes signed with theirs alone (RFC 8292 §4.2), new ones
    /// need the new key; [`Self::write_credentials`] writes the new one.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn rotate_vapid(&self) -> Result<(), LabError> {
        self.lab.keys.rotate_vapid()
    }

    /// Requests that came over the limit of [`LabConfig::streams_before_auth`] while it held.
    pub fn over_limit(&self) -> u64 {
        self.lab.over_limit.load(Ordering::Relaxed)
    }

    /// TLS connections accepted so far: tells whether a sender keeps its connections (P-149).
    pub fn connections(&self) -> u64 {
        self.control.borrow().connections()
    }
}

impl Drop for LabPns {
    fn drop(&mut self) {
        self.cut_connections();
        self.acceptor.abort();
    }
}
