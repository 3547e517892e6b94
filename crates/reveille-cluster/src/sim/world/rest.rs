//! What is to be true when everything has come to rest.

use reveille_registrar::flow::NodeTag;

use super::{CLIENTS, SETTLED, World};
use crate::{
    placement::{Candidate, Placement},
    sim::{SHARDS, TTL_MICROS, check::Broken, node::Node},
};

impl World {
    /// One more change in quiet times: it moves what it must and nothing else.
    pub(super) fn last_change(&mut self) -> Result<(), Broken> {
        let before = self.store.fences.clone();
        let homes = self.homes();
        // The last home may have drained since.
        let Some(&chosen) = homes.get(self.random.index(homes.len())) else { return Ok(()) };
        let tag = NodeTag(self.slots[chosen].tag);
        let (mut joined, mut gone) = (None, None);
        let at = self.now;
        let died = self.random.range(0, 3);
        match died {
            0 if homes.len() > 1 => {
                self.kill(chosen);
                gone = Some(tag);
            }
            1 if homes.len() > 1 => {
                self.turn(chosen, Node::drain)?;
                gone = Some(tag);
            }
            _ => {
                let slot = self.slot(99);
                self.start(slot);
                joined = Some(NodeTag(99));
            }
        }
        self.run_until(at + SETTLED)?;
        self.check_rest()?;
        self.check_records()?;
        for (shard, (old, new)) in (0..).zip(before.iter().zip(&self.store.fences)) {
            let must_move = gone.is_some() && old.owner == gone || joined.is_some() && new.owner == joined;
            if !must_move && old != new {
                return Err(Broken::Moved { shard });
            }
        }
        if gone.is_some() && died == 0 && before.iter().any(|fence| fence.owner == gone) {
            let took = self.last_claim.saturating_sub(at);
            self.stats.takeovers += 1;
            self.stats.slowest_takeover = took;
            if took > TTL_MICROS + 300_000 {
                return Err(Broken::SlowTakeover(took));
            }
        }
        Ok(())
    }

    /// Rule (4).
    pub(super) fn check_rest(&self) -> Result<(), Broken> {
        let homes = self.homes();
        let candidates = homes.iter().filter_map(|&slot| self.slots[slot].node.as_ref());
        let candidates = candidates.map(|node| Candidate { tag: node.info.tag, weight: node.info.weight });
        let placement = Placement::new(SHARDS, candidates);
        for shard in 0..SHARDS {
            let unsettled = |what: String| Err(Broken::Unsettled { shard, what });
            let fence = self.store.fences[usize::from(shard)];
            let belongs = placement.of(shard).owner;
            if belongs.is_some() && fence.owner != belongs {
                return unsettled(format!("belongs to {belongs:?}, fence is {fence:?}"));
            }
            for &slot in &homes {
                let Some(node) = &self.slots[slot].node else { continue };
                let writes = node.own.may_write(node.clock.local(self.now), shard);
                let owns = fence.owner == Some(node.info.tag);
                if writes != owns.then_some(fence.epoch) {
                    return unsettled(format!("fence is {fence:?}, node {} writes under {writes:?}", node.info.tag.0));
                }
                if node.own.map().fence(shard) != fence {
                    return unsettled(format!("node {} does not know {fence:?}", node.info.tag.0));
                }
                if !node.is_idle() {
                    return unsettled(format!("node {} has work left", node.info.tag.0));
                }
            }
            if let Some(edge) = self.edges.iter().find(|edge| edge.fence(shard) != fence) {
                return unsettled(format!("an edge knows {:?}, fence is {fence:?}", edge.fence(shard)));
            }
        }
        Ok(())
    }

    /// Rules (1) and (5).
    pub(super) fn check_records(&self) -> Result<(), Broken> {
        if self.may_have_lost() {
            return Ok(());
        }
        for aor in 0..CLIENTS {
            let stored = self.store.record(aor % SHARDS, aor);
            self.checker.check(aor, stored.map(|value| value.seq))?;
        }
        Ok(())
    }
}
