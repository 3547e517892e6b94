//! The cluster as a node sees it, for operators.

use std::{collections::BTreeMap, time::Instant};

use reveille_cluster::{NodeInfo, OwnLease, Ownership, Standing};
use serde::{Deserialize, Serialize};

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
    /// Milliseconds that its lease runs at most.
    pub lease_ms: u64,
}

impl Status {
    /// What the node `own` sees at this moment.
    pub(super) fn of(own: &NodeInfo, lease: &OwnLease, ownership: &Ownership, deferred: u64, now: Instant) -> Self {
        let mut owned: BTreeMap<u32, usize> = BTreeMap::new();
        let map = ownership.map();
        for tag in (0..map.shards()).filter_map(|shard| map.owner(shard)) {
            *owned.entry(tag.0).or_default() += 1;
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
