//! One shard that is followed: its records, and how far its feed has been read.
//!
//! ```text
//!               scanned                end of the scan met
//!  Waiting ───▶ Filling ─────▶ Behind ─────────────────────▶ Warm
//!     ▲                          │          gap               │
//!     └──────────────────────────┴────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

use redis::Value;

use super::table::Table;
use crate::error::CommandError;
use crate::reply::Shape;

/// The pause before a shard is filled: rosters change quickly while a cluster starts.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);
/// The longest pause before a shard is filled that had gaps again and again.
const LONGEST: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Followed {
    pub(crate) slot: u16,
    pub(crate) key: String,
    pub(crate) state: State,
    pub(crate) table: Table,
    /// Its last entry read; empty before the first.
    pub(crate) position: String,
    /// A reading of its feed is under way.
    pub(crate) reading: bool,
    /// Nothing that came before this is missing.
    pub(crate) caught_up: Instant,
    /// Tells answers that belong to this time of being filled from those to an earlier one.
    pub(crate) generation: u64,
    /// The last claim that was read: by whom, and under which epoch.
    claim: Option<(Vec<u8>, u64)>,
    /// Gaps in a row.
    gaps: u32,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// To be filled, from then on.
    Waiting(Instant),
    /// Its records are being read.
    Filling,
    /// They were read while the feed grew to this entry; until it is met, a record may be one that a failover took back.
    Behind(String),
    /// Every entry since then was read, in order; since when.
    Warm(Instant),
}

/// Entries are missing: what is known of the shard is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap;

impl Followed {
    pub(crate) fn new(slot: u16, key: String, generation: u64, now: Instant) -> Self {
        Self {
            slot,
            key,
            state: State::Waiting(now + SETTLE),
            table: Table::default(),
            position: String::new(),
            reading: false,
            caught_up: now,
            generation,
            claim: None,
            gaps: 0,
        }
    }

    /// Whether every entry up to the claim of this node, under this epoch, was read.
    pub(crate) fn is_whole_at(&self, node: &str, epoch: u64) -> bool {
        let is_claim = |(owner, at): &(Vec<u8>, u64)| owner == node.as_bytes() && *at == epoch;
        matches!(self.state, State::Warm(_)) && self.claim.as_ref().is_some_and(is_claim)
    }

    /// Whether its feed is to be read.
    pub(crate) fn follows(&self) -> bool {
        matches!(self.state, State::Behind(_) | State::Warm(_))
    }

    /// The records were read between two looks at the end of the feed.
    pub(crate) fn filled(&mut self, table: Table, from: String, until: String, now: Instant) {
        self.state = if from == until { State::Warm(now) } else { State::Behind(until) };
        (self.table, self.position, self.caught_up, self.claim) = (table, from, now, None);
    }

    /// What is known of it is forgotten. Gaps that follow one another are mended ever more slowly: where the feed is too short for what
    /// is written, reading everything again and again helps nobody.
    pub(crate) fn start_over(&mut self, now: Instant) {
        if let State::Warm(since) = self.state
            && now >= since + LONGEST
        {
            self.gaps = 0;
        }
        let pause = SETTLE.saturating_mul(1 << self.gaps.min(6)).min(LONGEST);
        self.gaps += 1;
        self.generation += 1;
        (self.state, self.table, self.position) = (State::Waiting(now + pause), Table::default(), String::new());
    }

