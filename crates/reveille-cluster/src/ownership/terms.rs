//! What ownership is told once, and what it asks for.

use std::time::Duration;

use reveille_registrar::flow::NodeTag;

use crate::fence::{Epoch, Fence};

/// How shards are taken and given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnershipConfig {
    /// How many shards the cluster has.
    pub shards: u16,
    /// This node.
    pub me: NodeTag,
    /// How long an unanswered claim or release waits before it is repeated. 500 ms.
    pub retry: Duration,
    /// How many shards are handed over at a time because they belong elsewhere by now. 16.
    pub rebalance_at_once: usize,
    /// How many at a time when the node drains. 128.
    pub drain_at_once: usize,
    /// How long the roster must have been quiet before shards are moved to balance it: a node that comes and goes moves
    /// nothing. 2 s.
    pub settle: Duration,
    /// How long after having been without a lease a node claims nothing but what it held: after an outage the others need
    /// that long to be seen again. 2 s.
    pub gather: Duration,
    /// How often every fence is read, in case events were lost. 10 s.
    pub read_every: Duration,
}

impl OwnershipConfig {
    /// The defaults for a node of a cluster.
    pub fn new(shards: u16, me: NodeTag) -> Self {
        Self {
            shards,
            me,
            retry: Duration::from_millis(500),
            rebalance_at_once: 16,
            drain_at_once: 128,
            settle: Duration::from_secs(2),
            gather: Duration::from_secs(2),
            read_every: Duration::from_secs(10),
        }
    }
}

/// What ownership wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the store to set the fence to this node and `epoch`, if its epoch is `expected`. The answer goes to
    /// [`Ownership::claimed`](super::Ownership::claimed); asking twice is asking once.
    Claim {
        /// The shard.
        shard: u16,
        /// The epoch the fence must have, whoever it names.
        expected: Epoch,
        /// The epoch it is to get.
        epoch: Epoch,
    },
    /// Ask the store to take this node out of the fence, if it names this node and `epoch`. The answer goes to
    /// [`Ownership::released`](super::Ownership::released).
    Release {
        /// The shard.
        shard: u16,
        /// The epoch it is held under.
        epoch: Epoch,
    },
    /// Look at the roster: [`OwnLease::members_changed`](crate::OwnLease::members_changed).
    Look,
    /// Ask the store for every fence. The answer goes to [`Ownership::map_read`](super::Ownership::map_read).
    ReadMap,
    /// Serve the shard: nothing of it is in memory.
    Start {
        /// The shard.
        shard: u16,
        /// What to write under.
        epoch: Epoch,
    },
    /// Write the shard no more: answer from memory, and defer what may be deferred.
    Suspend {
        /// The shard.
        shard: u16,
    },
    /// Write the shard again, beginning with what was deferred. Nobody else had it meanwhile.
    Resume {
        /// The shard.
        shard: u16,
        /// What to write under.
        epoch: Epoch,
    },
    /// Take nothing new, finish and flush what is in hand, then call [`Ownership::flushed`](super::Ownership::flushed).
    HandOver {
        /// The shard.
        shard: u16,
        /// What it is held under.
        epoch: Epoch,
    },
    /// Forget the shard. What was deferred and not written is handed in for its owner to merge.
    Drop {
        /// The shard.
        shard: u16,
    },
    /// Tell every node.
    Announce {
        /// The shard.
        shard: u16,
        /// Its new fence.
        fence: Fence,
    },
}
