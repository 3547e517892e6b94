//! The writer thread: group commit.
//!
//! It takes whatever has gathered, writes it with one flush, reports it, and looks again. It waits for no timer: a lone
//! write goes out at once, and under load a batch grows by itself to what arrived during the flush before. Where the processors
//! are busy the thread lets others run first, since what they are about to push costs hardly more than the batch costs without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use reveille_registrar::replica::{Acks, StoreError};
use reveille_runtime::clock;

use crate::engine::{Engine, Put};
use crate::metrics::Metrics;
use crate::queue::Queue;

/// What the store and its writer share.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) queue: Queue<Job>,
    pub(crate) acks: Mutex<Option<Arc<dyn Acks>>>,
    pub(crate) metrics: Metrics,
    pub(crate) healthy: AtomicBool,
}

/// One write in the queue.
pub(crate) struct Job {
    pub(crate) put: Put,
    pub(crate) taken: Instant,
}

/// Closes the queue however the thread ends, so that nobody waits for a writer that is no more.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.queue.abandon();
        if std::thread::panicking() {
            self.0.healthy.store(false, Ordering::Release);
            tracing::error!("the store's writer ended by a fault of its own; nothing is written until a restart");
        }
        // Whoever hears the verdicts may own the store: a circle that has to be cut somewhere.
        let acks = self.0.acks.lock().take();
        drop(acks);
    }
}

/// Runs until the queue is closed and empty.
pub(crate) fn run(shared: Arc<Shared>, most: usize) {
    let farewell = Farewell(shared);
    let shared = &farewell.0;
    let (mut jobs, mut puts, mut stamps) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = 0;
    loop {
        if last > 1 {
            std::thread::yield_now();
        }
        let Some(left) = shared.queue.take(most, &mut jobs) else { break };
        last = jobs.len();
        shared.metrics.queue_depth.set(i64::try_from(left).unwrap_or(i64::MAX));
        for Job { put, taken } in jobs.drain(..) {
            puts.push(put);
            stamps.push(taken);
        }
        let result = commit(shared, &puts);
        shared.queue.finish(puts.len());
        answer(shared, &mut puts, &mut stamps, result);
    }
}

fn commit(shared: &Shared, puts: &[Put]) -> Result<(), StoreError> {
    let metrics = &shared.metrics;
    metrics.batch_size.observe(puts.len() as f64);
    let began = clock::now();
    let result = shared.engine.commit(puts);
    metrics.commit_duration.observe(clock::now().duration_since(began).as_secs_f64());
    match result {
        Ok(()) => {
            metrics.writes.inc_by(puts.len() as u64);
            Ok(())
        }
        Err(error) => {
            metrics.failures.inc_by(puts.len() as u64);
            // The engine takes no write after a failed flush: what the disk holds is uncertain until it is read anew.
            if shared.healthy.swap(false, Ordering::AcqRel) {
                tracing::error!(%error, "the store cannot write; mend the disk and restart, bindings are kept as last written");
            }
            Err(StoreError::Unavailable)
        }
    }
}

/// Reports a batch in the order in which it was handed over.
fn answer(shared: &Shared, puts: &mut Vec<Put>, stamps: &mut Vec<Instant>, result: Result<(), StoreError>) {
    // Cloned, so that no lock is held while the shards are told.
    let acks = shared.acks.lock().clone();
    let now = clock::now();
    for (put, taken) in puts.drain(..).zip(stamps.drain(..)) {
        shared.metrics.write_duration.observe(now.saturating_duration_since(taken).as_secs_f64());
        if let Some(acks) = &acks {
            acks.written(put.shard, put.write.id, result);
        }
    }
}
