//! The fence of a shard: who may write it, and under which epoch.

use reveille_registrar::flow::NodeTag;

/// Numbers the ownerships of a shard. A claim raises it, nothing lowers it but a store that lost data.
///
/// The high bits count; the low [`Epoch::SALT_BITS`] name the life of the node that claimed. So two nodes that claim from the
/// same fence make different epochs: should a store lose one claim in a failover and grant another, no two owners have ever
/// held one epoch, and of any two epochs one is the newer.
///
/// Fits 53 bits for the first 2³³ ownerships, so that a server-side script that knows only doubles can compare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// How many low bits are the claimant's.
    pub const SALT_BITS: u32 = 20;

    /// The epoch for a claim by this life of a node, above everything up to `self`.
    pub fn next(self, claimant: NodeTag, incarnation: Incarnation) -> Self {
        let half = Self::SALT_BITS / 2;
        let mask = (1 << half) - 1;
        let salt = (u64::from(claimant.0) & mask) << half | incarnation.mix() & mask;
        Self(((self.0 >> Self::SALT_BITS) + 1) << Self::SALT_BITS | salt)
    }
}

/// One life of a node as far as its lease goes: another number after each start, and after each lease that ran out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl Incarnation {
    const LIFE_BITS: u32 = 16;

    /// The first life after a start of the process. `boot` is to differ from start to start: random, or a clock.
    pub fn first(boot: u64) -> Self {
        Self(boot << Self::LIFE_BITS)
    }

    /// The life after this one, in the same process.
    pub fn next(self) -> Self {
        let life = self.0.wrapping_add(1) & ((1 << Self::LIFE_BITS) - 1);
        Self(self.0 >> Self::LIFE_BITS << Self::LIFE_BITS | life)
    }

    /// Whether both are lives of one process.
    pub fn same_process(self, other: Self) -> bool {
        self.0 >> Self::LIFE_BITS == other.0 >> Self::LIFE_BITS
    }

    fn mix(self) -> u64 {
        (self.0 >> Self::LIFE_BITS).wrapping_add(self.0 << 5)
    }
}

/// What the store holds to fence a shard: a write passes only with exactly this owner and epoch.
///
/// The order is that of time within one history of the store: by epoch, and within an epoch the release comes after the claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The owner; `None` before the first claim and after a release.
    pub owner: Option<NodeTag>,
    /// The epoch of the last claim.
    pub epoch: Epoch,
}

impl Fence {
    /// Whether this came after `other`, had the store lost nothing.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.epoch, self.owner.is_none()) > (other.epoch, other.owner.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_from_one_fence_never_make_one_epoch() {
        let from = Epoch::default().next(NodeTag(1), Incarnation::first(7));
        let mut made = std::collections::HashSet::new();
        for tag in 0..64 {
            for boot in 0..32 {
                let epoch = from.next(NodeTag(tag), Incarnation::first(boot));
                assert!(epoch > from);
                assert!(made.insert(epoch), "{tag} {boot}");
            }
        }
        let highest = made.into_iter().max().unwrap();
        assert!(highest.next(NodeTag(0), Incarnation::first(0)) > highest, "the count outweighs the salt");
    }

    #[test]
    fn lives_of_one_process_differ_and_know_each_other() {
        let first = Incarnation::first(9);
        let second = first.next();
        assert_ne!(first, second);
        assert!(first.same_process(second));
        assert!(!first.same_process(Incarnation::first(10)));
        let last = (0..u16::MAX).fold(first, |life, _| life.next());
        assert!(last.next().same_process(first), "a wrap stays in the process");
    }

    #[test]
    fn a_release_comes_after_its_claim_and_before_the_next() {
        let epoch = Epoch::default().next(NodeTag(1), Incarnation::first(1));
        let claimed = Fence { owner: Some(NodeTag(1)), epoch };
        let released = Fence { owner: None, epoch };
        let next = Fence { owner: Some(NodeTag(1)), epoch: epoch.next(NodeTag(1), Incarnation::first(1)) };
        assert!(claimed.is_newer_than(&Fence::default()));
        assert!(released.is_newer_than(&claimed) && !claimed.is_newer_than(&released));
        assert!(next.is_newer_than(&released));
        assert!(!claimed.is_newer_than(&claimed));
    }
}
