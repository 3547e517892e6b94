//! The configuration as it is written: every section and key, with its default and what it means. Nothing is checked here but
//! names and types; [`super::check`] turns this into [`super::Config`].

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use ipnet::IpNet;

use super::describe::{Describe, Key, Span, join, section, tables};

section! {
    /// The whole file.
    Raw {
        /// The SIP domains this system is registrar for. Required. A host name or an IP address each.
        domains: Vec<String> = Vec::new(),
        /// This node.
        node: Node = Node::default(),
        /// The addresses to listen on. At least one is required.
        listener: Vec<Listener> = Vec::new(),
        /// Who may register and call.
        auth: Auth = Auth::default(),
        /// Where bindings are kept.
        store: Store = Store::default(),
        /// What makes this node one of several.
        cluster: Option<Cluster> = None,
        /// Lifetimes and limits of registrations.
        registrar: Registrar = Registrar::default(),
        /// Waking phones.
        push: Push = Push::default(),
        /// What clients do that the specifications don't ask for.
        compat: Compat = Compat::default(),
        /// Transport security.
        security: Security = Security::default(),
        /// Bounds on what peers may take.
        limits: Limits = Limits::default(),
        /// The port for operators and their tools.
        admin: Admin = Admin::default(),
        /// Logs.
        telemetry: Telemetry = Telemetry::default(),
    }
}

section! {
    /// `[node]`
    Node {
        /// The node's name in logs and in the admin API. In a cluster every node needs one of its own.
        id: String = "reveille".to_owned(),
        /// What the node does: `edge` owns connections, `home` owns bindings. A node of a cluster may do only one of them.
        roles: Vec<String> = vec!["edge".to_owned(), "home".to_owned()],
        /// The folder for what must survive a restart. Made if missing.
        data_dir: PathBuf = PathBuf::from("/var/lib/reveille"),
        /// How long requests in hand, calls that ring or wait among them, get to finish after SIGTERM: half of it for giving shards away, the rest for connections. Who still waits then is told 503.
        drain_timeout: Span = Span::secs(30),
        /// Proxy workers; 0 means one per processor core.
        workers: usize = 0,
        /// The text of the `Server` header in our own responses; empty leaves the header out.
        server_header: String = String::new(),
    }
}

section! {
    /// `[[listener]]`
    Listener {
        /// `udp`, `tcp` or `tls`. Required.
        transport: String = String::new(),
        /// The address and port to bind, as `192.0.2.1:5061` or `[::]:5061`. Required. Port 0 takes any free one.
        addr: Option<SocketAddr> = None,
        /// Host, or host and port, that peers use to reach this listener: goes into Via, Record-Route and Path. Needed where `addr` is a wildcard; else `addr` itself.
        advertise: Option<String> = None,
        /// Certificate chain, PEM. Required with `tls`.
        cert: Option<PathBuf> = None,
        /// Private key of the certificate, PEM. Required with `tls`.
        key: Option<PathBuf> = None,
        /// Authorities of client certificates, PEM. When set, a peer without a certificate of theirs is refused.
        client_ca: Option<PathBuf> = None,
        /// DNS names or URIs (subjectAltName) of which a client certificate must carry one; empty admits every certificate of `client_ca`. Compared whole, never by wildcard.
        client_names: Vec<String> = Vec::new(),
        /// `public` for phones and strangers, who are authenticated and limited; `peer` for your own SBCs and trunks; `cluster` for the other nodes.
        purpose: String = "public".to_owned(),
    }
}

section! {
    /// `[auth]`
    Auth {
        /// `digest` (RFC 7616, RFC 8760), or `none`, which is refused as long as any push service is configured.
        mode: String = "digest".to_owned(),
        /// The realm of challenges; by default the first of `domains`.
        realm: Option<String> = None,
        /// Digest algorithms to offer: `SHA-256`, `SHA-512-256`, `MD5`. MD5 is weak, and is offered only where it is named.
        algorithms: Vec<String> = vec!["SHA-256".to_owned()],
        /// How long a nonce is good for; then phones are challenged again with `stale=true`.
        nonce_ttl: Span = Span::secs(300),
        /// Accepts old clients that answer without `qop`. Needs `MD5` among `algorithms`.
        allow_no_qop: bool = false,
        /// Trusts a TLS connection to speak for the user whose REGISTER on it was accepted, until that registration ends (RFC 5626, section 15): calls and messages on it are not challenged. Off, each is.
        trust_registered_flow: bool = false,
        /// Where users are found.
        users: Users = Users::default(),
    }
}

