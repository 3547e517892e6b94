//! REGISTER: what it does to bindings, and when it is answered.

use std::time::Duration;

use reveille_push::{Outcome, PushClass};
use reveille_sip::method::Method;

use super::stage::*;
use crate::{
    ContactUpdate, ContactsUpdate, RegisterRequest, ShardInput, StoreError,
    shard::{RegisterError, ShardConfig},
};

fn register(request: RegisterRequest) -> ShardInput {
    ShardInput::Register(Box::new(request))
}

fn remove_all(call_id: &str, cseq: u32) -> ShardInput {
    register(RegisterRequest { contacts: ContactsUpdate::RemoveAll, ..request(vec![], call_id, cseq) })
}

#[test]
fn s103_a_fetch_lists_and_changes_nothing() {
    let mut stage = Stage::new();
    assert!(stage.contacts().is_empty());
    stage.registers(contact("sip:alice@192.0.2.1"));
    assert_eq!(stage.contacts(), ["sip:alice@192.0.2.1"]);
    assert_eq!(stage.contacts(), ["sip:alice@192.0.2.1"]);
    assert_eq!(stage.binding().generation, 1);
}

#[test]
fn s104_the_wildcard_removes_all_bindings_subject_to_s107() {
    let mut stage = Stage::new();
    stage.tell(register(request(vec![contact("sip:alice@192.0.2.1")], "one", 5)));
    stage.tell(register(request(vec![phone("192.0.2.2", 1)], "two", 9)));
    assert_eq!(stage.tell(remove_all("two", 9)).registered(), Err(RegisterError::OutOfOrder));
    assert_eq!(stage.contacts().len(), 2);
    let turn = stage.tell(remove_all("two", 10));
    assert_eq!(turn.registered(), Ok(vec![]));
    assert!(matches!(turn.writes.as_slice(), [(_, None)]), "the record is deleted");
    assert_eq!(stage.shard.record(&aor()), None);
}

#[test]
fn s107_within_one_call_id_the_cseq_has_to_grow() {
    for (call_id, cseq, accepted) in [("one", 4, false), ("one", 5, false), ("one", 6, true), ("two", 1, true)] {
        let mut stage = Stage::new();
        stage.tell(register(request(vec![contact("sip:alice@192.0.2.1")], "one", 5)));
        let again = ContactUpdate { q: 500, ..contact("sip:alice@192.0.2.1") };
        let turn = stage.tell(register(request(vec![again], call_id, cseq)));
        assert_eq!(turn.registered().is_ok(), accepted, "{call_id} {cseq}");
        assert_eq!(stage.binding().q, if accepted { 500 } else { 1000 }, "{call_id} {cseq}");
    }
    assert_eq!(RegisterError::OutOfOrder.status(), 500);
}

/// S-107: an edge sends a REGISTER again whose first home fell silent after it had written. It is answered as it would have been, and
/// changes nothing. Whatever is not the very same, or was not sent by a node, is out of order.
#[test]
fn s107_a_register_that_an_edge_sends_again_is_answered_again() {
    let mut stage = Stage::new();
    let both = vec![phone("192.0.2.2", 1), contact("sip:alice@192.0.2.1")];
    stage.tell(register(request(both.clone(), "one", 5)));
    let before = stage.shard.record(&aor()).unwrap();
    let again = |contacts: &[ContactUpdate], cseq| {
        register(RegisterRequest { sent_on: true, flow: None, ..request(contacts.to_vec(), "one", cseq) })
    };
    let turn = stage.tell(again(&both, 5));
    let views = turn.registered().unwrap();
    assert_eq!(views.len(), 2);
    assert!(views.iter().all(|view| view.updated_now), "with all that a 200 to it says");
    assert!(turn.writes.is_empty());
    assert_eq!(stage.shard.record(&aor()), Some(before), "its flow is the one it came by");
    let changed = ContactUpdate { q: 500, ..contact("sip:alice@192.0.2.1") };
    let more = contact("sip:alice@192.0.2.9");
    for (what, contacts, cseq) in [
        ("another content", vec![changed], 5),
        ("another Contact beside", vec![both[0].clone(), more], 5),
        ("an older one", both.clone(), 4),
    ] {
        assert_eq!(stage.tell(again(&contacts, cseq)).registered(), Err(RegisterError::OutOfOrder), "{what}");
    }
    assert_eq!(
        stage.tell(register(request(both, "one", 5))).registered(),
        Err(RegisterError::OutOfOrder),
        "by a phone"
    );
}

