//! The command line.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{self, Config, EX_CONFIG},
    lab_pns::LabPnsOptions,
};

/// A SIP push proxy and registrar: wakes suspended phones for their calls (RFC 8599).
#[derive(Debug, Parser)]
#[command(name = "reveille", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the command can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node.
    Serve(ConfigFile),
    /// Check a configuration and say everything that is wrong with it.
    Check(ConfigFile),
    /// Look at registrations on a running node.
    #[command(subcommand)]
    Bindings(BindingsVerb),
    /// Look at the cluster that a running node is part of.
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// Have a node give its shards to others, move its connections and end, as SIGTERM does.
    Drain(DrainNode),
    /// Show the main job on this machine: phones sleep, are called, are woken and answer.
    Demo(DemoOptions),
    /// Run the lab's push services alone: APNs, FCM and Web Push on this machine, with faults on order.
    LabPns(LabPnsOptions),
}

/// What can be done with registrations.
#[derive(Debug, Subcommand)]
pub enum BindingsVerb {
    /// Show what is registered for an address-of-record: where its phones are and whether they can be woken.
    Show(ShowBindings),
}

/// What can be done with a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterVerb {
    /// Show its nodes: what they do, how many shards each owns, and whether they live.
    Status(ShowCluster),
}

/// Whose view of the cluster to show.
#[derive(Debug, Args)]
pub struct ShowCluster {
    /// The node's configuration: says where its admin port is and which token opens it.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Print the node's answer as it is, in JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which node to drain.
#[derive(Debug, Args)]
pub struct DrainNode {
    /// Its `node.id`.
    pub node: String,
    /// The configuration of any node of the cluster: it passes the word on.
    #[command(flatten)]
    pub config: ConfigFile,
}

/// Whose bindings to show.
#[derive(Debug, Args)]
pub struct ShowBindings {
    /// The address-of-record, as `sip:bob@example.com`.
    pub aor: String,
    /// The node's configuration: says where its admin port is and which token opens it.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Print the node's answer as it is, in JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which configuration.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration, a TOML file. Keys can be overridden as REVEILLE__SECTION__KEY.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

impl ConfigFile {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// With the exit code [`EX_CONFIG`], after every fault was printed to standard error.
    pub fn load(&self) -> Result<Config, ExitCode> {
        config::load(&self.config).map_err(|faults| {
            eprintln!("{faults}");
            ExitCode::from(EX_CONFIG)
        })
    }
}

/// How to show the demo.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct DemoOptions {
    /// Print the timeline as JSON, one object a line.
    #[arg(long)]
    pub json: bool,
    /// Leave the node and the lab's push service running, for a softphone of your own.
    #[arg(long)]
    pub keep: bool,
}

/// `reveille check`: says that all is well, and what is worth a warning.
pub fn check(file: &ConfigFile) -> ExitCode {
    match file.load() {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            println!("{}: no faults", file.config.display());
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn verbs_and_options_are_read() {
        let cli = Cli::try_parse_from(["reveille", "serve", "-c", "a.toml"]).unwrap();
        assert!(matches!(cli.command, Command::Serve(file) if file.config.as_os_str() == "a.toml"));
        let cli = Cli::try_parse_from(["reveille", "demo", "--json", "--keep"]).unwrap();
        assert!(matches!(cli.command, Command::Demo(DemoOptions { json: true, keep: true })));
        for bad in [&["reveille"][..], &["reveille", "check"], &["reveille", "demo", "-c", "a.toml"]] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
