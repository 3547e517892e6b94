//! Scenarios of forked requests.

use proptest::prelude::*;

use super::*;
use crate::testing::{at, response, response_with};

const A: BranchId = BranchId(1);
const B: BranchId = BranchId(2);
const C: BranchId = BranchId(3);
const TIMER_C: Duration = Duration::from_secs(185);

fn context(method: Method, branches: &[(BranchId, BranchKind)]) -> ResponseContext {
    let mut context = ResponseContext::new(at(0), method, TIMER_C);
    for (id, kind) in branches {
        assert!(context.add_branch(at(0), *id, *kind));
    }
    context
}

fn forked(method: Method) -> ResponseContext {
    let mut context = context(method, &[(A, BranchKind::Forwarded), (B, BranchKind::Forwarded)]);
    context.all_added();
    context
}

fn hear(context: &mut ResponseContext, id: BranchId, status: u16) {
    context.response(at(10), id, &response(status, "z9hG4bK-o", "INVITE", "callee"));
}

/// The outputs in short: `A180`, `=480`, `cancel B`, `next`, `end`.
fn outputs(context: &mut ResponseContext) -> Vec<String> {
    let letter = |id: BranchId| char::from(b'@' + id.0 as u8);
    std::iter::from_fn(|| context.poll_output())
        .map(|output| match output {
            ForkOutput::Forward { branch, msg, .. } => format!("{}{}", letter(branch), msg.status().unwrap()),
            ForkOutput::Respond { status } => format!("={status}"),
            ForkOutput::CancelBranch { branch, .. } => format!("cancel {}", letter(branch)),
            ForkOutput::NextGroup => "next".into(),
            ForkOutput::Finished => "end".into(),
        })
        .collect()
}

#[test]
fn provisionals_and_2xx_go_up_at_once_and_100_never_s043_s079() {
    let mut context = forked(Method::Invite);
    for status in [100, 180, 183] {
        hear(&mut context, A, status);
    }
    assert_eq!(outputs(&mut context), ["A180", "A183"]);
    hear(&mut context, B, 200);
    assert_eq!(outputs(&mut context), ["B200", "cancel A"]);
    assert!(context.is_final_sent());
    hear(&mut context, A, 180);
    assert!(outputs(&mut context).is_empty());
}

#[test]
fn further_2xx_still_goes_up_s047() {
    let mut context = forked(Method::Invite);
    hear(&mut context, A, 200);
    hear(&mut context, A, 200);
    hear(&mut context, B, 200);
    assert_eq!(outputs(&mut context), ["A200", "cancel B", "A200", "B200"]);
    assert_eq!(context.poll_timeout(), Some(at(32_010)));
    context.handle_timeout(at(32_010));
    assert_eq!(outputs(&mut context), ["end"]);
    assert_eq!(context.poll_timeout(), None);
}

#[test]
fn context_with_a_2xx_ends_once_its_transactions_are_gone() {
    let mut context = forked(Method::Invite);
    hear(&mut context, A, 200);
    hear(&mut context, B, 487);
    context.remove_branch(B);
    assert_eq!(outputs(&mut context), ["A200", "cancel B"]);
    context.remove_branch(A);
    assert_eq!(outputs(&mut context), ["end"]);
}

#[test]
fn losing_branch_is_told_that_the_call_was_answered_elsewhere_s096() {
    let mut context = forked(Method::Invite);
    hear(&mut context, A, 200);
    context.poll_output();
    let Some(ForkOutput::CancelBranch { branch: B, reason }) = context.poll_output() else { panic!() };
    assert_eq!(reason, "SIP;cause=200;text=\"Call completed elsewhere\"");
}

#[test]
fn global_decline_waits_for_the_others_and_admits_none_s080() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Forwarded), (B, BranchKind::Forwarded)]);
    hear(&mut context, B, 180);
    hear(&mut context, A, 603);
    assert_eq!(outputs(&mut context), ["B180", "cancel B"]);
    assert!(!context.can_add());
    assert!(!context.add_branch(at(10), C, BranchKind::Forwarded));
    assert_eq!(outputs(&mut context), ["cancel C"]);
    hear(&mut context, B, 487);
    assert_eq!(outputs(&mut context), ["A603", "end"]);
}

#[test]
fn best_of_two_goes_up_s081() {
    for (a, b, expected) in [
        (404, 486, "A404"),
        (486, 401, "B401"),
        (500, 486, "B486"),
        (486, 302, "B302"),
        (408, 500, "B500"),
        (503, 500, "B500"),
        (503, 404, "B404"),
        (480, 484, "B484"),
        (404, 415, "B415"),
        (604, 200, "B200"),
        (480, 603, "B603"),
        (603, 600, "A603"),
    ] {
        let mut context = forked(Method::Invite);
        hear(&mut context, A, a);
        hear(&mut context, B, b);
        let last = outputs(&mut context).into_iter().rfind(|output| !output.starts_with("end")).unwrap();
        assert_eq!(last, expected, "{a} {b}");
    }
}

