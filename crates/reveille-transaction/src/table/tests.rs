//! Scenarios through the whole table.

use proptest::prelude::*;

use super::*;
use crate::testing::{at, forwarded, parse, request, request_to, response};

type Table = Transactions<u8>;

const UDP: bool = false;
const TCP: bool = true;

fn table() -> Table {
    Transactions::new(TimerConfig::default(), 1000).with_tag_seed([1, 2])
}

fn events(table: &mut Table) -> Vec<Event<u8>> {
    std::iter::from_fn(|| table.poll_event()).collect()
}

fn sent(table: &mut Table) -> Vec<Message> {
    std::iter::from_fn(|| table.poll_transmit()).map(|transmit| build::own(&transmit.bytes).unwrap()).collect()
}

/// Start lines' essence: a method, or a status.
fn sent_names(table: &mut Table) -> Vec<String> {
    let name = |msg: Message| msg.status().map_or_else(|| msg.method_name().to_owned(), |status| status.to_string());
    sent(table).into_iter().map(name).collect()
}

fn open(table: &mut Table, ms: u64, msg: Message, reliable: bool) -> ServerId {
    assert!(matches!(table.receive(at(ms), msg, 1, reliable), Received::Consumed));
    match events(table).pop() {
        Some(Event::Request { id, from: 1, .. }) => id,
        other => panic!("{other:?}"),
    }
}

fn answer(table: &mut Table, ms: u64, id: ServerId, status: u16, msg: &Message) {
    let bytes = ResponseBuilder::to(msg, status).to_tag("ours").build();
    assert!(table.respond(at(ms), id, status, bytes));
}

fn run_until(table: &mut Table, ms: u64) {
    while let Some(next) = table.poll_timeout().filter(|next| *next <= at(ms)) {
        table.handle_timeout(next);
    }
    table.handle_timeout(at(ms));
}

fn place(table: &mut Table, ms: u64, method: Method, branch: &str, reliable: bool) -> ClientId {
    table.request(at(ms), method, branch, forwarded(method.as_str(), branch), 9, reliable)
}

fn hear(table: &mut Table, ms: u64, status: u16, branch: &str, method: &str) {
    assert!(matches!(table.receive(at(ms), response(status, branch, method, "callee"), 9, UDP), Received::Consumed));
}

#[test]
fn request_copies_reach_the_user_once_and_replay_the_last_response_s042() {
    for method in ["INVITE", "REGISTER"] {
        let mut table = table();
        let msg = request(method, "z9hG4bK-1");
        let id = open(&mut table, 0, msg.clone(), UDP);
        for _ in 0..5 {
            table.receive(at(1), msg.clone(), 1, UDP);
        }
        assert!(events(&mut table).is_empty() && sent(&mut table).is_empty());
        answer(&mut table, 10, id, 404, &msg);
        let first = sent(&mut table).pop().unwrap();
        table.receive(at(20), msg.clone(), 1, UDP);
        assert_eq!(sent(&mut table).pop().unwrap().bytes(), first.bytes());
        assert!(events(&mut table).is_empty());
        assert_eq!(table.stats().absorbed, 6);
        assert_eq!(table.stats().replayed, 1);
    }
}

#[test]
fn same_branch_from_another_host_is_a_second_transaction_s040() {
    let mut table = table();
    let msg = request("INVITE", "z9hG4bK-1");
    let text = String::from_utf8(msg.bytes().to_vec()).unwrap().replace("caller.example", "other.example");
    let one = open(&mut table, 0, msg, UDP);
    assert_ne!(one, open(&mut table, 0, parse(&text), UDP));
}

#[test]
fn slow_non_invite_gets_its_100_between_3_5_and_4_5_s_s054() {
    for reliable in [UDP, TCP] {
        let mut table = table();
        open(&mut table, 0, request("MESSAGE", "z9hG4bK-1"), reliable);
        run_until(&mut table, 3499);
        assert!(sent_names(&mut table).is_empty());
        run_until(&mut table, 3500);
        assert_eq!(sent_names(&mut table), ["100"]);
        run_until(&mut table, 31999);
        assert!(sent_names(&mut table).is_empty());
        run_until(&mut table, 32000);
        assert!(matches!(events(&mut table).as_slice(), [Event::ServerGone { .. }]));
        assert!(table.is_empty() && sent(&mut table).is_empty());
    }
}

