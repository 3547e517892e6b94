//! Whether the disk has room for what a run builds. A linker that finds none says "Bus error" and nothing else.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::step::in_ci;

/// What a run from nothing takes in the target folder, in MiB, with room to spare: 5.9 GB were measured.
const NEEDED: u64 = 8 * 1024;
/// The same in CI, where less is kept: 2.2 GB were measured.
const NEEDED_IN_CI: u64 = 4 * 1024;
/// What a run needs beside a target folder that has been built in: new versions of some of it, and what tests leave for a time.
const NEEDED_AGAIN: u64 = 2 * 1024;

/// Fails, with the figure and the mend, where there is too little room.
pub(crate) fn ensure() -> Result<()> {
    let target = target();
    // The folder may not be there yet.
    let place = target.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let output = Command::new("df").args(["--output=avail", "--block-size=1M"]).arg(place).output().context("df")?;
    let free = free(&String::from_utf8_lossy(&output.stdout)).context("df names no figure")?;
    let is_built = std::fs::read_dir(target.join("debug/deps")).is_ok_and(|mut deps| deps.next().is_some());
    println!("    {free} MiB are free for {}", target.display());
    enough(free, is_built, in_ci()).with_context(|| {
        format!(
            "free some (`cargo clean` empties {}), or let CARGO_TARGET_DIR name a folder on another disk",
            target.display()
        )
    })
}

/// Where cargo builds.
fn target() -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    std::path::absolute(&folder).unwrap_or(folder)
}

/// The figure in what `df` prints below its heading.
fn free(printed: &str) -> Option<u64> {
    printed.lines().nth(1)?.trim().parse().ok()
}

fn enough(free: u64, is_built: bool, in_ci: bool) -> Result<()> {
    let needed = match (is_built, in_ci) {
        (true, _) => NEEDED_AGAIN,
        (false, true) => NEEDED_IN_CI,
        (false, false) => NEEDED,
    };
    if free < needed {
        bail!("{free} MiB are free where cargo builds, and {needed} MiB are needed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_df_prints_is_read() {
        assert_eq!(free("Avail\n 28671\n"), Some(28_671));
        assert_eq!(free("df: no such file\n"), None);
    }

    #[test]
    fn too_little_room_is_told_with_both_figures() {
        assert!(enough(NEEDED, false, false).is_ok());
        let said = enough(NEEDED - 1, false, false).unwrap_err().to_string();
        assert!(said.contains("8191 MiB are free") && said.contains("8192 MiB are needed"), "{said}");
    }

    #[test]
    fn less_is_needed_in_ci_and_where_all_is_built() {
        assert!(enough(NEEDED_IN_CI, false, true).is_ok() && enough(NEEDED_IN_CI, false, false).is_err());
        assert!(enough(NEEDED_AGAIN, true, false).is_ok() && enough(NEEDED_AGAIN - 1, true, true).is_err());
    }
}
