//! Who lives, and who owns what: leases, and the map from shards to nodes.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::Value;

use crate::error::{CommandError, LeaseError};
use crate::feed::{FeedError, Stream, Tail, number, text};
use crate::functions::Function;
use crate::gateway::Request;
use crate::keys::member_slot;
use crate::reply::{Refusal, Shape, refusal};
use crate::store::RedisStore;

/// A live node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its tag.
    pub tag: String,
    /// What it says of itself.
    pub description: Bytes,
    /// Which process of that tag.
    pub incarnation: u64,
    /// How long its lease still runs.
    pub remaining: Duration,
}

/// Who owns a shard, as the map has it. The truth is the fence; the map is what edges route by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Which shard.
    pub shard: u16,
    /// The owner's tag; empty where the shard was released.
    pub tag: String,
    /// At which epoch.
    pub epoch: u64,
}

/// What a watcher of the map hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapEvent {
    /// A shard has another owner.
    Moved(Ownership),
    /// Events were trimmed before they were read: the whole map has to be read again.
    Gap,
}

/// How long the description of a dead node is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

impl RedisStore {
    /// Takes or renews this node's lease for `ttl`, and returns every live node, this one among them.
    ///
    /// # Errors
    /// [`LeaseError::Held`] where another incarnation lives under this tag.
    pub async fn renew(
        &self,
        incarnation: u64,
        ttl: Duration,
        description: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Member>, LeaseError> {
        let (gateway, millis) = (&self.shared.gateway, |time: Duration| u64::try_from(time.as_millis()).unwrap_or(0));
        let keys = [gateway.keys.lease(&gateway.node), gateway.keys.member("nodes"), gateway.keys.member("seen")];
        let mut cmd = gateway.call(Function::Renew, &keys.each_ref().map(String::as_str));
        cmd.arg(&gateway.node).arg(incarnation).arg(millis(ttl).max(1)).arg(description);
        cmd.arg(gateway.keys.lease_prefix()).arg(millis(REMEMBERED));
        let answer = gateway.ask(Request::new(member_slot(), cmd), deadline).await?;
        let roster = held(answer)?.array()?;
        roster.into_iter().skip(1).map(|member| Ok(Self::member(member)?)).collect()
    }

    fn member(value: Value) -> Result<Member, CommandError> {
        let mut parts = value.array()?.into_iter();
        Ok(Member {
            tag: parts.next().text()?,
            description: parts.next().octets()?.into(),
            incarnation: parts.next().number()?,
            remaining: Duration::from_millis(parts.next().number()?),
        })
    }

    /// Gives this node's lease up, so that others need not wait until it runs out.
    ///
    /// # Errors
    /// [`LeaseError::Held`] where another incarnation holds it.
    pub async fn resign(&self, incarnation: u64, deadline: Instant) -> Result<(), LeaseError> {
        let gateway = &self.shared.gateway;
        let mut cmd = gateway.call(Function::Resign, &[&gateway.keys.lease(&gateway.node)]);
        cmd.arg(incarnation);
        held(gateway.ask(Request::new(member_slot(), cmd), deadline).await?)?;
        Ok(())
    }

    /// Enters new owners in the map, and tells everyone who watches it. Older news than the map has are dropped. Returns how
    /// many were entered.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn announce(&self, news: &[Ownership], deadline: Instant) -> Result<u64, CommandError> {
        if news.is_empty() {
            return Ok(0);
        }
        let gateway = &self.shared.gateway;
        let (map, owners) = (gateway.keys.member("map"), gateway.keys.member("owners"));
        let mut cmd = gateway.call(Function::Announce, &[&map, &owners]);
        cmd.arg(self.map_length);
        for Ownership { shard, tag, epoch } in news {
            cmd.arg(*shard).arg(tag).arg(*epoch);
        }
        gateway.ask(Request::new(member_slot(), cmd), deadline).await?.number()
    }

    /// The whole map: shards that were ever claimed, and where in the stream of events it stands.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn owners(&self, deadline: Instant) -> Result<(Vec<Ownership>, String), CommandError> {
        let gateway = &self.shared.gateway;
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(gateway.keys.member("owners"));
        let answer = gateway.ask(Request::new(member_slot(), cmd), deadline).await?;
        let (mut owners, mut position) = (Vec::new(), String::new());
        let mut parts = answer.array()?.into_iter();
        while let Some(shard) = parts.next() {
            let (shard, value) = (shard.text()?, parts.next().text()?);
            if shard == "last" {
                position = value;
                continue;
            }
            let (tag, epoch) = value.rsplit_once(' ').ok_or(CommandError::Answer)?;
            let shard = shard.parse().map_err(|_| CommandError::Answer)?;
            let epoch = epoch.parse().map_err(|_| CommandError::Answer)?;
            owners.push(Ownership { shard, tag: tag.to_owned(), epoch });
        }
        owners.sort_unstable_by_key(|owner| owner.shard);
        Ok((owners, position))
    }

    /// Watches the map from a position that [`RedisStore::owners`] gave.
    pub fn watch_map(&self, position: String) -> MapWatch {
        let key = self.shared.gateway.keys.member("map");
        let stream = Stream { slot: member_slot(), key, position };
        MapWatch { tail: Tail::new(self.shared.clone(), vec![stream]), heard: VecDeque::new() }
    }
}

fn held(answer: Value) -> Result<Value, LeaseError> {
    refusal(answer)?.map_err(|Refusal { number, text, .. }| LeaseError::Held {
        incarnation: number,
        remaining_ms: text.parse().unwrap_or(0),
    })
}

/// Watches the map, on a connection of its own.
pub struct MapWatch {
    tail: Tail,
    heard: VecDeque<Result<MapEvent, CommandError>>,
}

impl MapWatch {
    /// The next event; waits for one. May be dropped while it waits, and asked again.
    ///
    /// # Errors
    /// [`FeedError`]; asking again goes on where it was.
    pub async fn next(&mut self) -> Result<MapEvent, FeedError> {
        loop {
            if let Some(event) = self.heard.pop_front() {
                return Ok(event?);
            }
            for mut entry in self.tail.read().await? {
                if entry.gap {
                    self.heard.push_back(Ok(MapEvent::Gap));
                }
                let mut field = |name: &[u8]| entry.fields.remove(name);
                let mut moved = || {
                    let shard = u16::try_from(number(field(b"s"))?).map_err(|_| CommandError::Answer)?;
                    Ok(MapEvent::Moved(Ownership { shard, tag: text(field(b"t"))?, epoch: number(field(b"e"))? }))
                };
                self.heard.push_back(moved());
            }
        }
    }
}

impl fmt::Debug for MapWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapWatch").finish_non_exhaustive()
    }
}
