//! The bucket: who waits, how many pushes that takes, who is released, and who is not.

use std::time::Duration;

use proptest::prelude::*;
use reveille_push::{Outcome, PushClass, WakeFailure};
use reveille_sip::method::Method;

use super::stage::*;
use crate::{
    ContactUpdate, HomeEvent, ShardInput, StoreError,
    shard::{ContactsUpdate, RegisterError, RegisterRequest, ShardConfig},
};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn sleeping() -> Stage {
    let mut stage = Stage::new();
    stage.registers(phone("192.0.2.1", 1));
    stage
}

/// P-052, P-058, P-061: the whole way of a call to a sleeping phone, to its new Contact and flow.
#[test]
fn p052_a_call_waits_is_pushed_for_and_released_by_the_refresh() {
    let mut stage = sleeping();
    let key = stage.binding().key;
    let (waiter, turn) = stage.call();
    assert_eq!(turn.resolved(), (vec![], vec![key], true));
    assert_eq!(turn.pushes, 1);
    let order = &stage.pushes[0];
    assert_eq!((order.key, order.class, order.deadline), (key, PushClass::Call, stage.now.mono + secs(30)));
    assert_eq!(order.target, target(1));
    assert!(stage.push_answered(0, Outcome::Accepted).events.is_empty());
    stage.heard(7, Duration::ZERO);
    let turn = stage.registers_over(phone("198.51.100.9", 1), 7);
    let [(to, released)] = &turn.fates()[..] else { panic!("one release") };
    let released = released.as_ref().unwrap();
    assert_eq!((*to, released.key, released.flow), (waiter, key, Some(flow(7))));
    assert_eq!(released.contact, phone("198.51.100.9", 1).uri);
    // P-061: the 200 goes before the released request.
    assert!(matches!(turn.events[0].1, HomeEvent::Registered(Ok(_))));
    assert_eq!((stage.shard.waiting(), stage.metrics.waiters.get()), (0, 0));
}

/// P-052, P-058: the REGISTER as such releases nobody; its durable 2xx does.
#[test]
fn p058_release_waits_for_the_durable_2xx() {
    let mut stage = sleeping();
    stage.call();
    let input = stage.register(vec![phone("192.0.2.1", 1)]);
    let under_way = stage.give(input);
    assert!(under_way.fates().is_empty());
    assert_eq!(stage.store(under_way, Ok(())).fates().len(), 1);
}

/// P-059: the 200 lists both phones; the one that was in the REGISTER is the one that is awake.
#[test]
fn p059_only_contacts_of_that_register_release() {
    let mut stage = sleeping();
    stage.registers(phone("192.0.2.2", 2));
    let (_, turn) = stage.call();
    assert_eq!((turn.resolved().1.len(), turn.pushes), (2, 2));
    let turn = stage.registers(phone("192.0.2.2", 2));
    assert_eq!(turn.registered().unwrap().len(), 2);
    let fates = turn.fates();
    assert_eq!(fates.len(), 1);
    assert_eq!(fates[0].1.as_ref().unwrap().contact, phone("192.0.2.2", 2).uri);
    assert_eq!(stage.registers(contact("sip:alice@192.0.2.3")).fates(), []);
    assert_eq!(stage.shard.waiting(), 1);
}

/// P-063, P-121: any refresh releases, pushed or not; a push verdict by itself releases nobody.
#[test]
fn p063_any_refresh_releases_even_before_the_push_is_answered() {
    let mut stage = sleeping();
    stage.call();
    assert_eq!(stage.registers(phone("192.0.2.1", 1)).fates().len(), 1);
    assert!(stage.ticket(0).is_withdrawn());
    assert!(stage.push_answered(0, Outcome::Accepted).events.is_empty());
}

/// P-057: many calls, one push; released together.
#[test]
fn p057_one_push_serves_many_waiters() {
    let mut stage = sleeping();
    let waiters: Vec<_> = (0..5).map(|_| stage.call().0).collect();
    assert_eq!(stage.pushes.len(), 1);
    let fates = stage.registers(phone("192.0.2.1", 1)).fates();
    assert_eq!(fates.iter().map(|(to, _)| *to).collect::<Vec<_>>(), waiters);
    assert!(fates.iter().all(|(_, fate)| fate.is_ok()));
}

