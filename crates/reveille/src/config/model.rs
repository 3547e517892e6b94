//! The configuration as the rest of the program sees it: types that cannot hold nonsense. Paths are absolute or relative to
//! the working directory as the configuration file's own folder made them; secrets stay in their files.

mod shared;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
pub use reveille_runtime::telemetry::LogFormat;

pub use self::shared::*;

/// A whole, checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The SIP domains we are registrar for, lower case; at least one.
    pub domains: Vec<String>,
    /// This node.
    pub node: Node,
    /// Where to listen; at least one.
    pub listeners: Vec<Listener>,
    /// Who may register and call.
    pub auth: Auth,
    /// Where bindings are kept.
    pub store: Store,
    /// What makes this node one of several; there exactly with [`Store::Redis`].
    pub cluster: Option<Cluster>,
    /// Lifetimes and limits of registrations.
    pub registrar: Registrar,
    /// Waking phones.
    pub push: Push,
    /// Whether push parameters outside the brackets of a Contact count (P-010).
    pub header_pn_params: bool,
    /// Networks whose signalling is as well protected as by TLS (P-112).
    pub strong_alternatives: Vec<StrongAlternative>,
    /// Bounds on what peers may take.
    pub limits: Limits,
    /// The port for operators.
    pub admin: Admin,
    /// Logs.
    pub telemetry: Telemetry,
    /// What is allowed and yet worth a warning at start.
    pub warnings: Vec<String>,
}

/// This node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub id: String,
    /// What it does.
    pub roles: Roles,
    /// What must survive a restart is kept here.
    pub data_dir: PathBuf,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Proxy workers; `None`: one per core.
    pub workers: Option<usize>,
    /// Text of the `Server` header; empty: none.
    pub server_header: String,
}

/// What a node does; at least one of the two, and both where there is no cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// It owns connections.
    pub edge: bool,
    /// It owns bindings.
    pub home: bool,
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The transport, with what it needs.
    pub transport: Transport,
    /// The address to bind; port 0 takes any free one.
    pub addr: SocketAddr,
    /// Host and, where it differs from the bound one, port, for Via, Record-Route and Path.
    pub advertise: Option<(String, Option<u16>)>,
    /// How far its peers are trusted.
    pub purpose: Purpose,
}

/// The transports of this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls(TlsFiles),
}

impl Transport {
    /// The name in configuration, logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
        }
    }
}

/// The files of a TLS listener, all PEM. They were readable and fitted together when the configuration was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of client certificates: when set, peers must show one.
    pub client_ca: Option<PathBuf>,
    /// Names of which a client certificate must carry one; empty: any.
    pub client_names: Vec<String>,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Phones and strangers.
    Public,
    /// The carrier's own SBCs and trunks.
    Peer,
    /// The other nodes of the cluster: TLS with certificates on both sides, and names that they must carry (S-166).
    Cluster,
}

/// Who may register and call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// The realm of challenges.
    pub realm: String,
    /// How users show who they are; `None`: they need not, and then nothing is ever pushed (P-115).
    pub digest: Option<Digest>,
}

/// Digest authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The algorithms to offer; at least one, none twice.
    pub algorithms: Vec<Algorithm>,
    /// How long a nonce is good for.
    pub nonce_ttl: Duration,
    /// Whether answers without `qop` are taken, with MD5 only (S-144).
    pub allow_no_qop: bool,
    /// Whether a connection on which a REGISTER was authenticated speaks for its user (S-156).
    pub trust_registered_flow: bool,
    /// The users file.
    pub users: PathBuf,
}

/// A digest algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512/256.
    Sha512_256,
    /// MD5: weak, only where it was named.
    Md5,
}

/// Where bindings are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// A key-value engine inside the process, in this folder.
    Embedded {
        /// The folder.
        path: PathBuf,
    },
    /// The Redis that the nodes of a cluster share.
    Redis(Box<RedisSettings>),
}

/// Lifetimes and limits of registrations.
#[derive(Clone, Debug)]
pub struct Registrar {
    /// A power of two, up to 32768.
    pub shards: u32,
    /// Below, 423.
    pub min_expires: Duration,
    /// Above, shortened. Not below `min_expires`.
    pub max_expires: Duration,
    /// Granted unasked; between the two.
    pub default_expires: Duration,
    /// Bindings of one address-of-record; at least 1.
    pub max_bindings: usize,
    /// Contacts in one REGISTER; at least 1.
    pub max_contacts: usize,
    /// `Flow-Timer`.
    pub flow_timer: Duration,
    /// Requests that may wait at one shard; at least 1.
    pub queue: usize,
}

/// Waking phones.
#[derive(Clone, Debug)]
pub struct Push {
    /// Bucket Timer of an INVITE (P-067).
    pub call_wait: Duration,
    /// Bucket Timer of any other request (P-067).
    pub request_wait: Duration,
    /// Heard within this time is awake (P-054).
    pub awake_window: Duration,
    /// Silence on an open flow before falling back to push (P-054).
    pub flow_patience: Duration,
    /// What to do with services we do not have (P-036).
    pub unsupported: Unsupported,
    /// The shortest push registration (P-037).
    pub min_expires: Duration,
    /// `sip.pnsreg` (P-027).
    pub pnsreg: Duration,
    /// Whether phones are woken to refresh (P-092).
    pub refresh: bool,
    /// Refresh pushes a second to each push service (P-097).
    pub refresh_rate: u32,
    /// The least granted to phones that get no refresh pushes (P-098); zero for as much as they ask.
    pub voip_expires: Duration,
    /// Push contacts in one REGISTER (P-009).
    pub max_contacts: usize,
    /// Waiters per address-of-record (P-071).
    pub waiters_per_aor: usize,
    /// Requests that may wait at one dispatcher.
    pub queue: usize,
    /// APNs credentials; no two for one app in one environment.
    pub apns: Vec<Apns>,
    /// FCM projects; no project or alias twice.
    pub fcm: Vec<Fcm>,
    /// Web Push.
    pub webpush: Option<WebPush>,
    /// Push services of the operator's own; no `pn-provider` twice.
    pub webhooks: Vec<Webhook>,
}

