//! Whatever the order in which things happen, a waiter hears one thing, and only while it waits (P-056, P-062, P-069).

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use proptest::prelude::*;
use reveille_push::Outcome;

use super::stage::*;
use crate::{ShardInput, StoreError, WorkerRef};

#[derive(Clone, Copy, Debug)]
enum Step {
    Call,
    /// The verdict on a push asked for, or on one answered before.
    Verdict(usize, u8),
    Register(u8),
    Unregister,
    /// The verdict on the oldest write without one.
    Written(bool),
    Leave(usize),
    Wait(u64),
    Rejected,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Call),
        3 => (0..4_usize, 0..6_u8).prop_map(|(push, outcome)| Step::Verdict(push, outcome)),
        3 => (1..3_u8).prop_map(Step::Register),
        1 => Just(Step::Unregister),
        4 => prop::bool::weighted(0.8).prop_map(Step::Written),
        2 => (0..6_usize).prop_map(Step::Leave),
        2 => prop_oneof![Just(1), Just(29), Just(31)].prop_map(Step::Wait),
        1 => Just(Step::Rejected),
    ]
}

fn outcome(n: u8) -> Outcome {
    match n {
        0 | 1 => Outcome::Accepted,
        2 => Outcome::Unregistered { since: None },
        3 => Outcome::Unavailable,
        4 => Outcome::Expired,
        _ => Outcome::Withdrawn,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn each_waiter_hears_one_fate(steps in proptest::collection::vec(step(), 1..30)) {
        let mut stage = Stage::new();
        stage.registers(phone("192.0.2.1", 1));
        let mut writes: Vec<u64> = Vec::new();
        let mut callers: Vec<WorkerRef> = Vec::new();
        let mut waiting: HashMap<WorkerRef, usize> = HashMap::new();
        let mut left: HashSet<WorkerRef> = HashSet::new();
        let mut answers: HashMap<WorkerRef, usize> = HashMap::new();
        let mut expected_answers: HashMap<WorkerRef, usize> = HashMap::new();
        for step in steps.iter().copied().map(Some).chain([None]) {
            let mut turns = Vec::new();
            match step {
                Some(Step::Call) => {
                    let (waiter, input) = stage.invite();
                    let turn = stage.give(input);
                    waiting.insert(waiter, turn.resolved().1.len());
                    callers.push(waiter);
                    turns.push(turn);
                }
                Some(Step::Verdict(push, n)) => {
                    if let Some(order) = stage.pushes.get(push) {
                        let (key, push) = (order.key, order.push);
                        turns.push(stage.give(ShardInput::PushAnswered { aor: aor(), key, push, outcome: outcome(n) }));
                    }
                }
                Some(Step::Register(token)) => {
                    let input = stage.register(vec![phone("192.0.2.1", token)]);
                    if let ShardInput::Register(request) = &input {
                        *expected_answers.entry(request.reply).or_default() += 1;
                    }
                    turns.push(stage.give(input));
                }
                Some(Step::Unregister) => {
                    let mut bare = contact("sip:alice@192.0.2.1");
                    bare.expires = 0;
                    let input = stage.register(vec![bare]);
                    if let ShardInput::Register(request) = &input {
                        *expected_answers.entry(request.reply).or_default() += 1;
                    }
                    turns.push(stage.give(input));
                }
                Some(Step::Written(kept)) if !writes.is_empty() => {
                    let write = writes.remove(0);
                    let result = if kept { Ok(()) } else { Err(StoreError::Unavailable) };
                    turns.push(stage.give(ShardInput::Written { write, result }));
                }
                Some(Step::Written(_)) => {}
                Some(Step::Leave(at)) => {
                    if let Some(&waiter) = callers.get(at) {
                        turns.push(stage.give(ShardInput::Leave { aor: aor(), waiter }));
                        left.insert(waiter);
                        waiting.insert(waiter, 0);
                    }
                }
                Some(Step::Wait(secs)) => turns.push(stage.pass(Duration::from_secs(secs))),
                Some(Step::Rejected) => {
                    let contacts = vec![phone("192.0.2.1", 1).uri];
                    turns.push(stage.give(ShardInput::RegisterRejected { aor: aor(), contacts }));
                }
                // In the end the store answers everything and all time runs out.
                None => {
                    while !writes.is_empty() {
                        let write = writes.remove(0);
                        let turn = stage.give(ShardInput::Written { write, result: Ok(()) });
                        writes.extend(turn.writes.iter().map(|(write, _)| *write));
                        turns.push(turn);
                    }
                    turns.push(stage.pass(Duration::from_secs(200)));
                }
            }
            for turn in turns {
                for (to, _) in turn.fates() {
                    prop_assert!(!left.contains(&to), "{to:?} had left");
                    let waits = waiting.get_mut(&to).expect("a caller");
                    prop_assert!(*waits > 0, "{to:?} hears more than it waits for");
                    *waits -= 1;
                }
                for (to, event) in &turn.events {
                    if matches!(event, crate::HomeEvent::Registered(_)) {
                        *answers.entry(*to).or_default() += 1;
                    }
                }
                if step.is_some() {
                    writes.extend(turn.writes.iter().map(|(write, _)| *write));
                }
            }
        }
        prop_assert!(waiting.values().all(|waits| *waits == 0), "somebody waits for ever: {waiting:?}");
        answers.remove(&WorkerRef { worker: 0, context: 1 });
        prop_assert_eq!(answers, expected_answers, "each REGISTER is answered once");
        prop_assert_eq!((stage.shard.waiting(), stage.metrics.waiters.get()), (0, 0));
        for order in &stage.pushes {
            prop_assert!(order.ticket.is_withdrawn(), "nobody waits: no push may leave any more");
        }
    }
}
