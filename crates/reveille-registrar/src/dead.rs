//! Push tokens that their service has called dead, for all shards of a node and, where others share the store, for all nodes
//! (P-156, P-171).
//!
//! A record notes a dead token for its own address-of-record, for good. Here the verdict stands for every other one that brings
//! the same token: a shard looks when a REGISTER comes. Only a keyed hash of a token is kept, for a day, and so many at most;
//! the oldest go first. Whoever shares the marks takes them with [`DeadTargets::untold`], and brings what others have said with
//! [`DeadTargets::hear`].

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use prometheus::IntGauge;
use reveille_push::PushTarget;
use ring::hmac;
use tokio::sync::Notify;

use crate::record::{DeadPush, fingerprint};

/// How long a verdict on a token counts (P-156), in seconds.
pub const DEAD_FOR: u64 = 24 * 3600;
/// Marks that a node keeps: some 10 MB.
pub const MOST: usize = 65_536;
/// Marks that wait for a store that is away.
const MOST_UNTOLD: usize = 4_096;
/// Octets of a name.
pub const NAME: usize = 16;

/// That a token is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadMark {
    /// A keyed hash of provider, param and PRID.
    pub name: [u8; NAME],
    /// When the verdict came, in unix seconds of this node.
    pub at: u64,
    /// How many verdicts came within a day of each other, the phone having registered with the token in between.
    pub verdicts: u8,
}

/// See the module.
pub struct DeadTargets {
    key: hmac::Key,
    most: usize,
    count: IntGauge,
    /// Whether there is any mark: without, a REGISTER costs no hash.
    any: AtomicBool,
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Default)]
struct Inner {
    marks: HashMap<[u8; NAME], (u64, u8)>,
    by_age: BTreeSet<(u64, [u8; NAME])>,
    untold: VecDeque<DeadMark>,
}