#[test]
fn quick_answer_leaves_no_100_s054() {
    let mut table = table();
    let msg = request("MESSAGE", "z9hG4bK-1");
    let id = open(&mut table, 0, msg.clone(), UDP);
    answer(&mut table, 3000, id, 200, &msg);
    run_until(&mut table, 10_000);
    assert_eq!(sent_names(&mut table), ["200"]);
}

#[test]
fn no_408_to_a_non_invite_s055() {
    let mut table = table();
    let msg = request("MESSAGE", "z9hG4bK-1");
    let id = open(&mut table, 0, msg.clone(), UDP);
    answer(&mut table, 3000, id, 408, &msg);
    run_until(&mut table, 40_000);
    assert!(sent_names(&mut table).is_empty());
    assert!(table.is_empty());
}

#[test]
fn unacknowledged_final_repeats_until_the_ack_comes_s046() {
    let mut table = table();
    let msg = request("INVITE", "z9hG4bK-1");
    let id = open(&mut table, 0, msg.clone(), UDP);
    answer(&mut table, 0, id, 486, &msg);
    run_until(&mut table, 2000);
    assert_eq!(sent_names(&mut table), ["486", "486", "486"]);
    let ack = request_to("ACK", "z9hG4bK-1", "ours");
    for _ in 0..2 {
        table.receive(at(2000), ack.clone(), 1, UDP);
    }
    run_until(&mut table, 6999);
    assert!(sent(&mut table).is_empty() && events(&mut table).is_empty());
    run_until(&mut table, 7000);
    assert!(matches!(events(&mut table).as_slice(), [Event::ServerGone { id: gone }] if *gone == id));
}

#[test]
fn final_is_sent_once_on_tcp_s046() {
    let mut table = table();
    let msg = request("INVITE", "z9hG4bK-1");
    let id = open(&mut table, 0, msg.clone(), TCP);
    answer(&mut table, 0, id, 486, &msg);
    run_until(&mut table, 31_000);
    assert_eq!(sent_names(&mut table), ["486"]);
    table.receive(at(31_000), request_to("ACK", "z9hG4bK-1", "ours"), 1, TCP);
    assert!(table.is_empty());
}

#[test]
fn ack_to_a_2xx_goes_to_the_user_s047_s049() {
    let mut table = table();
    let msg = request("INVITE", "z9hG4bK-1");
    let id = open(&mut table, 0, msg.clone(), UDP);
    answer(&mut table, 0, id, 200, &msg);
    answer(&mut table, 5, id, 200, &msg);
    table.receive(at(10), msg, 1, UDP);
    assert_eq!(sent_names(&mut table), ["200", "200"]);
    for branch in ["z9hG4bK-1", "z9hG4bK-ack"] {
        table.receive(at(20), request_to("ACK", branch, "ours"), 1, UDP);
        assert!(matches!(events(&mut table).as_slice(), [Event::Ack { from: 1, .. }]));
    }
    run_until(&mut table, 32_000);
    assert!(matches!(events(&mut table).as_slice(), [Event::ServerGone { .. }]));
}

#[test]
fn cancel_before_the_final_is_answered_and_told_once_s050() {
    for reliable in [UDP, TCP] {
        let mut table = table();
        let msg = request("INVITE", "z9hG4bK-1");
        let id = open(&mut table, 0, msg.clone(), reliable);
        let text = String::from_utf8(request("CANCEL", "z9hG4bK-1").bytes().to_vec()).unwrap();
        let cancel = parse(&text.replace("Content-Length", "Reason: SIP;cause=600\r\nContent-Length"));
        for _ in 0..3 {
            table.receive(at(10), cancel.clone(), 1, reliable);
        }
        assert!(matches!(events(&mut table).as_slice(), [Event::Cancel { invite }] if *invite == id));
        let answers = sent(&mut table);
        assert_eq!(answers.len(), 3);
        for answer in answers {
            assert_eq!((answer.status(), answer.cseq().unwrap().name), (Some(200), "CANCEL"));
            assert_eq!(answer.to_tag(), table.tag(id).as_deref(), "S-045: the tag of the 487 to come");
        }
        assert_eq!(table.cancel_reason(id), Some("SIP;cause=600"));
        answer(&mut table, 20, id, 487, &msg);
        assert_eq!(sent_names(&mut table), ["487"]);
    }
}

