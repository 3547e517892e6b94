//! What the tests share: nodes over real servers, and load for them.
#![allow(dead_code)] // each test file uses its part

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::Registry;
use reveille_redis::{Endpoint, Keyring, Metrics, Mode, RedisConfig, RedisStore, StandbyMetrics};
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::{Acks, Replica, StoreError, Write};
use reveille_runtime::clock;
pub(crate) use reveille_testkit::redis::Redis;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(40);

/// Waits for something another process does, of which it sends no word.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    reveille_testkit::redis::until(what, || Ok(done())).unwrap();
}

/// As `until`, for what has to be asked of the store.
pub(crate) async fn until_async<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let give_up = clock::now() + LONG;
    while !done().await {
        assert!(clock::now() < give_up, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn endpoint(server: &Redis) -> Endpoint {
    Endpoint::new("127.0.0.1", server.port())
}

pub(crate) fn mode(server: &Redis) -> Mode {
    Mode::Standalone(endpoint(server))
}

pub(crate) fn keyring() -> Keyring {
    Keyring::new([7; 32], vec![(1, [1; 32])]).unwrap()
}

pub(crate) fn config(mode: Mode, node: &str) -> RedisConfig {
    RedisConfig::new(mode, "lab", node, 64, keyring())
}

pub(crate) type Verdict = (u16, u64, Result<(), StoreError>);

/// Passes verdicts on.
pub(crate) struct Ear(Mutex<Sender<Verdict>>);

impl Acks for Ear {
    fn written(&self, shard: u16, write: u64, result: Result<(), StoreError>) {
        let _ = self.0.lock().unwrap().send((shard, write, result));
    }
}

/// A store and the verdicts it gives.
pub(crate) struct Node {
    pub(crate) store: Arc<RedisStore>,
    pub(crate) verdicts: Receiver<Verdict>,
    pub(crate) metrics: Metrics,
}

impl Node {
    pub(crate) async fn open(config: &RedisConfig) -> Self {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let store = Arc::new(RedisStore::connect(config, metrics.clone()).await.unwrap());
        let (sender, verdicts) = channel();
        store.attach(Arc::new(Ear(Mutex::new(sender))));
        Node { store, verdicts, metrics }
    }

    /// A node that holds all shards of a fresh store.
    pub(crate) async fn owner(config: &RedisConfig) -> Self {
        let node = Self::open(config).await;
        node.claim_all(config.shards).await;
        node
    }

    pub(crate) async fn claim_all(&self, shards: u16) {
        let shards: Vec<u16> = (0..shards).collect();
        let fences = self.store.fences(&shards, soon()).await.unwrap();
        let wanted: Vec<_> = shards.iter().zip(fences).map(|(shard, fence)| (*shard, fence.epoch)).collect();
        for (claimed, (_, epoch)) in self.store.claim(&wanted, soon()).await.into_iter().zip(wanted) {
            assert_eq!(claimed, Ok(epoch + 1));
        }
    }

    /// Writes and waits for the verdict.
    pub(crate) fn write(&self, shard: u16, id: u64, user: &str, value: Option<&str>) -> Result<(), StoreError> {
        self.store.write(shard, write(id, user, value)).unwrap();
        let (heard, number, verdict) = self.verdict();
        assert_eq!((heard, number), (shard, id));
        verdict
    }

    pub(crate) fn verdict(&self) -> Verdict {
        tokio::task::block_in_place(|| self.verdicts.recv_timeout(LONG)).expect("a verdict")
    }

    pub(crate) fn load(&self, shard: u16) -> BTreeMap<String, String> {
        load(&self.store, shard)
    }
}

/// A node that stands by.
pub(crate) struct Second {
    pub(crate) node: Node,
    pub(crate) metrics: StandbyMetrics,
}

impl Second {
    pub(crate) async fn open(config: &RedisConfig, limit: usize) -> Self {
        let node = Node::open(config).await;
        let metrics = StandbyMetrics::new(&Registry::new()).unwrap();
        node.store.stand_by(metrics.clone(), limit);
        Self { node, metrics }
    }

    /// Follows shards until nothing of them is missing.
    pub(crate) fn follow(&self, shards: impl IntoIterator<Item = u16>) {
        let shards: BTreeSet<u16> = shards.into_iter().collect();
        let count = shards.len() as u64;
        self.node.store.follow_only(shards);
        self.until_warm(count);
    }

    pub(crate) fn until_warm(&self, count: u64) {
        let warm = || self.node.store.standby_status().is_some_and(|status| status.warm == count);
        tokio::task::block_in_place(|| until("the shards are followed", warm));
    }

    /// Claims a shard as a driver does.
    pub(crate) async fn take_over(&self, shard: u16, epoch: u64) {
        let expected = self.node.store.fences(&[shard], soon()).await.unwrap()[0].epoch;
        self.node.store.claim_as(&[(shard, expected, epoch)], soon()).await.pop().unwrap().unwrap();
        self.node.store.succeed(shard, epoch);
    }

    /// What a claimed shard inherits: its records, by user; `None` where it has to be read.
    pub(crate) async fn inherits(&self, shard: u16) -> Option<BTreeMap<String, String>> {
        let inherited = self.node.store.inherit(shard)?.await?;
        let mut records = BTreeMap::new();
        for record in inherited.clone().records() {
            let (aor, value) = record.unwrap();
            assert_eq!(inherited.get(&aor), Ok(Some(value.clone())), "one by one as all together");
            let value = String::from_utf8(value.to_vec()).unwrap();
            records.insert(aor.as_str().trim_end_matches("@example.com").to_owned(), value);
        }
        assert_eq!(inherited.get(&aor("nobody")), Ok(None));
        Some(records)
    }
}

pub(crate) fn load(store: &RedisStore, shard: u16) -> BTreeMap<String, String> {
    let text = |value: Bytes| String::from_utf8(value.to_vec()).unwrap();
    std::thread::scope(|scope| {
        let loaded = scope.spawn(|| {
            let records = store.load(shard).unwrap().map(Result::unwrap);
            records.map(|(aor, value)| (aor.as_str().to_owned(), text(value))).collect()
        });
        tokio::task::block_in_place(|| loaded.join().unwrap())
    })
}

pub(crate) fn aor(user: &str) -> Aor {
    Aor::from_canonical(format!("{user}@example.com"))
}

pub(crate) fn write(id: u64, user: &str, value: Option<&str>) -> Write {
    Write { id, aor: aor(user), value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())) }
}

