//! Runs histories of a simulated cluster.
fn main() {}
