//! Development commands of the workspace. `cargo xtask test` runs what CI runs, in CI's order, and stops at the first failure;
//! `cargo xtask compliance` says which test proves which requirement.

mod compliance;
mod disk;
mod packages;
mod step;

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use step::{Run, cargo, has_cargo_command};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing, then check format, lints, tests, documentation and dependencies.
    Test,
    /// Check what docs/compliance.toml claims, and make docs/compliance.md of it.
    Compliance {
        /// Write nothing; fail where the page is not what it would be.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Test => test(),
        Verb::Compliance { check } => {
            Run::start().and_then(|mut run| run.step("compliance", || compliance::run(check)))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> Result<()> {
    let mut run = Run::start()?;
    run.step("disk", disk::ensure)?;
    run.step("packages", packages::ensure)?;
    run.command("format", cargo(["fmt", "--all", "--check"]))?;
    run.step("compliance", || compliance::run(true))?;
    run.command("lints", cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    tests(&mut run)?;
    run.command("doctests", cargo(["test", "--workspace", "--doc", "--locked", "--quiet"]))?;
    let mut documentation = cargo(["doc", "--workspace", "--no-deps", "--locked", "--quiet"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    run.command("documentation", documentation)?;
    dependencies(&mut run)?;
    minimum_rust(&mut run)?;
    run.finish();
    Ok(())
}

fn tests(run: &mut Run) -> Result<()> {
    if has_cargo_command("nextest") {
        run.command("tests", cargo(["nextest", "run", "--workspace", "--locked"]))
    } else {
        run.note("cargo-nextest is not installed, so cargo test runs the tests");
        // Without --doc, which comes as a step of its own, and without benches, which would run as tests.
        run.command("tests", cargo(["test", "--workspace", "--lib", "--bins", "--tests", "--locked"]))
    }
}

/// Licences, sources and banned crates need nothing but the lock file and the sources, those for other systems too; advisories need
/// their database from the network.
fn dependencies(run: &mut Run) -> Result<()> {
    if !has_cargo_command("deny") {
        run.skip("dependencies", "cargo-deny is not installed");
        return Ok(());
    }
    // Not offline: what is built here is only a part of the sources that the lock file names.
    run.command("dependencies", cargo(["deny", "--locked", "check", "bans", "licenses", "sources"]))?;
    let mut fetch = Command::new("timeout");
    fetch.args(["60", "cargo", "deny", "--locked", "fetch", "db"]);
    if !step::succeeds_silently(&mut fetch) {
        run.skip("advisories", "the advisory database cannot be had");
        return Ok(());
    }
    run.command("advisories", cargo(["deny", "--locked", "check", "--disable-fetch", "advisories"]))
}

/// The minimum Rust version is proven by its own toolchain. Where that is not installed, clippy's `incompatible_msrv`, which
/// knows since when the standard library has each item, has already looked.
fn minimum_rust(run: &mut Run) -> Result<()> {
    let version = step::minimum_rust_version()?;
    if !step::has_toolchain(&version) {
        run.skip(
            "minimum Rust",
            &format!("toolchain {version} is not installed; clippy has checked the standard library's part"),
        );
        return Ok(());
    }
    let mut check = Command::new("rustup");
    check.args(["run", &version, "cargo", "check", "--workspace", "--all-targets", "--locked", "--quiet"]);
    // Artefacts of another compiler would push those of this one out.
    check.env("CARGO_TARGET_DIR", format!("target/minimum-{version}"));
    run.command("minimum Rust", check)
}
