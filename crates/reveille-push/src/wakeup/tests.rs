//! Scenarios of the bucket, and the one promise that holds in any order of events.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// The one place here that looks at a clock: some instant to count from.
#[allow(clippy::disallowed_methods)] // an arbitrary origin; every later instant is computed from it
fn origin() -> Instant {
    Instant::now()
}

/// A wake-up with its own clock.
struct Scene {
    origin: Instant,
    wakeup: Wakeup,
}

impl Scene {
    fn start(class: PushClass, deadline: u64) -> Self {
        let origin = origin();
        Scene { origin, wakeup: Wakeup::start(origin, class, origin + Duration::from_secs(deadline)) }
    }

    /// A call that has joined and whose push has been asked for.
    fn with_call(deadline: u64) -> Self {
        let mut scene = Self::start(PushClass::Call, deadline);
        scene.join(0, 1, PushClass::Call, deadline);
        assert_eq!(scene.outputs(), [scene.push(PushClass::Call, deadline)]);
        scene
    }

    fn at(&self, second: u64) -> Instant {
        self.origin + Duration::from_secs(second)
    }

    fn push(&self, class: PushClass, deadline: u64) -> Output {
        Output::RequestPush { class, deadline: self.at(deadline) }
    }

    fn join(&mut self, second: u64, waiter: WaiterId, class: PushClass, deadline: u64) {
        let deadline = self.at(deadline);
        self.hear(second, Input::Join { waiter, class, deadline });
    }

    fn hear(&mut self, second: u64, input: Input) {
        self.wakeup.handle(self.at(second), input);
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.wakeup.poll_output()).collect()
    }

    /// Jumps to the next timeout, which must be at `second`.
    fn timeout(&mut self, second: u64) -> Vec<Output> {
        assert_eq!(self.wakeup.poll_timeout(), Some(self.at(second)));
        self.wakeup.handle_timeout(self.at(second));
        self.outputs()
    }
}

fn release(waiter: WaiterId) -> Output {
    Output::Release { waiter }
}

fn fail(waiter: WaiterId, why: WakeFailure) -> Output {
    Output::Fail { waiter, why }
}

/// P-052, P-058: the ordinary case.
#[test]
fn refresh_after_accepted_push_releases() {
    let mut scene = Scene::with_call(30);
    scene.hear(1, Input::PnsAnswered(Outcome::Accepted));
    assert_eq!(scene.outputs(), []);
    scene.hear(2, Input::Refreshed);
    assert_eq!(scene.outputs(), [release(1), Output::Done]);
    assert_eq!(scene.wakeup.poll_timeout(), None);
}

/// P-063: a refresh before the verdict releases too, and a verdict after the end changes nothing.
#[test]
fn refresh_before_verdict_releases_once() {
    let mut scene = Scene::with_call(30);
    scene.hear(1, Input::Refreshed);
    assert_eq!(scene.outputs(), [release(1), Output::WithdrawPush, Output::Done]);
    for input in
        [Input::PnsAnswered(Outcome::Unavailable), Input::Refreshed, Input::BindingGone, Input::Leave { waiter: 1 }]
    {
        scene.hear(2, input);
        assert_eq!(scene.outputs(), []);
    }
}

/// P-057: one push, many waiters.
#[test]
fn waiters_share_one_push() {
    let mut scene = Scene::with_call(30);
    scene.join(1, 2, PushClass::Call, 31);
    scene.join(1, 3, PushClass::Request, 11);
    scene.hear(2, Input::PnsAnswered(Outcome::Accepted));
    assert_eq!(scene.outputs(), []);
    scene.hear(3, Input::Refreshed);
    assert_eq!(scene.outputs(), [release(1), release(2), release(3), Output::Done]);
}

/// P-057: a call upgrades a refresh push, whether its verdict is known or not.
#[test]
fn call_upgrades_refresh() {
    for accepted in [false, true] {
        let mut scene = Scene::start(PushClass::Refresh, 180);
        assert_eq!(scene.outputs(), [scene.push(PushClass::Refresh, 180)]);
        if accepted {
            scene.hear(1, Input::PnsAnswered(Outcome::Accepted));
        }
        scene.join(2, 1, PushClass::Call, 32);
        let withdrawn = (!accepted).then_some(Output::WithdrawPush);
        let expected: Vec<_> = withdrawn.into_iter().chain([scene.push(PushClass::Call, 180)]).collect();
        assert_eq!(scene.outputs(), expected);
        assert_eq!(scene.wakeup.class(), PushClass::Call);
        // Once upgraded, a second call asks for nothing more.
        scene.join(3, 2, PushClass::Call, 33);
        assert_eq!(scene.outputs(), []);
    }
}

/// P-057: a request upgrades a refresh, and a call upgrades that again.
#[test]
fn urgency_only_rises_while_somebody_needs_it() {
    let mut scene = Scene::start(PushClass::Refresh, 180);
    scene.join(0, 1, PushClass::Request, 10);
    scene.join(0, 2, PushClass::Call, 30);
    let expected = [
        scene.push(PushClass::Refresh, 180),
        Output::WithdrawPush,
        scene.push(PushClass::Request, 180),
        Output::WithdrawPush,
        scene.push(PushClass::Call, 180),
    ];
    assert_eq!(scene.outputs(), expected);
}

