//! What a run may do differently.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::servers::Arrangement;

/// A run of faults.
#[derive(Clone, Debug, Args)]
pub(crate) struct FaultOptions {
    /// Faults to inject, one after the other.
    #[arg(long, default_value_t = 20)]
    pub(crate) cycles: u32,
    /// Chooses the faults, their victims and their times; printed, and a random one by default.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How the servers of Redis are arranged.
    #[arg(long, value_enum, default_value_t = Arrangement::Standalone)]
    pub(crate) redis: Arrangement,
    /// Home nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    pub(crate) homes: u8,
    /// Edge nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=20))]
    pub(crate) edges: u8,
    /// `cluster.lease` of every node.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) lease: Duration,
    /// Phones that sleep and are called.
    #[arg(long, default_value_t = 60)]
    pub(crate) phones: u16,
    /// Calls begun in a second.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) calls: f64,
    /// Only these kinds of fault, by their names in the report.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Begin no cycle after this time.
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    pub(crate) at_most: Duration,
    /// Go on after a violation, to count them all; the end is the same.
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Where to write the report, in JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where to keep the logs of the nodes; thrown away by default.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) logs: Option<PathBuf>,
}
