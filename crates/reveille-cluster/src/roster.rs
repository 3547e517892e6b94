//! Who is alive: the descriptions nodes give of themselves, and what the leases say of them.
//!
//! The store answers each renewal with the whole roster: every node whose lease runs, and for how many milliseconds still. A
//! lease read as absent is a node that is gone. Between two readings nothing is concluded: that a lease *should* have ended by
//! now is a reason to look again, never to act.

mod codec;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use reveille_registrar::flow::NodeTag;

use crate::{fence::Incarnation, placement::Candidate};

pub use codec::DecodeError;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name in flows, fences and the map.
    pub tag: NodeTag,
    /// Its name for people and certificates, as in `node.id`; at most 255 bytes.
    pub id: String,
    /// What it does.
    pub roles: Roles,
    /// Its cluster listener.
    pub address: SocketAddr,
    /// Its share of the shards beside the others'; 0 takes none.
    pub weight: u16,
    /// Version of the software; at most 255 bytes.
    pub version: String,
    /// Whether it is giving its shards away before it ends.
    pub draining: bool,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Holds connections of phones.
    pub edge: bool,
    /// Owns shards.
    pub home: bool,
}

/// One lease as the store read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose.
    pub tag: NodeTag,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// How long it still ran on the store's clock when it was read.
    pub remaining: Duration,
    /// What the node says of itself: [`NodeInfo::encode`].
    pub description: Vec<u8>,
}

/// The nodes whose leases ran at the last reading.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    members: Vec<Member>,
}

/// A node of the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub tag: NodeTag,
    /// Its life.
    pub incarnation: Incarnation,
    /// The latest moment at which the lease that was read can end. Counted from when the reading *arrived*: the true end is
    /// that or a little earlier, so a look at this moment finds the node gone unless it has renewed.
    pub lease_ends: Instant,
    /// What it says of itself; `None` if a later release says it in a way we cannot read. Such a node lives, and what it owns
    /// is its own, but it is offered nothing.
    pub info: Option<NodeInfo>,
    description: Vec<u8>,
}

impl Roster {
    /// Takes a reading that arrived at `received`. Returns whether it differs from the last in more than times.
    pub fn update(&mut self, received: Instant, mut leases: Vec<Lease>) -> bool {
        leases.sort_by_key(|lease| lease.tag.0);
        leases.dedup_by_key(|lease| lease.tag.0);
        let same = leases.len() == self.members.len()
            && leases.iter().zip(&self.members).all(|(lease, member)| {
                lease.tag == member.tag
                    && lease.incarnation == member.incarnation
                    && lease.description == member.description
            });
        if same {
            for (member, lease) in self.members.iter_mut().zip(leases) {
                member.lease_ends = received + lease.remaining;
            }
            return false;
        }
        self.members = leases.into_iter().map(|lease| Member::read(received, lease)).collect();
        true
    }

    /// The nodes, by tag.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The node of that tag.
    pub fn get(&self, tag: NodeTag) -> Option<&Member> {
        self.members.binary_search_by_key(&tag.0, |member| member.tag.0).ok().and_then(|at| self.members.get(at))
    }

    /// Whether the node's lease ran at the last reading.
    pub fn is_live(&self, tag: NodeTag) -> bool {
        self.get(tag).is_some()
    }

    /// The nodes that may own shards: homes that do not drain.
    pub fn candidates(&self) -> impl Iterator<Item = Candidate> {
        self.members
            .iter()
            .filter_map(|member| member.info.as_ref())
            .filter(|info| info.roles.home && !info.draining)
            .map(|info| Candidate { tag: info.tag, weight: info.weight })
    }

    /// When the first lease of a node other than `me` ends if it is not renewed: the moment to look again.
    pub fn next_end(&self, me: NodeTag) -> Option<Instant> {
        self.members.iter().filter(|member| member.tag != me).map(|member| member.lease_ends).min()
    }
}

impl Member {
    fn read(received: Instant, lease: Lease) -> Self {
        // A description that names another node is no description of this one.
        let info = NodeInfo::decode(&lease.description).ok().filter(|info| info.tag == lease.tag);
        Self {
            tag: lease.tag,
            incarnation: lease.incarnation,
            lease_ends: received + lease.remaining,
            info,
            description: lease.description,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, node};

    fn lease(info: NodeInfo, ms: u64) -> Lease {
        Lease {
            tag: info.tag,
            incarnation: Incarnation::first(1),
            remaining: Duration::from_millis(ms),
            description: info.encode(),
        }
    }

    #[test]
    fn only_what_others_can_see_counts_as_change() {
        let mut roster = Roster::default();
        assert!(roster.update(at(0), vec![lease(node(2), 500), lease(node(1), 900)]));
        assert!(!roster.update(at(100), vec![lease(node(1), 1000), lease(node(2), 400)]), "only the times differ");
        assert!(roster.update(at(100), vec![lease(NodeInfo { draining: true, ..node(1) }, 1000), lease(node(2), 400)]));
        let reborn = Lease { incarnation: Incarnation::first(2), ..lease(node(2), 400) };
        assert!(roster.update(at(100), vec![lease(NodeInfo { draining: true, ..node(1) }, 1000), reborn]));
        assert!(roster.update(at(200), vec![lease(node(2), 400)]));
        assert!(!roster.is_live(NodeTag(1)) && roster.is_live(NodeTag(2)));
    }

    #[test]
    fn next_look_is_at_the_first_end_of_another_nodes_lease() {
        let mut roster = Roster::default();
        roster.update(at(1000), vec![lease(node(1), 100), lease(node(2), 500), lease(node(3), 300)]);
        assert_eq!(roster.next_end(NodeTag(1)), Some(at(1300)));
        assert_eq!(roster.next_end(NodeTag(3)), Some(at(1100)));
        roster.update(at(1000), vec![lease(node(1), 100)]);
        assert_eq!(roster.next_end(NodeTag(1)), None);
    }

    #[test]
    fn only_homes_that_stay_are_candidates() {
        let mut roster = Roster::default();
        let edge = NodeInfo { roles: Roles { edge: true, home: false }, ..node(1) };
        let leaving = NodeInfo { draining: true, ..node(2) };
        roster.update(at(0), vec![lease(edge, 9), lease(leaving, 9), lease(node(3), 9)]);
        assert_eq!(roster.candidates().map(|c| c.tag).collect::<Vec<_>>(), [NodeTag(3)]);
    }

    /// A node that a later release describes in its own way must not be taken for dead.
    #[test]
    fn a_node_that_cannot_be_read_lives_but_is_no_candidate() {
        let mut roster = Roster::default();
        roster.update(at(0), vec![Lease { description: vec![9, 9], ..lease(node(1), 9) }, lease(node(2), 9)]);
        assert!(roster.is_live(NodeTag(1)));
        assert_eq!(roster.candidates().map(|c| c.tag).collect::<Vec<_>>(), [NodeTag(2)]);
    }
}
