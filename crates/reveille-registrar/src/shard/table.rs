//! Where a shard keeps its records: encoded, found by address-of-record, and visited again when something of it may be due.
//!
//! A record lies in one allocation, together with its address-of-record and the second of its next visit; a slot number of
//! four bytes stands for it in the hash table and in the timetable. Each record has one visit planned, whatever the number
//! of its refreshes: a refresh that moves the expiry further out leaves the plan alone, and the visit then plans the next
//! one. So nothing here costs more with more records.
//!
//! The timetable knows minutes, and seconds for those minutes alone that have begun: a place for each second of a week would
//! cost more than the records it is for.

use std::collections::BTreeMap;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{aor::Aor, record};

/// Not the hash that chose the shard: within a shard that one is no longer even.
const SEED: u64 = 0x7265_7665_696c_6c65;

/// Visit (unix second, 4 bytes) and length of the address-of-record (4 bytes).
const HEAD: usize = 8;
const UNPLANNED: u32 = u32::MAX;
const MINUTE: u32 = 60;

/// The records of a shard.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Option<Box<[u8]>>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    /// By minute since the Unix epoch: at most as many entries as the longest registration has minutes.
    visits: BTreeMap<u32, Vec<u32>>,
    /// By unix second, in minutes that have begun.
    near: BTreeMap<u32, Vec<u32>>,
    bytes: usize,
    bindings: u64,
}

impl Table {
    /// The record of `aor`, encoded.
    pub(super) fn get(&self, aor: &Aor) -> Option<&[u8]> {
        let slot = self.find(aor.as_str())?;
        Some(parts(self.slots.get(slot as usize)?.as_deref()?).2)
    }

