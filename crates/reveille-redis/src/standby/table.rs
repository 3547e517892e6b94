//! The records of one shard that another node owns, as they lie in Redis: sealed.
//!
//! They stay sealed for two reasons. To follow a feed costs no cryptography then, and most of what is followed is never wanted; and
//! a node that only stands by holds no token in the clear (P-109). A record is found by its field, which is a keyed hash
//! already and is hashed no further.

use hashbrown::HashTable;

use crate::seal::{FIELD, version_of};

/// What an entry costs beside its octets: its place among the slots, and in the index.
const OVERHEAD: usize = 24;

/// See the module.
#[derive(Default)]
pub(crate) struct Table {
    /// Field and blob, one behind the other.
    slots: Vec<Option<Box<[u8]>>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    bytes: usize,
}

impl Table {
    /// Keeps a record, unless a newer version of it is there. Returns whether `field` can be a field at all.
    pub(crate) fn set(&mut self, field: &[u8], blob: &[u8]) -> bool {
        if field.len() != FIELD {
            return false;
        }
        let found = self.find(field);
        if let Some(present) = found.and_then(|slot| self.blob(slot))
            && version_of(present) > version_of(blob)
        {
            return true;
        }
        let entry = [field, blob].concat().into_boxed_slice();
        self.bytes += entry.len() + OVERHEAD;
        match found {
            Some(slot) => {
                if let Some(old) = self.slots.get_mut(slot as usize).and_then(|place| place.replace(entry)) {
                    self.bytes -= old.len() + OVERHEAD;
                }
            }
            None => {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.slots.push(None);
                    u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
                });
                if let Some(place) = self.slots.get_mut(slot as usize) {
                    *place = Some(entry);
                }
                let slots = &self.slots;
                self.index.insert_unique(hash(field), slot, |&other| hash(field_of(slots, other)));
            }
        }
        true
    }

    /// Drops a record, unless a newer version of it is there.
    pub(crate) fn remove(&mut self, field: &[u8], version: u64) {
        let newer = |table: &Self, slot| table.blob(slot).is_some_and(|blob| version_of(blob) > version);
        let Some(slot) = self.find(field).filter(|&slot| !newer(self, slot)) else { return };
        if let Ok(entry) = self.index.find_entry(hash(field), |&other| other == slot) {
            entry.remove();
        }
        if let Some(old) = self.slots.get_mut(slot as usize).and_then(Option::take) {
            self.bytes -= old.len() + OVERHEAD;
        }
        self.free.push(slot);
    }

    /// The record of a field.
    pub(crate) fn get(&self, field: &[u8]) -> Option<&[u8]> {
        self.find(field).and_then(|slot| self.blob(slot))
    }

    /// The record in a slot, with its field. Slots are numbered from 0 to [`Table::slots`].
    pub(crate) fn at(&self, slot: usize) -> Option<(&[u8], &[u8])> {
        self.slots.get(slot)?.as_deref()?.split_at_checked(FIELD)
    }

    /// How many slots there are, empty ones included.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The number of records.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Octets of memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn find(&self, field: &[u8]) -> Option<u32> {
        self.index.find(hash(field), |&slot| field_of(&self.slots, slot) == field).copied()
    }

    fn blob(&self, slot: u32) -> Option<&[u8]> {
        self.at(slot as usize).map(|(_, blob)| blob)
    }
}

fn hash(field: &[u8]) -> u64 {
    field.first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head))
}

fn field_of(slots: &[Option<Box<[u8]>>], slot: u32) -> &[u8] {
    slots.get(slot as usize).and_then(Option::as_deref).and_then(|entry| entry.get(..FIELD)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(n: u32) -> [u8; FIELD] {
        let mut field = [7; FIELD];
        field[..4].copy_from_slice(&n.to_le_bytes());
        field
    }

    fn blob(version: u64, content: &[u8]) -> Vec<u8> {
        [&[1][..], &version.to_be_bytes(), content].concat()
    }

    #[test]
    fn records_are_found_replaced_and_removed() {
        let mut table = Table::default();
        for n in 0..1000 {
            assert!(table.set(&field(n), &blob(1, b"a")));
        }
        for n in (0..1000).step_by(2) {
            table.remove(&field(n), 2);
        }
        table.set(&field(1), &blob(3, b"longer"));
        table.set(&field(2000), &blob(4, b"in a slot used before"));
        assert_eq!(table.get(&field(1)), Some(&blob(3, b"longer")[..]));
        assert_eq!((table.get(&field(0)), table.len(), table.slots()), (None, 501, 1000));
        let all = (0..table.slots()).filter_map(|slot| table.at(slot)).count();
        assert_eq!(all, 501);
        for n in 0..2001 {
            table.remove(&field(n), 9);
        }
        assert_eq!((table.len(), table.bytes()), (0, 0));
        assert!(!table.set(b"short", &blob(1, b"")), "no field of ours");
    }

    /// The scan and the feed overlap: what the scan read may be newer than what the feed says next.
    #[test]
    fn older_news_change_nothing() {
        let mut table = Table::default();
        table.set(&field(1), &blob(5, b"five"));
        table.set(&field(1), &blob(4, b"four"));
        table.remove(&field(1), 4);
        assert_eq!(table.get(&field(1)), Some(&blob(5, b"five")[..]));
        table.set(&field(1), &blob(5, b"five again"));
        table.remove(&field(1), 6);
        assert_eq!(table.get(&field(1)), None);
    }
}