/// P-057, P-070: two phones are two branches and two pushes; two bindings of one token are one of each.
#[test]
fn p057_bindings_of_one_token_share_a_push() {
    let mut stage = sleeping();
    stage.registers(phone("[2001:db8::1]", 1));
    let turn = stage.call().1;
    assert_eq!((turn.resolved().1.len(), turn.pushes), (1, 1), "one phone with two addresses rings once");
    let mut stage = Stage::new();
    stage.registers(of_instance(phone("192.0.2.1", 1), 1, 1));
    stage.registers(of_instance(phone("192.0.2.2", 1), 2, 1));
    let turn = stage.call().1;
    assert_eq!((turn.resolved().1.len(), turn.pushes), (2, 1), "two instances, one token");
    assert_eq!(stage.metrics.pushes_coalesced.get(), 1);
    assert_eq!(stage.push_answered(0, Outcome::Refused).fates().len(), 2);
}

/// P-057: a call joins a wake-up for a MESSAGE and makes it urgent.
#[test]
fn p057_a_call_upgrades_a_lesser_push() {
    let mut stage = Stage::new();
    stage.registers(fcm("192.0.2.1", "dQw4:APA91bF_x-aaaaaaaa"));
    let (_, input) = stage.look_up(Method::Message, PushClass::Request, secs(10));
    stage.tell(input);
    stage.call();
    let classes: Vec<_> = stage.pushes.iter().map(|order| order.class).collect();
    assert_eq!(classes, [PushClass::Request, PushClass::Call]);
    assert!(stage.ticket(0).is_withdrawn() && !stage.ticket(1).is_withdrawn());
    // The verdict on the push that was given up says nothing of the other.
    assert!(stage.push_answered(0, Outcome::Refused).fates().is_empty());
    assert_eq!(stage.push_answered(1, Outcome::Refused).fates().len(), 2);
}

/// P-056: a fresher REGISTER is on its way to the store: it is waited for, and no push is sent.
#[test]
fn p056_a_register_under_way_is_waited_for() {
    let mut stage = sleeping();
    let input = stage.register(vec![phone("192.0.2.1", 1)]);
    let under_way = stage.give(input);
    let (waiter, turn) = stage.call();
    assert_eq!((turn.resolved().1.len(), turn.pushes), (1, 0));
    let turn = stage.store(under_way, Ok(()));
    assert_eq!((turn.fates().len(), turn.fates()[0].0, stage.pushes.len()), (1, waiter, 0));
}

#[test]
fn p056_a_register_that_fails_to_be_stored_leaves_the_call_to_a_push() {
    let mut stage = sleeping();
    let input = stage.register(vec![phone("192.0.2.1", 1)]);
    let under_way = stage.give(input);
    stage.call();
    let turn = stage.store(under_way, Err(StoreError::Unavailable));
    assert_eq!((turn.fates(), turn.pushes), (vec![], 1));
    assert_eq!(stage.registers(phone("192.0.2.1", 1)).fates().len(), 1);
}

/// P-056: a REGISTER of another phone is no reason to wait.
#[test]
fn p056_another_phones_register_holds_nothing_back() {
    let mut stage = sleeping();
    let input = stage.register(vec![phone("192.0.2.2", 2)]);
    stage.give(input);
    assert_eq!(stage.call().1.pushes, 1);
}

/// P-062: exactly once, however often the phone refreshes.
#[test]
fn p062_a_second_refresh_releases_nobody_again() {
    let mut stage = sleeping();
    stage.call();
    let inputs = [stage.register(vec![phone("192.0.2.1", 1)]), stage.register(vec![phone("192.0.2.1", 1)])];
    let [first, second] = inputs.map(|input| stage.give(input));
    assert_eq!(stage.store(first, Ok(())).fates().len(), 1);
    assert_eq!(stage.store(second, Ok(())).fates().len(), 0);
}