section! {
    /// `[auth.users]`
    Users {
        /// The users file, hashed credentials a line each. Required with `digest`. Read again on SIGHUP.
        file: Option<PathBuf> = None,
    }
}

section! {
    /// `[store]`
    Store {
        /// `embedded`: a durable key-value engine inside the process, for a node by itself; or `redis`, for a cluster.
        kind: String = "embedded".to_owned(),
        /// The folder of the embedded store; by default `bindings` within `node.data_dir`.
        path: Option<PathBuf> = None,
        /// The Redis of a cluster.
        redis: Option<Redis> = None,
    }
}

section! {
    /// `[store.redis]`
    Redis {
        /// The servers, as `rediss://host:port` (TLS) or `redis://host:port`. Required. One with `standalone`; the sentinels with `sentinel`; some nodes with `cluster`.
        urls: Vec<String> = Vec::new(),
        /// How the servers are arranged: `standalone`, `sentinel` or `cluster`.
        mode: String = "standalone".to_owned(),
        /// The master's name among the sentinels. Required with `sentinel`.
        master: Option<String> = None,
        /// The ACL user; without one, the server's default user.
        username: Option<String> = None,
        /// A file with the user's password. Read anew for each connection.
        password_file: Option<PathBuf> = None,
        /// The ACL user at the sentinels, where they ask for one.
        sentinel_username: Option<String> = None,
        /// A file with that user's password.
        sentinel_password_file: Option<PathBuf> = None,
        /// Authorities to trust for these servers, PEM; by default the system's.
        ca_file: Option<PathBuf> = None,
        /// Certificate chain to show to the servers, PEM, where they ask for one.
        cert: Option<PathBuf> = None,
        /// Private key of that certificate, PEM.
        key: Option<PathBuf> = None,
        /// Permits `redis://` to servers that are not on this machine. Logged as a warning at start.
        allow_plaintext: bool = false,
        /// Replicas that must hold a write before it is acknowledged; 0 trusts the master alone, and its failure may then lose what was written last.
        wait_replicas: u32 = 0,
        /// How long those replicas may take; then the REGISTER is answered with 503.
        wait_time: Span = Span::millis(500),
        /// Connections to each server; a shard always uses the same one.
        connections: usize = 2,
        /// How long opening a connection, or a reply on one, may take before the connection counts as dead.
        timeout: Span = Span::secs(1),
        /// Writes that may wait; more REGISTERs are answered with 503.
        queue: usize = 16_384,
        /// About how many changes of a shard are kept for the nodes that follow it.
        feed_length: usize = 256,
    }
}

section! {
    /// `[cluster]`
    Cluster {
        /// The cluster's name, 1 to 32 lower-case letters, digits and hyphens: part of every key in Redis. Required.
        name: String = String::new(),
        /// Files with the cluster's secrets, the same on every node, each made by `openssl rand -hex 32`. At least one. The first seals, all are read.
        key_files: Vec<PathBuf> = Vec::new(),
        /// The secret under which records are filed in Redis, which must never change; by default the one of `key_files`. Required where there are more, and kept from then on.
        naming_key_file: Option<PathBuf> = None,
        /// Host, or host and port, at which the other nodes reach this one; by default what the cluster listener says.
        advertise: Option<String> = None,
        /// The DNS name that every node's certificate carries, and that is looked for in it, whoever calls whom.
        server_name: String = "reveille-node".to_owned(),
        /// Authorities of the other nodes' certificates, PEM; by default `client_ca` of the cluster listener.
        ca: Option<PathBuf> = None,
        /// Certificate chain to show to the other nodes, PEM; by default that of the cluster listener.
        cert: Option<PathBuf> = None,
        /// Private key of that certificate, PEM.
        key: Option<PathBuf> = None,
        /// How long a node that says nothing to Redis keeps its shards. Shorter finds a dead node sooner, and a slow one dead.
        lease: Span = Span::secs(3),
        /// The share of this node's work beside others of the cluster, 1 to 10000; twice the weight is twice the shards.
        weight: u32 = 100,
        /// Whether homes follow the shards they would take over, so that a takeover reads no record from Redis. Costs as much memory again as the bindings, and some processor time with each REGISTER.
        standby: bool = true,
        /// Octets that the records of followed shards may take; shards that find no room are read when they are taken over.
        standby_memory: usize = 1 << 31,
        /// Connections to each other node. What belongs to one call stays on one of them.
        connections: u8 = 2,
    }
}