#[test]
fn cancel_after_the_final_has_no_effect_s050() {
    for status in [200, 486] {
        let mut table = table();
        let msg = request("INVITE", "z9hG4bK-1");
        let id = open(&mut table, 0, msg.clone(), UDP);
        answer(&mut table, 0, id, status, &msg);
        sent(&mut table);
        table.receive(at(10), request("CANCEL", "z9hG4bK-1"), 1, UDP);
        assert!(events(&mut table).is_empty());
        assert_eq!(sent_names(&mut table), ["200"]);
    }
}

#[test]
fn cancel_of_nothing_is_481_and_leaves_no_event_s050() {
    let mut table = table();
    open(&mut table, 0, request("MESSAGE", "z9hG4bK-2"), UDP);
    for branch in ["z9hG4bK-1", "z9hG4bK-2"] {
        table.receive(at(10), request("CANCEL", branch), 1, UDP);
        table.receive(at(10), request("CANCEL", branch), 1, UDP);
        let answers = sent(&mut table);
        assert_eq!(answers.iter().map(Message::status).collect::<Vec<_>>(), [Some(481), Some(481)]);
        assert_eq!(answers[0].to_tag(), answers[1].to_tag());
    }
    run_until(&mut table, 60_000);
    assert!(table.is_empty());
    assert!(matches!(events(&mut table).as_slice(), [Event::ServerGone { .. }]), "the MESSAGE's alone");
}

#[test]
fn cancel_waits_for_a_provisional_s051() {
    let mut table = table();
    let id = place(&mut table, 0, Method::Invite, "z9hG4bK-o", TCP);
    assert_eq!(sent_names(&mut table), ["INVITE"]);
    table.cancel(at(100), id, Some("SIP;cause=200"));
    table.cancel(at(101), id, None);
    assert!(sent(&mut table).is_empty());
    hear(&mut table, 200, 100, "z9hG4bK-o", "INVITE");
    let cancels = sent(&mut table);
    assert_eq!(cancels.len(), 1);
    assert_eq!(cancels[0].method_name(), "CANCEL");
    assert_eq!(cancels[0].value(reveille_sip::header::HeaderId::Reason), Some("SIP;cause=200"));
    assert_eq!(cancels[0].top_via().unwrap().branch(), Some("z9hG4bK-o"));
    hear(&mut table, 210, 200, "z9hG4bK-o", "CANCEL");
    hear(&mut table, 220, 487, "z9hG4bK-o", "INVITE");
    assert_eq!(sent_names(&mut table), ["ACK"]);
    let heard = events(&mut table);
    assert!(
        matches!(heard.as_slice(), [Event::Response { .. }, Event::Response { msg, .. }, Event::ClientGone { .. }] if msg.status() == Some(487)),
        "{heard:?}"
    );
    assert!(table.is_empty());
    assert_eq!(table.stats().cancels, 1);
}

#[test]
fn wish_to_cancel_is_dropped_by_a_final_s051() {
    for status in [200, 404] {
        let mut table = table();
        let id = place(&mut table, 0, Method::Invite, "z9hG4bK-o", UDP);
        table.cancel(at(100), id, None);
        hear(&mut table, 200, status, "z9hG4bK-o", "INVITE");
        run_until(&mut table, 300);
        table.cancel(at(400), id, None);
        assert!(!sent_names(&mut table).contains(&"CANCEL".to_owned()));
    }
}

#[test]
fn mute_peer_after_cancel_times_out_in_64_t1() {
    let mut table = table();
    let id = place(&mut table, 0, Method::Invite, "z9hG4bK-o", TCP);
    hear(&mut table, 10, 180, "z9hG4bK-o", "INVITE");
    events(&mut table);
    table.cancel(at(1000), id, None);
    run_until(&mut table, 32_999);
    assert!(events(&mut table).is_empty());
    run_until(&mut table, 33_000);
    let heard = events(&mut table);
    let timed_out = matches!(heard.as_slice(), [Event::Failed { why: Failure::Timeout, .. }, Event::ClientGone { .. }]);
    assert!(timed_out, "{heard:?}");
    assert!(table.is_empty());
}

