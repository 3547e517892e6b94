//! Refresh pushes: when they go out, what spares them, and what becomes of a binding whose phone does not come.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reveille_push::{Outcome, PushClass, PushTarget, Secret};

use super::stage::{Stage, UNIX, aor, contact, fcm, of_instance, phone, start};
use crate::{
    Aor, ContactUpdate, Now, Shard, ShardInput,
    record::{BindingKey, Record},
    shard::{Pace, RefreshRules, ShardConfig},
};

const HOUR: u32 = 3600;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A phone that can be woken for anything, registered for so long.
fn sleeper(expires: u32) -> ContactUpdate {
    ContactUpdate { expires, ..fcm("10.0.0.1", "token-of-a-sleeping-phone") }
}

/// Seconds before `expires` at which pushes are asked for, while nothing else happens.
fn pushed_before(stage: &mut Stage, expires: u32) -> Vec<u64> {
    let mut at = Vec::new();
    let end = UNIX + u64::from(expires);
    while stage.now.unix < end {
        let turn = stage.pass(secs(1));
        at.extend((0..turn.pushes).map(|_| end - stage.now.unix));
    }
    at
}

/// P-093: a tenth of the lifetime, at least 180 s, at most half an hour, and up to a fifth of that earlier.
#[test]
fn p093_the_lead_is_a_tenth_of_the_lifetime_within_bounds() {
    for (expires, lead) in [(300, 180), (600, 180), (1800, 180), (HOUR, 360), (4 * HOUR, 1440), (24 * HOUR, 1800)] {
        let mut stage = Stage::new();
        let loaded = (0..300).map(|n| (named(n), value(n, UNIX, expires.into(), false)));
        stage.give(ShardInput::Loaded(loaded.collect()));
        let mut left = u64::from(expires) - lead - lead / 5 - 1;
        stage.pass(secs(left));
        assert!(stage.pushes.is_empty());
        let mut firsts = Vec::new();
        while firsts.len() < 300 {
            left += 1;
            let pushes = stage.pass(secs(1)).pushes;
            firsts.extend((0..pushes).map(|_| u64::from(expires) - left));
        }
        let (earliest, latest) = (firsts[0], firsts[299]);
        assert!((lead + lead / 5 * 9 / 10..=lead + lead / 5).contains(&earliest), "{expires}: {earliest}");
        assert!((lead..=lead + lead / 50).contains(&latest), "{expires}: {latest}");
        assert!(latest >= 120);
        assert!(stage.pushes.iter().all(|order| (order.class, order.repeat) == (PushClass::Refresh, 0)));
    }
}

/// P-093: phones that registered in the same second are not all woken in the same second, nor are they a week later.
#[test]
fn p093_the_jitter_spreads_what_began_together() {
    let mut stage = Stage::new();
    let mut loaded = Vec::new();
    for n in 0..1000 {
        loaded.push((named(n), value(n, UNIX, u64::from(HOUR), false)));
    }
    stage.give(ShardInput::Loaded(loaded));
    let mut per_second = Vec::new();
    stage.pass(secs(3600 - 432 - 1));
    assert!(stage.pushes.is_empty());
    for _ in 0..=73 {
        per_second.push(stage.pass(secs(1)).pushes);
    }
    assert_eq!(per_second.iter().sum::<usize>(), 1000);
    assert!(per_second.iter().all(|pushes| *pushes <= 40), "{per_second:?}");
    assert!(per_second.iter().filter(|pushes| **pushes > 0).count() > 60, "{per_second:?}");
}

/// P-094: a phone that refreshes by itself is pushed exactly 120 s before the end.
#[test]
fn p094_a_phone_that_refreshes_by_itself_is_pushed_120_s_before_the_end() {
    for expires in [600, HOUR, 24 * HOUR] {
        let mut stage = Stage::new();
        stage.registers(ContactUpdate { pnsreg: true, ..sleeper(expires) });
        stage.pass(secs(u64::from(expires) - 122));
        assert_eq!(pushed_before(&mut stage, expires)[0], 120);
    }
}

