//! Where a cluster keeps its bindings: Redis, alone, behind Sentinels, or as Redis Cluster.
//!
//! [`RedisStore`] keeps the records of all shards behind the registrar's port [`reveille_registrar::replica::Replica`], and
//! with them what the nodes of a cluster have to agree on: who owns a shard ([`RedisStore::claim`]), who lives
//! ([`RedisStore::renew`]), and the map from shards to nodes that edges follow ([`RedisStore::watch_map`]).
//!
//! A record is written by one server-side function, which looks at the shard's *fence* first: a node that has lost a shard, and
//! does not know it yet, changes nothing. Redis never sees an address, a contact or a push token in the clear (P-109).
//! `docs/redis.md` says which keys, functions and rights there are, and what each level of durability promises.
//!
//! * `store` is that store, `claims` and `deferred` what owners do, [`members`] the leases and the map, [`feed`] the change
//!   feed, `load` reading a shard, [`standby`] the records of shards that this node would take over;
//! * `writer` is group commit, `call` what it sends, `gateway` the way to the servers, `topology` which server that is, `link` the connections;
//! * [`secrets`] is what nodes share for a time, [`dead`] what they tell each other of dead push tokens;
//! * `seal` is what a record looks like in there, `functions.lua` what happens there.

mod backoff;
mod call;
mod claims;
pub mod config;
pub mod dead;
mod deferred;
pub mod error;
pub mod feed;
mod functions;
mod gateway;
mod held;
mod keys;
mod link;
mod load;
pub mod members;
pub mod metrics;
mod pending;
mod reply;
mod seal;
pub mod secrets;
pub mod standby;
mod store;
mod topology;
mod writer;

pub use claims::Fence;
pub use config::{ConfigError, Credentials, Endpoint, Mode, RedisConfig, Tls, WaitReplicas};
pub use dead::{Buried, BuriedWatch};
pub use deferred::Deferred;
pub use error::{ClaimError, CommandError, ConnectError, DeferError, FencedError, LeaseError};
pub use feed::{Change, Feed, FeedError, Followed};
pub use members::{MapEvent, MapWatch, Member, Ownership};
pub use metrics::Metrics;
pub use seal::{Keyring, KeyringError, OpenError};
pub use secrets::{Secret, SecretName};
pub use standby::{StandbyMetrics, StandbyStatus};
pub use store::RedisStore;