/// The same while the first is still on its way to the store: both wait for it.
#[test]
fn s107_a_register_sent_again_waits_for_the_first() {
    let mut stage = Stage::new();
    let ask = || register(RegisterRequest { sent_on: true, ..request(vec![phone("192.0.2.2", 1)], "one", 5) });
    let (first, again) = (stage.give(ask()), stage.give(ask()));
    assert!(first.events.is_empty() && again.events.is_empty());
    let (first, again) = (stage.store(first, Ok(())), stage.store(again, Ok(())));
    assert!(first.registered().is_ok() && again.registered().is_ok());
    let (first, again) = (stage.give(ask_more("two")), stage.give(ask_more("two")));
    let first = stage.store(first, Err(StoreError::Full));
    assert_eq!(first.events.len(), 2, "what is built on a write that failed fails with it");
    drop(again);
}

/// A REGISTER that makes a second binding.
fn ask_more(call_id: &str) -> ShardInput {
    register(RegisterRequest { sent_on: true, ..request(vec![phone("192.0.2.3", 2)], call_id, 5) })
}

/// S-107, S-108, P-048: one Contact out of order, and the other one has no effect either.
#[test]
fn s108_a_register_takes_effect_as_a_whole_or_not_at_all() {
    let mut stage = Stage::new();
    stage.tell(register(request(vec![contact("sip:alice@192.0.2.1")], "one", 5)));
    let both = vec![phone("192.0.2.2", 1), contact("sip:alice@192.0.2.1")];
    let turn = stage.tell(register(request(both, "one", 5)));
    assert_eq!(turn.registered(), Err(RegisterError::OutOfOrder));
    assert!(turn.writes.is_empty());
    assert_eq!(stage.contacts(), ["sip:alice@192.0.2.1"]);
}

/// S-108, P-170: the 200 waits for the store, and so does everybody else's view.
#[test]
fn s108_the_200_leaves_when_the_store_has_said_yes() {
    let mut stage = Stage::new();
    let input = stage.register(vec![contact("sip:alice@192.0.2.1")]);
    let turn = stage.give(input);
    assert!(turn.events.is_empty());
    assert_eq!(turn.writes.len(), 1);
    assert!(stage.contacts().is_empty());
    let turn = stage.store(turn, Ok(()));
    assert_eq!(turn.registered().unwrap().len(), 1);
    assert_eq!(stage.contacts().len(), 1);
}

#[test]
fn s108_a_failed_write_leaves_no_half_state() {
    let mut stage = Stage::new();
    stage.registers(contact("sip:alice@192.0.2.1"));
    let input = stage.register(vec![contact("sip:alice@192.0.2.2")]);
    let turn = stage.give(input);
    let turn = stage.store(turn, Err(StoreError::Unavailable));
    assert_eq!(turn.registered(), Err(RegisterError::Store(StoreError::Unavailable)));
    assert_eq!(stage.contacts(), ["sip:alice@192.0.2.1"]);
    // What memory says is written once more, since the store may have kept what it said it had not; and not for ever.
    assert_eq!(turn.writes.len(), 2);
    let record = crate::Record::decode(turn.writes[1].1.as_ref().unwrap()).unwrap();
    assert_eq!(Some(record), stage.shard.record(&aor()));
    assert_eq!(RegisterError::Store(StoreError::Unavailable).status(), 503);
}