/// P-095: any refresh begins the period anew, before the push and after it.
#[test]
fn p095_any_refresh_resets_the_timer() {
    let mut stage = Stage::new();
    stage.registers(sleeper(HOUR));
    for _ in 0..3 {
        assert_eq!(stage.pass(secs(3600 - 433)).pushes, 0);
        stage.registers(sleeper(HOUR));
    }
    assert_eq!(stage.pass(secs(3600 - 359)).pushes, 1);
    stage.push_answered(0, Outcome::Accepted);
    stage.registers(sleeper(HOUR));
    assert!(stage.ticket(0).is_withdrawn());
    assert_eq!(stage.pass(secs(3600 - 433)).pushes, 0, "neither the second of the old period nor the first of the new");
    assert_eq!(stage.pass(secs(74)).pushes, 1);
    assert_eq!(stage.pushes[1].repeat, 0);
    assert_eq!(stage.metrics.refreshes.with_label_values(&["renewed"]).get(), 1);
    assert_eq!(stage.metrics.refreshing.get(), 1);
}

/// P-096, P-146: a second push at half of what remains, no third, and the binding ends; never a push after that.
#[test]
fn p096_two_pushes_and_then_the_binding_ends() {
    for pnsreg in [false, true] {
        let mut stage = Stage::new();
        stage.registers(ContactUpdate { pnsreg, ..sleeper(HOUR) });
        stage.pass(secs(3600 - 433));
        let at = pushed_before(&mut stage, HOUR);
        let [first, second] = at[..] else { panic!("{at:?}") };
        assert_eq!(second, first - first / 2);
        assert_eq!(stage.pushes[1].repeat, 1);
        assert_eq!(stage.contacts(), [] as [&str; 0]);
        assert_eq!(stage.pass(secs(3 * 3600)).pushes, 0);
        assert_eq!(stage.metrics.refreshes.with_label_values(&["lapsed"]).get(), 1);
        assert_eq!((stage.metrics.refreshing.get(), stage.metrics.bindings.get()), (0, 0));
    }
}

/// P-096, P-128: the push service may keep a push as long as the binding lasts; we stop trying where the second takes over.
#[test]
fn p128_a_refresh_push_is_kept_for_the_rest_of_the_binding() {
    let mut stage = Stage::new();
    stage.registers(sleeper(HOUR));
    stage.pass(secs(3600 - 433));
    let at = pushed_before(&mut stage, HOUR);
    let end = stage.now.mono;
    assert_eq!((stage.pushes[0].keep_until, stage.pushes[1].keep_until), (end, end));
    assert_eq!((stage.pushes[0].deadline, stage.pushes[1].deadline), (end - secs(at[1]), end));
    assert!(stage.ticket(0).is_withdrawn() && !stage.ticket(1).is_withdrawn());
}

/// P-047: a push for a binding that is no more is withdrawn, and none follows.
#[test]
fn p047_a_removed_binding_withdraws_its_refresh_push() {
    let mut stage = Stage::new();
    stage.registers(sleeper(HOUR));
    stage.pass(secs(3600 - 359));
    stage.unregisters(sleeper(HOUR));
    assert!(stage.ticket(0).is_withdrawn());
    assert_eq!(stage.pass(secs(3600)).pushes, 0);
    assert_eq!(stage.metrics.refreshes.with_label_values(&["ended"]).get(), 1);
}

/// P-119: the verdict that a token is dead counts for a refresh push as for any other: no second push.
#[test]
fn p119_a_dead_token_gets_no_second_push() {
    let mut stage = Stage::new();
    stage.registers(sleeper(HOUR));
    stage.pass(secs(3600 - 359));
    stage.push_answered(0, Outcome::Unregistered { since: None });
    assert!(stage.binding().push.is_none());
    assert_eq!(stage.pass(secs(3600)).pushes, 0);
}

