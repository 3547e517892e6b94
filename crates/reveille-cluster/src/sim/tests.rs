use super::*;

/// The rules hold in these histories. More of them: `examples/simulate.rs`.
#[test]
fn no_history_breaks_a_rule() {
    let mut stats = Stats::default();
    for seed in 0..300 {
        match run(seed, Rules::default()) {
            Ok(one) => stats.add(&one),
            Err(violation) => panic!("{violation}"),
        }
    }
    // That the harsh orders did come up, or the histories would prove nothing.
    assert!(stats.promised > 500 && stats.handed_in > 50, "{stats:?}");
    assert!(stats.fenced > 50 && stats.conflicts > 300 && stats.claims_known_again > 300, "{stats:?}");
    assert!(stats.lossy > 5 && stats.takeovers > 30, "{stats:?}");
}

#[test]
fn a_seed_is_a_history() {
    for seed in [3, 44] {
        let (one, other) = (run(seed, Rules::default()), run(seed, Rules::default()));
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
    }
}

/// The first rule that is broken when the protocol is, over some seeds: every kind that came up.
fn broken(rules: Rules) -> Vec<u8> {
    let mut kinds: Vec<u8> = (0..400)
        .filter_map(|seed| run(seed, rules).err())
        .map(|violation| match violation.broken {
            Broken::Lost { .. } => 1,
            Broken::TwoWriters { .. } | Broken::TakenFromTheLiving { .. } => 2,
            Broken::AcknowledgedLate { .. } => 3,
            Broken::Unsettled { .. } => 4,
            Broken::PromiseBroken { .. } => 5,
            Broken::Moved { .. } => 6,
            Broken::SlowTakeover(_) => 7,
            Broken::Endless => 8,
        })
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[test]
fn a_store_without_fences_is_caught() {
    assert!(broken(Rules { ignore_fence: true, ..Rules::default() }).contains(&2));
}

#[test]
fn a_store_without_fences_and_versions_loses_writes() {
    let rules = Rules { ignore_fence: true, ignore_version: true, ..Rules::default() };
    let kinds = broken(rules);
    assert!(kinds.contains(&1) || kinds.contains(&2), "{kinds:?}");
}

#[test]
fn leases_shorter_than_believed_are_caught() {
    assert!(broken(Rules { short_leases: true, ..Rules::default() }).contains(&2));
}

#[test]
fn a_node_that_trusts_its_lease_too_long_is_caught() {
    assert!(broken(Rules { no_margin: true, ..Rules::default() }).contains(&3));
}

#[test]
fn claiming_from_the_living_is_caught() {
    assert!(broken(Rules { claim_the_living: true, ..Rules::default() }).contains(&2));
}

#[test]
fn merging_by_arrival_is_caught() {
    assert!(!broken(Rules { merge_by_arrival: true, ..Rules::default() }).is_empty());
}

#[test]
fn promises_that_are_not_handed_in_are_caught() {
    assert_eq!(broken(Rules { forget_promises: true, ..Rules::default() }), [5]);
}

#[test]
fn acknowledging_too_early_or_too_late_is_caught() {
    assert!(broken(Rules { early_ack: true, ..Rules::default() }).contains(&1));
    assert!(broken(Rules { ack_lapsed: true, ..Rules::default() }).contains(&3));
}
