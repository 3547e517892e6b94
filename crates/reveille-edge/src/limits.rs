//! Who may connect, and how fast (S-172, S-226). Every limit per source touches that source alone.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use reveille_proxy::ingress::Purpose;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::LimitsSettings;

/// Allows `rate` events per second, `burst` at once. May be overdrawn: what a stream has already delivered is charged, and
/// the debt is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    tokens: f32,
    filled: Instant,
}

impl TokenBucket {
    pub(crate) fn new(burst: u32, now: Instant) -> Self {
        Self { tokens: burst as f32, filled: now }
    }

    fn fill(&mut self, rate: u32, burst: u32, now: Instant) {
        let gained = now.saturating_duration_since(self.filled).as_secs_f32() * rate as f32;
        self.tokens = (self.tokens + gained).min(burst as f32);
        self.filled = now;
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, rate: u32, burst: u32, now: Instant) -> bool {
        self.fill(rate, burst, now);
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }

    /// Takes `count` tokens, into debt if need be, and says how long it takes to pay it off.
    pub(crate) fn charge(&mut self, count: u32, rate: u32, burst: u32, now: Instant) -> Option<Duration> {
        self.fill(rate, burst, now);
        self.tokens -= count as f32;
        (self.tokens < 0.0).then(|| Duration::from_secs_f32(-self.tokens / rate.max(1) as f32))
    }

    fn is_full(&self, rate: u32, burst: u32, now: Instant) -> bool {
        let mut filled = *self;
        filled.fill(rate, burst, now);
        filled.tokens >= burst as f32
    }
}

/// Why a connection was refused; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too many connections in all.
    Connections,
    /// Too many connections of this source.
    Source,
    /// This source connects too often.
    SourceRate,
    /// Too many handshakes in progress.
    Handshakes,
}

impl Refusal {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Source => "source",
            Self::SourceRate => "source_rate",
            Self::Handshakes => "handshakes",
        }
    }
}

/// Counts connections and decides on new ones.
pub(crate) struct Admission {
    settings: LimitsSettings,
    handshakes: Arc<Semaphore>,
    /// Those of other nodes, which wait for nobody else's.
    node_handshakes: Arc<Semaphore>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// All but those of other nodes.
    total: usize,
    nodes: usize,
    sources: HashMap<IpAddr, Source>,
    /// Sources are swept when there are this many.
    sweep_at: usize,
}

struct Source {
    connections: usize,
    bucket: TokenBucket,
}

/// A connection's place in the counts; given back when dropped.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    source: Option<IpAddr>,
    is_node: bool,
}

impl Admission {
    pub(crate) fn new(settings: LimitsSettings) -> Arc<Self> {
        let handshakes = match settings.handshakes {
            0 => Semaphore::MAX_PERMITS,
            bound => bound.min(Semaphore::MAX_PERMITS),
        };
        let counts = Mutex::new(Counts { sweep_at: SWEEP_FROM, ..Counts::default() });
        let [handshakes, node_handshakes] = [handshakes; 2].map(|bound| Arc::new(Semaphore::new(bound)));
        Arc::new(Self { settings, handshakes, node_handshakes, counts })
    }

    /// Whether limits per source and per flow leave this address alone.
    pub(crate) fn is_exempt(&self, ip: IpAddr) -> bool {
        self.settings.exempt.iter().any(|net| net.contains(&ip))
    }

    /// Whether no further connection would be taken.
    pub(crate) fn is_full(&self) -> bool {
        self.settings.connections != 0 && self.counts.lock().total >= self.settings.connections
    }

    /// Connections whose socket is still there: those of other nodes, and all others.
    pub(crate) fn open(&self) -> (usize, usize) {
        let counts = self.counts.lock();
        (counts.nodes, counts.total)
    }

