//! Which node each shard belongs to: weighted rendezvous hashing.
//!
//! Every node computes this for itself from the roster, and nodes with the same roster agree without a word. A node's score for
//! a shard is `-weight / ln(h)`, h the hash of node and shard as a number in (0, 1); the highest score owns the shard, the next
//! is its second. A score depends on nothing but that node and that shard, hence the least movement possible: a node that joins
//! takes only what it wins, one that leaves gives up only what it had, and its shards go to those who were second.

use reveille_registrar::flow::NodeTag;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A node that may own shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub tag: NodeTag,
    /// Its share beside the others'; 0 owns nothing.
    pub weight: u16,
}

/// Owner and second of every shard, by one roster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    places: Vec<Place>,
}

/// Where one shard belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The node that is to own it; `None` where no node may.
    pub owner: Option<NodeTag>,
    /// The node that would own it were the owner gone.
    pub second: Option<NodeTag>,
}

impl Placement {
    /// The placement of `shards` shards among these nodes. Their order does not matter.
    pub fn new(shards: u16, candidates: impl IntoIterator<Item = Candidate>) -> Self {
        let candidates: Vec<Candidate> = candidates.into_iter().filter(|candidate| candidate.weight > 0).collect();
        Self { places: (0..shards).map(|shard| place(shard, &candidates)).collect() }
    }

    /// Where `shard` belongs; nowhere for a shard that is not in the cluster.
    pub fn of(&self, shard: u16) -> Place {
        self.places.get(usize::from(shard)).copied().unwrap_or_default()
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.places.len()).unwrap_or(u16::MAX)
    }

    /// How many shards belong to a node.
    pub fn count(&self, tag: NodeTag) -> usize {
        self.places.iter().filter(|place| place.owner == Some(tag)).count()
    }
}

fn place(shard: u16, candidates: &[Candidate]) -> Place {
    let (mut best, mut next): (Option<Scored>, Option<Scored>) = (None, None);
    for &candidate in candidates {
        let scored = Scored { score: score(shard, candidate), tag: candidate.tag };
        if best.is_none_or(|best| scored.beats(best)) {
            next = best.replace(scored);
        } else if next.is_none_or(|next| scored.beats(next)) {
            next = Some(scored);
        }
    }
    Place { owner: best.map(|scored| scored.tag), second: next.map(|scored| scored.tag) }
}

#[derive(Clone, Copy)]
struct Scored {
    score: f64,
    tag: NodeTag,
}

impl Scored {
    fn beats(self, other: Self) -> bool {
        // Equal scores are all but impossible; the tag decides them the same way everywhere.
        self.score.total_cmp(&other.score).then(other.tag.0.cmp(&self.tag.0)).is_gt()
    }
}

fn score(shard: u16, candidate: Candidate) -> f64 {
    let hash = xxh3_64_with_seed(&candidate.tag.0.to_le_bytes(), SEED ^ u64::from(shard));
    // 53 bits, the most a double holds exactly, moved off zero: never 0 and never 1, so the logarithm is finite and negative.
    #[allow(clippy::cast_precision_loss, reason = "both are below 2^53")]
    let unit = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(candidate.weight) / unit.ln()
}

/// Part of the contract between releases: nodes of a rolling upgrade have to agree.
const SEED: u64 = 0x7265_7665_696c_6c65;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARDS: u16 = 1024;

    fn nodes(weights: &[u16]) -> Vec<Candidate> {
        weights.iter().zip(1..).map(|(&weight, tag)| Candidate { tag: NodeTag(tag), weight }).collect()
    }

    /// Nodes of different releases have to agree: these may not change.
    #[test]
    fn placement_is_fixed() {
        let placement = Placement::new(8, nodes(&[100, 100, 200]));
        let owners: Vec<u32> = (0..8).map(|shard| placement.of(shard).owner.unwrap().0).collect();
        assert_eq!(owners, FIXED);
    }

    const FIXED: [u32; 8] = [2, 3, 3, 3, 2, 2, 2, 3];

    #[test]
    fn nobody_and_weightless_own_nothing() {
        assert_eq!(Placement::new(4, []).of(0), Place::default());
        let placement = Placement::new(SHARDS, nodes(&[0, 1]));
        assert_eq!(placement.count(NodeTag(2)), usize::from(SHARDS));
        assert_eq!(placement.of(3).second, None);
        assert_eq!(placement.of(SHARDS), Place::default());
    }

    /// Shares follow weights: within a fifth for 1,024 shards on 2 to 8 nodes of equal weight, and for weights 1:2:4.
    #[test]
    fn shares_follow_weights() {
        for count in 2..=8_usize {
            let all = nodes(&vec![100; count]);
            let placement = Placement::new(SHARDS, all.clone());
            for node in all {
                let share = placement.count(node.tag) * count * 100 / usize::from(SHARDS);
                assert!((80..=120).contains(&share), "{count} nodes: {share} %");
            }
        }
        let placement = Placement::new(SHARDS, nodes(&[100, 200, 400]));
        for (tag, parts) in [(1, 1), (2, 2), (3, 4)] {
            let share = placement.count(NodeTag(tag)) * 700 / (usize::from(SHARDS) * parts);
            assert!((80..=120).contains(&share), "{tag}: {share} %");
        }
    }

    proptest! {
        /// Whoever leaves, only its shards move, and each to its second.
        #[test]
        fn a_leaving_node_moves_its_own_shards_to_their_second(
            weights in prop::collection::vec(0_u16..500, 2..9), leaver in any::<prop::sample::Index>(),
        ) {
            let before = nodes(&weights);
            let gone = before[leaver.index(before.len())].tag;
            let old = Placement::new(SHARDS, before.clone());
            let new = Placement::new(SHARDS, before.into_iter().filter(|node| node.tag != gone));
            for shard in 0..SHARDS {
                let place = old.of(shard);
                let expected = if place.owner == Some(gone) { place.second } else { place.owner };
                prop_assert_eq!(new.of(shard).owner, expected);
            }
        }

        /// A weight that grows takes shards to that node and moves no other; the reverse when it shrinks.
        #[test]
        fn a_weight_moves_shards_only_to_or_from_its_node(
            weights in prop::collection::vec(1_u16..500, 2..9), which in any::<prop::sample::Index>(), more in 1_u16..500,
        ) {
            let small = nodes(&weights);
            let mut large = small.clone();
            let changed = which.index(small.len());
            large[changed].weight += more;
            let tag = large[changed].tag;
            let (before, after) = (Placement::new(SHARDS, small), Placement::new(SHARDS, large));
            for shard in 0..SHARDS {
                let (old, new) = (before.of(shard).owner, after.of(shard).owner);
                prop_assert!(old == new || new == Some(tag), "shard {}: {:?} to {:?}", shard, old, new);
            }
        }

        #[test]
        fn the_order_of_nodes_does_not_matter(weights in prop::collection::vec(1_u16..500, 1..9)) {
            let mut all = nodes(&weights);
            let one = Placement::new(64, all.clone());
            all.reverse();
            prop_assert_eq!(one, Placement::new(64, all));
        }
    }
}
