//! Standing by for shards of other nodes: their records are held, sealed, and follow the shards' feeds, so that a takeover reads none.
//!
//! * `follower` is the task, `shard` what it knows of one shard, `table` the records, `fill` how they are read at first;
//! * `heir` is what becomes of a shard that this node claims, and why nothing is missing then;
//! * `word` is what an operator sees, `metrics` what is counted.

mod fill;
mod follower;
mod heir;
mod metrics;
mod shard;
mod table;
mod word;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use redis::Value;
use reveille_registrar::replica::{Inherited, Inheriting};
use tokio::sync::{mpsc, oneshot};

use self::follower::{Follower, Order};
use self::word::Words;
use crate::error::CommandError;
use crate::reply::Shape;
use crate::store::RedisStore;

pub use metrics::StandbyMetrics;
pub use word::StandbyStatus;

type Heir = oneshot::Receiver<Option<Arc<dyn Inherited>>>;

/// The store's side of the follower.
pub(crate) struct Standby {
    orders: mpsc::UnboundedSender<Order>,
    /// What claimed shards are going to inherit, and under which epoch.
    heirs: Mutex<HashMap<u16, (u64, Heir)>>,
    status: Arc<Mutex<StandbyStatus>>,
}

impl RedisStore {
    /// Begins to stand by; once. Records of followed shards take at most about `limit` octets.
    pub fn stand_by(&self, metrics: StandbyMetrics, limit: usize) {
        let (orders, inbox) = mpsc::unbounded_channel();
        let status = Arc::new(Mutex::new(StandbyStatus::default()));
        let standby = Standby { orders, heirs: Mutex::default(), status: Arc::clone(&status) };
        if self.standby.set(standby).is_ok() {
            let follower = Follower::new(self.shared.clone(), metrics, Words::new(status), limit);
            self.runtime.spawn(follower.run(inbox));
        }
    }

    /// These shards are to be followed, and no others. Nothing where the store does not stand by.
    pub fn follow_only(&self, shards: BTreeSet<u16>) {
        if let Some(standby) = self.standby.get() {
            let _ = standby.orders.send(Order::Follow(shards)); // it ends with this store
        }
    }

    /// This node was granted a claim: what it had followed of the shard is what [`inherit`] gives from now on.
    ///
    /// [`inherit`]: reveille_registrar::replica::Replica::inherit
    pub fn succeed(&self, shard: u16, epoch: u64) {
        let Some(standby) = self.standby.get() else { return };
        let (told, heir) = oneshot::channel();
        standby.heirs.lock().insert(shard, (epoch, heir));
        let _ = standby.orders.send(Order::Succeed { shard, epoch, told });
    }

    /// How far this node is with the shards it would take over; `None` where it does not stand by.
    pub fn standby_status(&self) -> Option<StandbyStatus> {
        self.standby.get().map(|standby| *standby.status.lock())
    }

    /// See [`reveille_registrar::replica::Replica::inherit`]. An inheritance is worth something under its own epoch only: in between
    /// the shard may have been somebody else's.
    pub(crate) fn inheritance(&self, shard: u16) -> Option<Inheriting> {
        let (epoch, heir) = self.standby.get()?.heirs.lock().remove(&shard)?;
        let shared = self.shared.clone();
        if shared.held.epoch(shard) != epoch {
            return None;
        }
        Some(Box::pin(async move {
            let inherited = heir.await.ok().flatten()?;
            (shared.held.epoch(shard) == epoch).then_some(inherited)
        }))
    }

    /// The shard is not this node's any more.
    pub(crate) fn forgo(&self, shard: u16) {
        if let Some(standby) = self.standby.get() {
            standby.heirs.lock().remove(&shard);
        }
    }
}

/// The streams in an answer to XREAD: key and entries.
fn streams(answer: Value) -> Result<Vec<(String, Value)>, CommandError> {
    let stream = |stream: Value| {
        let mut parts = stream.array()?.into_iter();
        Ok((parts.next().text()?, parts.next().ok_or(CommandError::Answer)?))
    };
    answer.array()?.into_iter().map(stream).collect()
}
