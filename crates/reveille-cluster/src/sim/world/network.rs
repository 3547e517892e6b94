//! The network of a history.

use std::cmp::Reverse;

use super::{Event, QUIET, World};
use crate::sim::store::Micros;

impl World {
    /// Puts a message on its way: late, twice or never, as it happens.
    pub(super) fn send(&mut self, event: Event) {
        let storm = self.storm_until > self.now;
        let quiet = self.now >= QUIET;
        if let Some((slot, _)) = event.process()
            && self.slots[slot].cut_until > self.now
        {
            return;
        }
        if !quiet && self.random.one_in(if storm { 6 } else { 60 }) {
            return;
        }
        if !quiet && self.random.one_in(if storm { 8 } else { 40 }) {
            let at = self.now + self.delay();
            self.push(at, event.clone());
        }
        let at = self.now + self.delay();
        self.push(at, event);
    }

    pub(super) fn delay(&mut self) -> Micros {
        let storm = self.storm_until > self.now;
        let calm = self.random.range(300, 5_000);
        if self.now >= QUIET {
            return calm;
        }
        if self.random.one_in(if storm { 6 } else { 50 }) {
            return self.random.range(500_000, 3_000_000);
        }
        if self.random.one_in(if storm { 2 } else { 12 }) { self.random.range(20_000, 400_000) } else { calm }
    }

    pub(super) fn push(&mut self, at: Micros, event: Event) {
        self.next_event += 1;
        // What falls on one moment comes in any order.
        let order = self.random.next();
        self.queue.push(Reverse((at, order, self.next_event)));
        self.events.insert(self.next_event, event);
    }
}
