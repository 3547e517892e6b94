//! Scenarios on one worker's core: what the network says, what homes say, and what leaves.

mod bench;
mod bob;
mod calls;
mod dialogs;
mod drain;
mod moves;
mod nodes;
mod pins;
mod rebound;
mod refusals;
mod registrations;
mod trust;
mod workers;
