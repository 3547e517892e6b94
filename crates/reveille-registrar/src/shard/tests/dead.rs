//! Dead tokens among several addresses-of-record (P-156), whose shards share a table of marks.

use std::{sync::Arc, time::Duration};

use prometheus::IntGauge;
use reveille_push::Outcome;

use super::stage::*;
use crate::{ContactUpdate, DeadTargets, RegisterError, dead::MOST, shard::ShardConfig};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn table() -> Arc<DeadTargets> {
    Arc::new(DeadTargets::new(&[1; 32], MOST, IntGauge::new("marks", "marks").unwrap()))
}

/// Alice's shard and bob's, on one node.
fn two(config: ShardConfig) -> (Stage, Stage) {
    let dead = table();
    (Stage::beside(config, &dead), Stage::beside(config, &dead))
}

/// The service's word on the token that was pushed to last.
fn dies(stage: &mut Stage) {
    stage.call();
    stage.push_answered(stage.pushes.len() - 1, Outcome::Unregistered { since: None });
}

#[test]
fn p156_an_fcm_token_that_died_for_one_is_barred_for_all_for_a_day() {
    for accept_dead_push in [false, true] {
        let (mut alice, mut bob) = two(ShardConfig { accept_dead_push, ..ShardConfig::default() });
        let token = || fcm("192.0.2.1", "dQw4:APA91bF_x");
        alice.registers(token());
        dies(&mut alice);
        let answer = bob.registers(token()).registered();
        match accept_dead_push {
            false => assert_eq!(answer, Err(RegisterError::DeadPush)),
            true => assert_eq!(answer.unwrap()[0].push, None, "a 2xx, and no promise of push"),
        }
        assert!(bob.registers(fcm("192.0.2.2", "another:token")).registered().is_ok(), "one token only");
        bob.pass(DAY);
        assert!(bob.registers(token()).registered().unwrap().iter().any(|view| view.push.is_some()));
    }
}

#[test]
fn p156_an_apns_token_may_come_back_once_for_whomever() {
    let (mut alice, mut bob) = two(ShardConfig::default());
    alice.registers(phone("192.0.2.1", 1));
    dies(&mut alice);
    // A REGISTER newer than Apple's word is believed (P-154).
    assert!(bob.registers(phone("192.0.2.2", 1)).registered().unwrap()[0].push.is_some());
    dies(&mut bob);
    for stage in [&mut alice, &mut bob] {
        assert_eq!(stage.registers(phone("192.0.2.1", 1)).registered(), Err(RegisterError::DeadPush));
    }
    alice.registers(ContactUpdate { expires: 200_000, ..phone("192.0.2.1", 2) }).registered().unwrap();
    alice.pass(DAY);
    alice.registers(phone("192.0.2.1", 1)).registered().unwrap();
}

/// Two users of one phone, both registered before it lost the app: two pushes fail, and the token has died once.
#[test]
fn p156_one_death_heard_twice_is_one_verdict() {
    let (mut alice, mut bob) = two(ShardConfig::default());
    alice.registers(phone("192.0.2.1", 1));
    bob.registers(phone("192.0.2.2", 1));
    dies(&mut alice);
    dies(&mut bob);
    assert!(alice.registers(phone("192.0.2.1", 1)).registered().unwrap()[0].push.is_some());
}

/// P-171: the table is empty after a restart; what others tell is heeded as what was heard here.
#[test]
fn p171_marks_told_by_others_are_heeded_after_a_restart() {
    let dead = table();
    let mut alice = Stage::beside(ShardConfig::default(), &dead);
    let token = || fcm("192.0.2.1", "dQw4:APA91bF_x");
    alice.registers(token());
    dies(&mut alice);
    let restarted = table();
    dead.untold().into_iter().for_each(|mark| restarted.hear(mark, UNIX));
    let mut bob = Stage::beside(ShardConfig::default(), &restarted);
    assert_eq!(bob.registers(token()).registered(), Err(RegisterError::DeadPush));
}