#[test]
fn timeouts_and_dead_flows_yield_to_answers_s056_s081_s082() {
    for (failed, heard, expected) in
        [(408, 500, "B500"), (503, 486, "B486"), (480, 500, "=480"), (408, 503, "=500"), (430, 404, "B404")]
    {
        let mut context = forked(Method::Invite);
        context.failed(at(5), A, failed);
        hear(&mut context, B, heard);
        assert_eq!(outputs(&mut context), [expected, "end"], "{failed} {heard}");
    }
    for (a, b, expected) in
        [(408, 503, "=408"), (408, 480, "=480"), (503, 503, "=500"), (430, 430, "=480"), (404, 408, "=404")]
    {
        let mut context = forked(Method::Invite);
        context.failed(at(5), A, a);
        context.failed(at(5), B, b);
        assert_eq!(outputs(&mut context), [expected, "end"], "{a} {b}");
    }
}

#[test]
fn single_503_becomes_500_s082() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Forwarded)]);
    context.all_added();
    hear(&mut context, A, 503);
    assert_eq!(outputs(&mut context), ["=500", "end"]);
}

#[test]
fn challenges_of_all_branches_are_collected_s083() {
    let mut context = context(
        Method::Register,
        &[(A, BranchKind::Forwarded), (B, BranchKind::Forwarded), (C, BranchKind::Forwarded)],
    );
    context.all_added();
    let answer = |status, lines| response_with(status, "z9hG4bK-o", "REGISTER", "callee", lines);
    context.response(at(1), A, &answer(407, "Proxy-Authenticate: Digest realm=\"a\"\r\n"));
    context.response(
        at(2),
        B,
        &answer(401, "WWW-Authenticate: Digest realm=\"b\", algorithm=SHA-256\r\nWWW-Authenticate: Digest realm=\"b\", algorithm=MD5\r\n"),
    );
    context.response(at(3), C, &answer(486, ""));
    let Some(ForkOutput::Forward { branch: A, msg, challenges }) = context.poll_output() else { panic!() };
    assert_eq!(msg.status(), Some(407));
    assert_eq!(
        challenges,
        [
            (HeaderId::WwwAuthenticate, "Digest realm=\"b\", algorithm=SHA-256".to_owned()),
            (HeaderId::WwwAuthenticate, "Digest realm=\"b\", algorithm=MD5".to_owned()),
        ]
    );
}

#[test]
fn challenges_do_not_follow_another_answer_s083() {
    let mut context = forked(Method::Invite);
    context.response(
        at(1),
        A,
        &response_with(407, "z9hG4bK-o", "INVITE", "x", "Proxy-Authenticate: Digest realm=\"a\"\r\n"),
    );
    hear(&mut context, B, 302);
    let Some(ForkOutput::Forward { branch: B, challenges, .. }) = context.poll_output() else { panic!() };
    assert!(challenges.is_empty());
}

#[test]
fn next_group_is_asked_for_once_all_of_this_one_ended_s077() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Forwarded), (B, BranchKind::Forwarded)]);
    hear(&mut context, A, 486);
    assert!(outputs(&mut context).is_empty());
    context.failed(at(20), B, 408);
    assert_eq!(outputs(&mut context), ["next"]);
    assert!(context.add_branch(at(21), C, BranchKind::Forwarded));
    hear(&mut context, C, 404);
    assert_eq!(outputs(&mut context), ["next"]);
    context.all_added();
    assert_eq!(outputs(&mut context), ["A486", "end"]);
}

#[test]
fn group_added_in_time_takes_the_question_back() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Forwarded)]);
    context.failed(at(0), A, 503);
    context.add_branch(at(0), B, BranchKind::Forwarded);
    assert!(outputs(&mut context).is_empty());
    context.all_added();
    hear(&mut context, B, 404);
    assert_eq!(outputs(&mut context), ["B404", "end"]);
}

#[test]
fn no_branch_at_all_is_480_or_what_was_asked_for() {
    let mut context = ResponseContext::new(at(0), Method::Invite, TIMER_C);
    context.all_added();
    assert_eq!(outputs(&mut context), ["=480", "end"]);
    let mut context = ResponseContext::new(at(0), Method::Bye, TIMER_C).with_fallback(503);
    context.add_branch(at(0), A, BranchKind::Waiting);
    context.all_added();
    context.failed(at(1), A, 480);
    assert_eq!(outputs(&mut context), ["=503", "end"]);
}

