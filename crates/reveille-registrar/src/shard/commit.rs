//! Records on their way to the store and back: what is pending, what becomes durable, what is undone.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;

use super::{
    Shard, ShardOutput, Way,
    bucket::{Active, Cause, Pending},
    message::{HomeEvent, Now, RegisterError, RegisterRequest, Target},
    register::{self, Applied},
    views,
};
use crate::{
    aor::Aor,
    record::{Fingerprint, Record},
    replica::StoreError,
};

impl Shard {
    pub(super) fn submit_register(&mut self, now: Now, request: &RegisterRequest, applied: Applied) {
        let Applied { record, touched, created, .. } = applied;
        self.submit(now, &request.aor, record, Cause::Register { reply: request.reply, touched, created });
    }

    /// Hands a record to the store.
    pub(super) fn submit(&mut self, now: Now, aor: &Aor, record: Record, cause: Cause) {
        let write = self.take_id();
        let value = (!record.bindings.is_empty()).then(|| Bytes::from(record.encode()));
        self.outputs.push_back(ShardOutput::Write { write, aor: aor.clone(), record: value.clone() });
        self.writes.insert(write, aor.clone());
        let pending = Pending { write, record, value, cause, verdict: None, since: now.mono };
        self.active.entry(aor.clone()).or_default().pending.push_back(pending);
    }

    /// The store's verdict on a write. Verdicts take effect in the order of the writes.
    pub(super) fn written(&mut self, now: Now, write: u64, verdict: Result<(), StoreError>) {
        let Some(aor) = self.writes.remove(&write) else { return };
        let Some(active) = self.active.get_mut(&aor) else { return };
        if let Some(pending) = active.pending.iter_mut().find(|pending| pending.write == write) {
            pending.verdict = Some(verdict);
        }
        while let Some(active) = self.active.get_mut(&aor) {
            let Some(verdict) = active.pending.front().and_then(|pending| pending.verdict) else { break };
            let Some(pending) = active.pending.pop_front() else { break };
            let took = now.mono.saturating_duration_since(pending.since);
            self.metrics.write_duration.observe(took.as_secs_f64());
            match verdict {
                Ok(()) => {
                    self.paid(now, &aor);
                    self.commit(now, &aor, pending);
                }
                Err(error) if self.may_defer(now, &aor, &pending.record, &pending.cause, error) => {
                    let base = self.record(&aor);
                    self.commit(now, &aor, pending);
                    self.owe(now, &aor, base);
                }
                Err(error) => self.undo(now, &aor, pending, error),
            }
        }
        self.settle(now, &aor);
    }

    /// A record is durable: it is what look-ups see from now on, the 200 leaves, and requests are released (P-058).
    fn commit(&mut self, now: Now, aor: &Aor, pending: Pending) {
        self.end_refreshes(now, aor, &pending.record);
        match (&pending.value, self.next_due(aor, &pending.record)) {
            (Some(value), Some(due)) => self.table.put(aor, value, due),
            _ => {
                self.table.remove(aor);
            }
        }
        let record = pending.record;
        if let Cause::Register { reply, touched, created } = pending.cause {
            // The 200 goes first: the phone should not see the request before it (P-061).
            self.registered(reply, Ok(views(&record, now, &touched)), "stored");
            let mut late = Vec::new();
            let mut active = self.active.remove(aor).unwrap_or_default();
            if !active.is_waited_for() {
                self.active.insert(aor.clone(), active);
                return; // nearly every REGISTER: nobody to release, nothing to judge
            }
            // P-059: only Contacts that were in that REGISTER.
            for binding in touched.iter().filter_map(|&key| record.get(key)) {
                let class = reveille_push::PushClass::Call;
                let target = Target::of(binding, self.judge().pushable(binding, class));
                let released = active.refreshed(now, binding, &target);
                if !released && created.contains(&binding.key) && self.judge().way(now, binding, class) != Way::Lost {
                    offer_late(&mut active, binding.device(), &target, &mut late);
                }
            }
            active.end_gone(now, &record);
            self.active.insert(aor.clone(), active);
            for (to, target) in late {
                self.reply(to, HomeEvent::LateTarget { target });
            }
        } else if let Some(active) = self.active.get_mut(aor) {
            active.end_gone(now, &record);
        }
    }