#[test]
fn s108_a_failed_write_takes_with_it_what_was_built_on_it() {
    let mut stage = Stage::new();
    let inputs = [
        stage.register(vec![contact("sip:alice@192.0.2.1")]),
        stage.register(vec![contact("sip:alice@192.0.2.2")]),
        stage.register(vec![contact("sip:alice@192.0.2.3")]),
    ];
    let writes: Vec<u64> = inputs.into_iter().map(|input| stage.give(input).writes[0].0).collect();
    let written = |stage: &mut Stage, at: usize, result| stage.give(ShardInput::Written { write: writes[at], result });
    assert_eq!(written(&mut stage, 0, Ok(())).registered().unwrap().len(), 1);
    let failed = written(&mut stage, 1, Err(StoreError::Unavailable));
    let errors = failed.events.iter().filter(|(_, event)| {
        *event == crate::HomeEvent::Registered(Err(RegisterError::Store(StoreError::Unavailable)))
    });
    assert_eq!(errors.count(), 2);
    assert!(written(&mut stage, 2, Ok(())).events.is_empty(), "answered already");
    assert_eq!(stage.contacts(), ["sip:alice@192.0.2.1"]);
}

/// The second REGISTER sees the first, though it is not durable yet: both are in the second's write (S-107 too).
#[test]
fn a_register_builds_on_one_that_is_on_its_way() {
    let mut stage = Stage::new();
    let first = stage.give(register(request(vec![contact("sip:alice@192.0.2.1")], "one", 5)));
    let second = stage.give(register(request(vec![contact("sip:alice@192.0.2.2")], "two", 1)));
    let stale = stage.give(register(request(vec![contact("sip:alice@192.0.2.1")], "one", 5)));
    assert_eq!(stale.registered(), Err(RegisterError::OutOfOrder));
    assert_eq!(stage.store(first, Ok(())).registered().unwrap().len(), 1);
    assert_eq!(stage.store(second, Ok(())).registered().unwrap().len(), 2);
}

#[test]
fn s109_the_200_lists_every_binding_with_its_own_time() {
    let mut stage = Stage::new();
    stage.registers(ContactUpdate { expires: 600, ..contact("sip:alice@192.0.2.1") });
    stage.pass(Duration::from_secs(100));
    let phone = of_instance(ContactUpdate { q: 300, ..phone("192.0.2.2", 1) }, 1, 2);
    let views = stage.registers(phone.clone()).registered().unwrap();
    let seen: Vec<_> = views.iter().map(|v| (v.expires_in, v.q, v.reg_id, v.updated_now, v.push.is_some())).collect();
    assert_eq!(seen, [(500, 1000, None, false, false), (3600, 300, Some(2), true, true)]);
    assert_eq!(views[1].instance, phone.instance);
}

#[test]
fn s110_what_a_contact_says_is_kept_verbatim() {
    let uri = "sip:+1555;phone-context=a@h.EXAMPLE:5070;transport=TCP;x-Y=%5b1%5D;lr?Route=%3Csip:x%3E";
    let mut stage = Stage::new();
    let params = ";+sip.ice;audio;methods=\"INVITE,BYE\";Expires2=\"a;b\"";
    stage.registers(ContactUpdate { params: params.into(), ..contact(uri) });
    let views = stage.registers(contact("sip:other@192.0.2.1")).registered().unwrap();
    assert_eq!((views[0].contact.as_str(), views[0].params.as_str()), (uri, params));
}

#[test]
fn s112_too_many_bindings_fail_the_whole_request() {
    let mut stage = Stage::with(ShardConfig { max_bindings: 3, ..ShardConfig::default() });
    let nth = |n: u32| contact(&format!("sip:alice@192.0.2.{n}"));
    stage.registers(nth(1));
    let input = stage.register(vec![nth(2), nth(3), nth(4)]);
    assert_eq!(stage.tell(input).registered(), Err(RegisterError::TooMany));
    assert_eq!(stage.contacts().len(), 1);
    // One goes and two come: the result counts.
    let input = stage.register(vec![nth(2), ContactUpdate { expires: 0, ..nth(1) }, nth(3), nth(4)]);
    assert_eq!(stage.tell(input).registered().unwrap().len(), 3);
    assert_eq!(RegisterError::TooMany.status(), 403);
}