#[test]
fn non_invite_is_never_cancelled_s052() {
    let mut table = table();
    let id = place(&mut table, 0, Method::Message, "z9hG4bK-o", UDP);
    hear(&mut table, 10, 100, "z9hG4bK-o", "MESSAGE");
    table.cancel(at(20), id, None);
    assert_eq!(sent_names(&mut table), ["MESSAGE"]);
}

#[test]
fn two_forks_below_both_answer_200_s047() {
    let mut table = table();
    place(&mut table, 0, Method::Invite, "z9hG4bK-o", UDP);
    for (ms, tag) in [(10, "a"), (20, "b"), (20_000, "a")] {
        table.receive(at(ms), response(200, "z9hG4bK-o", "INVITE", tag), 9, UDP);
    }
    hear(&mut table, 30, 486, "z9hG4bK-o", "INVITE");
    assert_eq!(events(&mut table).iter().filter(|event| matches!(event, Event::Response { .. })).count(), 3);
    run_until(&mut table, 32_010);
    assert!(matches!(events(&mut table).as_slice(), [Event::ClientGone { .. }]));
    hear(&mut table, 32_011, 200, "z9hG4bK-o", "INVITE");
    assert!(events(&mut table).is_empty());
    assert_eq!(table.stats().stray_responses, 1);
}

#[test]
fn foreign_or_unknown_responses_are_dropped_s041_s048() {
    let mut table = table();
    place(&mut table, 0, Method::Invite, "z9hG4bK-o", UDP);
    sent(&mut table);
    let text = String::from_utf8(response(200, "z9hG4bK-o", "INVITE", "x").bytes().to_vec()).unwrap();
    for (what, with) in [
        ("proxy.example:5060", "foreign.example:5060"),
        ("proxy.example:5060", "proxy.example:5061"),
        ("proxy.example:5060", "proxy.example"),
        ("z9hG4bK-o", "z9hG4bK-p"),
        ("CSeq: 1 INVITE", "CSeq: 1 BYE"),
    ] {
        table.receive(at(1), parse(&text.replace(what, with)), 9, UDP);
    }
    assert!(events(&mut table).is_empty() && sent(&mut table).is_empty());
    assert_eq!(table.stats().stray_responses, 5);
    table.receive(at(1), parse(&text.replace("proxy.example:5060", "PROXY.example:5060")), 9, UDP);
    assert_eq!(events(&mut table).len(), 1);
}

#[test]
fn every_copy_of_a_final_is_acknowledged_s046() {
    let mut table = table();
    place(&mut table, 0, Method::Invite, "z9hG4bK-o", UDP);
    for ms in [10, 500, 1500] {
        hear(&mut table, ms, 486, "z9hG4bK-o", "INVITE");
    }
    assert_eq!(sent_names(&mut table), ["INVITE", "ACK", "ACK", "ACK"]);
    assert_eq!(events(&mut table).len(), 1);
    run_until(&mut table, 32_010);
    assert!(table.is_empty());
}

#[test]
fn silence_is_a_timeout_s056() {
    for (method, resent) in [(Method::Invite, 6), (Method::Message, 10)] {
        let mut table = table();
        place(&mut table, 0, method, "z9hG4bK-o", UDP);
        run_until(&mut table, 31_999);
        assert!(events(&mut table).is_empty());
        assert_eq!(sent(&mut table).len(), 1 + resent);
        run_until(&mut table, 32_000);
        let heard = events(&mut table);
        assert!(matches!(heard.as_slice(), [Event::Failed { why: Failure::Timeout, .. }, Event::ClientGone { .. }]));
        assert!(table.is_empty() && sent(&mut table).is_empty());
    }
    assert_eq!((Failure::Timeout.status(), Failure::Transport.status()), (408, 503));
}

