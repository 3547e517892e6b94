//! What a shard hands over, and the call that is made of it.

use std::collections::VecDeque;
use std::time::Instant;

use backon::ExponentialBackoff;
use bytes::Bytes;
use reveille_registrar::aor::Aor;
use reveille_runtime::clock;
use tokio::sync::oneshot;

use crate::backoff;
use crate::functions::Function;
use crate::gateway::Request;
use crate::keys::shard_slot;
use crate::pending::{Fate, Pending};
use crate::seal::Field;
use crate::writer::Shared;

/// What a writer is given.
pub(crate) enum Job {
    /// Keep a record.
    Write(WriteJob),
    /// Say when everything before this, of the shard, has its verdict.
    Barrier(u16, oneshot::Sender<()>),
    /// Finish what you have, and end.
    Close,
}

/// One record to keep.
pub(crate) struct WriteJob {
    pub(crate) shard: u16,
    /// The epoch at which it was handed over: under a later one it is void.
    pub(crate) epoch: u64,
    pub(crate) aor: Aor,
    pub(crate) value: Option<Bytes>,
    /// The version that the record must have. Such a write goes alone.
    pub(crate) expected: Option<u64>,
    pub(crate) pending: Pending,
}

/// What a shard has waiting.
#[derive(Default)]
pub(crate) struct Line {
    pub(crate) waiting: VecDeque<Job>,
    /// A call is under way.
    pub(crate) busy: bool,
    /// It stands in a server's list of shards that have something to send.
    pub(crate) listed: bool,
}

/// One call: records of one shard that are written together.
pub(crate) struct Call {
    pub(crate) shard: u16,
    pub(crate) epoch: u64,
    pub(crate) request: Request,
    /// Each write with the version of the record that carries it.
    pub(crate) writes: Vec<(Pending, u64)>,
    pub(crate) give_up: Instant,
    pub(crate) redirections: u32,
    pub(crate) pauses: ExponentialBackoff,
}

/// Most records in one call: while it runs the server does nothing else.
const MOST_RECORDS: usize = 64;
/// A record of a call: of several writes to one address only the last is sent.
struct Record {
    aor: Aor,
    field: Field,
    value: Option<Bytes>,
    expected: Option<u64>,
}

/// Answers what a shard has waiting, since there is no server to send it to.
pub(crate) fn turn_away(shared: &Shared, shard: u16, line: &mut Line, now: Instant) {
    let held = shared.held.epoch(shard);
    for job in line.waiting.drain(..) {
        match job {
            Job::Write(write) if write.epoch == 0 || write.epoch != held => write.pending.answer(Fate::Fenced(0), now),
            Job::Write(write) => write.pending.answer(Fate::Unknown, now),
            Job::Barrier(_, done) => _ = done.send(()),
            Job::Close => {}
        }
    }
}

/// Makes a call of what a shard has waiting; `None` where nothing is left to send.
pub(crate) fn next_call(shared: &Shared, shard: u16, line: &mut Line) -> Option<Call> {
    let now = clock::now();
    let held = shared.held.epoch(shard);
    let mut records: Vec<Record> = Vec::new();
    let mut writes: Vec<(Pending, usize)> = Vec::new();
    while let Some(job) = line.waiting.pop_front() {
        let write = match job {
            Job::Barrier(_, done) if writes.is_empty() => {
                let _ = done.send(());
                continue;
            }
            Job::Write(write) if write.epoch == 0 || write.epoch != held => {
                write.pending.answer(Fate::Fenced(0), now);
                continue;
            }
            Job::Write(write)
                if now >= write.pending.taken + shared.write_timeout
                    || !shared.lease.runs(now)
                    || shared.held.is_paused(shard) =>
            {
                write.pending.answer(Fate::Unknown, now);
                continue;
            }
            Job::Write(write) if writes.is_empty() || (write.expected.is_none() && writes.len() < MOST_RECORDS) => {
                write
            }
            job => {
                line.waiting.push_front(job);
                break;
            }
        };
        let WriteJob { aor, value, expected, pending, .. } = write;
        let at = records.iter().position(|record| record.aor == aor).unwrap_or_else(|| {
            let field = shared.sealer.field(&aor);
            records.push(Record { aor, field, value: None, expected });
            records.len() - 1
        });
        records[at].value = value;
        writes.push((pending, at));
        if expected.is_some() {
            break;
        }
    }
    let taken = writes.iter().map(|(pending, _)| pending.taken).min()?;
    let first = shared.held.versions(shard, records.len() as u64);
    let keys = shared.gateway.keys.shard(shard);
    let mut cmd = shared.gateway.call(Function::Write, &[&keys.fence, &keys.records, &keys.feed]);
    cmd.arg(held).arg(&shared.gateway.node).arg(shared.feed_length).arg(first);
    for (version, record) in (first..).zip(&records) {
        let value = record.value.as_deref();
        // Without randomness nothing can be sealed: dropping the writes says that their fate is not known.
        let blob = shared.sealer.seal(shard, &record.field, version, &record.aor, value).ok()?;
        cmd.arg(&record.field[..]);
        match record.expected {
            None => cmd.arg("*"),
            Some(expected) => cmd.arg(expected),
        };
        cmd.arg(if value.is_some() { "s" } else { "d" }).arg(blob);
    }
    Some(Call {
        shard,
        epoch: held,
        request: Request::new(shard_slot(shard), cmd),
        writes: writes.into_iter().map(|(pending, at)| (pending, first + at as u64)).collect(),
        give_up: taken + shared.write_timeout,
        redirections: 0,
        pauses: backoff::pauses(),
    })
}
