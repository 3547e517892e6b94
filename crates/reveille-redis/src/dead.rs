//! Push tokens that their service has called dead, as nodes tell each other of them (P-156): one stream for the cluster.
//!
//! An entry holds a keyed hash of the token, made by whoever leaves it, so that Redis sees no token; how many verdicts there were;
//! and how old the last was when the entry was left. How old the entry is Redis says, by whose clock it is named: no node's clock
//! matters. An entry counts for a day. It is trimmed by age or by number, whichever this turn's entry asks for.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use redis::{Cmd, Value};

use crate::error::CommandError;
use crate::feed::{FeedError, Stream, Tail, number};
use crate::gateway::Request;
use crate::keys::member_slot;
use crate::reply::Shape;
use crate::store::RedisStore;

/// How long a mark counts.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Marks kept, about.
const MOST: usize = 65_536;
/// Marks read at once.
const STEP: usize = 1_024;

/// That a push token is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buried {
    /// A keyed hash of the token.
    pub name: [u8; 16],
    /// How many verdicts there were.
    pub verdicts: u8,
    /// How long ago the last one came.
    pub age: Duration,
}

impl RedisStore {
    /// Tells every node of dead tokens. What is told twice is heard twice.
    ///
    /// # Errors
    /// [`CommandError`]; some may have been told all the same.
    pub async fn bury(&self, marks: &[Buried], deadline: Instant) -> Result<(), CommandError> {
        static BY_AGE: AtomicBool = AtomicBool::new(false);
        if marks.is_empty() {
            return Ok(());
        }
        let (gateway, key) = (&self.shared.gateway, self.shared.gateway.keys.member("dead"));
        let day_ago = self.redis_millis(deadline).await?.saturating_sub(millis(LIFE));
        let add = |mark: &Buried| {
            let mut cmd = redis::cmd("XADD");
            cmd.arg(&key);
            // One rule at a time is all that XADD takes.
            match BY_AGE.fetch_xor(true, Ordering::Relaxed) {
                true => cmd.arg("MINID").arg("~").arg(day_ago),
                false => cmd.arg("MAXLEN").arg("~").arg(MOST),
            };
            cmd.arg("*").arg("n").arg(&mark.name).arg("v").arg(mark.verdicts).arg("a").arg(millis(mark.age));
            Request::new(member_slot(), cmd)
        };
        let answers = gateway.ask_all(marks.iter().map(add).collect(), deadline, false).await;
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// The marks behind a position that still count, and the position behind them; an empty one means from the beginning. An
    /// entry that makes no sense here, such as one of a later version, is passed over.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn buried(&self, position: &str, deadline: Instant) -> Result<(Vec<Buried>, String), CommandError> {
        let key = self.shared.gateway.keys.member("dead");
        let (mut marks, mut position) = (Vec::new(), position.to_owned());
        loop {
            let now = self.redis_millis(deadline).await?;
            let mut cmd = redis::cmd("XREAD");
            cmd.arg("COUNT").arg(STEP).arg("STREAMS").arg(&key);
            cmd.arg(if position.is_empty() { "0-0" } else { &position });
            let answer = self.shared.gateway.ask(Request::new(member_slot(), cmd), deadline).await?;
            let Some(stream) = answer.array()?.into_iter().next() else { return Ok((marks, position)) };
            let entries = stream.array()?.into_iter().nth(1).array()?;
            let count = entries.len();
            for entry in entries {
                let mut parts = entry.array()?.into_iter();
                position = parts.next().text()?;
                let left = position.split_once('-').and_then(|(left, _)| left.parse().ok()).unwrap_or(0);
                let since_left = Duration::from_millis(now.saturating_sub(left));
                let mark = parts.next().array().ok().and_then(|fields| mark(fields, since_left));
                marks.extend(mark.filter(|mark| mark.age < LIFE));
            }
            if count < STEP {
                return Ok((marks, position));
            }
        }
    }

    /// Watches for marks behind a position.
    pub fn watch_buried(&self, position: String) -> BuriedWatch {
        let key = self.shared.gateway.keys.member("dead");
        let stream = Stream { slot: member_slot(), key, position };
        BuriedWatch(Tail::new(self.shared.clone(), vec![stream]))
    }

    async fn redis_millis(&self, deadline: Instant) -> Result<u64, CommandError> {
        let request = Request::new(member_slot(), time());
        let mut parts = self.shared.gateway.ask(request, deadline).await?.array()?.into_iter();
        let mut next = || number(Some(parts.next().octets()?));
        Ok(next()?.saturating_mul(1000).saturating_add(next()? / 1000))
    }
}

/// See [`RedisStore::watch_buried`].
pub struct BuriedWatch(Tail);

impl BuriedWatch {
    /// Waits until there is something new to read with [`RedisStore::buried`]. May be dropped while it waits, and asked again.
    ///
    /// # Errors
    /// [`FeedError`]; asking again goes on where it was.
    pub async fn changed(&mut self) -> Result<(), FeedError> {
        self.0.read().await.map(drop)
    }
}

impl fmt::Debug for BuriedWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuriedWatch").finish_non_exhaustive()
    }
}

fn time() -> Cmd {
    redis::cmd("TIME")
}

fn mark(fields: Vec<Value>, since_left: Duration) -> Option<Buried> {
    let (mut name, mut verdicts, mut age) = (None, None, None);
    let mut items = fields.into_iter();
    while let Some(field) = items.next() {
        let (field, value) = (field.octets().ok()?, items.next().octets().ok()?);
        match field.as_slice() {
            b"n" => name = value.try_into().ok(),
            b"v" => verdicts = number(Some(value)).ok(),
            b"a" => age = number(Some(value)).ok(),
            _ => {}
        }
    }
    let verdicts = u8::try_from(verdicts?).unwrap_or(u8::MAX);
    Some(Buried { name: name?, verdicts, age: since_left.saturating_add(Duration::from_millis(age?)) })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
