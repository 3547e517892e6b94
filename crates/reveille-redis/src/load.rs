//! Reading a shard, bit by bit, or one record of it.

use std::time::Instant;

use backon::ExponentialBackoff;
use bytes::Bytes;
use redis::Value;
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::StoreError;
use reveille_runtime::clock;
use tokio::sync::mpsc;

use crate::backoff;
use crate::config::Endpoint;
use crate::error::CommandError;
use crate::gateway::Request;
use crate::keys::shard_slot;
use crate::link::Pool;
use crate::reply::Shape;
use crate::seal::{OpenError, Opened};
use crate::writer::Shared;

pub(crate) type Loaded = Result<(Aor, Bytes), StoreError>;

/// Shards read at the same time: a node that takes many over must not fall upon Redis with a connection for each.
pub(crate) const LOADS: usize = 8;
/// Records read before somebody takes them.
pub(crate) const LOAD_AHEAD: usize = 512;
/// Records that one step of reading a shard returns, about.
const LOAD_STEP: usize = 256;

/// Reads all records of a shard, opens them and passes them on.
pub(crate) async fn load(shared: &Shared, shard: u16, out: &mpsc::Sender<Loaded>) -> Result<(), CommandError> {
    let Ok(_place) = shared.loads.acquire().await else { return Err(CommandError::Unavailable) };
    let pool = Pool::new(shared.gateway.connector.clone(), shared.gateway.metrics.clone());
    let mut scan = Scan::new(shard);
    while let Some(items) = scan.step(shared, &pool).await? {
        if !pass_on(shared, shard, items, out).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// A shard that is read step by step. A cursor means something only to the server process that gave it: while that answers it is
/// asked again, and when a step fails the scan begins anew.
pub(crate) struct Scan {
    shard: u16,
    cursor: Option<String>,
    pauses: ExponentialBackoff,
    ask: Option<Endpoint>,
    /// How often it began anew. What came before may be of a server that is gone.
    pub(crate) restarts: u32,
}

impl Scan {
    pub(crate) fn new(shard: u16) -> Self {
        Self { shard, cursor: Some(BEGINNING.to_owned()), pauses: backoff::pauses(), ask: None, restarts: 0 }
    }

    /// The next fields and values, in turn; `None` when all were read.
    pub(crate) async fn step(&mut self, shared: &Shared, pool: &Pool) -> Result<Option<Vec<Value>>, CommandError> {
        let (gateway, give_up) = (&shared.gateway, clock::now() + shared.write_timeout);
        loop {
            let Some(cursor) = &self.cursor else { return Ok(None) };
            let mut cmd = redis::cmd("HSCAN");
            cmd.arg(gateway.keys.shard(self.shard).records).arg(cursor).arg("COUNT").arg(LOAD_STEP);
            let mut requests = [Request { ask: self.ask.clone(), ..Request::new(shard_slot(self.shard), cmd) }];
            let mut answers = [None];
            gateway.ask_round(pool, &mut requests, &mut answers, false).await;
            let ([request], [answer]) = (requests, answers);
            let Some(answer) = answer else {
                self.ask = request.ask;
                if clock::now() >= give_up {
                    return Err(CommandError::Unavailable);
                }
                tokio::time::sleep(self.pauses.next().unwrap_or(backoff::LONGEST)).await;
                self.cursor = Some(BEGINNING.to_owned());
                self.restarts += 1;
                continue;
            };
            let mut parts = answer?.array()?.into_iter();
            self.cursor = Some(parts.next().text()?).filter(|cursor| cursor != BEGINNING);
            return Ok(Some(parts.next().array()?));
        }
    }
}

/// The cursor that begins a scan, and that ends it.
const BEGINNING: &str = "0";

/// Opens records and passes them on. `false` when nobody wants them any more.
async fn pass_on(
    shared: &Shared,
    shard: u16,
    items: Vec<Value>,
    out: &mpsc::Sender<Loaded>,
) -> Result<bool, CommandError> {
    let mut items = items.into_iter();
    while let Some(field) = items.next() {
        let (field, blob) = (field.octets()?, items.next().octets()?);
        shared.desk.metrics.records_read.inc();
        match shared.sealer.open(shard, &field, blob) {
            Ok(Opened { aor, value: Some(value), .. }) => {
                if out.send(Ok((aor, value))).await.is_err() {
                    return Ok(false);
                }
            }
            // One record that somebody spoilt must not keep a whole shard from being served.
            Ok(_) | Err(OpenError::Damaged) => {
                shared.desk.metrics.damaged.inc();
                tracing::error!(shard, field = hex::encode(&field), "a record is damaged and left out");
            }
            // Here it is we who lack something: to go on would forget phones.
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// One record and its version.
pub(crate) async fn read_through(
    shared: &Shared,
    shard: u16,
    aor: &Aor,
    deadline: Instant,
) -> Result<Option<(u64, Bytes)>, CommandError> {
    let field = shared.sealer.field(aor);
    let mut cmd = redis::cmd("HGET");
    cmd.arg(shared.gateway.keys.shard(shard).records).arg(&field[..]);
    let blob = match shared.gateway.ask(Request::new(shard_slot(shard), cmd), deadline).await? {
        Value::Nil => return Ok(None),
        value => value.octets()?,
    };
    shared.desk.metrics.records_read.inc();
    let opened = shared.sealer.open(shard, &field, blob)?;
    Ok(opened.value.map(|value| (opened.version, value)))
}
