//! Scenarios on one shard, without a runtime: time and the store move when the test says so.

mod dead;
mod deferred;
mod notes;
mod race;
mod refresh;
mod registration;
mod resolve;
mod stage;
mod versions;
mod wakeup;

pub(crate) use stage::start;