#[test]
fn late_fork_is_admitted_until_a_final_s098() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Forwarded)]);
    context.all_added();
    hear(&mut context, A, 180);
    assert!(context.add_branch(at(3000), B, BranchKind::Forwarded));
    hear(&mut context, A, 486);
    assert_eq!(outputs(&mut context), ["A180"]);
    hear(&mut context, B, 200);
    assert!(!context.add_branch(at(4000), C, BranchKind::Forwarded));
    assert_eq!(outputs(&mut context), ["B200", "cancel C"]);
    assert!(!context.add_branch(at(4000), A, BranchKind::Forwarded), "a branch is added once");
}

#[test]
fn caller_cancels_while_all_wait_for_a_push_s053_p069() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Waiting), (B, BranchKind::Waiting)]);
    context.cancel(at(100));
    assert_eq!(outputs(&mut context), ["cancel A", "cancel B", "=487", "end"]);
    assert!(!context.forwarded(at(200), A), "a phone that wakes later gets nothing");
    assert!(context.is_cancelled());
}

#[test]
fn caller_cancels_while_one_rings_and_one_waits_s050() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Forwarded), (B, BranchKind::Waiting)]);
    context.all_added();
    hear(&mut context, A, 180);
    context.cancel(at(100));
    context.cancel(at(101));
    assert_eq!(outputs(&mut context), ["A180", "cancel A", "cancel B"]);
    hear(&mut context, A, 487);
    assert_eq!(outputs(&mut context), ["A487", "end"]);
}

#[test]
fn cancelled_caller_hears_487_whatever_else_failed_s050() {
    for (how, expected) in [(Ok(486), "=487"), (Err(408), "=487"), (Ok(603), "A603"), (Ok(200), "A200")] {
        let mut context = context(Method::Invite, &[(A, BranchKind::Forwarded)]);
        context.cancel(at(1));
        outputs(&mut context);
        match how {
            Ok(status) => hear(&mut context, A, status),
            Err(status) => context.failed(at(9), A, status),
        }
        assert_eq!(outputs(&mut context).first().map(String::as_str), Some(expected), "{how:?}");
    }
}

#[test]
fn answer_elsewhere_withdraws_the_push_s080_p070() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Forwarded), (B, BranchKind::Waiting)]);
    hear(&mut context, A, 200);
    assert_eq!(outputs(&mut context), ["A200", "cancel B"]);
    let mut context = self::context(
        Method::Message,
        &[(A, BranchKind::Forwarded), (B, BranchKind::Waiting), (C, BranchKind::Forwarded)],
    );
    hear(&mut context, A, 200);
    assert_eq!(outputs(&mut context), ["A200", "cancel B", "end"]);
}

#[test]
fn woken_branch_is_forwarded_and_counts_from_then_s085() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Waiting)]);
    assert_eq!(context.poll_timeout(), None);
    assert!(context.forwarded(at(2000), A));
    assert!(!context.forwarded(at(2001), A));
    assert_eq!(context.poll_timeout(), Some(at(2000) + TIMER_C));
}

#[test]
fn failed_wake_up_counts_as_480_p070() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Waiting), (B, BranchKind::Forwarded)]);
    context.all_added();
    context.failed(at(30_000), A, 480);
    hear(&mut context, B, 486);
    assert_eq!(outputs(&mut context), ["B486", "end"]);
}

#[test]
fn timer_c_cancels_a_ringing_branch_and_101_to_199_restart_it_s085() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Forwarded)]);
    context.all_added();
    context.response(at(60_000), A, &response(180, "z9hG4bK-o", "INVITE", "x"));
    context.response(at(90_000), A, &response(100, "z9hG4bK-o", "INVITE", "x"));
    assert_eq!(context.poll_timeout(), Some(at(60_000) + TIMER_C));
    context.handle_timeout(at(60_000) + TIMER_C);
    assert_eq!(outputs(&mut context), ["A180", "cancel A"]);
    assert_eq!(context.poll_timeout(), None);
    // The client transaction gives up waiting for the 487.
    context.failed(at(300_000), A, 408);
    assert_eq!(outputs(&mut context), ["=408", "end"]);
}

#[test]
fn timer_c_without_any_sign_of_life_is_a_408_s085() {
    let mut context = context(Method::Invite, &[(A, BranchKind::Forwarded)]);
    context.all_added();
    context.handle_timeout(at(0) + TIMER_C);
    assert_eq!(outputs(&mut context), ["cancel A", "=408", "end"]);
}

#[test]
fn non_invite_is_answered_480_before_its_client_gives_up_s055() {
    let deadline = crate::TimerConfig::default().non_invite_deadline(at(0));
    let mut context = ResponseContext::new(at(0), Method::Message, TIMER_C).with_deadline(deadline);
    context.add_branch(at(0), A, BranchKind::Forwarded);
    context.add_branch(at(0), B, BranchKind::Waiting);
    assert_eq!(context.poll_timeout(), Some(at(30_000)));
    context.handle_timeout(at(30_000));
    assert_eq!(outputs(&mut context), ["cancel B", "=480", "end"]);
    hear(&mut context, A, 200);
    assert!(outputs(&mut context).is_empty(), "late answers go nowhere");
}