    /// Takes a new connection into the counts. The limits per source are for [`Purpose::Public`]. Other nodes are few, prove who
    /// they are, and carry everybody's calls: a node full of phones still takes their connections.
    pub(crate) fn admit(
        self: &Arc<Self>,
        remote: SocketAddr,
        purpose: Purpose,
        now: Instant,
    ) -> Result<Permit, Refusal> {
        let LimitsSettings { connections, connections_per_source, connects_per_source, .. } = self.settings;
        let strict = purpose == Purpose::Public && !self.is_exempt(remote.ip());
        let mut counts = self.counts.lock();
        if purpose == Purpose::Cluster {
            counts.nodes += 1;
            return Ok(Permit { admission: Arc::clone(self), source: None, is_node: true });
        }
        if connections != 0 && counts.total >= connections {
            return Err(Refusal::Connections);
        }
        let source = strict.then(|| self.source(remote.ip()));
        if let Some(ip) = source {
            let burst = connects_per_source.saturating_mul(2);
            counts.sweep(connects_per_source, burst, now);
            let source = counts
                .sources
                .entry(ip)
                .or_insert_with(|| Source { connections: 0, bucket: TokenBucket::new(burst, now) });
            if connections_per_source != 0 && source.connections >= connections_per_source {
                return Err(Refusal::Source);
            }
            if connects_per_source != 0 && !source.bucket.take(connects_per_source, burst, now) {
                return Err(Refusal::SourceRate);
            }
            source.connections += 1;
        }
        counts.total += 1;
        drop(counts);
        Ok(Permit { admission: Arc::clone(self), source, is_node: false })
    }

    /// A place for one handshake in progress. On the listener for nodes, too, anybody may begin one.
    pub(crate) fn handshake(&self, purpose: Purpose) -> Result<OwnedSemaphorePermit, Refusal> {
        let places = if purpose == Purpose::Cluster { &self.node_handshakes } else { &self.handshakes };
        Arc::clone(places).try_acquire_owned().map_err(|_| Refusal::Handshakes)
    }

    fn source(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(ip) => {
                let shift = 32_u32.saturating_sub(u32::from(self.settings.source_prefix_v4));
                Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(shift).unwrap_or(0)).into()
            }
            IpAddr::V6(ip) => {
                let shift = 128_u32.saturating_sub(u32::from(self.settings.source_prefix_v6));
                Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(shift).unwrap_or(0)).into()
            }
        }
    }
}

impl Counts {
    /// Forgets sources without connections whose rate is forgotten too. Amortised: the next sweep waits until the table has
    /// doubled.
    fn sweep(&mut self, rate: u32, burst: u32, now: Instant) {
        if self.sources.len() >= self.sweep_at {
            self.sources.retain(|_, source| source.connections > 0 || !source.bucket.is_full(rate, burst, now));
            self.sweep_at = (self.sources.len() * 2).max(SWEEP_FROM);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock();
        let count = if self.is_node { &mut counts.nodes } else { &mut counts.total };
        *count = count.saturating_sub(1);
        if let Some(source) = self.source.and_then(|ip| counts.sources.get_mut(&ip)) {
            source.connections = source.connections.saturating_sub(1);
        }
    }
}

/// Message rates of datagram peers: a fixed number of buckets, a peer's found by a keyed hash. Peers that share one share its
/// rate, which is rare and harmless; memory stays the same however many addresses an attacker invents.
pub(crate) struct PeerRates {
    buckets: Vec<TokenBucket>,
    rate: u32,
    burst: u32,
    seed: u64,
}

impl PeerRates {
    pub(crate) fn new(rate: u32, burst: u32, now: Instant) -> Self {
        let count = if rate == 0 { 0 } else { PEER_BUCKETS };
        Self { buckets: vec![TokenBucket::new(burst, now); count], rate, burst: burst.max(1), seed: rand::random() }
    }

