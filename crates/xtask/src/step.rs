//! Steps: each is announced, timed, and ends the run if it fails.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A run of steps, with what each took.
pub(crate) struct Run {
    started: Instant,
    done: Vec<(String, String)>,
}

impl Run {
    /// Goes to the root of the workspace, where every step runs.
    pub(crate) fn start() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        std::env::set_current_dir(&root).with_context(|| format!("cannot go to {}", root.display()))?;
        Ok(Self { started: now(), done: Vec::new() })
    }

    /// Runs a function as a step.
    pub(crate) fn step(&mut self, name: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("==> {name}");
        let started = now();
        act().with_context(|| format!("step \"{name}\""))?;
        let took = seconds(started.elapsed());
        println!("<== {name}: {took}");
        self.done.push((name.to_owned(), took));
        Ok(())
    }

    /// Runs a command as a step; its output is shown.
    pub(crate) fn command(&mut self, name: &str, mut command: Command) -> Result<()> {
        self.step(name, || {
            let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
            if !status.success() {
                bail!("{} ended with {status}", line(&command));
            }
            Ok(())
        })
    }

    /// Says that a step is left out, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("==> {name}: SKIPPED: {why}");
        self.done.push((name.to_owned(), format!("skipped: {why}")));
    }

    /// Says something worth knowing.
    pub(crate) fn note(&self, text: &str) {
        println!("    note: {text}");
    }

    /// Sums up.
    pub(crate) fn finish(self) {
        println!("\nxtask: all steps passed in {}", seconds(self.started.elapsed()));
        for (name, outcome) in self.done {
            println!("  {name:<16} {outcome}");
        }
    }
}

/// A cargo command, by the cargo that runs us.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    if in_ci() {
        // Each build there is from nothing and is thrown away. What incremental builds would use again is two fifths of the folder,
        // and line tables are half of every test's program; a panic names its line without them.
        command.env("CARGO_INCREMENTAL", "0").env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_TEST_DEBUG", "0");
    }
    command
}

/// Whether an integration server runs us, as they all say by `CI`.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// Whether `cargo name` is installed.
pub(crate) fn has_cargo_command(name: &str) -> bool {
    succeeds_silently(cargo([name, "--version"]).stdin(Stdio::null()))
}

/// Whether rustup has a toolchain of this version.
pub(crate) fn has_toolchain(version: &str) -> bool {
    succeeds_silently(Command::new("rustup").args(["run", version, "cargo", "--version"]))
}

/// Whether the command succeeds; what it prints is not shown.
pub(crate) fn succeeds_silently(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The workspace's `rust-version`.
pub(crate) fn minimum_rust_version() -> Result<String> {
    let manifest = std::fs::read_to_string("Cargo.toml").context("cannot read Cargo.toml")?;
    manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version")?.split('"').nth(1).map(str::to_owned))
        .context("Cargo.toml has no rust-version")
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[allow(clippy::disallowed_methods, reason = "a command of the developer measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
