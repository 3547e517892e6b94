//! The store is away: what is answered from memory, what is refused, and what is written when it is back.

use std::time::Duration;

use super::stage::{Stage, Turn, aor, contact, phone};
use crate::{ContactUpdate, Record, ShardInput, StoreError, shard::RegisterError, shard::ShardConfig};

const AWAY: Result<(), StoreError> = Err(StoreError::Unavailable);
const REFUSED: RegisterError = RegisterError::Store(StoreError::Unavailable);

fn stage() -> Stage {
    Stage::with(ShardConfig { defers: true, ..ShardConfig::default() })
}

/// A REGISTER that the store does not answer.
fn registers_away(stage: &mut Stage, contact: ContactUpdate) -> Turn {
    let input = stage.register(vec![contact]);
    let turn = stage.give(input);
    assert_eq!(turn.writes.len(), 1);
    stage.store(turn, AWAY)
}

/// Time passes and the store stays away; the writes it was asked for.
fn pass_away(stage: &mut Stage, seconds: u64) -> usize {
    let mut writes = 0;
    let until = stage.now.mono + Duration::from_secs(seconds);
    while let Some(at) = stage.shard.poll_timeout().filter(|at| *at <= until) {
        let gone = at.max(stage.now.mono) - stage.now.mono;
        stage.now.mono += gone;
        stage.shard.handle_timeout(stage.now);
        let turn = stage.give(ShardInput::Loaded(vec![]));
        writes += turn.writes.len();
        stage.store(turn, AWAY);
    }
    stage.now.mono = until;
    writes
}

/// A refresh is answered 200, releases the call that waits for it, and is written as soon as the store is back.
#[test]
fn a_refresh_is_answered_and_written_later() {
    let mut stage = stage();
    stage.registers(phone("192.0.2.1", 1));
    let (waiter, turn) = stage.call();
    assert_eq!(turn.pushes, 1);
    // From another address, as a phone that was woken has.
    let turn = registers_away(&mut stage, phone("198.51.100.7", 1));
    assert_eq!(turn.registered().unwrap().len(), 1);
    assert!(turn.fates().iter().any(|(to, fate)| *to == waiter && fate.is_ok()), "{turn:?}");
    assert_eq!(stage.metrics.deferred.get(), 1);
    assert!((4..=6).contains(&pass_away(&mut stage, 5)), "one try a second");
    assert_eq!(stage.metrics.deferred.get(), 1);
    let turn = stage.pass(Duration::from_secs(2));
    let written = Record::decode(turn.writes[0].1.as_ref().unwrap()).unwrap();
    assert_eq!(Some(written), stage.shard.record(&aor()));
    assert_eq!((turn.writes.len(), stage.metrics.deferred.get()), (1, 0));
    assert_eq!(stage.pass(Duration::from_secs(60)).writes.len(), 0);
}

/// What could be lost is refused: a new binding, another push token, the end of a binding, a moved phone without push.
#[test]
fn what_could_be_lost_is_refused() {
    let mut stage = stage();
    stage.registers(phone("192.0.2.1", 1));
    stage.registers(contact("sip:alice@192.0.2.9"));
    let before = stage.shard.record(&aor());
    let moved = ContactUpdate { instance: None, ..contact("sip:alice@192.0.2.10") };
    let gone = ContactUpdate { expires: 0, ..contact("sip:alice@192.0.2.9") };
    let mut token = phone("192.0.2.1", 1);
    token.push = phone("192.0.2.1", 2).push;
    token.uri = token.uri.replace("1", "2");
    for refused in [phone("192.0.2.2", 2), moved, gone, token] {
        let turn = registers_away(&mut stage, refused);
        assert_eq!(turn.registered(), Err(REFUSED));
        assert_eq!(stage.shard.record(&aor()), before);
    }
    // The same contact again is a refresh.
    assert!(registers_away(&mut stage, contact("sip:alice@192.0.2.9")).registered().is_ok());
}

/// Whether a refused write took effect is not known: the store is brought back to what memory says once it answers.
#[test]
fn a_refused_register_leaves_nothing_in_the_store() {
    let mut stage = stage();
    stage.registers(phone("192.0.2.1", 1));
    registers_away(&mut stage, phone("192.0.2.2", 2));
    let turn = stage.pass(Duration::from_secs(2));
    let written = Record::decode(turn.writes[0].1.as_ref().unwrap()).unwrap();
    assert_eq!(Some(written), stage.shard.record(&aor()));
}

