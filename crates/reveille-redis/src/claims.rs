//! Who may write to a shard: claiming it, giving it up, and what the fences say.

use std::time::Instant;

use redis::Value;
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{ClaimError, CommandError, FencedError};
use crate::functions::Function;
use crate::gateway::Request;
use crate::keys::shard_slot;
use crate::reply::{Refusal, Shape, refusal};
use crate::store::RedisStore;

/// Who may write to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Raised by each claim; 0 before the first.
    pub epoch: u64,
    /// The owner's tag; empty where the shard was released or never claimed.
    pub owner: String,
}

impl RedisStore {
    /// Claims shards: each pair is a shard and the epoch at which the caller saw it. Where nobody was faster the epoch
    /// goes up by one, the new one is returned, and from then on [`Replica::write`](reveille_registrar::replica::Replica::write) writes under it.
    pub async fn claim(&self, shards: &[(u16, u64)], deadline: Instant) -> Vec<Result<u64, ClaimError>> {
        let mut nonce = [0; 16];
        if SystemRandom::new().fill(&mut nonce).is_err() {
            return shards.iter().map(|_| Err(CommandError::Unavailable.into())).collect();
        }
        // Names this attempt: a repetition after a lost reply is told from a claim by somebody else.
        let nonce = hex::encode(nonce);
        let claims: Vec<_> = shards.iter().map(|(shard, expected)| (*shard, *expected, expected + 1)).collect();
        self.claim_named(&nonce, &claims, deadline).await
    }

    /// As [`RedisStore::claim`], with the epoch that each shard is to get as the third of each claim. That epoch must be one
    /// that nobody but this life of this node asks for: asking again is then asking once.
    pub async fn claim_as(&self, claims: &[(u16, u64, u64)], deadline: Instant) -> Vec<Result<u64, ClaimError>> {
        self.claim_named("", claims, deadline).await
    }

    async fn claim_named(
        &self,
        name: &str,
        claims: &[(u16, u64, u64)],
        deadline: Instant,
    ) -> Vec<Result<u64, ClaimError>> {
        let gateway = &self.shared.gateway;
        let request = |(shard, expected, epoch): &(u16, u64, u64)| {
            let keys = gateway.keys.shard(*shard);
            let mut cmd = gateway.call(Function::Claim, &[&keys.fence, &keys.feed]);
            cmd.arg(&gateway.node).arg(*expected).arg(name).arg(self.shared.feed_length).arg(*epoch);
            Request::new(shard_slot(*shard), cmd)
        };
        let answers = gateway.ask_all(claims.iter().map(request).collect(), deadline, true).await;
        claims.iter().zip(answers).map(|((shard, ..), answer)| self.claimed(*shard, answer)).collect()
    }

    fn claimed(&self, shard: u16, answer: Result<Value, CommandError>) -> Result<u64, ClaimError> {
        match refusal(answer?)? {
            Ok(answer) => {
                let mut parts = answer.array()?.into_iter();
                let (epoch, seq) = (parts.next().number()?, parts.next().number()?);
                self.shared.held.claimed(shard, epoch, seq);
                Ok(epoch)
            }
            Err(Refusal { number, text, .. }) => Err(ClaimError::Claimed { epoch: number, owner: text }),
        }
    }

    /// Gives a shard up: takes no more writes for it, waits for those taken before, and leaves the fence without an owner.
    ///
    /// # Errors
    /// [`FencedError::Fenced`] where it was not ours any more.
    pub async fn release(&self, shard: u16, deadline: Instant) -> Result<(), FencedError> {
        let epoch = self.shared.held.epoch(shard);
        if epoch == 0 {
            return Err(FencedError::Fenced { epoch: 0 });
        }
        // Writes that come now are fenced by their epoch; those before the barrier are finished under it.
        let flushed = tokio::time::timeout_at(deadline.into(), self.flush(shard)).await;
        self.shared.held.lost(shard, epoch);
        flushed.map_err(|_| CommandError::Unavailable)?;
        self.release_as(shard, epoch, deadline).await
    }

    /// Leaves the fence of a shard without an owner, where it names this node and `epoch`; nothing is written under that epoch any
    /// more, and nothing waited for: [`RedisStore::flush`] comes first.
    ///
    /// # Errors
    /// [`FencedError::Fenced`] where the fence is another.
    pub async fn release_as(&self, shard: u16, epoch: u64, deadline: Instant) -> Result<(), FencedError> {
        self.forgo(shard);
        self.shared.held.lost(shard, epoch);
        let gateway = &self.shared.gateway;
        let mut cmd = gateway.call(Function::Release, &[&gateway.keys.shard(shard).fence]);
        cmd.arg(&gateway.node).arg(epoch);
        fenced(gateway.ask(Request::new(shard_slot(shard), cmd), deadline).await?)
    }

    /// Answers what is to be written to a shard with [`StoreError::Unavailable`](reveille_registrar::replica::StoreError::Unavailable) until the shard is claimed anew: for an owner
    /// that must find out whether it still is.
    pub fn pause(&self, shard: u16) {
        self.shared.held.pause(shard);
    }

    /// Until when this node may write at all; `None`: no longer. A write that comes later, or whose answer does, is answered
    /// [`StoreError::Unavailable`](reveille_registrar::replica::StoreError::Unavailable): a node that lost its lease acknowledges nothing. Without a word there is no such limit.
    pub fn lease(&self, until: Option<Instant>) {
        self.shared.lease.set(until);
    }

    /// Stops writing to a shard at once, without asking anybody: for an owner that could not renew its lease in time. What is
    /// queued is answered as fenced, unless it is on its way already.
    pub fn disown(&self, shard: u16) {
        self.forgo(shard);
        self.shared.held.lost(shard, self.shared.held.epoch(shard));
    }

    /// The epoch at which this node holds a shard, as far as it knows.
    pub fn epoch(&self, shard: u16) -> Option<u64> {
        Some(self.shared.held.epoch(shard)).filter(|epoch| *epoch > 0)
    }

    /// The fences of shards, in the order asked.
    ///
    /// # Errors
    /// [`CommandError`] where one of them could not be read.
    pub async fn fences(&self, shards: &[u16], deadline: Instant) -> Result<Vec<Fence>, CommandError> {
        let gateway = &self.shared.gateway;
        let request = |shard: &u16| {
            let mut cmd = redis::cmd("HMGET");
            cmd.arg(gateway.keys.shard(*shard).fence).arg("epoch").arg("owner");
            Request::new(shard_slot(*shard), cmd)
        };
        let answers = gateway.ask_all(shards.iter().map(request).collect(), deadline, false).await;
        let fence = |answer: Result<Value, CommandError>| {
            let mut parts = answer?.array()?.into_iter();
            let epoch = match parts.next() {
                Some(Value::Nil) => 0,
                some => some.number()?,
            };
            let owner = match parts.next() {
                Some(Value::Nil) => String::new(),
                some => some.text()?,
            };
            Ok(Fence { epoch, owner })
        };
        answers.into_iter().map(fence).collect()
    }
}

/// Whether a fenced function did what it was asked.
pub(crate) fn fenced(answer: Value) -> Result<(), FencedError> {
    match refusal(answer)? {
        Ok(_) => Ok(()),
        Err(refused) => Err(FencedError::Fenced { epoch: refused.number }),
    }
}
