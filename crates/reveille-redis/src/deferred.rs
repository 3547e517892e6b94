//! Records left for the owner of a shard by a node that lost it.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use reveille_registrar::aor::Aor;
use ring::rand::{SecureRandom, SystemRandom};

use crate::claims::fenced;
use crate::error::{CommandError, DeferError, FencedError};
use crate::functions::Function;
use crate::gateway::Request;
use crate::keys::shard_slot;
use crate::reply::{Shape, refusal};
use crate::seal::Opened;
use crate::store::RedisStore;

/// A record that another node had promised to write when it lost the shard.
#[derive(Clone, PartialEq, Eq)]
pub struct Deferred {
    /// Names it, for [`RedisStore::take_deferred`].
    pub id: Vec<u8>,
    /// Whose record.
    pub aor: Aor,
    /// The record as that node had it; `None` where it had been deleted.
    pub value: Option<Bytes>,
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred")
            .field("aor", &self.aor)
            .field("bytes", &self.value.as_ref().map(Bytes::len))
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Leaves a record for the owner of a shard to merge: for a node that lost the shard before it wrote what it had promised.
    ///
    /// # Errors
    /// [`DeferError::Full`] where too many wait already.
    pub async fn defer(
        &self,
        shard: u16,
        aor: &Aor,
        value: Option<&[u8]>,
        deadline: Instant,
    ) -> Result<(), DeferError> {
        let mut id = [0; 24];
        id[..16].copy_from_slice(&self.shared.sealer.field(aor));
        SystemRandom::new().fill(&mut id[16..]).map_err(|_| CommandError::Unavailable)?;
        let sealed = self.shared.sealer.seal(shard, &id, 0, aor, value).map_err(|_| CommandError::Unavailable)?;
        let (gateway, keys) = (&self.shared.gateway, self.shared.gateway.keys.shard(shard));
        let mut cmd = gateway.call(Function::Defer, &[&keys.fence, &keys.deferred, &keys.feed]);
        cmd.arg(self.shared.feed_length).arg(self.deferred_limit).arg(&id[..]).arg(sealed);
        let mut answers = gateway.ask_all(vec![Request::new(shard_slot(shard), cmd)], deadline, true).await;
        match refusal(answers.pop().unwrap_or(Err(CommandError::Answer))?)? {
            Ok(_) => Ok(()),
            Err(refused) => Err(DeferError::Full { length: refused.number }),
        }
    }

    /// What others left for the owner of a shard. It stays until [`RedisStore::take_deferred`], so that an owner that dies
    /// before it has merged a record loses nothing.
    ///
    /// # Errors
    /// [`CommandError`], `Record` where one does not open.
    pub async fn deferred(&self, shard: u16, deadline: Instant) -> Result<Vec<Deferred>, CommandError> {
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.shared.gateway.keys.shard(shard).deferred);
        let answer = self.shared.gateway.ask(Request::new(shard_slot(shard), cmd), deadline).await?;
        let mut found = Vec::new();
        let mut parts = answer.array()?.into_iter();
        while let Some(id) = parts.next() {
            let (id, blob) = (id.octets()?, parts.next().octets()?);
            let Opened { aor, value, .. } = self.shared.sealer.open(shard, &id, blob)?;
            found.push(Deferred { id, aor, value });
        }
        Ok(found)
    }

    /// Removes what the owner of a shard has merged and written.
    ///
    /// # Errors
    /// [`FencedError::Fenced`] where the shard is not ours.
    pub async fn take_deferred(&self, shard: u16, ids: &[Vec<u8>], deadline: Instant) -> Result<(), FencedError> {
        let epoch = self.shared.held.epoch(shard);
        if epoch == 0 {
            return Err(FencedError::Fenced { epoch: 0 });
        }
        let (gateway, keys) = (&self.shared.gateway, self.shared.gateway.keys.shard(shard));
        let mut cmd = gateway.call(Function::Settle, &[&keys.fence, &keys.deferred]);
        cmd.arg(epoch).arg(&gateway.node);
        for id in ids {
            cmd.arg(&id[..]);
        }
        fenced(gateway.ask(Request::new(shard_slot(shard), cmd), deadline).await?)
    }
}
