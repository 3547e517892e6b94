//! Reading the records of a shard that is to be followed.

use std::sync::Arc;

use redis::Value;
use reveille_runtime::clock;

use super::table::Table;
use crate::error::CommandError;
use crate::gateway::Request;
use crate::keys::shard_slot;
use crate::link::Pool;
use crate::load::Scan;
use crate::reply::Shape;
use crate::writer::Shared;

/// A shard whose records were read while its feed grew from one entry to another.
pub(crate) struct Filled {
    pub(crate) table: Table,
    pub(crate) from: String,
    pub(crate) until: String,
}

/// Why a shard was not filled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FillError {
    #[error("it would take more memory than is allowed")]
    Full,
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Reads all records of a shard; they may take `room` octets.
pub(crate) async fn fill(shared: Arc<Shared>, pool: Arc<Pool>, shard: u16, room: usize) -> Result<Filled, FillError> {
    let from = end_of_feed(&shared, &pool, shard).await?;
    let (mut table, mut scan, mut restarts) = (Table::default(), Scan::new(shard), 0);
    while let Some(items) = scan.step(&shared, &pool).await? {
        if std::mem::replace(&mut restarts, scan.restarts) != scan.restarts {
            table = Table::default();
        }
        let mut items = items.into_iter();
        while let Some(field) = items.next() {
            if !table.set(&field.octets()?, &items.next().octets()?) {
                return Err(CommandError::Answer.into());
            }
        }
        if table.bytes() > room {
            return Err(FillError::Full);
        }
    }
    let until = end_of_feed(&shared, &pool, shard).await?;
    Ok(Filled { table, from, until })
}

/// The last entry of a shard's feed; empty where there is none.
async fn end_of_feed(shared: &Shared, pool: &Pool, shard: u16) -> Result<String, CommandError> {
    let gateway = &shared.gateway;
    let mut cmd = redis::cmd("HGET");
    cmd.arg(gateway.keys.shard(shard).fence).arg("last");
    let (mut requests, mut answers) = ([Request::new(shard_slot(shard), cmd)], [None]);
    let asked = gateway.ask_redirected(pool, &mut requests, &mut answers);
    let give_up = clock::now() + shared.write_timeout;
    let answered = tokio::time::timeout_at(give_up.into(), asked).await;
    match (answered, answers) {
        (Ok(()), [Some(answer)]) => match answer? {
            Value::Nil => Ok(String::new()),
            value => value.text(),
        },
        _ => Err(CommandError::Unavailable),
    }
}