#[test]
fn s116_a_binding_ends_on_its_second_and_leaves_the_store_soon_after() {
    let mut stage = Stage::new();
    stage.registers(ContactUpdate { expires: 90, ..contact("sip:alice@192.0.2.1") });
    stage.pass(Duration::from_secs(89));
    assert_eq!(stage.call().1.resolved().0.len(), 1);
    let mut turn = stage.pass(Duration::from_secs(1));
    let (targets, waiting, _) = stage.call().1.resolved();
    assert!(targets.is_empty() && waiting.is_empty());
    assert!(stage.contacts().is_empty());
    turn.writes.extend(stage.pass(Duration::from_secs(60)).writes);
    assert!(matches!(turn.writes.as_slice(), [(_, None)]));
    assert!(!stage.call().1.resolved().2, "and is unknown then");
    assert_eq!(stage.metrics.bindings.get(), 0);
}

/// S-116, P-095: a refresh moves the end; the visit planned for the old one finds nothing to do.
#[test]
fn s116_a_refreshed_binding_outlives_its_first_expiry() {
    let mut stage = Stage::new();
    stage.registers(ContactUpdate { expires: 120, ..contact("sip:alice@192.0.2.1") });
    stage.pass(Duration::from_secs(100));
    stage.registers(ContactUpdate { expires: 120, ..contact("sip:alice@192.0.2.1") });
    assert!(stage.pass(Duration::from_secs(119)).writes.is_empty());
    assert_eq!(stage.contacts().len(), 1);
    assert_eq!(stage.pass(Duration::from_secs(100)).writes.len(), 1);
}

#[test]
fn s117_path_is_kept_in_order_with_its_binding() {
    let mut stage = Stage::new();
    let path = vec!["<sip:token@edge1;lr;ob>".to_owned(), "<sip:sbc;lr>".to_owned()];
    let request = RegisterRequest { path: path.clone(), ..request(vec![contact("sip:alice@192.0.2.1")], "c", 1) };
    stage.tell(register(request));
    assert_eq!(stage.call().1.resolved().0[0].path, path);
}

/// S-118, S-123, P-044, P-045, P-084: which Contact means which binding.
#[test]
fn p045_binding_identity() {
    let i = of_instance;
    let upper = |mut contact: ContactUpdate| {
        contact.instance = contact.instance.map(|urn| urn.to_ascii_uppercase());
        contact
    };
    let plain = |host: &str| contact(&format!("sip:alice@{host}"));
    let cases: Vec<(&str, ContactUpdate, ContactUpdate, usize)> = vec![
        ("same URI", plain("192.0.2.1"), plain("192.0.2.1"), 1),
        ("equal URI", plain("Host.example"), contact("sip:%61lice@host.EXAMPLE"), 1),
        ("other URI", plain("192.0.2.1"), plain("192.0.2.2"), 2),
        ("PRID rotated, same URI otherwise", phone("192.0.2.1", 1), phone("192.0.2.1", 2), 1),
        ("same PRID, address changed", phone("192.0.2.1", 1), phone("192.0.2.2", 1), 1),
        ("same PRID, other address family", phone("192.0.2.1", 1), phone("[2001:db8::1]", 1), 2),
        ("other PRID and address", phone("192.0.2.1", 1), phone("192.0.2.2", 2), 2),
        ("push on an ordinary Contact", plain("192.0.2.1"), phone("192.0.2.1", 1), 1),
        ("instance, another flow", i(plain("192.0.2.1"), 1, 1), i(plain("198.51.100.1"), 1, 1), 1),
        ("instance in capitals", i(plain("192.0.2.1"), 1, 1), upper(i(plain("192.0.2.2"), 1, 1)), 1),
        ("two reg-ids, one PRID", i(phone("192.0.2.1", 1), 1, 1), i(phone("192.0.2.1", 1), 1, 2), 2),
        ("two instances, one address", i(plain("10.0.0.1"), 1, 1), i(plain("10.0.0.1"), 2, 1), 2),
        ("two instances, no reg-id", i(plain("10.0.0.1"), 1, 0), i(plain("10.0.0.1"), 2, 0), 2),
        ("instance without reg-id moves", i(plain("192.0.2.1"), 1, 0), i(plain("192.0.2.2"), 1, 0), 1),
        ("instance, PRID rotated", i(phone("192.0.2.1", 1), 1, 1), i(phone("192.0.2.2", 2), 1, 1), 1),
        ("named later, same URI", plain("192.0.2.1"), i(plain("192.0.2.1"), 1, 0), 1),
    ];
    for (what, first, second, bindings) in cases {
        let mut stage = Stage::new();
        stage.registers(first);
        let key = stage.binding().key;
        let views = stage.registers(second.clone()).registered().unwrap();
        assert_eq!(views.len(), bindings, "{what}");
        let now = views.iter().find(|view| view.updated_now).unwrap();
        assert_eq!(now.contact, second.uri, "{what}: the new Contact is what counts");
        assert_eq!(now.key == key, bindings == 1, "{what}: a refresh keeps the key, a new binding gets its own");
        assert_eq!(now.generation, if bindings == 1 { 2 } else { 1 }, "{what}");
    }
}

