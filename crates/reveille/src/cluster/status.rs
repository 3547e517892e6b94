//! The cluster as a node sees it, for operators.

use std::{collections::BTreeMap, time::Instant};

use reveille_cluster::{Epoch, NodeInfo, OwnLease, Ownership, Standing};
use reveille_redis::{RedisStore, StandbyStatus};
use reveille_runtime::clock;
use serde::{Deserialize, Serialize};

use super::driver::PATIENCE;

/// The cluster, as one node sees it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// Whose view this is.
    pub node: String,
    /// `joining`, `live`, or `degraded` and why.
    pub standing: String,
    /// Shards of the cluster.
    pub shards: usize,
    /// Those that have an owner.
    pub owned: usize,
    /// Those that this node serves.
    pub in_memory: usize,
    /// Records that are newer in this node's memory than in Redis.
    pub deferred: u64,
    /// Counts the changes of the map that this node has seen.
    pub map_version: u64,
    /// Every node with a lease.
    pub nodes: Vec<NodeStatus>,
}

/// A node, as another sees it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NodeStatus {
    /// `node.id`; empty where a later version describes itself in a way we cannot read.
    pub id: String,
    /// How it is named in flows and fences.
    pub tag: u32,
    /// Its cluster listener.
    pub address: String,
    /// What it does.
    pub roles: Vec<String>,
    /// Its version.
    pub version: String,
    /// Its share of the shards.
    pub weight: u16,
    /// Whether it gives its shards away.
    pub draining: bool,
    /// Shards that it owns.
    pub shards: usize,
    /// The newest epoch under which it owns one: how often a shard of its has changed hands.
    #[serde(default)]
    pub epoch: u64,
    /// What it has said of the shards that it would take over; absent where it does not stand by, or has not been heard.
    #[serde(default)]
    pub standby: Option<StandbyInfo>,
    /// Milliseconds that its lease runs at most.
    pub lease_ms: u64,
}

/// How far a node is with the shards that it would take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct StandbyInfo {
    /// Shards that it follows.
    pub shards: u64,
    /// Those of which nothing is missing: a takeover reads no record of them.
    pub warm: u64,
    /// Records of them.
    pub records: u64,
    /// Octets that these take.
    pub bytes: u64,
    /// How old, at most, what it has is, in milliseconds.
    pub lag_ms: u64,
    /// Entries that its last readings found waiting.
    pub lag_entries: u64,
}

impl From<StandbyStatus> for StandbyInfo {
    fn from(status: StandbyStatus) -> Self {
        let StandbyStatus { shards, warm, records, bytes, lag_ms, behind } = status;
        Self { shards, warm, records, bytes, lag_ms, lag_entries: behind }
    }
}

impl Status {
    /// Adds what the nodes have said of their standbys; of this one what it knows by itself. Without the store nothing is known of
    /// the others.
    pub(crate) async fn with_standbys(mut self, store: &RedisStore) -> Self {
        let tags: Vec<String> = self.nodes.iter().map(|node| node.tag.to_string()).collect();
        let mut said = store.standbys(&tags, clock::now() + PATIENCE).await.unwrap_or_default();
        for node in &mut self.nodes {
            let here = store.standby_status().filter(|_| node.id == self.node);
            node.standby = here.or_else(|| said.remove(&node.tag.to_string())).map(StandbyInfo::from);
        }
        self
    }

    /// What the node `own` sees at this moment.
    pub(super) fn of(own: &NodeInfo, lease: &OwnLease, ownership: &Ownership, deferred: u64, now: Instant) -> Self {
        let mut owned: BTreeMap<u32, usize> = BTreeMap::new();
        let map = ownership.map();
        for tag in (0..map.shards()).filter_map(|shard| map.owner(shard)) {
            *owned.entry(tag.0).or_default() += 1;
        }
        let mut epochs: BTreeMap<u32, u64> = BTreeMap::new();
        for shard in 0..map.shards() {
            if let Some(tag) = map.owner(shard) {
                let newest = epochs.entry(tag.0).or_default();
                *newest = (*newest).max(map.fence(shard).epoch.0 >> Epoch::SALT_BITS);
            }
        }
        let nodes = lease.roster().members().iter().map(|member| {
            let info = member.info.as_ref();
            NodeStatus {
                id: info.map(|info| info.id.clone()).unwrap_or_default(),
                tag: member.tag.0,
                address: info.map(|info| info.address.to_string()).unwrap_or_default(),
                roles: info.map(roles).unwrap_or_default(),
                version: info.map(|info| info.version.clone()).unwrap_or_default(),
                weight: info.map_or(0, |info| info.weight),
                draining: info.is_some_and(|info| info.draining),
                shards: owned.get(&member.tag.0).copied().unwrap_or_default(),
                epoch: epochs.get(&member.tag.0).copied().unwrap_or_default(),
                standby: None,
                lease_ms: u64::try_from(member.lease_ends.saturating_duration_since(now).as_millis()).unwrap_or(0),
            }
        });
        Self {
            node: own.id.clone(),
            standing: match lease.standing() {
                Standing::Joining => "joining".to_owned(),
                Standing::Live => "live".to_owned(),
                Standing::Degraded(why) => format!("degraded: {why}"),
            },
            shards: usize::from(map.shards()),
            owned: owned.values().sum(),
            in_memory: ownership.count(),
            deferred,
            map_version: map.version(),
            nodes: nodes.collect(),
        }
    }
}

fn roles(info: &NodeInfo) -> Vec<String> {
    let all = [("edge", info.roles.edge), ("home", info.roles.home)];
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
}