    /// Whether a datagram of this peer is within its rate.
    pub(crate) fn allow(&mut self, remote: SocketAddr, now: Instant) -> bool {
        let mut key = [0_u8; 18];
        let (ip, port) = key.split_at_mut(16);
        match remote.ip() {
            IpAddr::V4(v4) => ip.copy_from_slice(&v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => ip.copy_from_slice(&v6.octets()),
        }
        port.copy_from_slice(&remote.port().to_be_bytes());
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&key, self.seed);
        let slot = (hash % PEER_BUCKETS as u64) as usize;
        self.buckets.get_mut(slot).is_none_or(|bucket| bucket.take(self.rate, self.burst, now))
    }
}

/// The table of sources is not swept below this size.
const SWEEP_FROM: usize = 4_096;
/// Buckets of one datagram listener: 1.5 MB.
const PEER_BUCKETS: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn remote(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn small() -> LimitsSettings {
        LimitsSettings {
            connections: 3,
            connections_per_source: 2,
            connects_per_source: 10,
            ..LimitsSettings::default()
        }
    }

    // S-226: limits hit one source only, and a closed connection gives its place back.
    #[test]
    fn s226_per_source_and_global() {
        let admission = Admission::new(small());
        let (a, b) = (remote("192.0.2.1:1"), remote("192.0.2.2:1"));
        let first = admission.admit(a, Purpose::Public, now()).unwrap();
        let _second = admission.admit(a, Purpose::Public, now()).unwrap();
        assert_eq!(admission.admit(a, Purpose::Public, now()).err(), Some(Refusal::Source));
        let _third = admission.admit(b, Purpose::Public, now()).unwrap();
        assert_eq!(admission.admit(b, Purpose::Public, now()).err(), Some(Refusal::Connections));
        assert!(admission.is_full());
        drop(first);
        assert!(admission.admit(a, Purpose::Public, now()).is_ok());
    }

    // S-226: an IPv6 source is its /64; exempt networks and trusted listeners are not counted by source.
    #[test]
    fn s226_sources_are_prefixes_and_some_are_exempt() {
        let settings = LimitsSettings { connections: 0, exempt: vec!["198.51.100.0/24".parse().unwrap()], ..small() };
        let admission = Admission::new(settings);
        let permits: Vec<_> = (1..=3)
            .map(|n| admission.admit(remote(&format!("[2001:db8::{n}]:5060")), Purpose::Public, now()))
            .collect();
        assert_eq!(permits.iter().filter(|p| p.is_ok()).count(), 2);
        let exempt: Vec<_> =
            (0..5).map(|_| admission.admit(remote("198.51.100.7:1"), Purpose::Public, now())).collect();
        let trusted: Vec<_> = (0..5).map(|_| admission.admit(remote("192.0.2.9:1"), Purpose::Peer, now())).collect();
        assert!(exempt.iter().chain(&trusted).all(Result::is_ok));
    }

    // S-226: connects per second.
    #[test]
    fn s226_connect_rate_refills_with_time() {
        let settings = LimitsSettings { connections: 0, connections_per_source: 0, ..small() };
        let admission = Admission::new(settings);
        let start = now();
        let admitted =
            |at| (0..50).filter(|_| admission.admit(remote("192.0.2.1:1"), Purpose::Public, at).is_ok()).count();
        assert_eq!(admitted(start), 20);
        assert_eq!(admitted(start + Duration::from_millis(500)), 5);
    }

    #[test]
    fn idle_sources_are_forgotten() {
        let admission = Admission::new(LimitsSettings { connections: 0, ..small() });
        let start = now();
        for n in 0..20_000_u32 {
            let ip = Ipv4Addr::from_bits(0x0a00_0000 + n);
            drop(admission.admit(
                SocketAddr::new(ip.into(), 1),
                Purpose::Public,
                start + Duration::from_millis(u64::from(n)),
            ));
        }
        assert!(admission.counts.lock().sources.len() <= 2 * SWEEP_FROM);
    }

    #[test]
    fn debt_is_paid_by_waiting() {
        let start = now();
        let mut bucket = TokenBucket::new(2, start);
        assert_eq!(bucket.charge(2, 10, 2, start), None);
        let wait = bucket.charge(1, 10, 2, start).unwrap();
        assert_eq!(wait.as_millis(), 100);
        assert_eq!(bucket.charge(1, 10, 2, start + Duration::from_secs(1)), None);
    }

    // S-226: messages per second of a datagram peer.
    #[test]
    fn s226_datagram_peers_have_their_own_rate() {
        let start = now();
        let mut rates = PeerRates::new(1, 3, start);
        let allowed = (0..10).filter(|_| rates.allow(remote("192.0.2.1:5060"), start)).count();
        assert_eq!(allowed, 3);
        assert!(rates.allow(remote("192.0.2.2:5060"), start));
        let mut unlimited = PeerRates::new(0, 0, start);
        assert!((0..1000).all(|_| unlimited.allow(remote("192.0.2.1:5060"), start)));
    }
}