impl DeadTargets {
    /// An empty table of so many marks at most. Nodes that share marks have one key. The gauge shows how many there are.
    pub fn new(key: &[u8; 32], most: usize, count: IntGauge) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            most: most.max(1),
            count,
            any: AtomicBool::new(false),
            inner: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// What is known of a token at this time, in unix seconds.
    pub fn find(&self, target: &PushTarget, unix: u64) -> Option<DeadPush> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let name = self.name(target);
        let (at, verdicts) = self.lock().marks.get(&name).copied()?;
        (unix < at.saturating_add(DEAD_FOR)).then(|| DeadPush { target: fingerprint(target), at, verdicts })
    }

    /// Enters a verdict that a shard of this node has heard.
    pub fn enter(&self, target: &PushTarget, dead: DeadPush) {
        let mark = DeadMark { name: self.name(target), at: dead.at, verdicts: dead.verdicts };
        let mut inner = self.lock();
        if !self.put(&mut inner, mark, dead.at) {
            return;
        }
        if inner.untold.len() >= MOST_UNTOLD {
            inner.untold.pop_front();
        }
        inner.untold.push_back(mark);
        drop(inner);
        self.news.notify_one();
    }

    /// Enters what another node has said, at this time in unix seconds. A mark that is known, or over, changes nothing.
    pub fn hear(&self, mark: DeadMark, unix: u64) {
        self.put(&mut self.lock(), mark, unix);
    }

    /// The marks that the other nodes have not been told, the oldest first.
    pub fn untold(&self) -> Vec<DeadMark> {
        self.lock().untold.iter().copied().collect()
    }

    /// The others have been told of these.
    pub fn told(&self, marks: &[DeadMark]) {
        self.lock().untold.retain(|mark| !marks.contains(mark));
    }

    /// Waits for something to tell the others.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Enters a mark unless one that is as strict is there: two verdicts on one death are one. Those whose day is over go first.
    fn put(&self, inner: &mut Inner, mark: DeadMark, unix: u64) -> bool {
        while let Some(&(at, name)) = inner.by_age.first()
            && unix >= at.saturating_add(DEAD_FOR)
        {
            inner.by_age.remove(&(at, name));
            inner.marks.remove(&name);
        }
        let known = inner.marks.get(&mark.name).copied();
        let is_new = known.is_none_or(|(_, verdicts)| mark.verdicts > verdicts);
        let is_news = is_new && unix < mark.at.saturating_add(DEAD_FOR);
        if is_news {
            if let Some((at, _)) = inner.marks.insert(mark.name, (mark.at, mark.verdicts)) {
                inner.by_age.remove(&(at, mark.name));
            } else if inner.marks.len() > self.most
                && let Some((_, oldest)) = inner.by_age.pop_first()
            {
                inner.marks.remove(&oldest);
            }
            inner.by_age.insert((mark.at, mark.name));
        }
        self.any.store(!inner.marks.is_empty(), Ordering::Release);
        self.count.set(i64::try_from(inner.marks.len()).unwrap_or(i64::MAX));
        is_news
    }

    fn name(&self, target: &PushTarget) -> [u8; NAME] {
        let mut hash = hmac::Context::with_key(&self.key);
        for part in [target.provider.as_str(), &target.param, target.prid.expose()] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let tag = hash.sign();
        let mut name = [0; NAME];
        name.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        name
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here stops half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for DeadTargets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadTargets").field("marks", &self.lock().marks.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use reveille_push::{Provider, Secret};

    use super::*;

    const UNIX: u64 = 1_700_000_000;

    fn target(prid: &str) -> PushTarget {
        PushTarget { provider: Provider::Fcm, param: "acme".into(), prid: Secret::from(prid) }
    }

    fn dead(prid: &str, at: u64, verdicts: u8) -> DeadPush {
        DeadPush { target: fingerprint(&target(prid)), at, verdicts }
    }

    fn table(key: u8, most: usize) -> DeadTargets {
        DeadTargets::new(&[key; 32], most, IntGauge::new("marks", "marks").unwrap())
    }

    #[test]
    fn p156_a_mark_holds_for_a_day_and_is_heard_by_nodes_of_the_same_key() {
        let (ours, theirs, stranger) = (table(1, 10), table(1, 10), table(2, 10));
        ours.enter(&target("a"), dead("a", UNIX, 1));
        for mark in ours.untold() {
            theirs.hear(mark, UNIX + 60);
            stranger.hear(mark, UNIX + 60);
        }
        for table in [&ours, &theirs] {
            assert_eq!(table.find(&target("a"), UNIX + DEAD_FOR - 1), Some(dead("a", UNIX, 1)));
            assert_eq!(table.find(&target("a"), UNIX + DEAD_FOR), None);
            assert_eq!(table.find(&target("b"), UNIX), None);
        }
        assert_eq!(stranger.find(&target("a"), UNIX), None, "the name says nothing without the key");
        assert!(theirs.untold().is_empty(), "what was heard is not told again");
        ours.told(&ours.untold());
        assert!(ours.untold().is_empty());
    }

    #[test]
    fn p156_verdicts_grow_and_are_never_forgiven_by_older_news() {
        let table = table(1, 10);
        table.enter(&target("a"), dead("a", UNIX, 1));
        table.enter(&target("a"), dead("a", UNIX + 5, 1));
        assert_eq!(table.untold().len(), 1, "one death is told once");
        table.enter(&target("a"), dead("a", UNIX + 10, 2));
        table.hear(table.untold()[0], UNIX + 20);
        assert_eq!(table.find(&target("a"), UNIX + 20), Some(dead("a", UNIX + 10, 2)));
        // The next day it is a first verdict again.
        table.enter(&target("a"), dead("a", UNIX + 10 + DEAD_FOR, 1));
        assert_eq!(table.find(&target("a"), UNIX + 20 + DEAD_FOR), Some(dead("a", UNIX + 10 + DEAD_FOR, 1)));
        // What was over before it came is no news.
        table.hear(DeadMark { name: [7; NAME], at: UNIX, verdicts: 9 }, UNIX + DEAD_FOR);
        assert_eq!(table.count.get(), 1);
    }

    #[test]
    fn the_oldest_marks_go_when_the_table_is_full_and_when_their_day_is_over() {
        let table = table(1, 3);
        for (n, prid) in ["a", "b", "c", "d"].into_iter().enumerate() {
            table.enter(&target(prid), dead(prid, UNIX + n as u64, 1));
        }
        let there = |unix| ["a", "b", "c", "d"].map(|prid| table.find(&target(prid), unix).is_some());
        assert_eq!(there(UNIX + 4), [false, true, true, true]);
        assert_eq!(table.count.get(), 3);
        table.enter(&target("e"), dead("e", UNIX + 3 + DEAD_FOR, 1));
        assert_eq!(table.count.get(), 1);
        assert_eq!(there(UNIX + 3 + DEAD_FOR), [false; 4]);
    }

    #[test]
    fn what_waits_for_a_store_that_is_away_is_bounded() {
        let table = table(1, MOST);
        for n in 0..MOST_UNTOLD + 5 {
            let prid = n.to_string();
            table.enter(&target(&prid), dead(&prid, UNIX, 1));
        }
        assert_eq!(table.untold().len(), MOST_UNTOLD);
        assert_eq!(table.count.get() as usize, MOST_UNTOLD + 5, "known here all the same");
        assert!(!format!("{table:?}").contains("key"));
    }
}
