//! A phone that sleeps until a push wakes it or its registration is due, and takes the calls it is woken for.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::{Rng as _, rngs::StdRng};
use reveille_testkit::ua::{IncomingCall, Phone};
use tokio::time::{Instant, sleep, timeout};

use super::{Callee, Seen, Shared, call};
use crate::cluster::Edge;

/// How long a phone that was woken stays awake for the call.
const AWAKE: Duration = Duration::from_secs(8);
/// How long one stays that just refreshes.
const LINGER: Duration = Duration::from_millis(300);
/// How often a phone looks whether its connection is still there.
const GLANCE: Duration = Duration::from_millis(100);
/// How long it waits for an ACK before it goes on as if there had been one.
const ACK_PATIENCE: Duration = Duration::from_secs(4);

/// Lives until everybody stops.
pub(super) async fn live(shared: Arc<Shared>, mut phone: Phone, callee: Arc<Callee>, turn: Duration, mut rng: StdRng) {
    sleep(turn).await;
    let mut seen = Seen::default();
    awake(&shared, &mut phone, &mut seen, &callee, &mut rng, LINGER).await;
    callee.busy.store(false, Ordering::Release);
    while !shared.stops() {
        let due = Instant::now() + Duration::from_secs_f64(rng.random_range(4.0..12.0));
        let mut woken = false;
        while !woken && Instant::now() < due && !shared.stops() {
            woken = phone.wait_wake(GLANCE).await.is_ok();
        }
        awake(&shared, &mut phone, &mut seen, &callee, &mut rng, if woken { AWAKE } else { LINGER }).await;
        seen.check(&shared, &phone, &callee.user);
    }
    phone.sleep().await;
}

/// Registers, takes what comes, and goes back to sleep.
async fn awake(
    shared: &Arc<Shared>,
    phone: &mut Phone,
    seen: &mut Seen,
    callee: &Callee,
    rng: &mut StdRng,
    patience: Duration,
) {
    while phone.take_wake().is_some() {}
    let Some(mut edge) = shared.attach(phone, seen, &callee.user, rng).await else { return };
    let mut until = Instant::now() + patience;
    while Instant::now() < until && !shared.stops() {
        match phone.expect_invite(GLANCE).await {
            Ok(incoming) => {
                edge = take(shared, phone, seen, callee, incoming, edge, rng).await;
                until = Instant::now() + LINGER;
            }
            Err(_) if phone.is_connected() => {}
            // Its edge is gone: a phone that waits for a call registers elsewhere.
            Err(_) => match shared.attach(phone, seen, &callee.user, rng).await {
                Some(other) => edge = other,
                None => return,
            },
        }
    }
    seen.forget_connection(phone).await;
}

/// Takes a call and stays until it is over; returns the edge the phone is at then.
async fn take(
    shared: &Arc<Shared>,
    phone: &mut Phone,
    seen: &mut Seen,
    callee: &Callee,
    mut incoming: IncomingCall,
    mut edge: Edge,
    rng: &mut StdRng,
) -> Edge {
    let plan = shared.calls.lock().get(incoming.call_id()).cloned();
    // A call that its caller has given up already, as when the caller's own edge died.
    let Some(plan) = plan else {
        let _ = incoming.reject(486, "Busy Here");
        return edge;
    };
    shared.trace.say(format_args!(
        "{} INVITE {} over {} life {} {:?} ago, Via {:?}",
        callee.user,
        incoming.call_id(),
        edge.seat + 1,
        edge.life,
        incoming.received_at().elapsed(),
        incoming.invite().values("Via")
    ));
    let _ = incoming.ring();
    if incoming.answer().is_err() {
        return edge;
    }
    let acked = incoming.expect_ack(ACK_PATIENCE).await.is_ok();
    shared.trace.say(format_args!("{} answered {}, acked: {acked}", callee.user, incoming.call_id()));
    if plan.phone_ends {
        sleep(plan.talk).await;
        // A call whose caller never heard the answer is not there to be ended.
        if !plan.is_over() {
            shared.trace.say(format_args!("{} hangs up {}", callee.user, incoming.call_id()));
            call::hang_up(shared, (phone, &callee.user, seen), &mut incoming, &plan, rng).await;
        }
    } else {
        while !plan.is_over() && !shared.stops() {
            let _ = timeout(GLANCE, plan.changed.notified()).await;
            // One call at a time; a second INVITE of this one is found when they are counted.
            if let Ok(another) = phone.expect_invite(Duration::ZERO).await {
                shared.trace.say(format_args!("{} is busy for {}", callee.user, another.call_id()));
                let _ = another.reject(486, "Busy Here");
            }
            // Woken though it is awake: it registers, as for any push.
            let woken = phone.take_wake().is_some();
            if phone.is_connected() && woken {
                shared.register(phone, &callee.user).await;
            }
            if !phone.is_connected() {
                match shared.attach(phone, seen, &callee.user, rng).await {
                    Some(other) => edge = other,
                    None => break,
                }
            }
        }
    }
    edge
}
