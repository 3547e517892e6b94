//! Where a nonce was first used, in a cluster (S-147). Each node counts the uses of a nonce by itself, so that no request waits for
//! another node; therefore a nonce belongs to one node, that of its first use. Whoever meets it for the first time asks a place that
//! all nodes share, once; elsewhere it is stale, and the phone answers a new challenge without asking its user.

use reveille_registrar::shard::WorkerRef;

use super::nonce::{ID, Nonce, SKEW};

/// A place that all nodes share, where nonces are bound to the node of their first use.
pub trait NoncePins: Send + Sync {
    /// Asks whose `nonce` is, and makes it this node's if it is nobody's, for `life` seconds. Never waits. The answer goes to `to` by
    /// [`Workers::pinned`](crate::worker::Workers::pinned): once, whatever happens, and soon, since somebody's phone waits.
    fn ask(&self, to: WorkerRef, nonce: Unpinned, life: u64);
}

/// Where a nonce was first used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Here, in this life of this node.
    Here,
    /// At another node, or in an earlier life of this one.
    Elsewhere,
    /// Nobody can be asked just now.
    Unknown,
}

/// A nonce that this node has not met before, with an answer that proves the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpinned(pub(super) Nonce);

impl Unpinned {
    /// What tells it from every other.
    pub fn octets(&self) -> &[u8; ID] {
        &self.0.id
    }

    /// Seconds after which no node accepts it any more, even one whose clock is a little behind.
    pub(super) fn life(&self, unix_now: u64, ttl: u64) -> u64 {
        (self.0.issued.saturating_add(ttl)).saturating_sub(unix_now).saturating_add(2 * SKEW)
    }
}
