//! Who is in the cluster, and who owns which shard.
pub mod fence;
pub mod placement;
pub mod roster;
#[cfg(test)]
mod testing;
