//! The keys of TLS session tickets that all edges share (S-170): random, kept in Redis as one secret for a time, replaced
//! every 12 hours and destroyed after 24.
//!
//! The secret lives for 24 hours. Who finds that half of this is over leaves the next one, which holds a new key and those that have
//! not ended; the first to do so decides. Ends are counted by the clock of Redis: a key says how much earlier than its secret
//! it ends. A node counts from the moment at which it asked, which is never too late.
//!
//! While Redis is away the keys in hand go on until they end; after that handshakes are whole until it is back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reveille_edge::{TicketKey, TicketKeys};
use reveille_redis::{CommandError, RedisStore, Secret, SecretName};
use reveille_runtime::clock;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// A key's life.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long the newest key is the newest.
const TURN: Duration = Duration::from_secs(12 * 3600);
/// Between two looks. Until an edge has looked it knows no key that another has just made.
const LOOK: Duration = Duration::from_secs(60);
/// How long Redis has for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps the keys of one edge those of all.
pub struct TicketSharing {
    store: Arc<RedisStore>,
    keys: Arc<TicketKeys>,
    in_hand: Vec<Held>,
}

/// A key and when it ends.
struct Held {
    name: [u8; NAME],
    secret: Zeroizing<[u8; KEY]>,
    until: Instant,
}

const NAME: usize = 16;
const KEY: usize = 32;
const LAG: usize = 8;
/// A key within the secret: name, key, and by how many milliseconds it ends before the secret, in network order.
const ENTRY: usize = NAME + KEY + LAG;
/// Three half lives: more keys than can be good at a time.
const MOST: usize = 4;

impl TicketSharing {
    /// For an edge that seals with these.
    pub fn new(store: Arc<RedisStore>, keys: Arc<TicketKeys>) -> Self {
        Self { store, keys, in_hand: Vec::new() }
    }

    /// Looks once and then from time to time.
    pub async fn start(mut self) -> JoinHandle<()> {
        self.look().await;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                self.look().await;
            }
        })
    }

    /// Takes the keys that are shared, and sees to it that there are some and that the newest is not too old. Returns whether
    /// Redis answered.
    pub async fn look(&mut self) -> bool {
        let now = clock::now();
        self.in_hand.retain(|key| now < key.until);
        match self.shared(now).await {
            Ok(shared) => {
                self.in_hand = shared;
                self.keys.set(self.in_hand.iter().filter_map(Held::in_use).collect());
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the keys of TLS tickets cannot be had");
                self.keys.set(self.in_hand.iter().filter_map(Held::in_use).collect());
                false
            }
        }
    }

    async fn shared(&mut self, now: Instant) -> Result<Vec<Held>, CommandError> {
        let name = SecretName::new("tickets", "");
        let found = self.store.secret(&name, now + PATIENCE).await?;
        let known = match &found {
            Some(secret) if secret.remaining > TURN => return Ok(Held::read(secret, now)),
            Some(secret) => Held::read(secret, now),
            // Redis has lost them, or nobody had any: what is in hand goes on opening.
            None => std::mem::take(&mut self.in_hand),
        };
        let next = Held::random(now).ok_or(CommandError::Unavailable)?;
        let written = written(std::iter::once(&next).chain(&known), now);
        let asked = clock::now();
        match self.store.keep_secret(&name, &written, LIFE, TURN, asked + PATIENCE).await {
            Ok(kept) => Ok(Held::read(&kept, asked)),
            Err(error) => {
                self.in_hand = known;
                Err(error)
            }
        }
    }
}

impl Held {
    fn random(now: Instant) -> Option<Self> {
        let (mut name, mut secret) = ([0; NAME], Zeroizing::new([0; KEY]));
        let random = SystemRandom::new();
        random.fill(&mut name).and_then(|()| random.fill(&mut *secret)).ok()?;
        Some(Self { name, secret, until: now + LIFE })
    }

    /// The keys of a secret that was asked for at `asked`; those that have ended are left out.
    fn read(secret: &Secret, asked: Instant) -> Vec<Self> {
        let (entries, _) = secret.value.as_chunks::<ENTRY>();
        let held = |entry: &[u8; ENTRY]| {
            let (name, rest) = entry.split_first_chunk::<NAME>()?;
            let (key, lag) = rest.split_first_chunk::<KEY>()?;
            let lag = Duration::from_millis(u64::from_be_bytes(*lag.first_chunk()?));
            let left = secret.remaining.min(LIFE).checked_sub(lag).filter(|left| !left.is_zero())?;
            Some(Self { name: *name, secret: Zeroizing::new(*key), until: asked + left })
        };
        entries.iter().take(MOST).filter_map(held).collect()
    }

    fn in_use(&self) -> Option<TicketKey> {
        TicketKey::new(self.name, &self.secret, self.until.into())
    }
}

/// Keys as they are shared, in a secret that is to live for [`LIFE`] from now.
fn written<'a>(keys: impl Iterator<Item = &'a Held>, now: Instant) -> Zeroizing<Vec<u8>> {
    let mut written = Zeroizing::new(Vec::with_capacity(MOST * ENTRY));
    for key in keys.take(MOST) {
        let lag = LIFE.saturating_sub(key.until.saturating_duration_since(now));
        written.extend_from_slice(&key.name);
        written.extend_from_slice(&*key.secret);
        written.extend_from_slice(&u64::try_from(lag.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S-170: whatever is passed on, a key ends 24 hours after it was made.
    #[test]
    fn no_key_outlives_its_day_by_being_passed_on() {
        let start = clock::now();
        let mut known = vec![Held::random(start).unwrap()];
        let first = known[0].name;
        // Passed on every 8 hours, each time by a node that asked a second before the answer came.
        for hour in (8..48).step_by(8) {
            let now = start + Duration::from_secs(hour * 3600);
            let next = Held::random(now).unwrap();
            let secret = Secret { value: written(std::iter::once(&next).chain(&known), now), remaining: LIFE };
            known = Held::read(&secret, now - Duration::from_secs(1));
            let kept = known.iter().find(|key| key.name == first);
            assert_eq!(kept.is_some(), hour < 24, "hour {hour}");
            assert!(kept.is_none_or(|key| key.until <= start + LIFE));
        }
    }

    #[test]
    fn nonsense_holds_no_keys() {
        for length in [0, 1, ENTRY - 1] {
            let secret = Secret { value: Zeroizing::new(vec![7; length]), remaining: LIFE };
            assert!(Held::read(&secret, clock::now()).is_empty());
        }
        // A lag of aeons.
        let secret = Secret { value: Zeroizing::new(vec![0xff; 10 * ENTRY]), remaining: LIFE };
        assert!(Held::read(&secret, clock::now()).is_empty());
    }
}
