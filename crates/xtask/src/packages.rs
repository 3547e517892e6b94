//! The programs that the tests talk to come from the distribution's packages.

use std::process::Command;

use anyhow::{Result, bail};

use crate::step::succeeds_silently;

/// A program the tests start, and the Debian package it comes with.
const NEEDED: &[(&str, &str)] =
    &[("sipp", "sip-tester"), ("redis-server", "redis-server"), ("nghttpd", "nghttp2-server")];

/// Installs the packages that are missing. Where that cannot be done, names them.
pub(crate) fn ensure() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        println!("    nothing is missing");
        return Ok(());
    }
    println!("    missing: {}", missing.join(" "));
    if let Some(privilege) = privilege() {
        // The lists of an image are often gone or old, and harmless to fetch again.
        let _ = apt(privilege, &["update", "-qq"]);
        let mut install = vec!["install", "-y", "--no-install-recommends"];
        install.extend(&missing);
        let _ = apt(privilege, &install);
    }
    let missing = self::missing();
    if !missing.is_empty() {
        bail!("these Debian packages are missing and could not be installed: {}", missing.join(" "));
    }
    Ok(())
}

fn missing() -> Vec<&'static str> {
    NEEDED.iter().filter(|(program, _)| !is_on_path(program)).map(|(_, package)| *package).collect()
}

fn is_on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
        // Services' programs are often in folders that are on root's path only.
        || ["/usr/sbin", "/sbin"].iter().any(|folder| std::path::Path::new(folder).join(program).is_file())
}

/// How to become root without being asked for a password; `None` where there is no way, or no apt.
fn privilege() -> Option<&'static [&'static str]> {
    if !succeeds_silently(Command::new("apt-get").arg("--version")) {
        return None;
    }
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if is_root {
        return Some(&[]);
    }
    succeeds_silently(Command::new("sudo").args(["-n", "true"])).then_some(&["sudo", "-n"])
}

fn apt(privilege: &[&str], arguments: &[&str]) -> bool {
    let words = [privilege, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], arguments].concat();
    let Some((program, arguments)) = words.split_first() else { return false };
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_on_the_path() {
        assert!(is_on_path("sh"));
        assert!(!is_on_path("no-such-program-anywhere"));
    }
}