    /// Keeps a record, to be visited at `due`, in unix seconds, at the latest.
    pub(super) fn put(&mut self, aor: &Aor, value: &[u8], due: u64) {
        let due = second(due);
        let found = self.find(aor.as_str());
        let planned =
            found.and_then(|slot| self.slots.get(slot as usize)?.as_deref()).map_or(UNPLANNED, |blob| parts(blob).0);
        let visit = planned.min(due);
        let blob = blob(visit, aor.as_str(), value);
        self.bytes += blob.len();
        self.bindings += record::count(value);
        let slot = match found {
            Some(slot) => {
                self.forget_size(slot);
                slot
            }
            None => {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.slots.push(None);
                    u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
                });
                let slots = &self.slots;
                self.index.insert_unique(hash(aor.as_str()), slot, |&other| hash(name_of(slots, other)));
                slot
            }
        };
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(blob);
        }
        if visit != planned {
            self.visits.entry(visit / MINUTE).or_default().push(slot);
        }
    }

    /// Drops a record; true if there was one.
    pub(super) fn remove(&mut self, aor: &Aor) -> bool {
        let Some(slot) = self.find(aor.as_str()) else { return false };
        self.forget_size(slot);
        let slots = &self.slots;
        if let Ok(entry) = self.index.find_entry(hash(aor.as_str()), |&other| other == slot) {
            entry.remove();
        }
        debug_assert!(slots.get(slot as usize).is_some_and(Option::is_some));
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = None;
        }
        // A visit still planned for the slot finds it empty, or another record with a plan of its own, and passes.
        self.free.push(slot);
        true
    }

    /// The records whose visit is due, at most `most`; each has to be given back to [`Table::put`], [`Table::plan`] or
    /// [`Table::remove`].
    pub(super) fn take_due(&mut self, unix: u64, most: usize) -> Vec<Aor> {
        let now = second(unix);
        self.open_minutes(now, most.saturating_mul(16));
        let mut due = Vec::new();
        while due.len() < most {
            let Some(mut entry) = self.near.first_entry() else { break };
            let at = *entry.key();
            if at > now {
                break;
            }
            let Some(slot) = entry.get_mut().pop() else {
                entry.remove();
                continue;
            };
            let Some(blob) = self.slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { continue };
            let (planned, name, _) = parts(blob);
            if planned == at {
                due.push(Aor::from_canonical(name));
                set_visit(blob, UNPLANNED);
            }
        }
        due
    }

    /// Moves what is planned in the minutes that have begun to its seconds; `most` of it, the rest next time.
    fn open_minutes(&mut self, now: u32, most: usize) {
        for _ in 0..most {
            let Some(mut entry) = self.visits.first_entry().filter(|entry| *entry.key() <= now / MINUTE) else { break };
            let minute = *entry.key();
            let Some(slot) = entry.get_mut().pop() else {
                entry.remove();
                continue;
            };
            let Some(blob) = self.slots.get(slot as usize).and_then(Option::as_deref) else { continue };
            let planned = parts(blob).0;
            if planned / MINUTE == minute {
                self.near.entry(planned).or_default().push(slot);
            }
        }
    }

    /// Plans the next visit of a record that stays as it is, at `due` in unix seconds.
    pub(super) fn plan(&mut self, aor: &Aor, due: u64) {
        let Some(slot) = self.find(aor.as_str()) else { return };
        let Some(blob) = self.slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let due = second(due);
        if due < parts(blob).0 {
            set_visit(blob, due);
            self.visits.entry(due / MINUTE).or_default().push(slot);
        }
    }

    /// Drops the plan of a record that is about to be put again: what it was for is over, so it would be visited for nothing. To be
    /// used for what happens now and then: the place in the timetable is kept until its minute.
    pub(super) fn unplan(&mut self, aor: &Aor) {
        let slot = self.find(aor.as_str());
        if let Some(blob) = slot.and_then(|slot| self.slots.get_mut(slot as usize)).and_then(Option::as_deref_mut) {
            set_visit(blob, UNPLANNED);
        }
    }

    /// When [`Table::take_due`] has something to do, in unix seconds.
    pub(super) fn next_visit(&self) -> Option<u64> {
        let minute = self.visits.first_key_value().map(|(&minute, _)| u64::from(minute) * u64::from(MINUTE));
        minute.into_iter().chain(self.near.first_key_value().map(|(&at, _)| u64::from(at))).min()
    }

    /// The number of records.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes of all records as they lie here.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of bindings, expired ones until their visit.
    pub(super) fn bindings(&self) -> u64 {
        self.bindings
    }

    fn find(&self, name: &str) -> Option<u32> {
        self.index.find(hash(name), |&slot| name_of(&self.slots, slot) == name).copied()
    }

    fn forget_size(&mut self, slot: u32) {
        if let Some(blob) = self.slots.get(slot as usize).and_then(Option::as_deref) {
            self.bytes -= blob.len();
            self.bindings -= record::count(parts(blob).2);
        }
    }
}

fn hash(name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), SEED)
}

fn name_of(slots: &[Option<Box<[u8]>>], slot: u32) -> &str {
    slots.get(slot as usize).and_then(Option::as_deref).map_or("", |blob| parts(blob).1)
}

fn second(unix: u64) -> u32 {
    u32::try_from(unix).unwrap_or(UNPLANNED - 1).min(UNPLANNED - 1)
}

fn blob(visit: u32, name: &str, value: &[u8]) -> Box<[u8]> {
    let mut blob = Vec::with_capacity(HEAD + name.len() + value.len());
    blob.extend_from_slice(&visit.to_le_bytes());
    blob.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_le_bytes());
    blob.extend_from_slice(name.as_bytes());
    blob.extend_from_slice(value);
    blob.into_boxed_slice()
}

/// Visit, address-of-record and value.
fn parts(blob: &[u8]) -> (u32, &str, &[u8]) {
    let Some((head, rest)) = blob.split_first_chunk::<HEAD>() else { return (UNPLANNED, "", &[]) };
    let [a, b, c, d, e, f, g, h] = *head;
    let length = u32::from_le_bytes([e, f, g, h]) as usize;
    let Some((name, value)) = rest.split_at_checked(length) else { return (UNPLANNED, "", &[]) };
    (u32::from_le_bytes([a, b, c, d]), std::str::from_utf8(name).unwrap_or_default(), value)
}