#[test]
fn dead_flow_fails_its_own_unanswered_requests_at_once_s056() {
    let mut table = table();
    let calling = place(&mut table, 0, Method::Invite, "z9hG4bK-1", TCP);
    let ringing = place(&mut table, 0, Method::Invite, "z9hG4bK-2", TCP);
    let answered = place(&mut table, 0, Method::Invite, "z9hG4bK-3", TCP);
    let bytes = forwarded("INVITE", "z9hG4bK-4");
    let elsewhere = table.request(at(0), Method::Invite, "z9hG4bK-4", bytes, 8, TCP);
    hear(&mut table, 10, 180, "z9hG4bK-2", "INVITE");
    hear(&mut table, 10, 200, "z9hG4bK-3", "INVITE");
    events(&mut table);
    table.transport_failed(at(20), &9);
    let failed: Vec<_> = events(&mut table)
        .into_iter()
        .filter_map(|event| match event {
            Event::Failed { id, why: Failure::Transport } => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [calling, ringing]);
    // By another way the callee's second 200 still finds its transaction.
    table.receive(at(30), response(200, "z9hG4bK-3", "INVITE", "b"), 7, TCP);
    assert!(matches!(events(&mut table).as_slice(), [Event::Response { id, .. }] if *id == answered));
    hear(&mut table, 30, 180, "z9hG4bK-4", "INVITE");
    assert!(matches!(events(&mut table).as_slice(), [Event::Response { id, .. }] if *id == elsewhere));
    table.transport_failed(at(40), &9);
    assert!(events(&mut table).is_empty());
}

#[test]
fn nothing_is_sent_to_a_caller_whose_flow_died_unless_rerouted() {
    let mut table = table();
    let msg = request("INVITE", "z9hG4bK-1");
    let (lost, found) =
        (open(&mut table, 0, msg.clone(), TCP), open(&mut table, 0, request("INVITE", "z9hG4bK-2"), TCP));
    table.transport_failed(at(1), &1);
    assert!(events(&mut table).is_empty());
    answer(&mut table, 2, lost, 180, &msg);
    assert!(table.poll_transmit().is_none());
    assert!(table.reroute(found, 5));
    answer(&mut table, 2, found, 180, &msg);
    assert_eq!(table.poll_transmit().unwrap().to, 5);
    // The caller comes again by a new connection.
    table.receive(at(3), msg, 6, TCP);
    assert_eq!(table.poll_transmit().unwrap().to, 6);
}

#[test]
fn abandoned_request_hears_nothing_more_s048() {
    let mut table = table();
    let id = place(&mut table, 0, Method::Invite, "z9hG4bK-o", UDP);
    sent(&mut table);
    table.abandon(id);
    hear(&mut table, 10, 200, "z9hG4bK-o", "INVITE");
    run_until(&mut table, 60_000);
    assert!(events(&mut table).is_empty() && sent(&mut table).is_empty() && table.is_empty());
}

#[test]
fn full_table_sheds_new_requests_and_keeps_dialogs_going_s059() {
    let mut table = Transactions::<u8>::new(TimerConfig::default(), 4);
    for number in 0..4 {
        open(&mut table, 0, request("INVITE", &format!("z9hG4bK-{number}")), UDP);
    }
    let shed = table.receive(at(0), request("INVITE", "z9hG4bK-new"), 1, UDP);
    assert!(matches!(shed, Received::Full(msg) if msg.method() == Method::Invite));
    // What is in hand goes on: copies, CANCEL, ACK, requests inside dialogs.
    assert!(matches!(table.receive(at(0), request("INVITE", "z9hG4bK-0"), 1, UDP), Received::Consumed));
    open(&mut table, 0, request_to("BYE", "z9hG4bK-bye", "ours"), UDP);
    table.receive(at(0), request("CANCEL", "z9hG4bK-0"), 1, UDP);
    assert!(matches!(events(&mut table).as_slice(), [Event::Cancel { .. }]));
    table.receive(at(0), request_to("ACK", "z9hG4bK-ack", "ours"), 1, UDP);
    assert!(matches!(events(&mut table).as_slice(), [Event::Ack { .. }]));
    // That too has an end.
    for number in 0..20 {
        table.receive(at(0), request_to("BYE", &format!("z9hG4bK-b{number}"), "ours"), 1, UDP);
        table.receive(at(0), request("CANCEL", &format!("z9hG4bK-c{number}")), 1, UDP);
    }
    assert!(table.len() <= 6, "{}", table.len());
    assert_eq!(table.stats().shed, 21);
}

#[test]
fn request_without_magic_cookie_is_matched_by_its_fields_s033() {
    let mut table = table();
    let invite = request("INVITE", "old");
    let id = open(&mut table, 0, invite.clone(), UDP);
    table.receive(at(1), invite.clone(), 1, UDP);
    assert!(events(&mut table).is_empty());
    table.receive(at(2), request("CANCEL", "old"), 1, UDP);
    assert!(matches!(events(&mut table).as_slice(), [Event::Cancel { invite }] if *invite == id));
    answer(&mut table, 3, id, 487, &invite);
    // Another To tag acknowledges somebody else's response.
    table.receive(at(4), request_to("ACK", "old", "theirs"), 1, UDP);
    assert!(matches!(events(&mut table).as_slice(), [Event::Ack { .. }]));
    table.receive(at(4), request_to("ACK", "old", "ours"), 1, UDP);
    assert!(events(&mut table).is_empty());
    run_until(&mut table, 5005);
    assert!(events(&mut table).iter().any(|event| matches!(event, Event::ServerGone { .. })));
}

#[test]
fn tag_follows_seed_and_transaction_s045() {
    let tags = |seed| {
        let mut table = Transactions::<u8>::new(TimerConfig::default(), 10).with_tag_seed(seed);
        let one = open(&mut table, 0, request("INVITE", "z9hG4bK-1"), UDP);
        let two = open(&mut table, 0, request("INVITE", "z9hG4bK-2"), UDP);
        (table.tag(one).unwrap(), table.tag(two).unwrap())
    };
    assert_eq!(tags([1, 2]), tags([1, 2]));
    assert_ne!(tags([1, 2]), tags([1, 3]));
    let (one, two) = tags([1, 2]);
    assert_ne!(one, two);
}

#[test]
fn outdated_timers_do_not_pile_up() {
    let mut table = table();
    for number in 0..10_000 {
        let msg = request("REGISTER", &format!("z9hG4bK-{number}"));
        let id = open(&mut table, 0, msg.clone(), TCP);
        answer(&mut table, 0, id, 200, &msg);
        assert!(events(&mut table).len() == 1 && table.is_empty());
        sent(&mut table);
    }
    assert!(table.queue.len() <= 1025, "{}", table.queue.len());
}

proptest! {
    /// Whatever happens in whatever order, the caller hears one final response (a 2xx to INVITE may be followed by more), nothing but
    /// copies of it after one of 300 and above, and everything ends by itself.
    #[test]
    fn one_final_response_per_transaction(
        invite: bool,
        reliable: bool,
        steps in prop::collection::vec((0u8..5, prop::sample::select(vec![100u16, 180, 200, 408, 486, 603]), 0u64..9000), 0..20),
    ) {
        let mut table = table();
        let method = if invite { "INVITE" } else { "MESSAGE" };
        let msg = request(method, "z9hG4bK-1");
        let id = open(&mut table, 0, msg.clone(), reliable);
        let mut now = 0;
        let mut heard = Vec::new();
        for (step, status, wait) in steps {
            now += wait;
            run_until(&mut table, now);
            match step {
                0 => { table.receive(at(now), request("CANCEL", "z9hG4bK-1"), 1, reliable); }
                1 => { table.receive(at(now), request_to("ACK", "z9hG4bK-1", "ours"), 1, reliable); }
                2 if table.tag(id).is_some() => { table.receive(at(now), msg.clone(), 1, reliable); }
                _ => {
                    table.respond(at(now), id, status, ResponseBuilder::to(&msg, status).to_tag("ours").build());
                }
            }
            heard.extend(sent(&mut table));
        }
        table.respond(at(now), id, 500, ResponseBuilder::to(&msg, 500).to_tag("ours").build());
        run_until(&mut table, now + 100_000);
        heard.extend(sent(&mut table));
        prop_assert!(table.is_empty());
        let statuses: Vec<_> =
            heard.iter().filter(|msg| msg.cseq().unwrap().name == method).filter_map(Message::status).collect();
        let finals: Vec<_> = statuses.iter().copied().filter(|status| *status >= 200).collect();
        prop_assert!(finals.windows(2).all(|pair| pair[0] == pair[1]), "{finals:?}");
        if let Some(first) = statuses.iter().position(|status| *status >= 200) {
            prop_assert!(statuses[first..].iter().all(|status| *status >= 200), "{statuses:?}");
        }
        if invite {
            prop_assert!(!finals.is_empty());
        } else {
            prop_assert!(!finals.contains(&408) && !statuses.contains(&180));
        }
    }
}