/// S-118: both flows of a dual-stack phone in one REGISTER are two bindings, and refresh as two.
#[test]
fn s118_two_contacts_of_one_request_do_not_replace_each_other() {
    let mut stage = Stage::new();
    for _ in 0..2 {
        let both = vec![of_instance(phone("192.0.2.1", 1), 1, 0), of_instance(phone("[2001:db8::1]", 1), 1, 0)];
        let input = stage.register(both);
        assert_eq!(stage.tell(input).registered().unwrap().len(), 2);
    }
}

#[test]
fn s119_reg_id_counts_only_where_the_first_hop_takes_part() {
    let mut stage = Stage::new();
    for (cseq, reg_id) in [(1, 1), (2, 2)] {
        let contacts = vec![of_instance(contact("sip:alice@192.0.2.1"), 1, reg_id)];
        stage.tell(register(RegisterRequest { outbound: false, ..request(contacts, "c", cseq) }));
    }
    assert_eq!(stage.binding().reg_id, None);
}

/// P-034, P-042, P-043: a query makes or keeps a binding, and turns push off.
#[test]
fn p043_a_query_turns_push_off() {
    let mut stage = Stage::new();
    stage.registers(phone("192.0.2.1", 1));
    stage.registers(contact("sip:alice@192.0.2.1;pn-provider=apns"));
    let turn = stage.call().1;
    assert_eq!(turn.pushes, 0);
    assert_eq!(turn.resolved().0.len(), 1);
}

/// P-046: a removal carries no PRID and still meets its binding.
#[test]
fn p046_a_removal_ignores_push_parameters() {
    let bare = contact("sip:alice@192.0.2.1");
    let cases = [
        (phone("192.0.2.1", 1), bare.clone()),
        (phone("192.0.2.1", 1), contact("sip:alice@192.0.2.1;pn-provider=apns")),
        (of_instance(phone("192.0.2.1", 1), 1, 1), bare.clone()),
        (of_instance(phone("192.0.2.1", 1), 1, 1), of_instance(contact("sip:alice@192.0.2.9"), 1, 1)),
        (of_instance(phone("192.0.2.1", 1), 1, 0), bare),
    ];
    for (at, (registered, removed)) in cases.into_iter().enumerate() {
        let mut stage = Stage::new();
        stage.registers(registered);
        assert_eq!(stage.unregisters(removed).registered(), Ok(vec![]), "{at}");
    }
}