#[test]
fn non_invite_deadline_prefers_an_answer_that_came_s055() {
    let mut context = forked(Method::Message);
    hear(&mut context, A, 404);
    context.handle_timeout(at(30_000));
    assert_eq!(outputs(&mut context), ["A404", "end"]);
}

#[test]
fn non_invite_never_hears_408_nor_1xx_s054_s055() {
    for heard in [true, false] {
        let mut context = forked(Method::Message);
        hear(&mut context, A, 180);
        if heard {
            hear(&mut context, A, 408);
        } else {
            context.failed(at(10), A, 408);
        }
        context.failed(at(10), B, 408);
        assert_eq!(outputs(&mut context), ["=480", "end"]);
    }
}

#[test]
fn non_invite_2xx_goes_up_once() {
    let mut context = forked(Method::Message);
    hear(&mut context, A, 200);
    hear(&mut context, B, 200);
    assert_eq!(outputs(&mut context), ["A200", "end"]);
    context.cancel(at(20));
    assert!(outputs(&mut context).is_empty());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Add(u32, bool),
    Forwarded(u32),
    Response(u32, u16),
    Failed(u32, u16),
    Remove(u32),
    Cancel,
    AllAdded,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let status =
        prop::sample::select(vec![100u16, 180, 200, 202, 302, 401, 407, 404, 408, 480, 486, 487, 500, 503, 600, 603]);
    let failure = prop::sample::select(vec![408u16, 430, 480, 503]);
    prop_oneof![
        (0..4u32, any::<bool>()).prop_map(|(id, waiting)| Step::Add(id, waiting)),
        (0..4u32).prop_map(Step::Forwarded),
        (0..4u32, status).prop_map(|(id, status)| Step::Response(id, status)),
        (0..4u32, failure).prop_map(|(id, status)| Step::Failed(id, status)),
        (0..4u32).prop_map(Step::Remove),
        Just(Step::Cancel),
        Just(Step::AllAdded),
        (0..100_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Any order of answers, failures, CANCEL and timers gives one final response, which further 2xx to an INVITE may follow; nothing
    /// follows another final; and every context ends.
    #[test]
    fn exactly_one_final(invite: bool, steps in prop::collection::vec(step(), 0..30)) {
        let method = if invite { Method::Invite } else { Method::Message };
        let mut context = ResponseContext::new(at(0), method, TIMER_C);
        let mut now = 0;
        for step in steps {
            match step {
                Step::Add(id, waiting) => {
                    let kind = if waiting { BranchKind::Waiting } else { BranchKind::Forwarded };
                    context.add_branch(at(now), BranchId(id), kind);
                }
                Step::Forwarded(id) => { context.forwarded(at(now), BranchId(id)); }
                Step::Response(id, status) => {
                    context.response(at(now), BranchId(id), &response(status, "z9hG4bK-o", method.as_str(), "x"));
                }
                Step::Failed(id, status) => context.failed(at(now), BranchId(id), status),
                Step::Remove(id) => context.remove_branch(BranchId(id)),
                Step::Cancel => context.cancel(at(now)),
                Step::AllAdded => context.all_added(),
                Step::Wait(ms) => { now += ms; context.handle_timeout(at(now)); }
            }
        }
        context.all_added();
        for id in 0..4 {
            context.failed(at(now), BranchId(id), 408);
        }
        context.handle_timeout(at(now + 40_000));
        let (mut statuses, mut ends, mut last) = (Vec::new(), 0, None);
        while let Some(output) = context.poll_output() {
            match &output {
                ForkOutput::Forward { msg, .. } => statuses.push(msg.status().unwrap()),
                ForkOutput::Respond { status } => statuses.push(*status),
                ForkOutput::Finished => ends += 1,
                _ => {}
            }
            last = Some(output);
        }
        prop_assert_eq!(ends, 1);
        let first = statuses.iter().position(|status| *status >= 200);
        prop_assert!(first.is_some());
        let after = &statuses[first.unwrap()..];
        if after.len() > 1 {
            prop_assert!(invite && after.iter().all(|status| (200..300).contains(status)), "{statuses:?}");
        }
        prop_assert!(!statuses.contains(&503) && !statuses.contains(&430) && !statuses.contains(&100));
        prop_assert!(invite || !statuses.contains(&408) && !statuses.contains(&180));
        let harmless = matches!(last, Some(ForkOutput::Finished | ForkOutput::CancelBranch { .. }));
        prop_assert!(harmless);
    }
}