/// P-069, P-151: the call is cancelled before its push left; who remains is served by a push of its own class.
#[test]
fn cancelled_call_takes_its_push_along() {
    let mut scene = Scene::with_call(30);
    scene.join(0, 2, PushClass::Request, 10);
    scene.hear(1, Input::Leave { waiter: 1 });
    assert_eq!(scene.outputs(), [Output::WithdrawPush, scene.push(PushClass::Request, 10)]);
    scene.hear(2, Input::Leave { waiter: 2 });
    assert_eq!(scene.outputs(), [Output::WithdrawPush, Output::Done]);
}

/// P-069: nobody is left, so the push goes; one that is on its way already cannot be called back.
#[test]
fn last_leave_withdraws_the_push() {
    let mut scene = Scene::with_call(30);
    scene.hear(1, Input::Leave { waiter: 7 });
    assert_eq!(scene.outputs(), [], "a stranger's leave means nothing");
    scene.hear(1, Input::Leave { waiter: 1 });
    assert_eq!(scene.outputs(), [Output::WithdrawPush, Output::Done]);

    let mut scene = Scene::with_call(30);
    scene.hear(1, Input::PnsAnswered(Outcome::Accepted));
    scene.hear(2, Input::Leave { waiter: 1 });
    assert_eq!(scene.outputs(), [Output::Done]);
}

/// P-093: a refresh is wanted for its own sake: it outlives a caller who gives up.
#[test]
fn refresh_outlives_a_cancelled_call() {
    let mut scene = Scene::start(PushClass::Refresh, 180);
    scene.join(0, 1, PushClass::Call, 30);
    scene.outputs();
    scene.hear(1, Input::Leave { waiter: 1 });
    assert_eq!(scene.outputs(), [Output::WithdrawPush, scene.push(PushClass::Refresh, 180)]);
    assert_eq!(scene.timeout(180), [Output::WithdrawPush, Output::Done]);
}

/// P-065: every verdict that means failure fails everybody; a withdrawal is nobody's failure.
#[test]
fn failed_push_fails_all() {
    let failures = [
        Outcome::Unregistered { since: None },
        Outcome::Throttled { retry_after: None },
        Outcome::Refused,
        Outcome::CredentialFault,
        Outcome::Unavailable,
    ];
    for outcome in failures {
        let mut scene = Scene::with_call(30);
        scene.join(0, 2, PushClass::Request, 10);
        scene.hear(1, Input::PnsAnswered(outcome));
        let why = WakeFailure::PushFailed;
        assert_eq!(scene.outputs(), [fail(1, why), fail(2, why), Output::Done], "{outcome:?}");
    }
    // P-116: one that may not be sent at all.
    let mut scene = Scene::with_call(30);
    scene.hear(1, Input::Forbidden);
    assert_eq!(scene.outputs(), [fail(1, WakeFailure::Limited), Output::Done]);
    let mut scene = Scene::with_call(30);
    scene.hear(1, Input::PnsAnswered(Outcome::Withdrawn));
    assert_eq!(scene.outputs(), []);
}

/// P-047, P-064.
#[test]
fn rejection_and_loss_of_the_binding_fail_all() {
    for (input, why) in [(Input::Rejected, WakeFailure::Rejected), (Input::BindingGone, WakeFailure::BindingGone)] {
        let mut scene = Scene::with_call(30);
        scene.hear(1, input);
        assert_eq!(scene.outputs(), [fail(1, why), Output::WithdrawPush, Output::Done]);
    }
}

/// P-066: each waiter has a deadline of its own.
#[test]
fn deadlines_are_each_waiters_own() {
    let mut scene = Scene::with_call(30);
    scene.join(0, 2, PushClass::Request, 10);
    scene.hear(1, Input::PnsAnswered(Outcome::Accepted));
    assert_eq!(scene.timeout(10), [fail(2, WakeFailure::Deadline)]);
    assert_eq!(scene.timeout(30), [fail(1, WakeFailure::Deadline), Output::Done]);
}

/// P-057, P-066: a waiter that outlasts the push gets another one when the first has run out.
#[test]
fn push_is_repeated_for_who_waits_longer() {
    let mut scene = Scene::with_call(30);
    scene.hear(1, Input::PnsAnswered(Outcome::Accepted));
    scene.join(20, 2, PushClass::Call, 50);
    assert_eq!(scene.timeout(30), [fail(1, WakeFailure::Deadline), scene.push(PushClass::Call, 50)]);
    scene.hear(31, Input::PnsAnswered(Outcome::Expired));
    assert_eq!(scene.outputs(), [], "the new push reaches as far as anybody waits");
    assert_eq!(scene.timeout(50), [fail(2, WakeFailure::Deadline), Output::WithdrawPush, Output::Done]);
}

