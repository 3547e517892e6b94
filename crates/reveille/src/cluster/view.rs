//! What requests are routed by: who owns each shard, and where each node is. Written by the driver, read by every worker without
//! a lock.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use reveille_cluster::{Roster, ShardMap};
use reveille_proxy::{
    egress::Destination,
    peers::{Home, Peers},
};
use reveille_registrar::{
    aor::Aor,
    flow::{NodeTag, Transport},
};

/// See the module.
pub struct View {
    own: NodeTag,
    server_name: String,
    lanes: u8,
    /// The owner of each shard; 0 where nobody is known.
    owners: Box<[AtomicU32]>,
    nodes: ArcSwap<HashMap<NodeTag, Destination>>,
    /// Where nodes were that are gone: as many as there are tags, at most.
    former: ArcSwap<HashMap<NodeTag, Destination>>,
}

impl View {
    /// A view in which nobody owns anything. Every node's certificate carries `server_name`; `lanes` connections go to each.
    pub fn new(own: NodeTag, server_name: String, lanes: u8, shards: u16) -> Self {
        let owners = (0..shards).map(|_| AtomicU32::new(0)).collect();
        Self { own, server_name, lanes, owners, nodes: ArcSwap::default(), former: ArcSwap::default() }
    }

    /// Takes over what the map says.
    pub(super) fn follow(&self, map: &ShardMap) {
        for (shard, owner) in (0_u16..).zip(&self.owners) {
            owner.store(map.owner(shard).map_or(0, |tag| tag.0), Ordering::Relaxed);
        }
    }

    /// Takes over where the nodes are. Where one was that is gone is kept apart.
    pub(super) fn meet(&self, roster: &Roster) {
        let infos = roster.members().iter().filter_map(|member| member.info.as_ref());
        let destination = |address| Destination {
            transport: Transport::Tls,
            address,
            server_name: Some(self.server_name.clone()),
            lane: 0,
        };
        let nodes: HashMap<_, _> = infos.map(|info| (info.tag, destination(info.address))).collect();
        let mut former = HashMap::clone(&self.former.load());
        former.extend(self.nodes.load().iter().map(|(tag, destination)| (*tag, destination.clone())));
        former.retain(|tag, _| !nodes.contains_key(tag));
        self.former.store(Arc::new(former));
        self.nodes.store(Arc::new(nodes));
    }
}

impl Peers for View {
    fn own(&self) -> NodeTag {
        self.own
    }

    fn home(&self, aor: &Aor) -> Home {
        let shard = aor.shard(u16::try_from(self.owners.len()).unwrap_or(u16::MAX));
        match self.owners.get(usize::from(shard)).map_or(0, |owner| owner.load(Ordering::Relaxed)) {
            0 => Home::Nowhere,
            tag if tag == self.own.0 => Home::Here,
            tag => Home::At(NodeTag(tag)),
        }
    }

    fn lanes(&self) -> u8 {
        self.lanes
    }

    fn destination(&self, node: NodeTag) -> Option<Destination> {
        self.nodes.load().get(&node).cloned()
    }

    fn former(&self, node: NodeTag) -> Option<Destination> {
        self.former.load().get(&node).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use reveille_cluster::{Epoch, Fence, Incarnation, Lease, NodeInfo, Roles};

    use super::*;

    #[test]
    fn requests_go_where_the_map_says() {
        let view = View::new(NodeTag(7), "node".to_owned(), 2, 1);
        let alice = Aor::from_canonical("alice@example.com");
        assert_eq!(view.home(&alice), Home::Nowhere);
        let mut map = ShardMap::new(1);
        for (owner, epoch, home) in [(7, 1, Home::Here), (8, 2, Home::At(NodeTag(8)))] {
            let fence = Fence { owner: Some(NodeTag(owner)), epoch: Epoch(epoch << Epoch::SALT_BITS) };
            #[allow(clippy::disallowed_methods)] // some moment
            map.event(Instant::now(), 0, fence);
            view.follow(&map);
            assert_eq!(view.home(&alice), home);
        }
    }

    #[test]
    fn nodes_are_where_the_roster_says() {
        let view = View::new(NodeTag(7), "node".to_owned(), 2, 1);
        let info = NodeInfo {
            tag: NodeTag(8),
            id: "eight".to_owned(),
            roles: Roles { edge: true, home: false },
            address: "192.0.2.8:5062".parse().unwrap(),
            weight: 1,
            version: "1".to_owned(),
            draining: false,
        };
        let lease = Lease {
            tag: info.tag,
            incarnation: Incarnation::first(1),
            remaining: Duration::from_secs(1),
            description: info.encode(),
        };
        let mut roster = Roster::default();
        #[allow(clippy::disallowed_methods)] // some moment
        let now = Instant::now();
        roster.update(now, vec![lease.clone()]);
        view.meet(&roster);
        let found = view.destination(NodeTag(8)).unwrap();
        assert_eq!((found.address, found.server_name.as_deref()), (info.address, Some("node")));
        roster.update(now, vec![]);
        view.meet(&roster);
        assert_eq!(view.destination(NodeTag(8)), None);
        assert_eq!(view.former(NodeTag(8)), Some(found));
        roster.update(now, vec![lease]);
        view.meet(&roster);
        assert_eq!(view.former(NodeTag(8)), None);
    }
}
