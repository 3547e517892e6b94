//! `reveille check`: its exit codes, what it prints, and the environment over the file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const GOOD: &str =
    "domains = [\"example.com\"]\nauth.mode = \"none\"\n[[listener]]\ntransport = \"udp\"\naddr = \"127.0.0.1:5060\"\n";

fn check(file: &Path, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("REVEILLE__")) {
        command.env_remove(name);
    }
    command.arg("check").arg("-c").arg(file).envs(environment.iter().copied()).output().unwrap()
}

#[test]
fn a_good_file_is_0_and_a_bad_one_is_78_with_every_fault_on_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reveille.toml");
    fs::write(&file, GOOD).unwrap();
    let output = check(&file, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("no faults\n"));

    fs::write(&file, format!("{GOOD}[registrar]\nshards = 48\n[node]\ncolour = 1\n")).unwrap();
    let output = check(&file, &[]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    assert!(lines[0].starts_with("node.colour: unknown key"), "{printed}");
    assert_eq!(lines[1], "registrar.shards: must be a power of two up to 32768, got 48");
    assert!(output.stdout.is_empty());

    assert_eq!(check(&folder.path().join("gone.toml"), &[]).status.code(), Some(78));
}

#[test]
fn the_environment_goes_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reveille.toml");
    fs::write(&file, format!("{GOOD}[registrar]\nshards = 48\n")).unwrap();
    let mended = [
        ("REVEILLE__REGISTRAR__SHARDS", "64"),
        ("REVEILLE__DOMAINS", r#"["a.example", "b.example"]"#),
        ("REVEILLE__PUSH__CALL_WAIT", "20s"),
        ("REVEILLE_SERVICE_HOST", "10.0.0.1"), // what Kubernetes sets for a Service of that name is not ours
    ];
    let output = check(&file, &mended);
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    let output = check(&file, &[("REVEILLE__REGISTRAR__SHARDS", "64"), ("REVEILLE__PUSH__CALL_WAIT", "20h")]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("push.call_wait: must be between"), "{output:?}");
}
