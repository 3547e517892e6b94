//! Load and faults for a whole cluster on one machine: real nodes, a real Redis, real TLS, the lab's push services, and phones
//! that sleep. `docs/faults.md` says what is done and what is checked.

mod callers;
mod cluster;
mod fault;
mod feed;
mod ledger;
mod node;
mod options;
mod relay;
mod report;
mod run;
mod servers;
mod traffic;
mod witness;

use std::{future::Future, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use options::FaultOptions;
use reveille_runtime::telemetry;

#[derive(Parser)]
#[command(name = "reveille-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Break a cluster again and again while it works, and check after each time that nothing was lost.
    Faults(FaultOptions),
    /// Run a node, as `reveille serve` does: so the harness needs no second program beside it.
    #[command(hide = true)]
    Serve(reveille::cli::ConfigFile),
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Faults(options) => ended(on_runtime(run::faults(options))),
        Verb::Serve(file) => match file.load() {
            Ok(config) => ended(
                telemetry::init(config.telemetry.format, &config.telemetry.level)
                    .context("logging")
                    .and_then(|()| on_runtime(reveille::node::run(config))),
            ),
            Err(code) => code,
        },
    }
}

fn on_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime")?.block_on(work)
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reveille-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
