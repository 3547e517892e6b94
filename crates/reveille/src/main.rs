//! The `reveille` command. Exit codes: 0, 78 for a bad configuration, 1 for anything else that went wrong.

use std::{future::Future, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use reveille::{
    cli::{self, BindingsVerb, Cli, ClusterVerb, Command},
    config::Config,
    demo, lab_pns, node, operator,
};
use reveille_runtime::telemetry;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(file) => match file.load() {
            Ok(config) => ended(serve(config)),
            Err(code) => code,
        },
        Command::Check(file) => cli::check(&file),
        Command::Bindings(BindingsVerb::Show(show)) => match show.config.load() {
            Ok(config) => ended(on_runtime(operator::show_bindings(&config, &show.aor, show.json))),
            Err(code) => code,
        },
        Command::Cluster(ClusterVerb::Status(show)) => match show.config.load() {
            Ok(config) => ended(on_runtime(operator::show_cluster(&config, show.json))),
            Err(code) => code,
        },
        Command::Drain(drain) => match drain.config.load() {
            Ok(config) => ended(on_runtime(operator::drain(&config, &drain.node))),
            Err(code) => code,
        },
        Command::Demo(options) => ended(on_runtime(demo::run(options))),
        Command::LabPns(options) => ended(on_runtime(lab_pns::run(options))),
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::init(config.telemetry.format, &config.telemetry.level).context("logging")?;
    on_runtime(node::run(config))
}

fn on_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime")?.block_on(work)
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reveille: {error:#}");
            ExitCode::FAILURE
        }
    }
}
