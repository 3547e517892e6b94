//! The time a shard spends on this node: filled while it serves, and handed over in order.
//!
//! A node that takes a shard over has nothing of it in memory. It serves at once all the same: what is asked for is read from the
//! store first, the rest follows in the background. Until the last record is there, an input that concerns an
//! address-of-record waits for that record, and for nothing else. A shard that this node had followed ([`Inherited`]) is filled from
//! memory in the same way, and the store is not asked.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use hashbrown::HashSet;
use reveille_runtime::gate::Admitted;
use tokio::sync::{mpsc, oneshot};

use super::{Node, ShardMsg};
use crate::{
    aor::Aor,
    replica::{Inherited, Inheriting, RecordStream, Replica, StoreError},
    shard::{Now, Shard, ShardInput},
};

/// Records handed to a shard in one go while it is filled.
const BATCH: usize = 256;
/// The pause before the store is asked again, when it could not be read.
const PAUSE: Duration = Duration::from_millis(100);

/// A shard that this node owns.
pub(super) struct Tenure {
    /// Tells what tasks of this tenure report from what those of an earlier one do.
    pub(super) number: u32,
    pub(super) shard: Shard,
    /// There as long as records are missing.
    pub(super) filling: Option<Filling>,
    /// There once the shard is to go: told when nothing is on its way to the store any more.
    pub(super) leaving: Option<oneshot::Sender<()>>,
    /// What the next owner has to know was said.
    pub(super) is_noted: bool,
    /// The shard came back to this node while it was leaving: it begins anew once it has left.
    pub(super) returns: bool,
}

/// What is known of a shard that is not filled yet.
#[derive(Default)]
pub(super) struct Filling {
    /// Whose record, or the lack of one, is known.
    known: HashSet<Aor>,
    /// What waits for a record. Each holds its place at the gate, which so bounds them.
    held: HashMap<Aor, Vec<Admitted<ShardMsg>>>,
    source: Source,
}

/// Where records come from.
#[derive(Default)]
enum Source {
    #[default]
    Store,
    /// What is inherited is being completed; until it is there everything waits.
    Awaited,
    Memory(Arc<dyn Inherited>),
}

/// What a task that reads from the store reports.
#[derive(Debug)]
pub enum Filled {
    /// Some records of the shard; `taken` is told when they are in place, and more may come.
    Batch {
        /// The records.
        records: Vec<(Aor, Bytes)>,
        /// Dropped when they are in place.
        taken: oneshot::Sender<()>,
    },
    /// One that was asked for.
    One {
        /// Whose.
        aor: Aor,
        /// The record, if there is one.
        value: Option<Bytes>,
    },
    /// Every record was reported.
    Whole,
    /// The shard was followed before it was taken over; `None` where something is missing, and the store has to be read.
    Inherited(Option<Heirloom>),
}

/// What a shard inherits.
pub struct Heirloom(Arc<dyn Inherited>);

impl std::fmt::Debug for Heirloom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Heirloom")
    }
}

