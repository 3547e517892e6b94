//! Calls to sleeping phones: begun at a steady rate, answered or refused in time, and ended by either side.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use reveille::lab::DOMAIN;
use reveille_testkit::ua::{IncomingCall, OutgoingCall, Phone, PhoneError, SipMessage};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{CALL_LIMIT, CallPlan, Callee, RETRY, Seen, Shared};
use crate::{cluster::Edge, fault::Kind, report::Tallies};

/// How long one BYE may take: its transaction's time (RFC 3261 §17.1.2.2, timer F).
const BYE_PATIENCE: Duration = Duration::from_secs(32);
/// How long it is tried to end a call: longer than any fault but a roll holds.
const BYE_LIMIT: Duration = Duration::from_secs(40);
/// How long a caller that doesn't hang up waits for the phone to do it: what the phone may need, and its wait for the ACK.
const OVER_LIMIT: Duration = Duration::from_secs(60);
/// Edges that are tried for one call, each after the connection to the one before it closed without a word.
const TRIES: usize = 5;

/// Who calls. It is registered, without push, so that it can be found when its connection is gone.
pub(super) struct Caller {
    pub(super) phone: Phone,
    pub(super) user: String,
    /// The edge it registered over last.
    pub(super) edge: Option<Edge>,
    pub(super) seen: Seen,
}

/// Calls until everybody rests; about one call in `gap`.
pub(super) async fn live(
    shared: Arc<Shared>,
    mut caller: Caller,
    callees: Arc<Vec<Arc<Callee>>>,
    gap: Duration,
    (turn, mut rng): (Duration, StdRng),
) {
    sleep(turn).await;
    connected(&shared, &mut caller, &mut rng).await;
    let mut next = Instant::now() + gap.mul_f64(rng.random_range(0.1..1.0));
    while !shared.resting.load(Ordering::Acquire) {
        if Instant::now() < next {
            sleep(Duration::from_millis(20)).await;
            continue;
        }
        next = Instant::now() + gap.mul_f64(rng.random_range(0.6..1.4));
        let Some(callee) = callees.choose(&mut rng) else { return };
        if callee.busy.swap(true, Ordering::AcqRel) {
            continue;
        }
        shared.under_way.fetch_add(1, Ordering::AcqRel);
        let kind = shared.tallies.present();
        for attempt in 0..TRIES {
            let Some(edge) = connected(&shared, &mut caller, &mut rng).await else { break };
            if attempt > 0 {
                shared.tallies.note_under(kind, |tally| tally.repeated += 1);
            }
            if !call(&shared, &mut caller, callee, edge, (kind, attempt), &mut rng).await {
                break;
            }
        }
        shared.under_way.fetch_sub(1, Ordering::AcqRel);
        callee.busy.store(false, Ordering::Release);
    }
    caller.phone.sleep().await;
}

/// The edge that the caller is connected to and registered over, a new one if need be. `None` when everybody stops.
async fn connected(shared: &Shared, caller: &mut Caller, rng: &mut StdRng) -> Option<Edge> {
    if caller.edge.is_none() || !caller.phone.is_connected() {
        caller.edge = shared.attach(&mut caller.phone, &mut caller.seen, &caller.user, rng).await;
    }
    caller.edge
}

/// One call from its INVITE to its end. True when its connection closed before anything was heard, so that the next edge is to be
/// tried (RFC 3263 §4.3).
async fn call(
    shared: &Shared,
    caller: &mut Caller,
    callee: &Callee,
    edge: Edge,
    (kind, attempt): (Kind, usize),
    rng: &mut StdRng,
) -> bool {
    // Some are long enough to live through a whole fault.
    let talk = if rng.random_bool(0.25) { rng.random_range(2.0..8.0) } else { rng.random_range(0.05..0.5) };
    let plan = Arc::new(CallPlan {
        phone_ends: rng.random_bool(0.5),
        talk: Duration::from_secs_f64(talk),
        failure: Mutex::new(None),
        over: AtomicBool::new(false),
        changed: Notify::new(),
    });
    let invite = caller.phone.invite_request(&format!("sip:{}@{DOMAIN}", callee.user));
    let call_id = invite.call_id().to_owned();
    shared.calls.lock().insert(call_id.clone(), Arc::clone(&plan));
    shared.trace.say(format_args!(
        "call {call_id} of {} to {} over {} life {} under {}, ended by {} after {:?}",
        caller.user,
        callee.user,
        edge.seat + 1,
        edge.life,
        kind.name(),
        if plan.phone_ends { "phone" } else { "caller" },
        plan.talk
    ));
    let mut unheard = false;
    match caller.phone.invite_with(invite) {
        Ok(mut call) => {
            if attempt == 0 {
                shared.tallies.note_under(kind, |tally| tally.calls += 1);
            }
            match answered(shared, &caller.phone, &mut call, (callee, edge), kind).await {
                Outcome::Answered => converse(shared, caller, &mut call, &plan, kind, rng).await,
                Outcome::Unheard => unheard = true,
                Outcome::Ended => {}
            }
        }
        Err(_) => unheard = attempt > 0,
    }
    plan.finish();
    shared.calls.lock().remove(&call_id);
    unheard
}

/// What became of an INVITE.
enum Outcome {
    Answered,
    /// Refused, or cut off, and counted as such.
    Ended,
    /// The connection closed, and not even a 100 had come.
    Unheard,
}

