//! Which shards this node stands by for: those that would be its own were their owner gone.

use std::collections::BTreeSet;

use reveille_cluster::{NodeInfo, Ownership};
use reveille_redis::RedisStore;

/// What the store was last told to follow.
#[derive(Default)]
pub(super) struct Standby(BTreeSet<u16>);

impl Standby {
    /// Has the store follow what is to be followed by the present map and roster.
    pub(super) fn update(&mut self, store: &RedisStore, own: &NodeInfo, ownership: &Ownership) {
        let (map, placement) = (ownership.map(), ownership.placement());
        // Also a shard that belongs here and is still another node's, or whose fence names this node before it has heard that its
        // claim was granted: it is about to come.
        let is_next = |shard: u16| {
            let comes = map.owner(shard) == Some(own.tag) || map.next_home(shard, placement) == Some(own.tag);
            comes && !ownership.serves(shard)
        };
        let wanted: BTreeSet<u16> = (0..map.shards()).filter(|shard| is_next(*shard)).collect();
        if wanted != self.0 {
            self.0.clone_from(&wanted);
            store.follow_only(wanted);
        }
    }
}