    /// Takes in entries, as XREAD gives them; returns how many there were.
    ///
    /// # Errors
    /// [`Gap`] inside where entries are missing; [`CommandError`] where they are no entries of ours.
    pub(crate) fn apply(&mut self, entries: Value, now: Instant) -> Result<Result<usize, Gap>, CommandError> {
        let mut count = 0;
        for entry in entries.array()? {
            let mut parts = entry.array()?.into_iter();
            let id = parts.next().text()?;
            let entry = Entry::of(parts.next().array()?)?;
            if entry.before != self.position.as_bytes() {
                return Ok(Err(Gap));
            }
            if let State::Behind(until) = &self.state {
                if *until == id {
                    self.state = State::Warm(now);
                } else if is_later(&id, until) {
                    // That entry was there when the records had been read, and is there no more.
                    return Ok(Err(Gap));
                }
            }
            self.position = id;
            count += 1;
            match entry.what {
                What::Set { field, blob } => {
                    if !self.table.set(&field, &blob) {
                        return Err(CommandError::Answer);
                    }
                }
                What::Deleted { field, version } => self.table.remove(&field, version),
                What::Claimed { owner, epoch } => self.claim = Some((owner, epoch)),
                What::Promise => {}
                // A later version may write what this one would have to understand.
                What::Unknown => return Ok(Err(Gap)),
            }
        }
        Ok(Ok(count))
    }
}

/// One entry of a shard's feed, still sealed.
struct Entry {
    before: Vec<u8>,
    what: What,
}

enum What {
    Set {
        field: Vec<u8>,
        blob: Vec<u8>,
    },
    Deleted {
        field: Vec<u8>,
        version: u64,
    },
    Claimed {
        owner: Vec<u8>,
        epoch: u64,
    },
    /// A promise that was handed in, which the heir reads by itself.
    Promise,
    Unknown,
}

impl Entry {
    fn of(items: Vec<Value>) -> Result<Self, CommandError> {
        let (mut before, mut field, mut version, mut epoch) = (None, None, None, None);
        let (mut blob, mut deleted, mut promise, mut owner) = (None, false, false, None);
        let mut items = items.into_iter();
        while let Some(name) = items.next() {
            let value = items.next();
            match name.octets()?.as_slice() {
                b"p" => before = Some(value.octets()?),
                b"f" => field = Some(value.octets()?),
                b"v" => version = Some(value.number()?),
                b"s" => blob = Some(value.octets()?),
                b"d" => deleted = true,
                b"h" => promise = true,
                b"c" => owner = Some(value.octets()?),
                b"e" => epoch = Some(value.number()?),
                _ => {}
            }
        }
        let what = match (owner, field, blob) {
            (Some(owner), ..) => What::Claimed { owner, epoch: epoch.ok_or(CommandError::Answer)? },
            (_, Some(field), Some(blob)) => What::Set { field, blob },
            (_, Some(field), None) if deleted => What::Deleted { field, version: version.ok_or(CommandError::Answer)? },
            _ if promise => What::Promise,
            _ => What::Unknown,
        };
        // Without the name of the one before, nobody can say whether something is missing.
        Ok(Self { before: before.ok_or(CommandError::Answer)?, what })
    }
}