/// P-071: the bucket has a bottom, and no one waits whose time is up already.
#[test]
fn admission_is_bounded() {
    let mut scene = Scene::with_call(30);
    for waiter in 2..=MAX_WAITERS as u64 {
        scene.join(1, waiter, PushClass::Call, 30);
    }
    assert_eq!(scene.outputs(), []);
    scene.join(1, 99, PushClass::Call, 30);
    scene.join(1, 1, PushClass::Call, 30);
    assert_eq!(scene.outputs(), [fail(99, WakeFailure::Overflow)], "joining twice is joining once");
    scene.hear(2, Input::Leave { waiter: 1 });
    scene.join(2, 98, PushClass::Call, 2);
    assert_eq!(scene.outputs(), [fail(98, WakeFailure::Deadline)]);
    assert_eq!(scene.wakeup.waiting(), MAX_WAITERS - 1);
}

/// P-062: who joins after the end shares it, before the owner has noticed.
#[test]
fn late_joiners_share_the_end() {
    let mut scene = Scene::with_call(30);
    scene.hear(1, Input::Refreshed);
    scene.join(1, 2, PushClass::Call, 30);
    assert_eq!(scene.outputs(), [release(1), Output::WithdrawPush, Output::Done, release(2)]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Hear(Input),
    Join(PushClass, u64),
    LeaveOne(u8),
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop_oneof![Just(PushClass::Call), Just(PushClass::Request), Just(PushClass::Refresh)];
    let outcome = prop_oneof![
        3 => Just(Outcome::Accepted),
        1 => Just(Outcome::Unavailable),
        1 => Just(Outcome::Unregistered { since: None }),
        1 => Just(Outcome::Expired),
        1 => Just(Outcome::Withdrawn),
    ];
    prop_oneof![
        6 => (class, 0u64..60).prop_map(|(class, wait)| Step::Join(class, wait)),
        4 => any::<u8>().prop_map(Step::LeaveOne),
        3 => outcome.prop_map(|outcome| Step::Hear(Input::PnsAnswered(outcome))),
        1 => Just(Step::Hear(Input::Refreshed)),
        1 => Just(Step::Hear(Input::Rejected)),
        1 => Just(Step::Hear(Input::BindingGone)),
        4 => Just(Step::Tick),
    ]
}

proptest! {
    /// P-062, P-069, P-103: in any order of events each waiter hears at most one verdict, none after it left, and exactly
    /// one once the wake-up is done; pushes are withdrawn only while asked for; `Done` comes once and last.
    #[test]
    fn each_waiter_hears_one_verdict(class in 0..3u8, steps in proptest::collection::vec(step(), 1..60)) {
        let class = [PushClass::Call, PushClass::Request, PushClass::Refresh][usize::from(class)];
        let start = origin();
        let mut now = start;
        let mut wakeup = Wakeup::start(now, class, now + Duration::from_secs(30));
        let mut waiting: HashMap<WaiterId, bool> = HashMap::new(); // true: joined, no verdict, not left
        let (mut pushes, mut withdrawals, mut done) = (0u32, 0u32, 0u32);
        let mut drain = |wakeup: &mut Wakeup, waiting: &mut HashMap<WaiterId, bool>| {
            while let Some(output) = wakeup.poll_output() {
                match output {
                    Output::RequestPush { .. } => { assert_eq!(done, 0); pushes += 1 }
                    Output::WithdrawPush => { withdrawals += 1; assert!(withdrawals <= pushes) }
                    Output::Done => done += 1,
                    Output::Release { waiter } | Output::Fail { waiter, .. } => {
                        assert_eq!(waiting.insert(waiter, false), Some(true), "one verdict for {waiter}");
                    }
                }
            }
            assert!(done <= 1);
            if done == 1 { assert!(waiting.values().all(|w| !w), "nobody is forgotten") }
        };
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Hear(input) => wakeup.handle(now, input),
                Step::Join(class, wait) => {
                    let waiter = number as u64;
                    waiting.insert(waiter, true);
                    wakeup.handle(now, Input::Join { waiter, class, deadline: now + Duration::from_secs(wait) });
                }
                Step::LeaveOne(choice) => {
                    let mut left: Vec<_> = waiting.iter().filter(|(_, w)| **w).map(|(id, _)| *id).collect();
                    left.sort_unstable();
                    if !left.is_empty() {
                        let waiter = left[usize::from(choice) % left.len()];
                        waiting.insert(waiter, false);
                        wakeup.handle(now, Input::Leave { waiter });
                    }
                }
                Step::Tick => if let Some(next) = wakeup.poll_timeout() {
                    now = next.max(now);
                    wakeup.handle_timeout(now);
                    prop_assert!(wakeup.poll_timeout().is_none_or(|t| t > now), "time moves on");
                },
            }
            drain(&mut wakeup, &mut waiting);
        }
        // Time alone brings everything to an end.
        while let Some(next) = wakeup.poll_timeout() {
            now = next.max(now);
            wakeup.handle_timeout(now);
            drain(&mut wakeup, &mut waiting);
        }
        prop_assert!(wakeup.is_done());
        prop_assert!(waiting.values().all(|w| !w));
    }
}