pub(crate) fn soon() -> Instant {
    clock::now() + LONG
}

pub(crate) fn file(dir: &Path, name: &str, content: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// Writes to many shards without pause, and knows afterwards what has to be there.
pub(crate) struct Load {
    sent: u64,
    heard: u64,
    shards: u16,
    /// By shard and user: the newest acknowledged write.
    acknowledged: BTreeMap<(u16, u64), u64>,
    pub(crate) unknown: u64,
    pub(crate) acknowledged_count: u64,
}

const USERS: u64 = 97;

impl Load {
    pub(crate) fn new(shards: u16) -> Self {
        Load { sent: 0, heard: 0, shards, acknowledged: BTreeMap::new(), unknown: 0, acknowledged_count: 0 }
    }

    /// Keeps writes under way until `done` says so, then waits for the verdicts.
    pub(crate) fn run(&mut self, node: &Node, mut done: impl FnMut(&Load) -> bool) {
        let mut last: BTreeMap<u16, u64> = BTreeMap::new();
        let mut enough = false;
        let give_up = soon();
        while self.heard < self.sent || !enough {
            enough = enough || done(self);
            assert!(clock::now() < give_up, "{} of {} heard, {} unknown", self.heard, self.sent, self.unknown);
            while !enough && self.sent < self.heard + 200 {
                let id = self.sent;
                let shard = u16::try_from(id % u64::from(self.shards)).unwrap();
                let user = format!("user{}", id % USERS);
                node.store.write(shard, write(id, &user, Some(&id.to_string()))).unwrap();
                self.sent += 1;
            }
            if self.heard == self.sent {
                continue;
            }
            let (shard, id, verdict) = node.verdict();
            assert!(last.insert(shard, id) < Some(id), "in order, and once");
            self.heard += 1;
            match verdict {
                Ok(()) => {
                    self.acknowledged.insert((shard, id % USERS), id);
                    self.acknowledged_count += 1;
                }
                Err(StoreError::Unavailable) => self.unknown += 1,
                Err(error) => panic!("write {id}: {error}"),
            }
        }
        assert!(node.verdicts.try_recv().is_err(), "one verdict for each");
    }

    /// Every acknowledged write is there, or one that was handed over after it.
    pub(crate) fn check(&self, store: &RedisStore) {
        for shard in 0..self.shards {
            self.check_shard(shard, &load(store, shard));
        }
    }

    /// The same for what a shard is said to hold, by address or by user.
    pub(crate) fn check_shard(&self, shard: u16, there: &BTreeMap<String, String>) {
        for ((_, user), id) in self.acknowledged.range((shard, 0)..=(shard, USERS)) {
            let name = format!("user{user}");
            let found = there.get(&name).or_else(|| there.get(&format!("{name}@example.com")));
            let found = found.unwrap_or_else(|| panic!("write {id} is gone")).parse::<u64>().unwrap();
            assert!(found >= *id, "write {id} was acknowledged, {found} is there");
        }
    }
}