section! {
    /// `[registrar]`
    Registrar {
        /// Shards that addresses-of-record are spread over; a power of two up to 32768. Fixed once bindings are stored.
        shards: u32 = 1024,
        /// The shortest registration accepted; a shorter wish is answered with 423.
        min_expires: Span = Span::secs(60),
        /// The longest registration granted; a longer wish is shortened.
        max_expires: Span = Span::secs(7 * 86_400),
        /// What is granted where the phone asks for nothing.
        default_expires: Span = Span::secs(3_600),
        /// Bindings of one address-of-record at most; one more is answered with 403.
        max_bindings: usize = 10,
        /// Contacts in one REGISTER at most; more are answered with 403.
        max_contacts: usize = 10,
        /// The `Flow-Timer` told to phones that use outbound (RFC 5626), by which they space their keep-alives.
        flow_timer: Span = Span::secs(120),
        /// Requests that may wait at one shard; more are answered with 503.
        queue: usize = 4_096,
    }
}

section! {
    /// `[push]`
    Push {
        /// How long an INVITE waits for its phone to wake; at most `150s`.
        call_wait: Span = Span::secs(30),
        /// How long any other request waits; at most `20s`, since its sender gives up at 32 s.
        request_wait: Span = Span::secs(10),
        /// A phone heard on its connection within this time is awake and is not pushed.
        awake_window: Span = Span::secs(30),
        /// How long a phone that can be pushed may stay silent on a connection that looks open, before it is woken instead.
        flow_patience: Span = Span::secs(2),
        /// What to do with a REGISTER for a push service that is not configured: `reject` (555) or `accept` (registers without push).
        unsupported: String = "reject".to_owned(),
        /// The shortest registration of a phone with push, at least `300s`; a shorter wish is answered with 423.
        min_expires: Span = Span::secs(600),
        /// The value of `sip.pnsreg` for phones that can refresh by themselves; above `120s`.
        pnsreg: Span = Span::secs(180),
        /// Wakes phones to refresh before their registration ends. Off, a phone that sleeps through the end is lost until it comes by itself.
        refresh: bool = true,
        /// Refresh pushes in a second to each push service, of one node; what is more is put off. Calls are not counted and go first.
        refresh_rate: u32 = 1_000,
        /// The least that is granted to an iPhone which can be woken for calls alone (a `voip` token by itself), since it gets no refresh pushes; `0s` grants what it asks for.
        voip_expires: Span = Span::secs(7 * 86_400),
        /// Push contacts in one REGISTER at most; more are answered with 403.
        max_contacts: usize = 4,
        /// Requests that may wait for wake-ups of one address-of-record; more get 480.
        waiters_per_aor: usize = 16,
        /// Push requests that may wait at one dispatcher; beyond, the least urgent are dropped.
        queue: usize = 10_000,
        /// APNs credentials.
        apns: BTreeMap<String, Apns> = BTreeMap::new(),
        /// FCM projects.
        fcm: BTreeMap<String, Fcm> = BTreeMap::new(),
        /// Web Push.
        webpush: Option<WebPush> = None,
        /// Push services of your own, by name.
        webhook: BTreeMap<String, Webhook> = BTreeMap::new(),
    }
}