/// Waits for the final answer, for as long as a caller may have to.
async fn answered(
    shared: &Shared,
    phone: &Phone,
    call: &mut OutgoingCall,
    (callee, edge): (&Callee, Edge),
    kind: Kind,
) -> Outcome {
    let outcome = tokio::select! {
        biased;
        outcome = call.final_response(CALL_LIMIT) => Some(outcome),
        _ = phone.wait_closed(CALL_LIMIT * 2) => None,
    };
    let tallies: &Tallies = &shared.tallies;
    let heard: Vec<_> = call.provisionals().iter().map(|received| received.message.code()).collect();
    shared.trace.say(format_args!(
        "call {} heard {heard:?} {:?}",
        call.call_id(),
        outcome.as_ref().map(|outcome| outcome.as_ref().map(|received| received.message.code()))
    ));
    match outcome {
        Some(Ok(received)) => {
            let code = received.message.code();
            tallies.note_under(kind, |tally| match code {
                200..300 => tally.answered += 1,
                _ => *tally.refused.entry(code).or_default() += 1,
            });
            if code < 300 { Outcome::Answered } else { Outcome::Ended }
        }
        // A connection failed under a request of which nobody has said a word: as good as a 503 (RFC 3261 §8.1.3.1).
        None | Some(Err(PhoneError::NotConnected)) if heard.is_empty() => Outcome::Unheard,
        None | Some(Err(PhoneError::NotConnected)) => {
            tallies.note_under(kind, |tally| tally.caller_cut_off += 1);
            // Who was at an edge that was killed is told at once by the end of its connection. No other edge may do that.
            if !shared.was_killed(edge) {
                shared.ledger.violation(format!(
                    "call {} to {} under {} was cut off by edge {} life {}; heard {heard:?}",
                    call.call_id(),
                    callee.user,
                    kind.name(),
                    edge.seat + 1,
                    edge.life
                ));
            }
            Outcome::Ended
        }
        Some(Err(_)) => {
            tallies.note_under(kind, |tally| tally.silent += 1);
            shared.ledger.violation(format!(
                "call {} to {} under {} had no final answer in {CALL_LIMIT:?}; heard {heard:?}",
                call.call_id(),
                callee.user,
                kind.name()
            ));
            Outcome::Ended
        }
    }
}

/// They talk, and one of them hangs up.
async fn converse(
    shared: &Shared,
    caller: &mut Caller,
    call: &mut OutgoingCall,
    plan: &CallPlan,
    kind: Kind,
    rng: &mut StdRng,
) {
    let mut failure;
    if plan.phone_ends {
        let limit = Instant::now() + plan.talk + OVER_LIMIT;
        while !plan.is_over() && Instant::now() < limit {
            if call.expect_bye(Duration::from_millis(200)).await.is_ok() {
                plan.finish();
            } else {
                let _ = connected(shared, caller, rng).await;
            }
        }
        failure = plan.failure.lock().take();
        if !plan.is_over() {
            failure.get_or_insert("its phone's BYE did not arrive".to_owned());
        }
    } else {
        sleep(plan.talk).await;
        failure = end(shared, (&mut caller.phone, &caller.user, &mut caller.seen), call, rng).await.err();
    }
    shared.trace.say(format_args!("call {} ended: {failure:?}", call.call_id()));
    match failure {
        None => shared.tallies.note_under(kind, |tally| tally.ended += 1),
        Some(failure) => shared.ledger.violation(format!(
            "call {} under {} could not be ended by the {}: {failure}",
            call.call_id(),
            kind.name(),
            if plan.phone_ends { "phone" } else { "caller" }
        )),
    }
}

/// The phone hangs up. Its caller waits for the BYE, and reports when none comes.
pub(super) async fn hang_up(
    shared: &Shared,
    who: (&mut Phone, &str, &mut Seen),
    call: &mut IncomingCall,
    plan: &CallPlan,
    rng: &mut StdRng,
) {
    *plan.failure.lock() = end(shared, who, call, rng).await.err();
    plan.finish();
}

/// Either side of a call.
trait Side {
    async fn bye(&mut self) -> Result<SipMessage, PhoneError>;
}

impl Side for OutgoingCall {
    async fn bye(&mut self) -> Result<SipMessage, PhoneError> {
        Self::bye(self, BYE_PATIENCE).await
    }
}

impl Side for IncomingCall {
    async fn bye(&mut self) -> Result<SipMessage, PhoneError> {
        Self::bye(self, BYE_PATIENCE).await
    }
}

/// Hangs up. A side whose connection is gone registers anew first, over another edge where need be (RFC 5626 §4.5), and one that
/// closes under the BYE has it sent again. Nothing but a 503 is worth another try: any other refusal ends the call for this side
/// alone, and the other would talk on.
async fn end(
    shared: &Shared,
    (phone, user, seen): (&mut Phone, &str, &mut Seen),
    side: &mut impl Side,
    rng: &mut StdRng,
) -> Result<(), String> {
    let start = Instant::now();
    let mut failure = "it was not connected".to_owned();
    while start.elapsed() < BYE_LIMIT {
        if !phone.is_connected() {
            let _ = shared.attach(phone, seen, user, rng).await;
        }
        let outcome = tokio::select! {
            biased;
            outcome = side.bye() => outcome,
            _ = phone.wait_closed(BYE_PATIENCE * 2) => Err(PhoneError::NotConnected),
        };
        match outcome {
            Ok(answer) if answer.code() == 200 => return Ok(()),
            Ok(answer) if answer.code() == 503 => failure = "its BYE got 503".to_owned(),
            Ok(answer) => return Err(format!("its BYE got {}", answer.code())),
            Err(error) => failure = error.to_string(),
        }
        shared.trace.say(format_args!("{user} could not hang up: {failure}"));
        sleep(RETRY).await;
        shared.tallies.note(|tally| tally.repeated += 1);
    }
    Err(failure)
}
