//! How an edge leaves (S-139): idle connections first and a few at a time, those on which somebody is owed an answer when they have it.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use rand::{Rng, seq::SliceRandom};
use reveille_proxy::ingress::Held;
use tokio::time::Instant;

use crate::{edge::Edge, listener::Phase, queue::CloseReason};

/// Requests in hand that came or left as datagrams. They have no connection to close, but the node must not end before them.
#[derive(Debug, Default)]
pub(crate) struct InHand {
    held: AtomicUsize,
    /// Whether a call was among those that ended since [`InHand::is_quiet`] was asked.
    touched: AtomicBool,
}

impl InHand {
    /// Whether none is in hand, and no call was answered since this was asked last.
    fn is_quiet(&self) -> bool {
        self.held.load(Ordering::Acquire) == 0 && !self.touched.swap(false, Ordering::AcqRel)
    }
}

impl Held for InHand {
    fn hold(&self) -> bool {
        self.held.fetch_add(1, Ordering::AcqRel);
        true
    }

    fn release(&self, call: bool) {
        if call {
            self.touched.store(true, Ordering::Release);
        }
        self.held.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Edge {
    /// Stops accepting, then closes the open connections, about `rate` per second in jittered batches (0: as many as there are), and
    /// returns when the last is gone. One on which a request is in hand is left open until that is answered, but no longer than
    /// `patience`; requests that came as datagrams are waited for like that. Connections to other nodes come last, for calls of the
    /// others go over them. Datagrams are answered until [`Edge::shutdown`].
    pub async fn drain(&self, rate: u32, patience: Duration) {
        self.stop_accepting();
        let until = Instant::now() + patience;
        self.leave(false, rate, until).await;
        self.advance(Phase::Leaving);
        self.leave(true, 0, until).await;
    }

    /// Closes connections to other nodes, or all others, until none is left.
    async fn leave(&self, nodes: bool, rate: u32, until: Instant) {
        let table = &self.core.table;
        let (mut pending, mut allowance) = (Vec::new(), 0.0_f32);
        let (mut next_round, mut in_hand) = (Instant::now(), !nodes);
        loop {
            let now = Instant::now();
            if now >= until {
                self.close_all(nodes, CloseReason::Drain);
                in_hand = false;
            } else if pending.is_empty() && now >= next_round {
                next_round = now + QUIET;
                in_hand &= !table.datagrams_in_hand().is_quiet();
                pending = table.ids(nodes);
                pending.shuffle(&mut rand::rng());
            }
            let open = if nodes { self.is_busy() } else { self.has_others() };
            if !open && !in_hand {
                return;
            }
            let pause = STEP.mul_f32(rand::rng().random_range(0.5..1.5));
            allowance += rate as f32 * pause.as_secs_f32();
            let mut count = if rate == 0 { pending.len() } else { allowance as usize };
            allowance -= allowance.trunc();
            // One that must wait for its answer takes no other's place.
            while count > 0
                && let Some(id) = pending.pop()
            {
                count -= usize::from(table.leave_id(id));
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Time between two batches, on average.
const STEP: Duration = Duration::from_millis(100);
/// How long a connection must have been quiet after a call before it is closed: what follows an answer has this long to come.
const QUIET: Duration = Duration::from_secs(1);