section! {
    /// `[push.apns.NAME]`
    Apns {
        /// The Apple Team ID, ten capitals and digits. Required.
        team_id: String = String::new(),
        /// The id of the signing key, ten capitals and digits. Required.
        key_id: String = String::new(),
        /// The signing key, a `.p8` file. Required. Read again on SIGHUP.
        key_file: Option<PathBuf> = None,
        /// The bundle ids of the apps that may be pushed. Required. Services (`.voip`) are not named here.
        topics: Vec<String> = Vec::new(),
        /// `production` (`pn-provider=apns`) or `sandbox` (`pn-provider=apns.dev`).
        environment: String = "production".to_owned(),
        /// Sends refresh pushes over the `voip` token of a phone that has no other. Only for an app which reports a call for every push, as iOS demands.
        voip_refresh: bool = false,
        /// Another address for the service, as `https://host:port`; by default Apple's for the environment.
        endpoint: Option<String> = None,
        /// Authorities to trust for this service, PEM; by default the system's.
        ca_file: Option<PathBuf> = None,
    }
}

section! {
    /// `[push.fcm.NAME]`
    Fcm {
        /// The Firebase project id; by default that of the service account.
        project: Option<String> = None,
        /// Further values of `pn-param` that mean this project, such as its sender id.
        aliases: Vec<String> = Vec::new(),
        /// The service account, a JSON file. Required. Read again on SIGHUP.
        service_account_file: Option<PathBuf> = None,
        /// Another address for the service, as `https://host:port`; by default Google's.
        endpoint: Option<String> = None,
        /// Messages a minute at most, below the project's quota, which is 600000 unless Google says otherwise.
        messages_per_minute: u32 = 540_000,
        /// The member of a message that names the device: `token`, or `fid` where phones send Firebase installation ids.
        target_field: String = "token".to_owned(),
        /// Another address for OAuth 2 tokens, as `https://host:port/path`; by default Google's. The service account's own is never used.
        token_endpoint: Option<String> = None,
        /// Authorities to trust for this service, PEM; by default the system's.
        ca_file: Option<PathBuf> = None,
    }
}

section! {
    /// `[push.webpush]`
    WebPush {
        /// The VAPID key: a P-256 private key, PEM. Required. Read again on SIGHUP.
        vapid_key_file: Option<PathBuf> = None,
        /// VAPID keys of before, newest first: subscriptions made under them are signed for with them until the phone makes new ones. Read again on SIGHUP.
        former_vapid_key_files: Vec<PathBuf> = Vec::new(),
        /// Keys of subscriptions that want an encrypted payload, a JSON file: push URL to `p256dh` and `auth` as browsers give them. All others get an empty push. Read again on SIGHUP.
        payload_keys_file: Option<PathBuf> = None,
        /// Whether a waiting request that is no call, such as MESSAGE, is as urgent to push services as a call.
        urgent_requests: bool = false,
        /// How push services reach you: a `mailto:` or `https:` URI. Required.
        subject: String = String::new(),
        /// Push services that may be called: `host`, `host:port` or `*.host`.
        allow_hosts: Vec<String> = ["fcm.googleapis.com", "updates.push.services.mozilla.com", "web.push.apple.com", "*.notify.windows.com"]
            .map(str::to_owned)
            .to_vec(),
        /// Networks let past the address check, for a lab's push service. Logged as a warning at start.
        allow_addresses: Vec<IpNet> = Vec::new(),
        /// Authorities to trust for these services, PEM; by default the system's.
        ca_file: Option<PathBuf> = None,
    }
}

section! {
    /// `[push.webhook.NAME]`
    Webhook {
        /// Where wake requests are posted, in batches, as `https://host:port/path`. Required.
        url: Option<String> = None,
        /// What phones call the service in `pn-provider`: up to 32 letters, digits, dots and hyphens; by default `NAME`.
        provider: Option<String> = None,
        /// Values of `pn-param` that are served; `*` is any. Where there are none, phones must send none.
        params: Vec<String> = Vec::new(),
        /// The key that requests are signed with (HMAC-SHA256), at least 32 octets of text. Required. Read again on SIGHUP.
        key_file: Option<PathBuf> = None,
        /// Authorities to trust for this service, PEM; by default the system's.
        ca_file: Option<PathBuf> = None,
        /// Wake requests in one batch at most.
        batch: usize = 100,
        /// How long a push that is no call may wait for company; a call waits for nothing.
        batch_time: Span = Span::millis(5),
        /// A header to send along. Not for secrets, which stand in files.
        headers: BTreeMap<String, String> = BTreeMap::new(),
    }
}

