//! Where bindings are kept: the embedded engine.
//!
//! One node, no other service: [`EmbeddedStore`] keeps the records of all shards in a local durable key-value engine, behind
//! the registrar's port [`reveille_registrar::replica::Replica`]. A shard hands a record over and goes on; one thread gathers
//! whatever has been handed over, writes it with a single flush to the disk, and only then reports it as written.
//!
//! * [`embedded`] is that store, `writer` its thread, `queue` the bounded way to it;
//! * [`directory`] looks after the data directory: format, lock, permissions;
//! * `engine` is all that is known here of the engine underneath; `docs/store-engine.md` says why that one.

pub mod directory;
pub mod embedded;
mod engine;
pub mod metrics;
mod queue;
mod writer;

pub use directory::OpenError;
pub use embedded::{EmbeddedStore, StoreConfig};
pub use metrics::Metrics;