/// P-064: refused for good, as the proxy says, or by the shard; the push target is what they have in common.
#[test]
fn p064_a_rejected_register_fails_its_waiters() {
    let mut stage = sleeping();
    stage.call();
    let rejected = |uri: String| ShardInput::RegisterRejected { aor: aor(), contacts: vec![uri] };
    assert!(stage.tell(rejected(phone("192.0.2.1", 2).uri)).fates().is_empty(), "another phone");
    assert!(stage.tell(rejected("sip:alice@192.0.2.1".into())).fates().is_empty(), "no token");
    let fates = stage.tell(rejected(phone("198.51.100.7", 1).uri)).fates();
    assert!(matches!(fates[..], [(_, Err(WakeFailure::Rejected))]));
}

#[test]
fn p064_a_register_over_the_limit_fails_its_waiters_and_one_out_of_order_does_not() {
    let mut stage = Stage::with(ShardConfig { max_bindings: 1, ..ShardConfig::default() });
    stage.registers(phone("192.0.2.1", 1));
    stage.call();
    let stale = request(vec![phone("192.0.2.1", 1)], "call-1", 1);
    let turn = stage.tell(ShardInput::Register(Box::new(stale)));
    assert_eq!((turn.registered(), turn.fates().len()), (Err(RegisterError::OutOfOrder), 0));
    let input = stage.register(vec![phone("192.0.2.1", 1), contact("sip:alice@192.0.2.2")]);
    let turn = stage.tell(input);
    assert_eq!(turn.registered(), Err(RegisterError::TooMany));
    assert!(matches!(turn.fates()[..], [(_, Err(WakeFailure::Rejected))]));
}

/// P-065: every verdict that is not "accepted" fails the waiters, and but for "unregistered" nothing else happens.
#[test]
fn p065_a_failed_push_fails_its_waiters() {
    for outcome in [
        Outcome::Refused,
        Outcome::Unavailable,
        Outcome::CredentialFault,
        Outcome::Throttled { retry_after: None },
        Outcome::Unregistered { since: None },
    ] {
        let mut stage = sleeping();
        stage.call();
        stage.call();
        let fates = stage.push_answered(0, outcome).fates();
        assert_eq!(fates.len(), 2);
        assert!(fates.iter().all(|(_, fate)| *fate == Err(WakeFailure::PushFailed)), "{outcome:?}");
        assert_eq!(stage.binding().push.is_none(), outcome == Outcome::Unregistered { since: None });
        assert_eq!(stage.shard.waiting(), 0);
    }
}

/// P-066, P-067: each waiter has its own time; nobody else's ends with it.
#[test]
fn p066_the_bucket_timer_fails_each_waiter_in_its_time() {
    let mut stage = sleeping();
    let (first, _) = stage.call();
    stage.push_answered(0, Outcome::Accepted);
    stage.pass(secs(10));
    let (second, _) = stage.call();
    assert_eq!(stage.pass(secs(19)).fates(), []);
    assert_eq!(stage.pass(secs(1)).fates(), [(first, Err(WakeFailure::Deadline))]);
    assert_eq!(stage.pass(secs(10)).fates(), [(second, Err(WakeFailure::Deadline))]);
    assert_eq!(stage.shard.poll_timeout().map(|at| at > stage.now.mono + secs(60)), Some(true), "but for the expiry");
}

/// P-069, P-070: who leaves hears no more, and the push nobody wants is taken back.
#[test]
fn p069_leaving_withdraws_the_push() {
    let mut stage = sleeping();
    let (first, _) = stage.call();
    let (second, _) = stage.call();
    assert!(stage.tell(ShardInput::Leave { aor: aor(), waiter: first }).events.is_empty());
    assert!(!stage.ticket(0).is_withdrawn());
    stage.tell(ShardInput::Leave { aor: aor(), waiter: second });
    assert!(stage.ticket(0).is_withdrawn());
    assert_eq!(stage.registers(phone("192.0.2.1", 1)).fates(), []);
    assert_eq!(stage.metrics.waiters.get(), 0);
    // The next call is a new wake-up.
    stage.call();
    assert_eq!(stage.pushes.len(), 2);
}

