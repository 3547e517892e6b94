//! The demo as a user runs it: the binary, its exit code, its timeline.

use std::process::Command;

/// The main job on real parts: all three phones are woken and answer, each INVITE arrives once, and no push request leaves
/// without a valid credential (P-122).
#[test]
fn the_demo_succeeds_and_machines_can_read_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_reveille")).args(["demo", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answered = lines.iter().filter(|line| line["answered"] == true && line["invites"] == 1).count();
    assert_eq!(answered, 3);
    let summary = lines.last().unwrap();
    assert_eq!((summary["answered"].as_u64(), summary["unauthenticated_push_requests"].as_u64()), (Some(3), Some(0)));
    assert!(!text.contains('\u{1b}'), "no colour for machines");
}

/// For people the same story; colour only on a terminal.
#[test]
fn the_timeline_for_people_is_plain_in_a_pipe() {
    let output = Command::new(env!("CARGO_BIN_EXE_reveille")).arg("demo").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("3 of 3 calls answered"), "{text}");
    assert!(!text.contains('\u{1b}'));
}
