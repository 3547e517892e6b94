//! Which VAPID key signs a push. A subscription takes pushes under the key it was made with and no other (RFC 8292 §4.2), and a
//! phone makes a new one when it pleases: so after a rotation old and new keys live side by side (P-132).
//!
//! The newest key is announced. A subscription's first push is tried with it, and with the former ones where the push service
//! refuses; what it takes is remembered for that subscription.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    mem,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::credential::Vapid;

/// The keys in use, the announced one first; never empty.
pub(super) struct Ring(Vec<Arc<Vapid>>);

impl Ring {
    /// `former` are keys that subscriptions may still have been made under, newest first.
    pub(super) fn new(current: Vapid, former: impl IntoIterator<Item = Vapid>) -> Self {
        let mut ring = Self(vec![Arc::new(current)]);
        for key in former {
            ring.add(Arc::new(key));
        }
        ring
    }

    /// New keys take over; of the ones until now those that are not among them are kept behind them. A key that stays keeps
    /// its signed tokens.
    pub(super) fn succeed(&self, next: Ring) -> Ring {
        let mut ring = Self(Vec::new());
        for key in next.0 {
            let same = self.0.iter().find(|old| old.public() == key.public() && old.subject() == key.subject());
            ring.add(same.map_or(key, Arc::clone));
        }
        for old in &self.0 {
            ring.add(Arc::clone(old));
        }
        ring
    }

    fn add(&mut self, key: Arc<Vapid>) {
        if self.0.len() < MOST && self.0.iter().all(|known| known.public() != key.public()) {
            self.0.push(key);
        }
    }

    /// The key that REGISTER's answers announce.
    pub(super) fn announced(&self) -> Option<&Arc<Vapid>> {
        self.0.first()
    }

    /// The key for the try after `refusals`: the one remembered (or the announced one), then each of the others, and at last the
    /// first again, signed anew. `None` past that.
    pub(super) fn key(&self, remembered: Option<u64>, refusals: u32) -> Option<&Arc<Vapid>> {
        let first = remembered.and_then(|id| self.0.iter().position(|key| key.id() == id)).unwrap_or(0);
        match usize::try_from(refusals).ok()? {
            0 => self.0.get(first),
            n if n == self.0.len() => self.0.get(first),
            n if n <= first => self.0.get(n - 1),
            n => self.0.get(n),
        }
    }

    /// How many tries there are.
    pub(super) fn tries(&self) -> u32 {
        u32::try_from(self.0.len() + 1).unwrap_or(u32::MAX)
    }
}

/// Which key each subscription was last taken under. Bounded: what was not used for long is forgotten, which costs one refused
/// request when it is used again.
#[derive(Default)]
pub(super) struct Memory {
    hasher: RandomState,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    young: HashMap<u64, u64>,
    old: HashMap<u64, u64>,
}

impl Memory {
    pub(super) fn get(&self, prid: &str) -> Option<u64> {
        let hash = self.hasher.hash_one(prid);
        let seen = self.seen.lock();
        seen.young.get(&hash).or_else(|| seen.old.get(&hash)).copied()
    }

    pub(super) fn set(&self, prid: &str, key: u64) {
        let hash = self.hasher.hash_one(prid);
        let mut seen = self.seen.lock();
        seen.young.insert(hash, key);
        if seen.young.len() >= REMEMBERED {
            seen.old = mem::take(&mut seen.young);
        }
    }
}

/// Keys in use at a time. Each costs a subscription that is not remembered one refused request.
const MOST: usize = 4;
/// Subscriptions in each half of the memory.
const REMEMBERED: usize = 100_000;

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;

    use super::*;

    fn key(seed: u8) -> Vapid {
        Vapid::new(SigningKey::from_slice(&[seed; 32]).unwrap(), "mailto:ops@example.net")
    }

    fn order(ring: &Ring, remembered: Option<u64>) -> Vec<String> {
        (0..10).map_while(|n| ring.key(remembered, n)).map(|key| key.public().to_owned()).collect()
    }

    #[test]
    fn the_key_remembered_comes_first_and_every_other_follows_once_p132() {
        let [a, b, c] = [1, 2, 3].map(|seed| key(seed).public().to_owned());
        let ring = Ring::new(key(1), [key(2), key(3)]);
        assert_eq!(order(&ring, None), [&a, &b, &c, &a].map(String::clone));
        assert_eq!(order(&ring, Some(key(2).id())), [&b, &a, &c, &b].map(String::clone));
        assert_eq!(order(&ring, Some(key(3).id())), [&c, &a, &b, &c].map(String::clone));
        assert_eq!(order(&ring, Some(key(9).id())), order(&ring, None), "a key long gone");
        assert_eq!(order(&ring, None).len(), ring.tries() as usize);
        assert_eq!(order(&Ring::new(key(1), []), None), [a.clone(), a], "signed anew once (P-135)");
    }

    #[test]
    fn a_rotation_keeps_the_keys_there_were_p125_p132() {
        let first = Ring::new(key(1), []);
        let second = first.succeed(Ring::new(key(2), []));
        assert_eq!(second.announced().unwrap().id(), key(2).id());
        assert!(second.0.iter().any(|kept| Arc::ptr_eq(kept, &first.0[0])), "with its tokens");
        assert_eq!(second.succeed(Ring::new(key(2), [])).0.len(), 2, "nothing new, nothing lost");
        let mut ring = second;
        for seed in 3..20 {
            ring = ring.succeed(Ring::new(key(seed), []));
        }
        assert_eq!(ring.0.len(), MOST);
        assert_eq!(ring.announced().unwrap().id(), key(19).id());
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_what_is_used() {
        let memory = Memory::default();
        for n in 0..3 * REMEMBERED {
            memory.set(&n.to_string(), 7);
        }
        assert!(memory.get("0").is_none());
        assert_eq!(memory.get(&(3 * REMEMBERED - 1).to_string()), Some(7));
        let seen = memory.seen.lock();
        assert!(seen.young.len() + seen.old.len() <= 2 * REMEMBERED);
    }
}