/// P-057: a call outdoes a refresh push that waits to be sent; a phone being woken for a call needs none beside it.
#[test]
fn p057_a_call_and_a_refresh_do_not_wake_twice() {
    let mut stage = Stage::new();
    stage.registers(sleeper(HOUR));
    stage.pass(secs(3600 - 359));
    stage.call();
    assert!(stage.ticket(0).is_withdrawn());
    assert_eq!(stage.pushes[1].class, PushClass::Call);

    let mut stage = Stage::new();
    stage.registers(ContactUpdate { pnsreg: true, ..sleeper(HOUR) });
    stage.pass(secs(3600 - 125));
    stage.call();
    assert_eq!(stage.pass(secs(10)).pushes, 0, "the call's own push was the first");
    // Nobody came: the caller has gone, and the refresh is still wanted.
    let turn = stage.pass(secs(60));
    assert!(turn.pushes >= 1 && stage.pushes[1].class == PushClass::Refresh);
}

/// P-056: a REGISTER that is on its way to the store spares the push.
#[test]
fn p056_a_register_under_way_spares_the_refresh_push() {
    let mut stage = Stage::new();
    stage.registers(sleeper(HOUR));
    stage.pass(secs(3600 - 433));
    let input = stage.register(vec![sleeper(HOUR)]);
    let unanswered = stage.give(input);
    stage.now = Now { mono: stage.now.mono + secs(80), unix: stage.now.unix + 80 };
    stage.shard.handle_timeout(stage.now);
    stage.store(unanswered, Ok(()));
    assert_eq!(stage.pass(secs(600)).pushes, 0);
}

/// P-116: bindings of one token share its pushes, within a minute.
#[test]
fn p116_one_token_is_not_pushed_for_each_of_its_bindings() {
    let mut stage = Stage::new();
    let flows: Vec<_> = (1..=3).map(|id| of_instance(sleeper(HOUR), 1, id)).collect();
    let input = stage.register(flows);
    stage.tell(input);
    stage.pass(secs(3600 - 433));
    let mut firsts = Vec::new();
    for _ in 0..433 {
        let before = stage.pushes.len();
        assert!(stage.pass(secs(1)).pushes <= 1, "no two at once");
        firsts.extend(stage.pushes[before..].iter().filter(|order| order.repeat == 0).map(|_| stage.now.unix));
    }
    assert_eq!(firsts.len(), 3);
    assert!(firsts.windows(2).all(|pair| pair[1] - pair[0] >= 60), "{firsts:?}");
}

/// P-098, P-151: a phone that can be woken for calls alone gets no refresh push.
#[test]
fn p098_a_voip_token_gets_no_refresh_push() {
    let mut stage = Stage::new();
    stage.registers(phone("10.0.0.1", 1));
    stage.registers(contact("sip:alice@10.0.0.2"));
    assert_eq!(stage.pass(secs(3600)).pushes, 0);
    assert_eq!(stage.contacts(), [] as [&str; 0]);
}

#[test]
fn nothing_is_pushed_where_refresh_pushes_are_off() {
    let refresh = RefreshRules { enabled: false, ..RefreshRules::default() };
    let mut stage = Stage::with(ShardConfig { refresh, ..ShardConfig::default() });
    stage.registers(sleeper(HOUR));
    assert_eq!(stage.pass(secs(7200)).pushes, 0);
    assert_eq!(stage.metrics.bindings.get(), 0);
}

fn named(n: u32) -> Aor {
    Aor::from_canonical(format!("user{n}@example.com"))
}

/// A stored record with one binding, made at `at` for so long.
fn value(n: u32, at: u64, expires: u64, pnsreg: bool) -> Bytes {
    let mut stage = Stage::new();
    stage.registers(ContactUpdate { pnsreg, ..sleeper(HOUR) });
    let mut binding = stage.binding();
    (binding.key, binding.registered_at, binding.expires_at) = (BindingKey(n.into()), at, at + expires);
    binding.push = binding.push.map(|push| PushTarget { prid: Secret::from(format!("token-of-phone-{n}")), ..push });
    let mut record = Record::new(u64::from(n) + 1);
    record.bindings.push(binding);
    Bytes::from(record.encode())
}

/// P-092, P-171: a shard that has only what was stored sends the same pushes at the same time.
#[test]
fn p171_timers_are_made_again_from_what_was_stored() {
    let mut former = Stage::new();
    former.registers(sleeper(HOUR));
    let stored = Bytes::from(former.shard.record(&aor()).unwrap().encode());
    let mut next = Stage::new();
    next.now.unix += 1800;
    next.give(ShardInput::Loaded(vec![(aor(), stored)]));
    former.pass(secs(3600 - 433));
    let expected = pushed_before(&mut former, HOUR);
    next.pass(secs(1800 - 433));
    assert_eq!(pushed_before(&mut next, HOUR), expected);
    assert_eq!(expected.len(), 2);
}