fn set_visit(blob: &mut [u8], visit: u32) {
    if let Some(head) = blob.first_chunk_mut::<4>() {
        *head = visit.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    fn aor(n: u32) -> Aor {
        Aor::from_canonical(format!("user{n}@example.com"))
    }

    fn value() -> Vec<u8> {
        Record::new(1).encode()
    }

    #[test]
    fn records_are_found_replaced_and_removed() {
        let mut table = Table::default();
        for n in 0..1000 {
            table.put(&aor(n), &value(), 60_000);
        }
        for n in (0..1000).step_by(2) {
            assert!(table.remove(&aor(n)));
            assert!(!table.remove(&aor(n)));
        }
        table.put(&aor(1), b"other", 60_000);
        assert_eq!(table.get(&aor(1)), Some(&b"other"[..]));
        assert_eq!(table.get(&aor(0)), None);
        assert_eq!(table.len(), 500);
        for n in 0..1000 {
            table.remove(&aor(n));
        }
        assert_eq!((table.len(), table.bytes(), table.bindings()), (0, 0, 0));
    }

    /// A phone that refreshes a thousand times within its registration has one visit planned, not a thousand.
    #[test]
    fn refreshes_do_not_pile_up_visits() {
        let mut table = Table::default();
        for n in 0..1000 {
            table.put(&aor(1), &value(), 6_000 + n * 60);
        }
        assert_eq!(table.visits.values().map(Vec::len).sum::<usize>(), 1);
        assert!(table.take_due(5_999, 10).is_empty());
        assert_eq!(table.take_due(6_000, 10), [aor(1)]);
        assert!(table.take_due(6_000, 10).is_empty());
        table.plan(&aor(1), 66_000);
        assert_eq!(table.next_visit(), Some(66_000));
    }

    /// A visit is due to the second, not to the minute, whether its minute had begun when it was planned or not.
    #[test]
    fn visits_come_at_their_second() {
        let mut table = Table::default();
        for (n, due) in [(1, 6_059), (2, 6_001), (3, 6_060)] {
            table.put(&aor(n), &value(), due);
        }
        assert!(table.take_due(6_000, 10).is_empty());
        assert_eq!(table.next_visit(), Some(6_001));
        table.put(&aor(4), &value(), 6_030);
        assert_eq!(table.take_due(6_001, 10), [aor(2)]);
        assert!(table.take_due(6_029, 10).is_empty());
        assert_eq!(table.take_due(6_030, 10), [aor(4)]);
        assert!(table.take_due(6_058, 10).is_empty());
        assert_eq!(table.take_due(6_060, 10), [aor(1), aor(3)]);
        assert_eq!(table.next_visit(), None);
    }

    #[test]
    fn a_plan_that_is_over_is_dropped() {
        let mut table = Table::default();
        table.put(&aor(1), &value(), 600);
        table.unplan(&aor(1));
        table.put(&aor(1), &value(), 6_000);
        assert!(table.take_due(5_999, 10).is_empty());
        assert_eq!(table.take_due(6_000, 10), [aor(1)]);
    }

    #[test]
    fn an_earlier_expiry_brings_the_visit_forward_once() {
        let mut table = Table::default();
        table.put(&aor(1), &value(), 60_000);
        table.put(&aor(1), &value(), 600);
        assert_eq!(table.take_due(600, 10), [aor(1)]);
        table.plan(&aor(1), 120_000);
        assert!(table.take_due(60_000, 10).is_empty(), "the old plan was dropped");
        assert_eq!(table.take_due(120_000, 10), [aor(1)]);
    }

    #[test]
    fn a_slot_used_again_is_not_visited_for_its_former_record() {
        let mut table = Table::default();
        table.put(&aor(1), &value(), 600);
        table.remove(&aor(1));
        table.put(&aor(2), &value(), 6_000);
        assert!(table.take_due(600, 10).is_empty());
        assert_eq!(table.take_due(6_000, 10), [aor(2)]);
    }

    #[test]
    fn a_turn_takes_a_bounded_number() {
        let mut table = Table::default();
        (0..100).for_each(|n| table.put(&aor(n), &value(), 600));
        assert_eq!(table.take_due(600, 64).len(), 64);
        assert_eq!(table.take_due(600, 64).len(), 36);
    }
}
