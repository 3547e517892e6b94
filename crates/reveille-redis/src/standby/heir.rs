//! What becomes of a followed shard when this node takes it over.
//!
//! The claim is an entry of the shard's feed like any write, and both are made by functions that check and change the fence in one
//! step. So a write that took effect stands before the claim in the feed, and one that would come after it is refused. Whoever has read
//! every entry up to its own claim, without a gap, has every record as the store has it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::{Inherited, RecordStream, StoreError};
use reveille_runtime::clock;
use tokio::sync::oneshot;

use super::metrics::StandbyMetrics;
use super::shard::Followed;
use super::table::Table;
use crate::backoff;
use crate::gateway::Request;
use crate::link::Pool;
use crate::seal::{OpenError, Opened};
use crate::writer::Shared;

/// Told when the records are there, or that they are not.
pub(crate) type Told = oneshot::Sender<Option<Arc<dyn Inherited>>>;

/// A shard that was claimed.
pub(crate) struct Claimed {
    pub(crate) shard: u16,
    /// Under which epoch.
    pub(crate) epoch: u64,
    /// What had been followed of it.
    pub(crate) followed: Followed,
    pub(crate) told: Told,
}

/// How long reading the last entries may take: meanwhile requests wait that could read their record.
const PATIENCE: Duration = Duration::from_secs(1);
/// Entries read at once.
const STEP: usize = 1024;

/// Reads the feeds of claimed shards to their claims, and tells each its heir.
pub(crate) async fn succeed(shared: Arc<Shared>, pool: Arc<Pool>, metrics: StandbyMetrics, mut claimed: Vec<Claimed>) {
    let (give_up, mut pauses) = (clock::now() + PATIENCE, backoff::pauses());
    loop {
        // The follower itself may have read the claim before it heard of it.
        let is_whole = |claimed: &Claimed| claimed.followed.is_whole_at(&shared.gateway.node, claimed.epoch);
        let (whole, rest): (Vec<_>, Vec<_>) = claimed.into_iter().partition(is_whole);
        whole.into_iter().for_each(|claimed| tell(&shared, &metrics, claimed));
        claimed = rest;
        if claimed.is_empty() {
            return;
        }
        let xread = |claimed: &Claimed| {
            let mut cmd = redis::cmd("XREAD");
            cmd.arg("COUNT").arg(STEP).arg("STREAMS").arg(&claimed.followed.key).arg(begin(&claimed.followed.position));
            Request::new(claimed.followed.slot, cmd)
        };
        let mut requests: Vec<_> = claimed.iter().map(xread).collect();
        let mut answers: Vec<_> = requests.iter().map(|_| None).collect();
        let asked = shared.gateway.ask_redirected(&pool, &mut requests, &mut answers);
        if tokio::time::timeout_at(give_up.into(), asked).await.is_err() {
            break;
        }
        let (now, mut rest, mut lost) = (clock::now(), Vec::new(), false);
        for (mut claimed, answer) in claimed.into_iter().zip(answers) {
            let Some(answer) = answer else {
                lost = true;
                rest.push(claimed);
                continue;
            };
            let last = answer.and_then(super::streams).map(|mut streams| streams.pop());
            match last.and_then(|last| last.map_or(Ok(Ok(0)), |(_, entries)| claimed.followed.apply(entries, now))) {
                Ok(Ok(1..)) => rest.push(claimed),
                // The end, and no claim of ours, or a gap: this server knows nothing of what we were granted.
                _ => forsake(&metrics, claimed),
            }
        }
        claimed = rest;
        if lost {
            tokio::time::sleep(pauses.next().unwrap_or(backoff::LONGEST)).await;
        }
    }
    claimed.into_iter().for_each(|claimed| forsake(&metrics, claimed));
}

fn begin(position: &str) -> &str {
    if position.is_empty() { "0-0" } else { position }
}

fn tell(shared: &Arc<Shared>, metrics: &StandbyMetrics, claimed: Claimed) {
    metrics.successions.with_label_values(&["warm"]).inc();
    let sealed = Sealed { shared: Arc::clone(shared), shard: claimed.shard, table: claimed.followed.table };
    let _ = claimed.told.send(Some(Arc::new(sealed))); // the shard may have gone on
}

/// The shard has to be read from the store.
pub(crate) fn forsake(metrics: &StandbyMetrics, claimed: Claimed) {
    metrics.successions.with_label_values(&["cold"]).inc();
    let _ = claimed.told.send(None);
}

/// Records as they were at the claim, still sealed: each is opened when it is asked for.
struct Sealed {
    shared: Arc<Shared>,
    shard: u16,
    table: Table,
}

impl Sealed {
    fn open(&self, field: &[u8], blob: &[u8]) -> Result<Option<(Aor, Bytes)>, StoreError> {
        match self.shared.sealer.open(self.shard, field, blob.to_vec()) {
            Ok(Opened { aor, value, .. }) => Ok(value.map(|value| (aor, value))),
            // As where a shard is read from the store.
            Err(OpenError::Damaged) => {
                self.shared.desk.metrics.damaged.inc();
                tracing::error!(shard = self.shard, field = hex::encode(field), "a record is damaged and left out");
                Ok(None)
            }
            Err(_) => Err(StoreError::Unavailable),
        }
    }
}

impl Inherited for Sealed {
    fn get(&self, aor: &Aor) -> Result<Option<Bytes>, StoreError> {
        let field = self.shared.sealer.field(aor);
        let Some(blob) = self.table.get(&field) else { return Ok(None) };
        Ok(self.open(&field, blob)?.map(|(_, value)| value))
    }

    fn records(self: Arc<Self>) -> RecordStream {
        let slots = 0..self.table.slots();
        Box::new(slots.filter_map(move |slot| {
            let (field, blob) = self.table.at(slot)?;
            self.open(field, blob).transpose()
        }))
    }
}
