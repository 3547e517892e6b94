//! Who is in the cluster, and who owns which shard. Plain values: time is an argument, and nothing here waits, sends or reads a
//! clock. A driver joins them to the store; `docs/cluster.md` tells the protocol and why it holds.
//!
//! * [`member`] is the node's own lease: when it renews, until when it may write, what it then is. It brings the [`roster`].
//! * [`placement`] says, by the roster, which node each shard belongs to.
//! * [`ownership`] takes and gives shards on a home, by claims on the [`fence`] of each.
//! * [`shard_map`] is what every edge routes by.
//! * [`deferred`] holds what was promised while the store was away, and the rule by which promises are merged.
//!
//! # Using it
//!
//! Hand every answer and event of the store to [`OwnLease`] and [`Ownership`] together with a clock read for that turn, and do
//! what their `poll_output` says. [`MemberOutput::Leased`], [`MemberOutput::Lapsed`] and [`MemberOutput::RosterChanged`] go to
//! the home's [`Ownership`] in that turn, and its [`Output::Look`] to the lease. Call `handle_timeout` when `poll_timeout` has come.
//!
//! A record is written under the epoch that [`Ownership::may_write`] gives for a clock read just then, and its success is
//! acknowledged only if it gives the same once more.

pub mod deferred;
pub mod fence;
pub mod member;
pub mod ownership;
pub mod placement;
pub mod roster;
pub mod shard_map;
#[cfg(feature = "simulation")]
pub mod sim;
#[cfg(test)]
mod testing;

pub use deferred::{Deferred, Merged, NotDeferrable, Promise, Registration, merge};
pub use fence::{Epoch, Fence, Incarnation};
pub use member::{Degraded, MemberConfig, MemberOutput, OwnLease, Standing};
pub use ownership::{Output, Ownership, OwnershipConfig};
pub use placement::{Candidate, Place, Placement};
pub use roster::{Lease, NodeInfo, Roles, Roster};
pub use shard_map::ShardMap;