impl Push {
    /// Whether any push service is configured.
    pub fn is_configured(&self) -> bool {
        !self.apns.is_empty() || !self.fcm.is_empty() || self.webpush.is_some() || !self.webhooks.is_empty()
    }
}

/// What to do with a REGISTER for a push service that is not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// 555.
    Reject,
    /// Register without push.
    Accept,
}

/// One APNs credential.
#[derive(Clone, Debug)]
pub struct Apns {
    /// Its name in the configuration, for logs and metrics.
    pub name: String,
    /// Team ID: ten capitals and digits (P-012).
    pub team_id: String,
    /// Key id: ten capitals and digits.
    pub key_id: String,
    /// The `.p8` signing key.
    pub key_file: PathBuf,
    /// Bundle ids; at least one.
    pub topics: Vec<String>,
    /// Whether this is the sandbox (`apns.dev`, P-014).
    pub sandbox: bool,
    /// Whether refresh pushes may go over a voip token (P-098).
    pub voip_refresh: bool,
    /// Instead of Apple's address: `https://host[:port]`.
    pub endpoint: Option<String>,
    /// Instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
}

/// One FCM project.
#[derive(Clone, Debug)]
pub struct Fcm {
    /// Its name in the configuration, for logs and metrics.
    pub name: String,
    /// The project id.
    pub project: String,
    /// Further values of `pn-param` that mean it.
    pub aliases: Vec<String>,
    /// The service account, JSON.
    pub service_account_file: PathBuf,
    /// Messages a minute at most (P-165).
    pub messages_per_minute: u32,
    /// The member of a message that names the device (P-168).
    pub target_field: String,
    /// Instead of Google's address: `https://host[:port]`.
    pub endpoint: Option<String>,
    /// Instead of Google's: an `https` URL.
    pub token_endpoint: Option<String>,
    /// Instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
}

/// Web Push.
#[derive(Clone, Debug)]
pub struct WebPush {
    /// The VAPID key, PEM.
    pub vapid_key_file: PathBuf,
    /// VAPID keys of before, newest first (P-132).
    pub former_vapid_key_files: Vec<PathBuf>,
    /// Keys of subscriptions that get an encrypted payload (P-137).
    pub payload_keys_file: Option<PathBuf>,
    /// Whether pushes for requests that are no calls are urgent as well (P-129).
    pub urgent_requests: bool,
    /// `mailto:` or `https:` contact.
    pub subject: String,
    /// The services that may be called; at least one (P-138).
    pub allow_hosts: Vec<HostRule>,
    /// Networks let past the address check (P-139).
    pub allow_addresses: Vec<IpNet>,
    /// Instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
}

/// One push service behind a webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Its name in the configuration, for logs and metrics.
    pub name: String,
    /// Its `pn-provider`, in lower case.
    pub provider: String,
    /// An `https` URL.
    pub url: String,
    /// Values of `pn-param` that are served; `*` is any (P-118).
    pub params: Vec<String>,
    /// The HMAC key, 32 octets of text or more.
    pub key_file: PathBuf,
    /// Instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// Wake requests in one batch; at least 1.
    pub batch: usize,
    /// How long a push that is no call may wait for company.
    pub batch_time: Duration,
    /// Headers to send along.
    pub headers: Vec<(String, String)>,
}

/// An entry of the allow-list of Web Push services; written `host`, `host:port` or `*.host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// The host, lower case, without `*.`.
    pub host: String,
    /// Whether it stands for every name below `host` (and not for `host` itself).
    pub below: bool,
    /// The port; 443 if none.
    pub port: Option<u16>,
}

impl std::fmt::Display for HostRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A network whose signalling is as well protected as by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrongAlternative {
    /// The network.
    pub net: IpNet,
    /// What protects it.
    pub kind: Protection,
}

/// The kinds of protection there are (P-123).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// It never leaves the machine.
    Loopback,
    /// IPsec ESP.
    IpsecEsp,
    /// WireGuard.
    Wireguard,
}

/// Bounds on what peers may take; see `docs/configuration.md`, section `[limits]`. A 0 means no bound where that page says so.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field has the name and the meaning of its key")]
pub struct Limits {
    pub message_size: usize,
    pub connections: usize,
    pub connections_per_source: usize,
    pub connects_per_source: u32,
    pub accepts: u32,
    pub handshakes: usize,
    pub messages_per_flow: u32,
    pub messages_burst: u32,
    pub exempt: Vec<IpNet>,
    pub queue_messages: usize,
    pub queue_bytes: usize,
    pub handshake_timeout: Duration,
    pub first_message_timeout: Duration,
    pub message_timeout: Duration,
    pub idle_timeout: Duration,
    pub worker_queue: usize,
    pub transactions: usize,
    pub retry_after_min: Duration,
    pub retry_after_max: Duration,
}

/// The port for operators.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it is.
    pub addr: SocketAddr,
    /// The file with the API's bearer token.
    pub token_file: Option<PathBuf>,
}

/// Logs.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// How lines look.
    pub format: LogFormat,
    /// A level or a filter, checked.
    pub level: String,
}
