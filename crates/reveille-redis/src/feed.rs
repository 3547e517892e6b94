//! The change feed: every write to a shard, in order, for the node that would take the shard over.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBackoff;
use bytes::Bytes;
use redis::Value;
use reveille_registrar::aor::Aor;
use reveille_runtime::clock;

use crate::backoff;
use crate::error::CommandError;
use crate::gateway::{Gateway, Request};
use crate::keys::shard_slot;
use crate::link::Pool;
use crate::reply::Shape;
use crate::seal::{OpenError, Opened};
use crate::store::RedisStore;
use crate::writer::Shared;

/// One record as it became.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// Whose shard.
    pub shard: u16,
    /// The entry, from which another reader may go on.
    pub id: String,
    /// Whose record.
    pub aor: Aor,
    /// The version it has now.
    pub version: u64,
    /// Its value; `None` where it was deleted.
    pub value: Option<Bytes>,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("shard", &self.shard)
            .field("id", &self.id)
            .field("aor", &self.aor)
            .field("version", &self.version)
            .field("bytes", &self.value.as_ref().map(Bytes::len))
            .finish()
    }
}

/// What a follower hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// A record was written.
    Change(Change),
    /// The shard was claimed.
    Claimed {
        /// Which shard.
        shard: u16,
        /// By whom.
        owner: String,
        /// At which epoch.
        epoch: u64,
    },
    /// Another node left a record for the owner: see [`RedisStore::deferred`].
    Deferred {
        /// For which shard.
        shard: u16,
    },
    /// Entries of the shard were trimmed before they were read: what the follower knows of it is incomplete, and has to be
    /// loaded anew. The feed goes on behind the gap.
    Gap {
        /// Which shard.
        shard: u16,
    },
}

/// Why a feed says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// Redis has been out of reach for some time; the feed goes on where it was when asked again.
    #[error("the feed is out of reach")]
    Unavailable,
    /// The server will not let us read.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl RedisStore {
    /// Where the feeds of shards end now. To mirror a shard: read this, load the shard, follow from here.
    ///
    /// # Errors
    /// [`CommandError`] where one could not be read.
    pub async fn feed_positions(&self, shards: &[u16], deadline: Instant) -> Result<Vec<(u16, String)>, CommandError> {
        let gateway = &self.shared.gateway;
        let request = |shard: &u16| {
            let mut cmd = redis::cmd("HGET");
            cmd.arg(gateway.keys.shard(*shard).fence).arg("last");
            Request::new(shard_slot(*shard), cmd)
        };
        let answers = gateway.ask_all(shards.iter().map(request).collect(), deadline, false).await;
        let position = |(shard, answer): (&u16, Result<Value, CommandError>)| match answer? {
            Value::Nil => Ok((*shard, String::new())),
            value => Ok((*shard, value.text()?)),
        };
        shards.iter().zip(answers).map(position).collect()
    }

    /// Follows shards, each from behind an entry; an empty one means from the beginning.
    pub fn follow(&self, from: Vec<(u16, String)>) -> Feed {
        let streams = from.iter().map(|(shard, position)| Stream {
            slot: shard_slot(*shard),
            key: self.shared.gateway.keys.shard(*shard).feed,
            position: position.clone(),
        });
        let streams = streams.collect();
        Feed {
            tail: Tail::new(self.shared.clone(), streams),
            shards: from.into_iter().map(|(shard, _)| shard).collect(),
            heard: VecDeque::new(),
        }
    }
}

/// A reader of change feeds, on a connection of its own.
pub struct Feed {
    tail: Tail,
    shards: Vec<u16>,
    /// Read and not yet returned; an entry that cannot be read keeps its place, and those behind it theirs.
    heard: VecDeque<Result<Followed, CommandError>>,
}

impl Feed {
    /// The next event; waits for one. May be dropped while it waits, and asked again.
    ///
    /// # Errors
    /// [`FeedError`]; asking again goes on where it was.
    pub async fn next(&mut self) -> Result<Followed, FeedError> {
        loop {
            if let Some(event) = self.heard.pop_front() {
                return Ok(event?);
            }
            for entry in self.tail.read().await? {
                let Some(&shard) = self.shards.get(entry.stream) else { continue };
                if entry.gap {
                    self.heard.push_back(Ok(Followed::Gap { shard }));
                }
                self.heard.push_back(event(&self.tail.shared, shard, entry));
            }
        }
    }

    /// Where the feed of each shard has been read to, events not yet returned included.
    pub fn positions(&self) -> Vec<(u16, String)> {
        self.shards.iter().zip(&self.tail.streams).map(|(shard, stream)| (*shard, stream.position.clone())).collect()
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("shards", &self.shards).finish_non_exhaustive()
    }
}

fn event(shared: &Shared, shard: u16, mut entry: Entry) -> Result<Followed, CommandError> {
    if let Some(owner) = entry.fields.remove(&b"c"[..]) {
        let epoch = number(entry.fields.remove(&b"e"[..]))?;
        return Ok(Followed::Claimed { shard, owner: text(Some(owner))?, epoch });
    }
    if entry.fields.contains_key(&b"h"[..]) {
        return Ok(Followed::Deferred { shard });
    }
    let field = entry.fields.remove(&b"f"[..]).ok_or(CommandError::Answer)?;
    let blob = entry.fields.remove(&b"s"[..]).or_else(|| entry.fields.remove(&b"d"[..])).ok_or(CommandError::Answer)?;
    match shared.sealer.open(shard, &field, blob) {
        Ok(Opened { version, aor, value }) => Ok(Followed::Change(Change { shard, id: entry.id, aor, version, value })),
        // As good as an entry that is missing.
        Err(OpenError::Damaged) => {
            shared.desk.metrics.damaged.inc();
            Ok(Followed::Gap { shard })
        }
        Err(error) => Err(error.into()),
    }
}

