//! What push budgets have been spent, for the next owner of the shard (P-116).
//!
//! The budgets of a shard are in memory. Where others share the store, the shard leaves a note there of the tokens that have used up half
//! of a budget, whenever one comes to a half, to three quarters, or to the end: an owner that dies leaves no more than a half
//! unsaid. An owner that hands the shard over leaves a note of everything before it lets go. The next owner reads the note while it serves
//! already.

use std::time::{Duration, Instant};

use super::{Now, Shard, ShardOutput, budget::Budgets};
use crate::record::Fingerprint;

/// Octets of a note about one token: fingerprint, pushes for calls, pushes of a minute and of an hour, in network order.
const ENTRY: usize = 8 + 3 * 2;
/// Tokens in one note. A shard with more that are pushed so often has other troubles.
const MOST: usize = 4_096;

/// Whether a note is to be left.
#[derive(Default)]
pub(super) struct Notes {
    /// Something has changed that the last note does not say.
    is_due: bool,
    /// One is on its way to the store. There is one at a time, so none overtakes another.
    under_way: bool,
}

impl Shard {
    /// A token came to the next quarter of a budget.
    pub(super) fn note_spending(&mut self, now: Now) {
        self.notes.is_due |= self.config.defers;
        self.leave_note(now, |used| used >= 0.5);
    }

    /// Leaves a note of all that was spent: the shard is handed over. Whether it has arrived, [`Shard::leaves_note`] says.
    pub fn note_everything(&mut self, now: Now) {
        self.notes.is_due |= self.config.defers && !self.budgets.is_empty();
        self.leave_note(now, |used| used > 0.0);
    }

    /// Whether a note is on its way to the store.
    pub fn leaves_note(&self) -> bool {
        self.notes.under_way
    }

    /// The last note is in the store, or was given up.
    pub(super) fn note_left(&mut self, now: Now) {
        self.notes.under_way = false;
        self.leave_note(now, |used| used >= 0.5);
    }

    fn leave_note(&mut self, now: Now, counts: impl Fn(f32) -> bool) {
        if self.notes.is_due && !self.notes.under_way {
            self.notes = Notes { is_due: false, under_way: true };
            self.outputs.push_back(ShardOutput::Note(written(&self.budgets, now.mono, counts)));
        }
    }

    /// The note of an earlier owner, which the store has had for `age`.
    pub(super) fn note_found(&mut self, now: Now, note: &[u8], age: Duration) {
        let (entries, _) = note.as_chunks::<ENTRY>();
        for [f0, f1, f2, f3, f4, f5, f6, f7, c0, c1, m0, m1, h0, h1] in entries.iter().take(MOST) {
            let target = Fingerprint(u64::from_be_bytes([*f0, *f1, *f2, *f3, *f4, *f5, *f6, *f7]));
            let used = [[*c0, *c1], [*m0, *m1], [*h0, *h1]].map(|used| f32::from(u16::from_be_bytes(used)));
            self.budgets.inherit(target, used, age, now.mono);
        }
    }
}

fn written(budgets: &Budgets, now: Instant, counts: impl Fn(f32) -> bool) -> Vec<u8> {
    let mut note = Vec::new();
    for (target, used) in budgets.used(now, counts).take(MOST) {
        note.extend_from_slice(&target.0.to_be_bytes());
        for used in used {
            // Rounded up: what is begun counts as spent.
            note.extend_from_slice(&(used.ceil() as u16).to_be_bytes());
        }
    }
    note
}