/// Whether an entry's name is later than another's: `milliseconds-number`.
fn is_later(one: &str, other: &str) -> bool {
    fn parts(id: &str) -> Option<(u64, u64)> {
        let (time, number) = id.split_once('-')?;
        Some((time.parse().ok()?, number.parse().ok()?))
    }
    parts(one) > parts(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    /// An entry: its name, the one before, and what it holds.
    fn entry(id: &str, before: &str, rest: &[&str]) -> Value {
        let items = ["p", before].iter().chain(rest).map(|text| bulk(text)).collect();
        Value::Array(vec![bulk(id), Value::Array(items)])
    }

    const FIELD: &str = "0123456789abcdef";

    fn set(id: &str, before: &str, version: u64) -> Value {
        // The version lies in the blob as well, in octets that are text here for once.
        let blob = format!("1{:>8}", char::from(b'0' + u8::try_from(version).unwrap()));
        entry(id, before, &["f", FIELD, "v", &version.to_string(), "s", &blob])
    }

    fn shard() -> (Followed, Instant) {
        let now = reveille_runtime::clock::now();
        (Followed::new(0, "feed".to_owned(), 0, now), now)
    }

    fn apply(shard: &mut Followed, entries: Vec<Value>) -> Result<usize, Gap> {
        shard.apply(Value::Array(entries), reveille_runtime::clock::now()).unwrap()
    }

    #[test]
    fn entries_follow_one_another_or_nothing_is_believed() {
        let (mut shard, now) = shard();
        shard.filled(Table::default(), "5-0".to_owned(), "5-0".to_owned(), now);
        let two = vec![set("6-0", "5-0", 1), entry("6-1", "6-0", &["f", "x", "h", "promise"])];
        assert_eq!(apply(&mut shard, two), Ok(2));
        assert_eq!((shard.table.len(), shard.position.as_str()), (1, "6-1"));
        assert_eq!(apply(&mut shard, vec![set("9-0", "8-0", 2)]), Err(Gap));
        let later = entry("7-0", "6-1", &["f", "x", "z", "of a later version"]);
        assert_eq!(apply(&mut shard, vec![later]), Err(Gap), "what is not understood is as good as missing");
        shard.start_over(now);
        assert_eq!((shard.table.len(), shard.follows()), (0, false));
    }

    /// The scan of a shard ended after an entry that a failover then took back. Records read by it may have been taken back as well, so
    /// the shard is not believed.
    #[test]
    fn what_a_failover_took_back_is_noticed() {
        let (mut shard, now) = shard();
        shard.filled(Table::default(), "5-0".to_owned(), "7-0".to_owned(), now);
        assert_eq!(apply(&mut shard, vec![set("6-0", "5-0", 1)]), Ok(1));
        assert_eq!(shard.state, State::Behind("7-0".to_owned()));
        assert_eq!(apply(&mut shard, vec![set("10-0", "6-0", 2)]), Err(Gap), "7-0 is not there any more");
        shard.filled(Table::default(), "6-0".to_owned(), "7-0".to_owned(), now);
        apply(&mut shard, vec![set("7-0", "6-0", 2)]).unwrap();
        assert!(matches!(shard.state, State::Warm(_)));
    }

    /// Nothing but the claim that was granted shows that all is there: not an earlier one by the same node, nor another's.
    #[test]
    fn a_shard_is_whole_at_its_own_claim() {
        let (mut shard, now) = shard();
        shard.filled(Table::default(), "5-0".to_owned(), "5-0".to_owned(), now);
        assert!(!shard.is_whole_at("n2", 9));
        apply(&mut shard, vec![entry("6-0", "5-0", &["c", "n2", "e", "7"])]).unwrap();
        apply(&mut shard, vec![entry("6-1", "6-0", &["c", "n1", "e", "9"])]).unwrap();
        assert!(!shard.is_whole_at("n2", 9) && !shard.is_whole_at("n2", 7), "another has claimed it since");
        apply(&mut shard, vec![entry("7-0", "6-1", &["c", "n2", "e", "9"]), set("8-0", "7-0", 3)]).unwrap();
        assert!(shard.is_whole_at("n2", 9), "what comes behind it is its own");
        shard.filled(Table::default(), "7-0".to_owned(), "9-0".to_owned(), now);
        apply(&mut shard, vec![entry("8-0", "7-0", &["c", "n2", "e", "9"])]).unwrap();
        assert!(!shard.is_whole_at("n2", 9), "records that were read may be newer than the claim");
        apply(&mut shard, vec![set("9-0", "8-0", 3)]).unwrap();
        assert!(shard.is_whole_at("n2", 9));
    }

    #[test]
    fn gaps_in_a_row_are_mended_ever_more_slowly() {
        let (mut shard, now) = shard();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            shard.start_over(now);
            let State::Waiting(until) = shard.state else { panic!("{:?}", shard.state) };
            pauses.push((until - now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        shard.state = State::Warm(now);
        shard.start_over(now + LONGEST);
        assert_eq!(shard.state, State::Waiting(now + LONGEST + SETTLE), "it had been well for a while");
    }

    #[test]
    fn names_of_entries_are_numbers() {
        assert!(
            is_later("10-0", "9-5") && is_later("9-10", "9-9") && !is_later("9-5", "9-5") && !is_later("9-5", "10-0")
        );
        assert!(is_later("1-0", ""), "anything is later than none");
    }
}