impl Tenure {
    /// Starts to fill `shard` in the background.
    pub(super) fn begin(number: u32, shard: Shard, node: &Arc<Node>, index: u16) -> Self {
        let mut filling = Filling::default();
        match node.replica.inherit(index) {
            Some(inheriting) => {
                filling.source = Source::Awaited;
                tokio::spawn(inherit(Arc::clone(node), index, number, inheriting));
            }
            None => _ = tokio::spawn(fill(Arc::clone(node), index, number, None)),
        }
        if let Some(finding) = node.replica.find_note(index) {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                if let Some((note, age)) = finding.await {
                    node.tell(index, ShardMsg::Input(ShardInput::NoteFound { note, age }));
                }
            });
        }
        Self { number, shard, filling: Some(filling), leaving: None, is_noted: false, returns: false }
    }

    /// A shard that has all its records.
    pub(super) fn whole(number: u32, shard: Shard) -> Self {
        Self { number, shard, filling: None, leaving: None, is_noted: false, returns: false }
    }

    /// Whether an input about `aor` must wait. The first that waits has the record read.
    pub(super) fn must_wait(&mut self, now: Now, node: &Arc<Node>, index: u16, aor: &Aor) -> bool {
        let Some(filling) = &mut self.filling else { return false };
        if filling.known.contains(aor) {
            return false;
        }
        match &filling.source {
            Source::Awaited => return true,
            Source::Memory(inherited) => {
                if let Ok(value) = inherited.get(aor) {
                    filling.known.insert(aor.clone());
                    let record = value.map(|value| (aor.clone(), value));
                    self.shard.handle(now, ShardInput::Loaded(record.into_iter().collect()));
                    return false;
                }
            }
            Source::Store => {}
        }
        if !filling.held.contains_key(aor) {
            tokio::spawn(read(Arc::clone(node), index, self.number, aor.clone()));
        }
        true
    }

    /// Keeps an input back until the record of `aor` is there.
    pub(super) fn hold(&mut self, aor: Aor, input: Admitted<ShardMsg>) {
        if let Some(filling) = &mut self.filling {
            filling.held.entry(aor).or_default().push(input);
        }
    }

    /// Takes in what was read; returns the inputs that need not wait any longer, in their order.
    pub(super) fn filled(&mut self, now: Now, node: &Arc<Node>, index: u16, filled: Filled) -> Vec<Admitted<ShardMsg>> {
        let Some(filling) = &mut self.filling else { return Vec::new() };
        let mut freed = Vec::new();
        match filled {
            Filled::Batch { mut records, taken: _ } => {
                // What was asked for by itself may have been changed since.
                records.retain(|(aor, _)| filling.known.insert(aor.clone()));
                for (aor, _) in &records {
                    freed.extend(filling.held.remove(aor).unwrap_or_default());
                }
                self.shard.handle(now, ShardInput::Loaded(records));
            }
            Filled::One { aor, value } => {
                if filling.known.insert(aor.clone()) {
                    freed = filling.held.remove(&aor).unwrap_or_default();
                    let record = value.map(|value| (aor, value));
                    self.shard.handle(now, ShardInput::Loaded(record.into_iter().collect()));
                }
            }
            Filled::Whole => {
                freed.extend(std::mem::take(&mut filling.held).into_values().flatten());
                self.filling = None;
            }
            Filled::Inherited(heirloom) => {
                // Whatever waits finds its record there now, or has it read.
                freed.extend(std::mem::take(&mut filling.held).into_values().flatten());
                let inherited = heirloom.map(|Heirloom(inherited)| inherited);
                filling.source = inherited.clone().map_or(Source::Store, Source::Memory);
                tokio::spawn(fill(Arc::clone(node), index, self.number, inherited));
            }
        }
        freed
    }

    /// What still waits, where the shard goes before it was filled.
    pub(super) fn held(&mut self) -> Vec<Admitted<ShardMsg>> {
        self.filling.take().map(|filling| filling.held.into_values().flatten().collect()).unwrap_or_default()
    }
}

/// Waits for what is inherited.
async fn inherit(node: Arc<Node>, index: u16, tenure: u32, inheriting: Inheriting) {
    let filled = Filled::Inherited(inheriting.await.map(Heirloom));
    node.tell(index, ShardMsg::Filled { tenure, filled });
}

/// Reads a whole shard, again and again until it succeeds or the shard has gone: first from what is inherited, then from the store.
async fn fill(node: Arc<Node>, index: u16, tenure: u32, mut inherited: Option<Arc<dyn Inherited>>) {
    while node.is_owned(index) {
        match pass(&node, index, tenure, inherited.take()).await {
            Ok(()) => return node.tell(index, ShardMsg::Filled { tenure, filled: Filled::Whole }),
            Err(error) => {
                tracing::warn!(shard = index, %error, "the shard cannot be filled yet and serves what is asked for");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn pass(
    node: &Arc<Node>,
    index: u16,
    tenure: u32,
    inherited: Option<Arc<dyn Inherited>>,
) -> Result<(), StoreError> {
    let permit = node.hydration.clone().acquire_owned().await;
    let (sender, mut receiver) = mpsc::channel(1);
    let replica = Arc::clone(&node.replica);
    let reading = tokio::task::spawn_blocking(move || match inherited {
        Some(inherited) => in_batches(inherited.records(), &sender),
        None => batches(&*replica, index, &sender),
    });
    while let Some(records) = receiver.recv().await {
        let (taken, in_place) = oneshot::channel();
        node.tell(index, ShardMsg::Filled { tenure, filled: Filled::Batch { records, taken } });
        // Never answered: an error either way is what tells that the batch was dealt with.
        let _ = in_place.await;
    }
    drop(permit);
    reading.await.map_err(|_| StoreError::Unavailable)?
}

/// Reads a shard in batches. Blocks.
pub(super) fn batches(
    replica: &dyn Replica,
    index: u16,
    sender: &mpsc::Sender<Vec<(Aor, Bytes)>>,
) -> Result<(), StoreError> {
    in_batches(replica.load(index)?, sender)
}

fn in_batches(records: RecordStream, sender: &mpsc::Sender<Vec<(Aor, Bytes)>>) -> Result<(), StoreError> {
    let mut batch = Vec::new();
    for record in records {
        batch.push(record?);
        if batch.len() == BATCH && sender.blocking_send(std::mem::take(&mut batch)).is_err() {
            return Ok(()); // nobody to take it: the shard has gone
        }
    }
    let _ = sender.blocking_send(batch);
    Ok(())
}

/// Reads one record, again and again until it succeeds or the shard has gone.
async fn read(node: Arc<Node>, index: u16, tenure: u32, aor: Aor) {
    while node.is_owned(index) {
        match node.replica.read(index, &aor).await {
            Ok(value) => return node.tell(index, ShardMsg::Filled { tenure, filled: Filled::One { aor, value } }),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