/// P-097: what became due while nobody had the shard is spread over a minute, and still gets both its pushes.
#[test]
fn p097_overdue_pushes_are_spread_over_a_minute() {
    let mut stage = Stage::new();
    // All of them 10 to 16 minutes before their end, of a lead of 30.
    let loaded = (0..600).map(|n| (named(n), value(n, UNIX - 86_400 + 600 + u64::from(n) % 360, 86_400, false)));
    stage.give(ShardInput::Loaded(loaded.collect()));
    let per_second: Vec<usize> = (0..=60).map(|_| stage.pass(secs(1)).pushes).collect();
    assert_eq!(per_second.iter().sum::<usize>(), 600);
    assert!(per_second.iter().all(|pushes| *pushes <= 30), "{per_second:?}");
    assert!(per_second.iter().filter(|pushes| **pushes > 0).count() >= 55, "{per_second:?}");
    stage.pass(secs(1000));
    assert_eq!(stage.pushes.len(), 1200);
}

/// P-097: a phone that has less than a minute left is pushed while it still has some time to come.
#[test]
fn p097_overdue_pushes_leave_the_phone_time_to_come() {
    let mut stage = Stage::new();
    let loaded = (0..100).map(|n| (named(n), value(n, UNIX - 3570, 3600, false)));
    stage.give(ShardInput::Loaded(loaded.collect()));
    stage.pass(secs(20));
    assert!(stage.pushes.iter().filter(|order| order.repeat == 0).count() == 100);
    stage.pass(secs(100));
    assert_eq!((stage.pushes.len(), stage.metrics.bindings.get()), (200, 0));
}

/// P-097: shards of a node share a pace; what finds no place is put off, not lost, and what would come too late takes none.
#[test]
fn p097_the_node_keeps_to_its_rate() {
    let pace = Arc::new(Pace::new(5));
    let mut stages: Vec<Stage> = (0..2).map(|_| Stage::new()).collect();
    let now = Now { mono: start(), unix: UNIX };
    for (at, stage) in (0..).zip(&mut stages) {
        stage.shard.share_pace(Arc::clone(&pace));
        stage.now = now;
        let loaded = (0..500).map(|n| (named(n), value(n + at * 500, UNIX - 3600 + 119, 3600, true)));
        stage.give(ShardInput::Loaded(loaded.collect()));
    }
    let mut sent = 0;
    for second in 0..119 {
        sent += stages.iter_mut().map(|stage| stage.pass(secs(1)).pushes).sum::<usize>();
        assert!(sent <= 5 * (second + 2), "{sent} in {second} s");
    }
    // 119 s at 5 a second.
    assert!((550..=600).contains(&sent), "{sent}");
    let counted =
        |event: &str| stages.iter().map(|s| s.metrics.refreshes.with_label_values(&[event]).get()).sum::<u64>();
    assert!(counted("put_off") > 0 && counted("crowded_out") > 0);
}

/// One visit per record whatever happens: a day of refreshes by push leaves nothing behind.
#[test]
fn a_day_of_refresh_pushes_leaves_nothing_behind() {
    let mut stage = Stage::new();
    stage.registers(sleeper(HOUR));
    let mut seen = 0;
    for _ in 0..24 * 60 {
        stage.pass(secs(60));
        while seen < stage.pushes.len() {
            stage.push_answered(seen, Outcome::Accepted);
            stage.registers(sleeper(HOUR));
            seen += 1;
        }
    }
    assert!((26..=29).contains(&seen), "{seen}");
    assert_eq!(stage.metrics.refreshing.get(), 0);
    assert_eq!(stage.metrics.refreshes.with_label_values(&["second"]).get(), 0);
    let shard: &Shard = &stage.shard;
    assert_eq!((shard.bindings(), shard.in_flight.len()), (1, 0));
}
