//! Who owns each shard, as far as this node has heard: what every edge routes by.
//!
//! Two sources feed it. *Events* are pushed when a claim or release succeeded; they may come late, twice or in any order, and
//! the newest fence wins. *Readings* are the store's own word at some moment after they were asked for: of what was known
//! before that moment they overrule everything, even a newer epoch, since then the store itself has gone back (a failover that
//! lost the last writes). So a map that an event led astray is right again after the next reading.

use std::time::Instant;

use reveille_registrar::flow::NodeTag;

use crate::{
    fence::{Epoch, Fence},
    placement::Placement,
};

/// The map.
#[derive(Clone, Debug)]
pub struct ShardMap {
    entries: Vec<Entry>,
    version: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    fence: Fence,
    /// When the fence was first heard of; `None` before anything was.
    learned: Option<Instant>,
    /// The highest epoch ever heard of, whatever the store says now.
    highest: Epoch,
}

impl ShardMap {
    /// A map in which nobody owns anything.
    pub fn new(shards: u16) -> Self {
        Self { entries: vec![Entry::default(); usize::from(shards)], version: 0 }
    }

    /// Hears an event. Returns whether it was news; what is older than what is known, or names no shard, is not.
    pub fn event(&mut self, now: Instant, shard: u16, fence: Fence) -> bool {
        let Some(entry) = self.entries.get_mut(usize::from(shard)) else { return false };
        entry.highest = entry.highest.max(fence.epoch);
        if entry.learned.is_some() && !fence.is_newer_than(&entry.fence) {
            return false;
        }
        self.set(now, shard, fence)
    }

    /// Takes what the store said of a fence when it was asked at `sent`. Returns whether it was news.
    pub fn read(&mut self, now: Instant, sent: Instant, shard: u16, fence: Fence) -> bool {
        let Some(entry) = self.entries.get_mut(usize::from(shard)) else { return false };
        entry.highest = entry.highest.max(fence.epoch);
        // What was heard while the answer was on its way may be newer than the answer.
        if entry.learned.is_some_and(|learned| learned >= sent) && !fence.is_newer_than(&entry.fence) {
            return false;
        }
        self.set(now, shard, fence)
    }

    /// The fence of a shard; that of an unclaimed one where nothing is known.
    pub fn fence(&self, shard: u16) -> Fence {
        self.entries.get(usize::from(shard)).map(|entry| entry.fence).unwrap_or_default()
    }

    /// The node to ask; `None` while nobody is known to own the shard: a takeover is under way.
    pub fn owner(&self, shard: u16) -> Option<NodeTag> {
        self.fence(shard).owner
    }

    /// The node most likely to own the shard next, for a retry when its owner does not answer.
    pub fn next_home(&self, shard: u16, placement: &Placement) -> Option<NodeTag> {
        let place = placement.of(shard);
        if place.owner == self.owner(shard) { place.second } else { place.owner }
    }

    /// When the present fence was first heard of: whatever made it so happened before.
    pub fn learned(&self, shard: u16) -> Option<Instant> {
        self.entries.get(usize::from(shard)).and_then(|entry| entry.learned)
    }

    /// The highest epoch ever heard of for the shard: the next claim goes above it.
    pub fn highest(&self, shard: u16) -> Epoch {
        self.entries.get(usize::from(shard)).map(|entry| entry.highest).unwrap_or_default()
    }

    /// Counts the changes this map has seen; for status pages.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(u16::MAX)
    }

    /// Returns whether the fence differs from what was known.
    fn set(&mut self, now: Instant, shard: u16, fence: Fence) -> bool {
        let Some(entry) = self.entries.get_mut(usize::from(shard)) else { return false };
        let changed = entry.fence != fence || entry.learned.is_none();
        if changed {
            entry.learned = Some(now);
        }
        entry.fence = fence;
        self.version += u64::from(changed);
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{fence::Incarnation, placement::Candidate, testing::at};

    fn fence(owner: u32, count: u64) -> Fence {
        Fence { owner: (owner > 0).then_some(NodeTag(owner)), epoch: Epoch(count << Epoch::SALT_BITS) }
    }

    #[test]
    fn unknown_and_released_shards_are_nowhere() {
        let mut map = ShardMap::new(2);
        assert_eq!((map.owner(0), map.owner(7)), (None, None));
        assert!(map.event(at(0), 0, fence(1, 1)));
        assert_eq!(map.owner(0), Some(NodeTag(1)));
        assert!(map.event(at(1), 0, fence(0, 1)));
        assert_eq!(map.owner(0), None);
        assert!(!map.event(at(2), 0, fence(1, 1)), "the claim was before the release");
        assert!(!map.event(at(2), 7, fence(1, 9)));
        assert_eq!(map.version(), 2);
    }

    #[test]
    fn a_reading_overrules_what_was_known_when_it_was_asked_for() {
        let mut map = ShardMap::new(1);
        map.event(at(10), 0, fence(2, 6));
        assert!(!map.read(at(20), at(5), 0, fence(1, 5)), "asked for before the event came");
        assert_eq!(map.owner(0), Some(NodeTag(2)));
        assert!(map.read(at(20), at(15), 0, fence(1, 5)), "the store has gone back");
        assert_eq!(map.owner(0), Some(NodeTag(1)));
        assert_eq!(map.highest(0), fence(2, 6).epoch, "and yet the next claim goes above what was seen");
        assert!(map.read(at(30), at(15), 0, fence(3, 7)), "newer is newer, whenever it was asked for");
    }

    #[test]
    fn next_home_is_the_second_or_whoever_should_own() {
        let nodes = [1, 2, 3].map(|tag| Candidate { tag: NodeTag(tag), weight: 1 });
        let placement = Placement::new(1, nodes);
        let place = placement.of(0);
        let mut map = ShardMap::new(1);
        assert_eq!(map.next_home(0, &placement), place.owner);
        let epoch = Epoch::default().next(NodeTag(1), Incarnation::first(1));
        map.event(at(0), 0, Fence { owner: place.owner, epoch });
        assert_eq!(map.next_home(0, &placement), place.second);
    }

    proptest! {
        /// Maps that heard the same events, in any order and however often, agree.
        #[test]
        fn order_and_repetition_of_events_do_not_matter(
            events in prop::collection::vec((0_u16..3, 0_u32..2, 1_u64..6), 1..20), seed: u64,
        ) {
            // An epoch has one owner, so events of one epoch differ only in whether it was released.
            let events: Vec<(u16, Fence)> = events
                .into_iter()
                .map(|(shard, held, count)| (shard, fence(held * (u32::try_from(count).unwrap() % 3 + 1), count)))
                .collect();
            let (mut one, mut other) = (ShardMap::new(3), ShardMap::new(3));
            for &(shard, fence) in &events {
                one.event(at(0), shard, fence);
            }
            let mut shuffled = [events.clone(), events].concat();
            shuffled.sort_by_key(|(shard, fence)| xxhash_rust::xxh3::xxh3_64_with_seed(
                &[u8::try_from(*shard).unwrap(), fence.owner.map_or(0, |tag| tag.0 as u8), fence.epoch.0.to_be_bytes()[5]], seed));
            for (shard, fence) in shuffled {
                other.event(at(0), shard, fence);
            }
            for shard in 0..3 {
                prop_assert_eq!(one.fence(shard), other.fence(shard));
            }
        }
    }
}