/// P-034: `Contact: *` ends every wait for any phone of the user's and takes back what was not sent yet.
#[test]
fn p034_the_wildcard_ends_all_waits_and_withdraws_their_pushes() {
    let mut stage = sleeping();
    stage.registers(phone("192.0.2.2", 2));
    let (waiter, turn) = stage.call();
    assert_eq!(turn.pushes, 2);
    let all = RegisterRequest { contacts: ContactsUpdate::RemoveAll, ..request(Vec::new(), "all", 1) };
    let fates = stage.tell(ShardInput::Register(Box::new(all))).fates();
    assert_eq!(fates, [(waiter, Err(WakeFailure::BindingGone)), (waiter, Err(WakeFailure::BindingGone))]);
    assert!(stage.ticket(0).is_withdrawn() && stage.ticket(1).is_withdrawn());
    assert_eq!((stage.shard.waiting(), stage.metrics.waiters.get()), (0, 0));
    // P-047: the tokens are forgotten with their bindings.
    assert_eq!(stage.call().1.pushes, 0);
}

/// P-071.
#[test]
fn p071_the_bucket_is_bounded() {
    let mut stage = sleeping();
    for _ in 0..16 {
        assert!(stage.call().1.fates().is_empty());
    }
    let (waiter, turn) = stage.call();
    assert_eq!(turn.fates(), [(waiter, Err(WakeFailure::Overflow))]);
    assert_eq!(stage.registers(phone("192.0.2.1", 1)).fates().len(), 16);
    assert!(stage.call().1.fates().is_empty());
}

/// P-047: no push outlives its binding, removed or expired.
#[test]
fn p047_a_binding_that_ends_takes_its_push_along() {
    let mut stage = sleeping();
    stage.call();
    let fates = stage.unregisters(contact("sip:alice@192.0.2.1")).fates();
    assert!(matches!(fates[..], [(_, Err(WakeFailure::BindingGone))]));
    assert!(stage.ticket(0).is_withdrawn());

    // P-034: a removal that still names its PRID is one too.
    let mut stage = sleeping();
    stage.call();
    let fates = stage.unregisters(phone("192.0.2.1", 1)).fates();
    assert!(matches!(fates[..], [(_, Err(WakeFailure::BindingGone))]));
    assert!(stage.ticket(0).is_withdrawn());

    let mut stage = Stage::new();
    stage.registers(ContactUpdate { expires: 10, ..phone("192.0.2.1", 1) });
    stage.call();
    assert!(stage.pass(secs(9)).fates().is_empty());
    assert!(matches!(stage.pass(secs(1)).fates()[..], [(_, Err(WakeFailure::BindingGone))]));
    assert!(stage.ticket(0).is_withdrawn());
    assert_eq!(stage.call().1.pushes, 0);
}

/// P-050, P-085: the phone comes back with another address; requests that waited for the old Contact follow.
#[test]
fn p085_a_waiter_for_the_old_contact_is_released_to_the_new_one() {
    let mut stage = Stage::new();
    stage.registers(of_instance(phone("192.0.2.1", 1), 1, 1));
    let (_, turn) = stage.call();
    let key = turn.resolved().1[0];
    let input = stage.register(vec![of_instance(phone("203.0.113.5", 2), 1, 1)]);
    let turn = stage.tell(input);
    let woken = turn.events.iter().find_map(|(_, event)| match event {
        HomeEvent::Woken { key, target } => Some((*key, target.contact.clone())),
        _ => None,
    });
    assert_eq!(woken, Some((key, phone("203.0.113.5", 2).uri)), "with another token even: it is the same instance");
}

/// P-007: no instance-id, another address family: the same token, so the same phone.
#[test]
fn p007_an_equal_token_releases() {
    let mut stage = sleeping();
    stage.call();
    let turn = stage.registers(phone("[2001:db8::1]", 1));
    assert_eq!(turn.registered().unwrap().len(), 2);
    assert_eq!(turn.fates().len(), 1);
    assert!(turn.late().is_empty(), "released, not offered a second time");
}