/// P-046: two phones behind two NATs chose one private address; a removal takes its sender's binding.
#[test]
fn p046_a_removal_without_instance_is_told_apart_by_call_id() {
    let mut stage = Stage::new();
    let here = || contact("sip:alice@10.0.0.1");
    stage.tell(register(request(vec![of_instance(here(), 1, 1)], "one", 1)));
    stage.tell(register(request(vec![of_instance(here(), 2, 1)], "two", 1)));
    let removal = ContactUpdate { expires: 0, ..here() };
    stage.tell(register(request(vec![removal], "two", 2)));
    assert_eq!(stage.binding().call_id, "one");
}

#[test]
fn a_removal_of_nothing_is_answered_without_a_write() {
    let mut stage = Stage::new();
    let turn = stage.unregisters(contact("sip:alice@192.0.2.1"));
    assert_eq!(turn.registered(), Ok(vec![]));
    assert!(turn.writes.is_empty());
}

/// Keys never come back, not even after the record vanished: a verdict or a route may still name the old binding.
#[test]
fn keys_are_never_used_again() {
    let mut stage = Stage::new();
    let mut keys = std::collections::HashSet::new();
    for _ in 0..100 {
        stage.registers(contact("sip:alice@192.0.2.1"));
        assert!(keys.insert(stage.binding().key));
        stage.unregisters(contact("sip:alice@192.0.2.1"));
    }
}

/// P-154, P-156, P-119: a dead token goes, its binding stays; per provider, whether it may come back.
#[test]
fn p156_a_dead_token_leaves_its_binding_without_push() {
    let mut stage = Stage::new();
    stage.registers(phone("192.0.2.1", 1));
    let (waiter, _) = stage.call();
    let turn = stage.push_answered(0, Outcome::Unregistered { since: None });
    assert_eq!(turn.fates(), [(waiter, Err(reveille_push::WakeFailure::PushFailed))]);
    let stored = crate::Record::decode(turn.writes[0].1.as_ref().unwrap()).unwrap();
    assert_eq!(stored.bindings[0].push, None);
    assert_eq!(stage.binding().push, None);
    assert_eq!(stage.call().1.pushes, 0);
    // APNs: registered again with the same token, it is believed once more, and once only.
    assert!(stage.registers(phone("192.0.2.1", 1)).registered().unwrap()[0].push.is_some());
    stage.call();
    stage.push_answered(1, Outcome::Unregistered { since: None });
    assert_eq!(stage.registers(phone("192.0.2.1", 1)).registered(), Err(RegisterError::DeadPush));
    // Another token is another matter, and so is the next day.
    stage.registers(ContactUpdate { expires: 200_000, ..phone("192.0.2.1", 2) }).registered().unwrap();
    stage.pass(Duration::from_secs(24 * 3600));
    stage.registers(phone("192.0.2.1", 1)).registered().unwrap();
    assert_eq!(RegisterError::DeadPush.status(), 555);
}

#[test]
fn p156_a_dead_fcm_token_is_barred_at_once_for_a_day() {
    for accept_dead_push in [false, true] {
        let mut stage = Stage::with(ShardConfig { accept_dead_push, ..ShardConfig::default() });
        stage.registers(ContactUpdate { expires: 200_000, ..fcm("192.0.2.1", "dQw4:APA91bF_x") });
        stage.call();
        stage.push_answered(0, Outcome::Unregistered { since: None });
        let again = ContactUpdate { expires: 200_000, ..fcm("192.0.2.1", "dQw4:APA91bF_x") };
        let answer = stage.registers(again.clone()).registered();
        match accept_dead_push {
            false => assert_eq!(answer, Err(RegisterError::DeadPush)),
            true => assert_eq!(answer.unwrap()[0].push, None, "a 2xx, and no promise of push"),
        }
        stage.pass(Duration::from_secs(24 * 3600));
        assert!(stage.registers(again).registered().unwrap()[0].push.is_some());
    }
}

#[test]
fn p154_a_token_registered_since_is_alive() {
    for (age, dead) in [(-60, false), (60, true)] {
        let mut stage = Stage::new();
        stage.registers(phone("192.0.2.1", 1));
        stage.call();
        let since = std::time::UNIX_EPOCH + Duration::from_secs(UNIX.checked_add_signed(age).unwrap());
        let turn = stage.push_answered(0, Outcome::Unregistered { since: Some(since) });
        assert_eq!(turn.fates().len(), 1, "the push failed either way");
        assert_eq!(stage.binding().push.is_none(), dead);
    }
}

