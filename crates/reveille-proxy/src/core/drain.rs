//! A node that drains: what it begins no more, and what becomes of requests that are in hand when the time is up.

use std::sync::atomic::Ordering;

use reveille_transaction::BranchId;
use smallvec::SmallVec;

use super::{
    Core, Now,
    context::{Origin, Work},
};
use crate::ingress::Purpose;

/// Why a phone stops to ring (RFC 3326).
const REASON: &str = "SIP;cause=503;text=\"Service Unavailable\"";

impl Core {
    pub(super) fn draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// Whether the drain is so far that this neighbour gets nothing new begun. Other nodes do: they have nobody else to ask.
    pub(super) fn is_closing_to(&self, origin: &Origin) -> bool {
        origin.purpose != Purpose::Cluster && self.shared.closing.load(Ordering::Relaxed)
    }

    /// The drain's time is up: whoever is connected here and has no answer yet gets 503, and what rings for them stops ringing. What
    /// came from other nodes they take elsewhere when we are gone.
    pub fn give_up(&mut self, now: Now) {
        let unanswered = |work: &Work| matches!(work, Work::Deliver(delivery) if !delivery.answered);
        let left: Vec<u64> = self
            .contexts
            .iter()
            .filter(|(_, context)| context.origin.purpose != Purpose::Cluster && unanswered(&context.work))
            .map(|(id, _)| *id)
            .collect();
        for id in left {
            let Some(delivery) = self.delivery(id) else { continue };
            let branches: SmallVec<[BranchId; 2]> = delivery.branches.iter().map(|branch| branch.id).collect();
            for branch in branches {
                self.cancel_branch(now, id, branch, REASON);
            }
            self.finish_with(now, id, 503);
        }
        self.settle(now, None);
    }
}
