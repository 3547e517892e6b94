//! What a node says of its standby: to itself, and through the store to the other nodes, so that an operator sees all of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redis::Value;

use crate::error::CommandError;
use crate::gateway::Request;
use crate::keys::member_slot;
use crate::link::Pool;
use crate::reply::Shape;
use crate::store::RedisStore;
use crate::writer::Shared;

/// How far a node is with the shards it would take over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Shards that it follows.
    pub shards: u64,
    /// Those of which nothing is missing.
    pub warm: u64,
    /// Records of them.
    pub records: u64,
    /// Octets that these take.
    pub bytes: u64,
    /// How old, at most, what it has of the shard is that it read longest ago; milliseconds.
    pub lag_ms: u64,
    /// Entries that its last readings found waiting.
    pub behind: u64,
}

impl StandbyStatus {
    fn encode(&self) -> String {
        let Self { shards, warm, records, bytes, lag_ms, behind } = self;
        format!("{shards} {warm} {records} {bytes} {lag_ms} {behind}")
    }

    /// More words than are known are of a later version.
    fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ').map(|word| word.parse::<u64>().ok());
        let mut next = || words.next().flatten();
        Some(Self {
            shards: next()?,
            warm: next()?,
            records: next()?,
            bytes: next()?,
            lag_ms: next()?,
            behind: next()?,
        })
    }
}

/// For how long a node's word is believed.
const LASTS: Duration = Duration::from_secs(15);
/// How often it is given.
const EVERY: Duration = Duration::from_secs(2);

/// Says how a standby stands.
pub(crate) struct Words {
    here: Arc<Mutex<StandbyStatus>>,
    next: Option<Instant>,
}

impl Words {
    pub(crate) fn new(here: Arc<Mutex<StandbyStatus>>) -> Self {
        Self { here, next: None }
    }

    /// Notes how it stands. Returns what tells the other nodes, where that is due.
    pub(crate) fn note(
        &mut self,
        now: Instant,
        status: StandbyStatus,
        shared: &Arc<Shared>,
        pool: &Arc<Pool>,
    ) -> Option<BoxFuture<'static, ()>> {
        *self.here.lock() = status;
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = Some(now + EVERY);
        let (shared, pool) = (Arc::clone(shared), Arc::clone(pool));
        Some(Box::pin(async move {
            let gateway = &shared.gateway;
            let mut cmd = redis::cmd("SET");
            cmd.arg(gateway.keys.standby(&gateway.node)).arg(status.encode());
            cmd.arg("PX").arg(u64::try_from(LASTS.as_millis()).unwrap_or(u64::MAX));
            let (mut requests, mut answers) = ([Request::new(member_slot(), cmd)], [None]);
            // What is lost is said anew.
            gateway.ask_redirected(&pool, &mut requests, &mut answers).await;
        }))
    }

    /// When the next word is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next
    }
}

impl RedisStore {
    /// What nodes have lately said of their standbys, by tag; those that said nothing are left out.
    ///
    /// # Errors
    /// [`CommandError`] where one could not be read.
    pub async fn standbys(
        &self,
        tags: &[String],
        deadline: Instant,
    ) -> Result<HashMap<String, StandbyStatus>, CommandError> {
        let gateway = &self.shared.gateway;
        let get = |tag: &String| {
            let mut cmd = redis::cmd("GET");
            cmd.arg(gateway.keys.standby(tag));
            Request::new(member_slot(), cmd)
        };
        let answers = gateway.ask_all(tags.iter().map(get).collect(), deadline, false).await;
        let mut said = HashMap::new();
        for (tag, answer) in tags.iter().zip(answers) {
            let answer = answer?;
            if matches!(answer, Value::Nil) {
                continue;
            }
            if let Some(status) = StandbyStatus::decode(&answer.text()?) {
                said.insert(tag.clone(), status);
            }
        }
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood_by_later_and_earlier_nodes() {
        let status = StandbyStatus { shards: 341, warm: 340, records: 9, bytes: 7, lag_ms: 120, behind: 3 };
        assert_eq!(StandbyStatus::decode(&status.encode()), Some(status));
        assert_eq!(StandbyStatus::decode(&format!("{} and more", status.encode())), Some(status));
        assert_eq!(StandbyStatus::decode("1 2"), None);
    }
}
