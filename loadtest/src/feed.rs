//! What really became of the shards: their fences and change feeds, read from Redis past all nodes.
//!
//! Every effective write and every claim leaves an entry in its shard's feed, in the order in which Redis did them
//! (`docs/redis.md`). So what must never happen would be seen there: an epoch that comes a second time, for the same owner or for
//! another; a version that comes a second time or goes back, as it would if two owners counted on from the same number; an entry
//! that is gone.

use anyhow::Context;
use redis::aio::MultiplexedConnection;

use crate::{
    cluster::{NAME, SHARDS},
    servers::Servers,
};

/// Follows all shards.
pub(crate) struct FeedChecker {
    shards: Vec<Shard>,
    /// Entries seen so far.
    pub(crate) entries: u64,
}

/// What is known of a shard.
#[derive(Clone, Debug, Default)]
struct Shard {
    last: String,
    owner: String,
    epoch: u64,
    version: u64,
}

/// One entry of a feed.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Written { version: u64 },
    Claimed { owner: String, epoch: u64 },
    Deferred,
}

/// An entry as Redis returns it: its identifier, then names and values in turn.
type Raw = (String, Vec<Vec<u8>>);

impl FeedChecker {
    pub(crate) fn new() -> Self {
        Self { shards: vec![Shard::default(); usize::from(SHARDS)], entries: 0 }
    }

    /// Reads what is new; returns what must not be.
    ///
    /// # Errors
    /// When Redis cannot be read.
    pub(crate) async fn check(&mut self, servers: &Servers) -> anyhow::Result<Vec<String>> {
        let mut problems = Vec::new();
        for (number, shard) in (0_u16..).zip(&mut self.shards) {
            let client = redis::Client::open(format!("redis://{}", servers.of_shard(number)?.addr()))?;
            let mut connection = client.get_multiplexed_async_connection().await.context("Redis")?;
            // Feed and fence in one step, or a write between the two would look like a difference.
            let (entries, fence) = read(&mut connection, number, &shard.last).await?;
            self.entries += entries.len() as u64;
            for entry in &entries {
                problems.extend(shard.take(entry).into_iter().map(|problem| format!("shard {number}: {problem}")));
            }
            problems.extend(shard.differs(&fence).map(|problem| format!("shard {number}: {problem}")));
        }
        Ok(problems)
    }
}

/// Owner, epoch and newest version.
type Fence = (Option<String>, Option<u64>, Option<u64>);

async fn read(connection: &mut MultiplexedConnection, shard: u16, last: &str) -> anyhow::Result<(Vec<Raw>, Fence)> {
    let key = |what: &str| format!("rv:{NAME}:{{{shard}}}:{what}");
    let from = if last.is_empty() { "-".to_owned() } else { format!("({last}") };
    let mut pipe = redis::pipe();
    pipe.atomic();
    pipe.cmd("XRANGE").arg(key("feed")).arg(from).arg("+");
    pipe.cmd("HMGET").arg(key("fence")).arg("owner").arg("epoch").arg("seq");
    Ok(pipe.query_async(connection).await?)
}

impl Shard {
    /// Takes in an entry; says what is wrong with it.
    fn take(&mut self, (id, fields): &Raw) -> Vec<String> {
        let mut wrong = Vec::new();
        let text = |at: usize| fields.get(at).map(|field| String::from_utf8_lossy(field).into_owned());
        let before = text(1).unwrap_or_default();
        if before != self.last {
            wrong.push(format!("entry {id} follows {before:?}, and {:?} was read before it", self.last));
        }
        self.last.clone_from(id);
        match parse(fields) {
            None => wrong.push(format!("entry {id} cannot be read")),
            Some(Entry::Deferred) => {}
            Some(Entry::Written { version }) => {
                if version <= self.version {
                    wrong.push(format!("version {version} was written after {} in entry {id}", self.version));
                }
                self.version = version;
            }
            Some(Entry::Claimed { owner, epoch }) => {
                if epoch <= self.epoch {
                    wrong.push(format!("{owner} claimed epoch {epoch} after {} had {}", self.owner, self.epoch));
                }
                (self.owner, self.epoch) = (owner, epoch);
            }
        }
        wrong
    }

    /// How the fence differs from what the feed says.
    fn differs(&self, (owner, epoch, seq): &Fence) -> Option<String> {
        let owner = owner.as_deref().unwrap_or_default();
        let (epoch, seq) = (epoch.unwrap_or_default(), seq.unwrap_or_default());
        // An owner that released its shard is off the fence and in the feed.
        let same = (owner == self.owner || owner.is_empty()) && epoch == self.epoch && seq == self.version;
        (!same).then(|| format!("the fence says {owner} {epoch} {seq}, and the feed {self:?}"))
    }
}

fn parse(fields: &[Vec<u8>]) -> Option<Entry> {
    let number = |at: usize| std::str::from_utf8(fields.get(at)?).ok()?.parse().ok();
    match fields.get(2)?.as_slice() {
        b"c" => Some(Entry::Claimed { owner: String::from_utf8_lossy(fields.get(3)?).into_owned(), epoch: number(5)? }),
        b"f" if fields.get(4)?.as_slice() == b"h" => Some(Entry::Deferred),
        b"f" => Some(Entry::Written { version: number(5)? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(id: &str, before: &str, rest: &[&str]) -> Raw {
        let fields = ["p", before].iter().chain(rest).map(|field| field.as_bytes().to_vec()).collect();
        (id.to_owned(), fields)
    }

    fn claim(id: &str, before: &str, owner: &str, epoch: &str) -> Raw {
        raw(id, before, &["c", owner, "e", epoch])
    }

    fn write(id: &str, before: &str, version: &str) -> Raw {
        raw(id, before, &["f", "name", "v", version, "s", "value"])
    }

    #[test]
    fn a_good_history_passes() {
        let mut shard = Shard::default();
        let history = [
            claim("1-0", "", "7", "5"),
            write("2-0", "1-0", "1"),
            raw("3-0", "2-0", &["f", "x", "h", "y"]),
            claim("4-0", "3-0", "8", "6"),
            write("5-0", "4-0", "9"),
        ];
        assert!(history.iter().all(|entry| shard.take(entry).is_empty()));
        assert_eq!(shard.differs(&(Some("8".to_owned()), Some(6), Some(9))), None);
        assert_eq!(shard.differs(&(Some(String::new()), Some(6), Some(9))), None);
        assert!(shard.differs(&(Some("7".to_owned()), Some(6), Some(9))).is_some());
        assert!(shard.differs(&(Some("8".to_owned()), Some(6), Some(8))).is_some());
    }

    #[test]
    fn what_must_not_be_is_seen() {
        let begun = || {
            let mut shard = Shard::default();
            assert!(shard.take(&claim("1-0", "", "7", "5")).is_empty());
            assert!(shard.take(&write("2-0", "1-0", "3")).is_empty());
            shard
        };
        assert_eq!(begun().take(&claim("3-0", "2-0", "8", "5")).len(), 1, "an epoch for two owners");
        assert_eq!(begun().take(&write("3-0", "2-0", "3")).len(), 1, "a version twice");
        assert_eq!(begun().take(&write("4-0", "3-0", "4")).len(), 1, "an entry that is gone");
        assert_eq!(begun().take(&raw("3-0", "2-0", &["z", "?"])).len(), 1, "an entry of no kind");
    }
}