    /// A record was not kept. Every REGISTER built on it fails with it (S-108), and requests that were waiting for one of them
    /// go on to their push (P-056), which the caller's `settle` sees to.
    fn undo(&mut self, now: Now, aor: &Aor, pending: Pending, error: StoreError) {
        self.metrics.write_failures.inc();
        let owes = self.config.defers && error == StoreError::Unavailable;
        let Cause::Register { reply, .. } = pending.cause else {
            // Housekeeping is in memory and in every later record already; a lost write is made up for by the next.
            if owes {
                self.owe(now, aor, None);
            }
            return;
        };
        let mut failed = vec![reply];
        if let Some(active) = self.active.get_mut(aor) {
            failed.extend(active.pending.drain(..).filter_map(|pending| match pending.cause {
                Cause::Register { reply, .. } => Some(reply),
                Cause::Upkeep => None,
            }));
        }
        let was_alone = failed.len() == 1;
        for reply in failed {
            let error = RegisterError::Store(error);
            self.registered(reply, Err(error), error.as_str());
        }
        // "Unavailable" may have been written after all, and what was built on the failed write may be on its way: the store
        // is brought back to what memory says, once. Not where it is known to be untouched, nor where it is not ours any more.
        if owes {
            return self.owe(now, aor, None); // it would fail as well
        }
        let is_untouched = error == StoreError::Full && was_alone;
        if !is_untouched && error != StoreError::Fenced {
            let record = self.record(aor).unwrap_or_default();
            self.submit(now, aor, record, Cause::Upkeep);
        }
    }

    /// Changes what is known of `aor` without a REGISTER: in memory at once, in whatever is pending, and in the store.
    pub(super) fn mutate(&mut self, now: Now, aor: &Aor, change: impl Fn(&mut Record) -> bool) -> bool {
        let mut changed = false;
        let mut newest = None;
        if let Some(mut record) = self.record(aor) {
            changed = change(&mut record);
            if changed {
                self.end_refreshes(now, aor, &record);
                match self.next_due(aor, &record) {
                    Some(due) => self.table.put(aor, &record.encode(), due),
                    None => {
                        self.table.remove(aor);
                    }
                }
            }
            newest = Some(record);
        }
        for pending in self.active.get_mut(aor).into_iter().flat_map(|active| &mut active.pending) {
            if change(&mut pending.record) {
                changed = true;
                pending.value = (!pending.record.bindings.is_empty()).then(|| Bytes::from(pending.record.encode()));
            }
            newest = Some(pending.record.clone());
        }
        if changed && let Some(record) = newest {
            self.submit(now, aor, record, Cause::Upkeep);
            let record = self.record(aor).unwrap_or_default();
            if let Some(active) = self.active.get_mut(aor) {
                active.end_gone(now, &record);
            }
        }
        changed
    }

    /// A token is dead: its binding stays, without push (P-154, P-156).
    pub(super) fn bury(&mut self, now: Now, aor: &Aor, target: Fingerprint, since: Option<SystemTime>) {
        let since =
            since.and_then(|since| since.duration_since(SystemTime::UNIX_EPOCH).ok()).map(|since| since.as_secs());
        let others = Arc::clone(&self.dead);
        if self.mutate(now, aor, |record| register::bury(record, target, since, now.unix, &others)) {
            self.metrics.dead_targets.inc();
        }
    }

    /// The visit planned for a record.
    pub(super) fn visit(&mut self, now: Now, aor: &Aor) {
        if self.is_later(aor) {
            return self.table.plan(aor, now.unix + LOOKS_AGAIN);
        }
        let Some(record) = self.record(aor) else {
            // Unreadable bytes cannot expire: nothing serves them, and they stay in the store for whoever can read them.
            self.table.remove(aor);
            return;
        };
        self.refresh_due(now, aor, &record);
        if record.bindings.iter().all(|binding| binding.is_live(now.unix)) {
            if let Some(due) = self.next_due(aor, &record) {
                self.table.plan(aor, due);
            }
            return;
        }
        self.mutate(now, aor, |record| {
            let before = record.bindings.len();
            record.bindings.retain(|binding| binding.is_live(now.unix));
            record.bindings.len() != before
        });
        self.settle(now, aor);
    }

    /// Takes records from the store. Expired bindings serve nobody from the start, and go at their visit, which is due.
    pub(super) fn load(&mut self, now: Now, records: Vec<(Aor, Bytes)>) {
        for (aor, value) in records {
            match Record::decode(&value).ok().and_then(|record| self.first_due(now, &aor, &record)) {
                Some(due) => self.table.put(&aor, &value, due),
                // Kept so that nothing is written over it; when it ends, this version cannot know.
                None if crate::record::is_later(&value) => {
                    self.metrics.unreadable.inc();
                    tracing::warn!(aor = %aor.redacted(), "a record of a later version is left alone, and its phones are served by later nodes only");
                    self.table.put(&aor, &value, now.unix + LOOKS_AGAIN);
                }
                None => {
                    self.metrics.unreadable.inc();
                    tracing::warn!(aor = %aor, "a stored record cannot be read and is skipped");
                }
            }
        }
    }
}

/// How often a record of a later version is passed by when expiries are looked for, in seconds.
const LOOKS_AGAIN: u64 = 24 * 3600;

/// S-098: a phone that registers while an INVITE still waits for others is offered to it, unless it was already (S-131).
fn offer_late(
    active: &mut Active,
    device: crate::record::Device,
    target: &Target,
    late: &mut Vec<(super::WorkerRef, Target)>,
) {
    for context in &mut active.contexts {
        if !context.offered.contains(&device) {
            context.offered.push(device);
            late.push((context.worker, target.clone()));
        }
    }
}