/// P-119: the verdict may come when nobody waits any more, and counts.
#[test]
fn p154_a_late_verdict_still_counts() {
    let mut stage = Stage::new();
    stage.registers(phone("192.0.2.1", 1));
    let (waiter, _) = stage.call();
    stage.tell(ShardInput::Leave { aor: aor(), waiter });
    stage.push_answered(0, Outcome::Unregistered { since: None });
    assert_eq!(stage.binding().push, None);
}

/// A verdict on a token that the phone has replaced meanwhile says nothing of the new one.
#[test]
fn p154_a_verdict_on_a_replaced_token_is_no_verdict_on_the_new_one() {
    let mut stage = Stage::new();
    stage.registers(phone("192.0.2.1", 1));
    stage.call();
    stage.registers(phone("192.0.2.1", 2));
    stage.push_answered(0, Outcome::Unregistered { since: None });
    assert_eq!(stage.binding().push, Some(target(2)));
}

/// A dead token goes from memory at once, whatever the store says; a REGISTER under way keeps what it brings.
#[test]
fn p154_housekeeping_does_not_undo_a_register_under_way() {
    let mut stage = Stage::new();
    stage.registers(phone("192.0.2.1", 1));
    stage.call();
    let input = stage.register(vec![phone("192.0.2.1", 2)]);
    let under_way = stage.give(input);
    let order = &stage.pushes[0];
    let (key, push) = (order.key, order.push);
    let outcome = Outcome::Unregistered { since: None };
    let verdict = stage.give(ShardInput::PushAnswered { aor: aor(), key, push, outcome });
    assert_eq!(stage.binding().push, None);
    stage.store(under_way, Ok(()));
    stage.store(verdict, Err(StoreError::Unavailable));
    assert_eq!(stage.binding().push, Some(target(2)));
}

/// A restart: the store's records come back, expired bindings serve nobody.
#[test]
fn loaded_records_serve() {
    let mut stage = Stage::new();
    stage.registers(ContactUpdate { expires: 60, ..contact("sip:alice@192.0.2.7") });
    stage.registers(phone("192.0.2.1", 1));
    let value = stage.shard.record(&aor()).unwrap().encode().into();
    let mut fresh = Stage::new();
    fresh.now.unix += 60;
    fresh.tell(ShardInput::Loaded(vec![
        (aor(), value),
        (crate::Aor::from_canonical("x@y"), b"\xffnonsense".to_vec().into()),
    ]));
    assert_eq!(fresh.contacts(), [phone("192.0.2.1", 1).uri]);
    assert_eq!(fresh.metrics.unreadable.get(), 1);
    let turn = fresh.call().1;
    assert_eq!((turn.resolved().1.len(), turn.pushes), (1, 1));
    let turn = fresh.pass(Duration::from_secs(60));
    assert_eq!(turn.writes.len(), 1, "the expired one is taken out of the store");
    assert_eq!(fresh.binding().contact, phone("192.0.2.1", 1).uri);
}

/// Gauges follow what is held and vanish with the shard.
#[test]
fn gauges_follow() {
    let mut stage = Stage::new();
    stage.registers(phone("192.0.2.1", 1));
    stage.registers(phone("192.0.2.2", 2));
    let (_, input) = stage.look_up(Method::Invite, PushClass::Call, Duration::from_secs(30));
    stage.tell(input);
    let metrics = stage.metrics.clone();
    let gauges = |metrics: &crate::metrics::Metrics| {
        [&metrics.records, &metrics.bindings, &metrics.waiters].map(prometheus::IntGauge::get)
    };
    assert_eq!(gauges(&metrics), [1, 2, 2]);
    drop(stage);
    assert_eq!(gauges(&metrics), [0, 0, 0]);
    assert_eq!(metrics.record_bytes.get(), 0);
}
