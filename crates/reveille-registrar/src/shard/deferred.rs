//! What was promised while the store was away. A refresh that changes nothing which would have to survive this node is answered
//! 200 from memory and written when the store is back; anything else is refused, since it could be lost.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{Now, Shard, ShardOutput, bucket::Cause};
use crate::{
    aor::Aor,
    record::{Binding, BindingKey, Record},
    replica::{Promise, StoreError},
};

/// The pause before the store is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Records written at a time once the store takes them.
const WIDTH: usize = 64;

/// Records in memory that are newer than in the store.
#[derive(Default)]
pub(super) struct Deferred {
    /// With the record that the store was last known to hold, where something was promised beyond it.
    aors: HashMap<Aor, Option<Record>>,
    retry_at: Option<Instant>,
    /// Whether the store took the last of them.
    answers: bool,
}

impl Deferred {
    /// When the next try is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.aors.is_empty())
    }

    pub(super) fn len(&self) -> usize {
        self.aors.len()
    }
}

impl Shard {
    /// The store did not take a write, or did not say: the record in memory is to be written later. `base` is what the store was last
    /// known to hold, where more was promised.
    pub(super) fn owe(&mut self, now: Now, aor: &Aor, base: Option<Record>) {
        let known = self.deferred.aors.entry(aor.clone()).or_default();
        // What was promised first was promised on what the store holds.
        *known = known.take().or(base);
        self.deferred.answers = false;
        self.deferred.retry_at = Some(now.mono + PAUSE);
    }

    /// The store holds what memory says of `aor`.
    pub(super) fn paid(&mut self, now: Now, aor: &Aor) {
        if self.deferred.aors.remove(aor).is_some() {
            self.deferred.answers = true;
            self.deferred.retry_at = Some(now.mono);
        }
    }

    /// Tries what is owed: one record to find out whether the store is back, then many.
    pub(super) fn pay(&mut self, now: Now) {
        if self.deferred.retry_at.is_none_or(|at| at > now.mono) {
            return;
        }
        self.deferred.retry_at = None;
        let width = if self.deferred.answers { WIDTH } else { 1 };
        let busy = |aor: &&Aor| self.active.get(*aor).is_some_and(|active| !active.pending.is_empty());
        let mut next: Vec<Aor> = self.deferred.aors.keys().filter(|aor| !busy(aor)).take(width).cloned().collect();
        // All of them under way: their verdicts lead on.
        for aor in next.drain(..) {
            let record = self.record(&aor).unwrap_or_default();
            self.submit(now, &aor, record, Cause::Upkeep);
        }
    }

    /// The shard is gone: what was promised goes to its next owner.
    pub fn hand_in(&mut self) {
        for (aor, base) in std::mem::take(&mut self.deferred.aors) {
            if let Some((base, record)) = base.zip(self.record(&aor)) {
                let promise = Box::new(Promise { base, record });
                self.outputs.push_back(ShardOutput::HandIn { aor, promise });
            }
        }
    }

    /// Whether a write whose fate is not known may be answered as if it had succeeded.
    pub(super) fn may_defer(&self, now: Now, aor: &Aor, record: &Record, cause: &Cause, error: StoreError) -> bool {
        let Cause::Register { touched, .. } = cause else { return false };
        let known = self.record(aor).unwrap_or_default();
        self.config.defers && error == StoreError::Unavailable && only_refreshes(&known, record, touched, now.unix)
    }
}

/// Whether `new` differs from `old` in nothing that a wake-up depends on: the same bindings, of which those touched are refreshed
/// by the same phone with the same push target.
fn only_refreshes(old: &Record, new: &Record, touched: &[BindingKey], unix: u64) -> bool {
    let kept = old.live(unix).all(|binding| new.get(binding.key).is_some());
    let known = new.bindings.iter().all(|binding| old.get(binding.key).is_some_and(|before| before.is_live(unix)));
    let same = |key: &BindingKey| {
        old.get(*key).zip(new.get(*key)).is_some_and(|(before, after)| after.is_live(unix) && is_refresh(before, after))
    };
    kept && known && touched.iter().all(same)
}

fn is_refresh(before: &Binding, after: &Binding) -> bool {
    let same_phone = before.instance == after.instance && before.reg_id == after.reg_id && before.q == after.q;
    // Where a push leads to the phone, its address is worth no more than its connection, and goes with this node anyway.
    let same_place = before.push.is_some() || before.contact == after.contact && before.path == after.path;
    same_phone && same_place && before.push == after.push && before.dead_push == after.dead_push
}
