//! Scenarios on one shard, without a runtime: time and the store move when the test says so.

mod deferred;
mod race;
mod refresh;
mod registration;
mod resolve;
mod stage;
mod wakeup;

pub(crate) use stage::start;
