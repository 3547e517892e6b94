//! The hop from edge to home.
//!
//! The edge half of the request path knows which address-of-record a request is for; the home half owns it. On one node
//! the hop is the function call of this trait, and the answers come back as [`HomeEvent`]s to the worker that asked.

use reveille_registrar::{
    aor::Aor,
    shard::{HomeEvent, ShardInput, WorkerRef},
};

/// Reaches the shard that owns an address-of-record.
pub trait Homes: Send + Sync {
    /// Queues `input` for the owner of `aor`. Requests are refused when the shard has no room (503 upstream);
    /// [`ShardInput::Leave`] is a fact and always finds room.
    fn ask(&self, aor: &Aor, input: ShardInput) -> Result<(), HomeBusy>;
}

/// The shard's queue is full, or the shard is being restarted: 503 with Retry-After.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the home of this address has no room")]
pub struct HomeBusy;

/// A home's answer on its way to the worker and context that asked.
pub struct HomeAnswer {
    /// Who asked.
    pub to: WorkerRef,
    /// What the shard says.
    pub event: HomeEvent,
}

/// On one node the hop is a function call.
impl Homes for reveille_registrar::Registrar {
    fn ask(&self, aor: &Aor, input: ShardInput) -> Result<(), HomeBusy> {
        self.send(aor, input).map_err(|_| HomeBusy)
    }
}
