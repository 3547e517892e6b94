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

/// How long one BYE may take.
const BYE_PATIENCE: Duration = Duration::from_secs(5);
/// How long it is tried to end a call: longer than any fault but a roll holds.
const BYE_LIMIT: Duration = Duration::from_secs(40);
/// The same where an edge of the call is gone, which is known to fail.
const BYE_LIMIT_WITHOUT_EDGE: Duration = Duration::from_secs(10);
/// How long a caller that doesn't hang up waits for the phone to do it: what the phone may need, and its wait for the ACK.
const OVER_LIMIT: Duration = Duration::from_secs(60);

/// Calls until everybody rests; about one call in `gap`.
pub(super) async fn live(
    shared: Arc<Shared>,
    mut phone: Phone,
    callees: Arc<Vec<Arc<Callee>>>,
    gap: Duration,
    mut rng: StdRng,
) {
    let mut next = Instant::now() + gap.mul_f64(rng.random_range(0.1..1.0));
    let mut edge = None;
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
        if let Some(at) = connected(&shared, &mut phone, edge, &mut rng).await {
            edge = Some(at);
            shared.under_way.fetch_add(1, Ordering::AcqRel);
            call(&shared, &mut phone, callee, at, &mut rng).await;
            shared.under_way.fetch_sub(1, Ordering::AcqRel);
        }
        callee.busy.store(false, Ordering::Release);
    }
    phone.sleep().await;
}

/// The edge that the caller is connected to, a new one if need be. `None` when there is none.
async fn connected(shared: &Shared, phone: &mut Phone, edge: Option<Edge>, rng: &mut StdRng) -> Option<Edge> {
    if let Some(edge) = edge.filter(|_| phone.is_connected()) {
        return Some(edge);
    }
    for _ in 0..10 {
        let edge = shared.edge(rng);
        if phone.connect_to(edge.addr).await.is_ok() {
            return Some(edge);
        }
        sleep(RETRY).await;
    }
    None
}

/// One call from its INVITE to its end.
async fn call(shared: &Shared, phone: &mut Phone, callee: &Callee, edge: Edge, rng: &mut StdRng) {
    let kind = shared.tallies.present();
    // Some are long enough to live through a whole fault.
    let talk = if rng.random_bool(0.25) { rng.random_range(2.0..8.0) } else { rng.random_range(0.05..0.5) };
    let plan = Arc::new(CallPlan {
        phone_ends: rng.random_bool(0.5),
        talk: Duration::from_secs_f64(talk),
        called_over: edge,
        answered_over: Mutex::new(None),
        failure: Mutex::new(None),
        over: AtomicBool::new(false),
        changed: Notify::new(),
    });
    let invite = phone.invite_request(&format!("sip:{}@{DOMAIN}", callee.user));
    let call_id = invite.call_id().to_owned();
    shared.calls.lock().insert(call_id.clone(), Arc::clone(&plan));
    shared.trace.say(format_args!(
        "call {call_id} to {} over {} life {} under {}, ended by {} after {:?}",
        callee.user,
        edge.seat + 1,
        edge.life,
        kind.name(),
        if plan.phone_ends { "phone" } else { "caller" },
        plan.talk
    ));
    if let Ok(mut call) = phone.invite_with(invite) {
        shared.tallies.note_under(kind, |tally| tally.calls += 1);
        if answered(shared, phone, &mut call, callee, kind).await {
            converse(shared, phone, &mut call, &plan, kind, rng).await;
        }
    }
    plan.finish();
    shared.calls.lock().remove(&call_id);
}

/// Waits for the final answer, for as long as a caller may have to.
async fn answered(shared: &Shared, phone: &Phone, call: &mut OutgoingCall, callee: &Callee, kind: Kind) -> bool {
    let outcome = tokio::select! {
        biased;
        outcome = call.final_response(CALL_LIMIT) => Some(outcome),
        _ = phone.wait_closed(CALL_LIMIT * 2) => None,
    };
    let tallies: &Tallies = &shared.tallies;
    shared.trace.say(format_args!(
        "call {} heard {:?}",
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
            code < 300
        }
        // It is told at once, which is as good as a 503 (RFC 3261 §8.1.3.1), and can try again elsewhere.
        None | Some(Err(PhoneError::NotConnected)) => {
            tallies.note_under(kind, |tally| tally.caller_cut_off += 1);
            false
        }
        Some(Err(_)) => {
            tallies.note_under(kind, |tally| tally.silent += 1);
            let heard: Vec<_> = call.provisionals().iter().map(|received| received.message.code()).collect();
            shared.ledger.violation(format!(
                "call {} to {} under {} had no final answer in {CALL_LIMIT:?}; heard {heard:?}",
                call.call_id(),
                callee.user,
                kind.name()
            ));
            false
        }
    }
}

/// They talk, and one of them hangs up.
async fn converse(
    shared: &Shared,
    phone: &mut Phone,
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
            } else if !phone.is_connected() {
                let _ = connected(shared, phone, None, rng).await;
            }
        }
        failure = plan.failure.lock().take();
        if !plan.is_over() {
            failure.get_or_insert("its phone's BYE did not arrive".to_owned());
        }
    } else {
        sleep(plan.talk).await;
        failure = end(shared, phone, None, call, plan, rng).await.err();
    }
    shared.trace.say(format_args!(
        "call {} ended: {failure:?}, both edges the same: {}",
        call.call_id(),
        plan.is_whole(shared)
    ));
    match failure {
        None => shared.tallies.note_under(kind, |tally| tally.ended += 1),
        Some(_) if !plan.is_whole(shared) => shared.tallies.note_under(kind, |tally| tally.known_not_ended += 1),
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
    phone: &mut Phone,
    user: Option<(&str, &mut Seen)>,
    call: &mut IncomingCall,
    plan: &CallPlan,
    rng: &mut StdRng,
) {
    *plan.failure.lock() = end(shared, phone, user, call, plan, rng).await.err();
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

/// Hangs up, by another edge where need be, as often as it takes. A phone with a name registers where it connects.
async fn end(
    shared: &Shared,
    phone: &mut Phone,
    mut user: Option<(&str, &mut Seen)>,
    side: &mut impl Side,
    plan: &CallPlan,
    rng: &mut StdRng,
) -> Result<(), String> {
    let start = Instant::now();
    let mut failure = "it was not connected".to_owned();
    while start.elapsed() < if plan.is_whole(shared) { BYE_LIMIT } else { BYE_LIMIT_WITHOUT_EDGE } {
        if !phone.is_connected() {
            let _ = match &mut user {
                Some((user, seen)) => shared.attach(phone, seen, user, rng).await,
                None => connected(shared, phone, None, rng).await,
            };
        }
        match side.bye().await {
            Ok(answer) if answer.code() == 200 => return Ok(()),
            Ok(answer) => failure = format!("its BYE got {}", answer.code()),
            Err(error) => failure = error.to_string(),
        }
        sleep(RETRY).await;
    }
    Err(failure)
}