section! {
    /// `[compat]`
    Compat {
        /// Whether push parameters count that a client writes behind the brackets of its Contact (`<sip:…>;pn-provider=…`), or in a Contact without brackets. RFC 8599 wants them within the URI. Off, such a phone is registered without push. Its token is kept from others either way.
        header_pn_params: bool = false,
    }
}

section! {
    /// `[security]`
    Security {
        /// Networks whose signalling is protected by something as strong as TLS.
        strong_alternative: Vec<Alternative> = Vec::new(),
    }
}

section! {
    /// `[[security.strong_alternative]]`
    Alternative {
        /// The network, as `192.0.2.0/24`. Required. Push parameters are accepted from it without TLS.
        net: Option<String> = None,
        /// What protects it: `loopback`, `ipsec-esp` or `wireguard`. Required.
        kind: String = String::new(),
    }
}

section! {
    /// `[limits]`
    Limits {
        /// The largest SIP message accepted, bytes.
        message_size: usize = 65_536,
        /// Connections open at once, those of other nodes aside; 0 is no bound.
        connections: usize = 200_000,
        /// Connections open at once from one source on public listeners; 0 is no bound.
        connections_per_source: usize = 1_000,
        /// New connections a second from one source on public listeners; 0 is no bound.
        connects_per_source: u32 = 200,
        /// New connections a second over all listeners; 0 is no bound.
        accepts: u32 = 2_000,
        /// TLS handshakes in progress at once; 0 is no bound.
        handshakes: usize = 2_048,
        /// Messages a second from one connection on public listeners; 0 is no bound.
        messages_per_flow: u32 = 50,
        /// Messages one connection may send at once before `messages_per_flow` slows it.
        messages_burst: u32 = 200,
        /// Networks that no limit per source or per connection applies to.
        exempt: Vec<IpNet> = Vec::new(),
        /// Messages waiting to be written to one connection; one more closes it.
        queue_messages: usize = 256,
        /// Bytes waiting to be written to one connection; more close it.
        queue_bytes: usize = 1 << 20,
        /// From an accepted connection to the end of its TLS handshake.
        handshake_timeout: Span = Span::secs(10),
        /// From an established connection to its first whole message.
        first_message_timeout: Span = Span::secs(10),
        /// From the first octet of a message to its last.
        message_timeout: Span = Span::secs(10),
        /// How long a connection may be silent, keep-alives included.
        idle_timeout: Span = Span::secs(20 * 60),
        /// Messages that may wait at one proxy worker; new requests beyond get 503.
        worker_queue: usize = 8_192,
        /// Transactions one proxy worker holds at most; new requests beyond get 503.
        transactions: usize = 200_000,
        /// The shortest `Retry-After` of a 503.
        retry_after_min: Span = Span::secs(5),
        /// The longest `Retry-After` of a 503; each answer takes a random value between the two.
        retry_after_max: Span = Span::secs(15),
    }
}

section! {
    /// `[admin]`
    Admin {
        /// Where `/metrics`, `/health/live`, `/health/ready` and the API are served.
        addr: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9060)),
        /// A file with the bearer token of the API, at least 16 characters. Without one the API is served on loopback addresses only.
        token_file: Option<PathBuf> = None,
    }
}

section! {
    /// `[telemetry]`
    Telemetry {
        /// `text`, or `json` with one object a line.
        format: String = "text".to_owned(),
        /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,reveille_proxy=debug`. What libraries log is held at `info`.
        level: String = "info".to_owned(),
    }
}

tables!(Listener, Alternative);

/// Sections that need not be there: described by what one may hold.
macro_rules! optional {
    ($($name:ident),+) => {
        $(impl Describe for Option<$name> {
            fn describe(&self, path: &str, _: &str, keys: &mut Vec<Key>) {
                $name::default().describe(path, "", keys);
            }
        })+
    };
}

optional!(WebPush, Redis, Cluster);

/// Every key there is, in the order of the file.
pub(super) fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    Raw::default().describe("", "", &mut keys);
    keys
}
