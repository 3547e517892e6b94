//! What a context speaks of: branches, and what is to be done about them.

use reveille_sip::{header::HeaderId, message::Message};

/// Names a branch of one context; chosen by the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchId(pub u32);

/// How far a branch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchKind {
    /// The request was forwarded; a response is to come.
    Forwarded,
    /// The target is being woken; there is nothing yet that a CANCEL message could end (RFC 8599 §5.6.2).
    Waiting,
}

/// What the user of a context is to do.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "outputs are moved once, from the queue to their consumer; a box would cost more"
)]
pub enum ForkOutput {
    /// Send this response up, our Via popped.
    Forward {
        /// Whose response it is.
        branch: BranchId,
        /// The response as it came.
        msg: Message,
        /// Challenges of other branches, to be added to this 401 or 407 as they stand (§16.7 step 7, RFC 8760; S-083).
        challenges: Vec<(HeaderId, String)>,
    },
    /// Send up a final response of our own making.
    Respond {
        /// Its status.
        status: u16,
    },
    /// End this branch: CANCEL it where it was forwarded, give up the wake-up where it waits.
    CancelBranch {
        /// The branch.
        branch: BranchId,
        /// The value of the CANCEL's Reason header (RFC 3326); empty where the caller cancelled, whose own Reason is then copied.
        reason: &'static str,
    },
    /// Every branch of this group has ended without a 2xx or 6xx: add the next group, or say [`all_added`](super::ResponseContext::all_added).
    NextGroup,
    /// Nothing more will come: drop the context.
    Finished,
}