/// One stream that is followed.
pub(crate) struct Stream {
    pub(crate) slot: u16,
    pub(crate) key: String,
    /// The last entry read; empty before the first.
    pub(crate) position: String,
}

/// One entry of a stream.
pub(crate) struct Entry {
    /// Which of the streams.
    pub(crate) stream: usize,
    pub(crate) id: String,
    pub(crate) fields: HashMap<Vec<u8>, Vec<u8>>,
    /// Entries before this one are missing.
    pub(crate) gap: bool,
}

/// Reads streams whose entries each name the one before.
pub(crate) struct Tail {
    pub(crate) shared: Arc<Shared>,
    pub(crate) streams: Vec<Stream>,
    pool: Pool,
    pauses: ExponentialBackoff,
    /// Since when nothing could be read.
    failing: Option<Instant>,
}

/// Most entries of one stream read at once.
const STEP: usize = 256;
/// How often the streams of a Redis Cluster are looked at: there one cannot wait for streams of several slots together.
const CLUSTER_INTERVAL: Duration = Duration::from_millis(100);

impl Tail {
    pub(crate) fn new(shared: Arc<Shared>, streams: Vec<Stream>) -> Self {
        let pool = Pool::new(shared.gateway.connector.clone(), shared.gateway.metrics.clone());
        Tail { shared, streams, pool, pauses: backoff::pauses(), failing: None }
    }

    /// Waits for entries.
    pub(crate) async fn read(&mut self) -> Result<Vec<Entry>, FeedError> {
        if self.streams.is_empty() {
            return std::future::pending().await;
        }
        loop {
            let shared = self.shared.clone();
            let gateway = &shared.gateway;
            let apart = gateway.topology.is_cluster() && self.streams.len() > 1;
            let mut requests = self.requests(gateway, apart);
            let mut answers: Vec<_> = requests.iter().map(|_| None).collect();
            gateway.ask_redirected(&self.pool, &mut requests, &mut answers).await;
            let (mut entries, mut failed) = (Vec::new(), false);
            for answer in answers {
                match answer {
                    Some(Ok(answer)) => self.collect(answer, &mut entries)?,
                    Some(Err(error)) => {
                        // Whoever asks again and again is held back a little.
                        tokio::time::sleep(self.pauses.next().unwrap_or(backoff::LONGEST)).await;
                        return Err(error.into());
                    }
                    None => failed = true,
                }
            }
            if !entries.is_empty() {
                return Ok(entries);
            }
            if failed {
                let now = clock::now();
                let since = *self.failing.get_or_insert(now);
                tokio::time::sleep(self.pauses.next().unwrap_or(backoff::LONGEST)).await;
                if now >= since + shared.write_timeout {
                    self.failing = None;
                    return Err(FeedError::Unavailable);
                }
                continue;
            }
            self.failing = None;
            self.pauses = backoff::pauses();
            if apart {
                tokio::time::sleep(CLUSTER_INTERVAL).await;
            }
        }
    }

    fn requests(&self, gateway: &Gateway, apart: bool) -> Vec<Request> {
        let xread = |streams: &[Stream], block: bool| {
            let mut cmd = redis::cmd("XREAD");
            cmd.arg("COUNT").arg(STEP);
            if block {
                let wait = u64::try_from(gateway.within.as_millis() / 2).unwrap_or(1);
                cmd.arg("BLOCK").arg(wait.max(1));
            }
            cmd.arg("STREAMS");
            for stream in streams {
                cmd.arg(&stream.key);
            }
            for stream in streams {
                cmd.arg(if stream.position.is_empty() { "0-0" } else { &stream.position });
            }
            Request::new(streams.first().map_or(0, |stream| stream.slot), cmd)
        };
        match apart {
            true => self.streams.chunks(1).map(|stream| xread(stream, false)).collect(),
            false => vec![xread(&self.streams, true)],
        }
    }

    fn collect(&mut self, answer: Value, entries: &mut Vec<Entry>) -> Result<(), CommandError> {
        for stream in answer.array()? {
            let mut parts = stream.array()?.into_iter();
            let key = parts.next().text()?;
            let Some(at) = self.streams.iter().position(|stream| stream.key == key) else { continue };
            for entry in parts.next().array()? {
                let mut parts = entry.array()?.into_iter();
                let id = parts.next().text()?;
                let mut items = parts.next().array()?.into_iter();
                let mut fields = HashMap::new();
                while let Some(name) = items.next() {
                    fields.insert(name.octets()?, items.next().octets()?);
                }
                let position = std::mem::replace(&mut self.streams[at].position, id.clone());
                let gap = fields.get(&b"p"[..]).is_none_or(|before| *before != position.as_bytes());
                entries.push(Entry { stream: at, id, fields, gap });
            }
        }
        Ok(())
    }
}

pub(crate) fn text(octets: Option<Vec<u8>>) -> Result<String, CommandError> {
    String::from_utf8(octets.ok_or(CommandError::Answer)?).map_err(|_| CommandError::Answer)
}

pub(crate) fn number(octets: Option<Vec<u8>>) -> Result<u64, CommandError> {
    text(octets)?.parse().map_err(|_| CommandError::Answer)
}
