//! Bindings of an address-of-record, and the sharded actors that own them.
//!
//! * [`aor`] is the key everything hangs on; [`flow`] names the connection a binding came over.
//! * [`record`] is what is known of one address-of-record, and its compact form in memory and in the store.
//! * [`shard`] holds the rules: registration, look-up, the bucket of waiting requests. Plain values, no runtime.
//! * [`dead`] is what is known of dead push tokens across all records.
//! * [`replica`] is the port to whoever keeps the records.
//! * [`registrar`] is the shell: one actor per shard, gates in front, supervision behind.

pub mod actor;
pub mod aor;
pub mod dead;
pub mod flow;
pub mod metrics;
pub mod record;
pub mod registrar;
pub mod replica;
pub mod shard;

pub use aor::{Aliases, Aor, AorError};
pub use dead::{DeadMark, DeadTargets};
pub use flow::{FlowProbe, FlowRef, Liveness, NodeTag, Transport};
pub use record::{Binding, BindingKey, Record};
pub use registrar::{Busy, HomeEvents, Registrar, RegistrarConfig};
pub use replica::{Acks, Replica, StoreError, StoreFull, Write};
pub use shard::{
    BindingView, ContactUpdate, ContactsUpdate, HomeEvent, NextRequest, Now, RegisterError, RegisterRequest,
    ResolveRequest, Shard, ShardInput, ShardOutput, Target, WakeRequest, WorkerRef,
};