/// P-116: more pushes than a token's share are refused, and counted; calls have a share of their own.
#[test]
fn p116_a_token_has_its_share_of_pushes() {
    let mut stage = Stage::new();
    stage.registers(fcm("192.0.2.1", "dQw4:APA91bF_x-aaaaaaaa"));
    let mut outcomes = Vec::new();
    for _ in 0..8 {
        let (waiter, input) = stage.look_up(Method::Message, PushClass::Request, secs(10));
        let turn = stage.tell(input);
        assert!(turn.fates().iter().all(|(_, fate)| *fate == Err(WakeFailure::Limited)));
        outcomes.push((turn.pushes, turn.fates().len()));
        stage.tell(ShardInput::Leave { aor: aor(), waiter });
    }
    assert_eq!(outcomes[..6], [(1, 0); 6]);
    assert_eq!(outcomes[6..], [(0, 1); 2]);
    assert_eq!(stage.metrics.pushes_limited.get(), 2);
    assert_eq!(stage.call().1.pushes, 1);
}

/// S-098: a phone that registers while an INVITE waits for another is offered to it; not before, not after, not twice.
#[test]
fn s098_a_phone_that_registers_late_is_offered() {
    let mut stage = sleeping();
    let (message, input) = stage.look_up(Method::Message, PushClass::Call, secs(10));
    stage.tell(input);
    let (waiter, _) = stage.call();
    let desk = || of_instance(contact("sip:alice@192.0.2.50"), 9, 1);
    let late = stage.registers(desk()).late();
    assert_eq!(late.len(), 1, "the INVITE, not the MESSAGE {message:?}");
    assert_eq!((late[0].0, late[0].1.contact.as_str()), (waiter, "sip:alice@192.0.2.50"));
    assert!(stage.registers(desk()).late().is_empty(), "a refresh is nothing new");
    let second_flow = of_instance(contact("sip:alice@192.0.2.50"), 9, 2);
    assert!(stage.registers(second_flow).late().is_empty(), "S-131: the same phone over another flow");
    stage.tell(ShardInput::Leave { aor: aor(), waiter });
    assert!(stage.registers(contact("sip:alice@192.0.2.51")).late().is_empty(), "it waits no longer");
}

/// S-098, S-131: a phone the INVITE went to at once is not offered again when it opens another flow.
#[test]
fn s098_a_phone_already_ringing_is_not_offered_late() {
    let mut stage = sleeping();
    stage.registers(of_instance(contact("sip:alice@192.0.2.50"), 9, 1));
    let (_, turn) = stage.call();
    assert_eq!((turn.resolved().0.len(), turn.resolved().1.len()), (1, 1));
    assert!(stage.registers(of_instance(contact("sip:alice@192.0.2.50"), 9, 2)).late().is_empty());
}

/// P-109: nothing that can be printed shows a token.
#[test]
fn p109_nothing_printed_shows_a_token() {
    let mut stage = sleeping();
    let input = stage.register(vec![phone("192.0.2.1", 1)]);
    let mut printed = format!("{input:?}");
    let turn = stage.tell(input);
    printed += &format!("{turn:?} {:?}", stage.binding());
    let (_, turn) = stage.call();
    let fates = stage.registers(phone("192.0.2.1", 1));
    printed += &format!("{turn:?} {fates:?} {:?} {:?}", stage.pushes, stage.shard.record(&aor()));
    for secret in [&prid(1)[..12], "alice@example.com"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

proptest! {
    /// P-069, P-070: whatever number waits and leaves, the push lives exactly as long as somebody waits.
    #[test]
    fn p069_the_push_lives_as_long_as_somebody_waits(leaves in proptest::collection::vec(any::<bool>(), 1..10)) {
        let mut stage = sleeping();
        let waiters: Vec<_> = leaves.iter().map(|_| stage.call().0).collect();
        for (waiter, _) in waiters.iter().zip(&leaves).filter(|(_, leaves)| **leaves) {
            stage.tell(ShardInput::Leave { aor: aor(), waiter: *waiter });
        }
        prop_assert_eq!(stage.ticket(0).is_withdrawn(), leaves.iter().all(|left| *left));
    }
}