/// A store that is away is asked once a second, however many records it is owed; one that is back is told all of them at once.
#[test]
fn a_store_that_is_away_is_not_stormed() {
    let mut stage = stage();
    let users: Vec<crate::Aor> = (0..200).map(|n| crate::Aor::from_canonical(format!("user{n}@example.com"))).collect();
    let register = |stage: &mut Stage, user: &crate::Aor, cseq| {
        let mut request = super::stage::request(vec![phone("192.0.2.1", 1)], "call-1", cseq);
        request.aor = user.clone();
        stage.give(ShardInput::Register(Box::new(request)))
    };
    for user in &users {
        let turn = register(&mut stage, user, 1);
        stage.store(turn, Ok(()));
    }
    for user in &users {
        let turn = register(&mut stage, user, 2);
        assert!(stage.store(turn, AWAY).registered().is_ok());
    }
    assert_eq!(stage.metrics.deferred.get(), 200);
    assert!((9..=11).contains(&pass_away(&mut stage, 10)));
    let turn = stage.pass(Duration::from_millis(1500));
    assert_eq!((turn.writes.len(), stage.metrics.deferred.get()), (200, 0));
}

/// A later refresh that the store takes pays what was owed.
#[test]
fn a_later_write_pays() {
    let mut stage = stage();
    stage.registers(phone("192.0.2.1", 1));
    registers_away(&mut stage, phone("192.0.2.1", 1));
    assert_eq!(stage.metrics.deferred.get(), 1);
    stage.registers(phone("192.0.2.1", 1));
    assert_eq!(stage.metrics.deferred.get(), 0);
    assert_eq!(stage.pass(Duration::from_secs(60)).writes.len(), 0);
}

/// The shard is lost before the store is back: what was promised is handed in with what it was promised on, and nothing else is.
#[test]
fn a_lost_shard_hands_in_what_it_promised() {
    let mut stage = stage();
    stage.registers(phone("192.0.2.1", 1));
    let base = stage.shard.record(&aor()).unwrap();
    registers_away(&mut stage, phone("198.51.100.7", 1));
    registers_away(&mut stage, phone("198.51.100.8", 1));
    registers_away(&mut stage, phone("192.0.2.2", 2)); // refused: nothing was promised
    stage.shard.hand_over(stage.now);
    stage.shard.hand_in();
    let turn = stage.give(ShardInput::Loaded(vec![]));
    let record = stage.shard.record(&aor()).unwrap();
    assert_eq!(turn.handed_in, [crate::replica::Promise { base, record }]);

    let mut kept = Stage::with(ShardConfig { defers: true, ..ShardConfig::default() });
    kept.registers(phone("192.0.2.1", 1));
    registers_away(&mut kept, phone("192.0.2.2", 2));
    kept.shard.hand_over(kept.now);
    kept.shard.hand_in();
    assert!(kept.give(ShardInput::Loaded(vec![])).handed_in.is_empty());
}

/// A change that another node had promised reaches memory and the store.
#[test]
fn an_amendment_is_written() {
    let mut stage = stage();
    stage.registers(phone("192.0.2.1", 1));
    let (done, mut handed_over) = tokio::sync::oneshot::channel();
    let change = Box::new(|record: &mut Record| {
        let changed = record.bindings[0].cseq != 77;
        record.bindings[0].cseq = 77;
        changed
    });
    let turn = stage.tell(ShardInput::Amend(crate::shard::Amendment { aor: aor(), change, done }));
    assert_eq!(handed_over.try_recv(), Ok(()));
    let written = Record::decode(turn.writes[0].1.as_ref().unwrap()).unwrap();
    assert_eq!((written.bindings[0].cseq, stage.shard.record(&aor()).unwrap().bindings[0].cseq), (77, 77));
}

/// Without a cluster a store that fails has failed: nothing is promised.
#[test]
fn an_embedded_store_that_fails_promises_nothing() {
    let mut stage = Stage::new();
    stage.registers(phone("192.0.2.1", 1));
    let input = stage.register(vec![phone("192.0.2.1", 1)]);
    let turn = stage.give(input);
    assert_eq!(stage.store(turn, AWAY).registered(), Err(REFUSED));
}
