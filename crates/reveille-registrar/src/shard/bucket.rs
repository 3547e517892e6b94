//! What goes on at one address-of-record: records on their way to the store, phones being woken, requests that wait for them.
//! RFC 8599 §5.6.2 calls the latter the SIP Request Push Bucket.
//!
//! One exists only while something goes on; an idle address-of-record is a record in the table and nothing more.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reveille_push::{
    Outcome, PushClass, PushTarget, Ticket, WaiterId, WakeFailure, Wakeup,
    wakeup::{Input, Output},
};

use super::message::{HomeEvent, Now, Target, WorkerRef};
use crate::{
    record::{Binding, BindingKey, Device, Fingerprint, Record, fingerprint},
    replica::StoreError,
};

/// See the module.
#[derive(Default)]
pub(super) struct Active {
    /// Records handed to the store and not answered yet, oldest first; each builds on the one before.
    pub(super) pending: VecDeque<Pending>,
    pub(super) sleepers: Vec<Sleeper>,
    pub(super) pushes: Vec<Outstanding>,
    pub(super) contexts: Vec<Context>,
    next_waiter: WaiterId,
}

/// A record on its way to the store.
pub(super) struct Pending {
    pub(super) write: u64,
    pub(super) record: Record,
    pub(super) value: Option<Bytes>,
    pub(super) cause: Cause,
    pub(super) verdict: Option<Result<(), StoreError>>,
    pub(super) since: Instant,
}

/// Why a record changed.
pub(super) enum Cause {
    /// A REGISTER, which is answered by the write's verdict.
    Register { reply: WorkerRef, touched: Vec<BindingKey>, created: Vec<BindingKey> },
    /// The shard's own housekeeping, which is true whatever the store says.
    Upkeep,
}

impl Pending {
    /// Whether this is a REGISTER of that binding or phone.
    fn refreshes(&self, key: BindingKey, device: Device) -> bool {
        let Cause::Register { touched, .. } = &self.cause else { return false };
        touched
            .iter()
            .any(|&other| other == key || self.record.get(other).is_some_and(|binding| binding.device() == device))
    }
}

/// A phone being woken, and the requests that wait for it.
pub(super) struct Sleeper {
    /// The binding it is waited for by.
    pub(super) key: BindingKey,
    device: Device,
    target: PushTarget,
    fingerprint: Fingerprint,
    /// When that binding expires, in unix seconds.
    expires_at: u64,
    machine: Wakeup,
    waiters: Vec<Waiter>,
    /// A push the machine has asked for and that is held back while a REGISTER is on its way to the store (P-056).
    wanted: Option<(PushClass, Instant)>,
    /// The push it shares in.
    push: Option<u64>,
    /// The binding that refreshed it.
    awake: Option<Target>,
    done: bool,
}

struct Waiter {
    id: WaiterId,
    worker: WorkerRef,
    /// The binding as this waiter knows it.
    key: BindingKey,
    since: Instant,
}

/// A push under way, for every sleeper with that token (P-057).
pub(super) struct Outstanding {
    pub(super) push: u64,
    fingerprint: Fingerprint,
    class: PushClass,
    deadline: Instant,
    ticket: Ticket,
    answered: Option<Outcome>,
}

/// An INVITE that has requests waiting here, and so may get late targets (S-098).
pub(super) struct Context {
    pub(super) worker: WorkerRef,
    /// The phones it was offered or waits for.
    pub(super) offered: Vec<Device>,
}

/// What comes out of a turn of the bucket.
pub(super) enum Effect {
    /// A waiter is told; it waited this long.
    Tell { to: WorkerRef, event: HomeEvent, waited: Duration },
    /// A sleeper wants a push that nobody has asked for yet.
    Push { key: BindingKey, target: PushTarget, fingerprint: Fingerprint, class: PushClass, deadline: Instant },
    /// A push was spared.
    Coalesced,
}

impl Active {
    /// Number of requests waiting.
    pub(super) fn waiting(&self) -> usize {
        self.sleepers.iter().map(|sleeper| sleeper.waiters.len()).sum()
    }

    /// Who waits, each once.
    pub(super) fn waiters(&self) -> Vec<WorkerRef> {
        let mut waiters = Vec::new();
        for waiter in self.sleepers.iter().flat_map(|sleeper| &sleeper.waiters) {
            if !waiters.contains(&waiter.worker) {
                waiters.push(waiter.worker);
            }
        }
        waiters
    }

    /// Whether nothing goes on any more.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.sleepers.is_empty()
    }

    /// The binding that a request waiting for this phone is told to wait for: the phone may be being woken already.
    pub(super) fn key_for(&self, binding: &Binding) -> BindingKey {
        let device = binding.device();
        self.sleepers.iter().find(|sleeper| sleeper.device == device).map_or(binding.key, |sleeper| sleeper.key)
    }

    /// A request waits for `binding`, which it knows as `key`.
    pub(super) fn join(
        &mut self,
        now: Now,
        worker: WorkerRef,
        (key, binding, target): (BindingKey, &Binding, &PushTarget),
        class: PushClass,
        deadline: Instant,
    ) {
        let device = binding.device();
        let at = match self.sleepers.iter().position(|sleeper| sleeper.device == device && !sleeper.done) {
            Some(at) => at,
            None => {
                self.sleepers.push(Sleeper {
                    key: binding.key,
                    device,
                    target: target.clone(),
                    fingerprint: fingerprint(target),
                    expires_at: binding.expires_at,
                    machine: Wakeup::start(now.mono, class, deadline),
                    waiters: Vec::new(),
                    wanted: None,
                    push: None,
                    awake: None,
                    done: false,
                });
                self.sleepers.len() - 1
            }
        };
        let id = self.next_waiter;
        self.next_waiter += 1;
        if let Some(sleeper) = self.sleepers.get_mut(at) {
            sleeper.waiters.push(Waiter { id, worker, key, since: now.mono });
            sleeper.machine.handle(now.mono, Input::Join { waiter: id, class, deadline });
        }
    }

    /// A request waits no longer. Number of waits it gave up.
    pub(super) fn leave(&mut self, now: Now, worker: WorkerRef) -> usize {
        let mut left = 0;
        for sleeper in &mut self.sleepers {
            let (gone, stay): (Vec<Waiter>, Vec<Waiter>) =
                std::mem::take(&mut sleeper.waiters).into_iter().partition(|waiter| waiter.worker == worker);
            sleeper.waiters = stay;
            left += gone.len();
            for waiter in gone {
                sleeper.machine.handle(now.mono, Input::Leave { waiter: waiter.id });
            }
        }
        left
    }

    /// `binding` was in an accepted REGISTER: whoever waits for it, for its token or for its phone is released to it (P-058,
    /// P-061, P-007). True if somebody did.
    pub(super) fn refreshed(&mut self, now: Now, binding: &Binding, target: &Target) -> bool {
        let device = binding.device();
        let mut any = false;
        for sleeper in self.sleepers.iter_mut().filter(|sleeper| sleeper.awake.is_none()) {
            let same_token = binding.push.as_ref().is_some_and(|push| *push == sleeper.target);
            if sleeper.key == binding.key || sleeper.device == device || same_token {
                sleeper.awake = Some(target.clone());
                sleeper.machine.handle(now.mono, Input::Refreshed);
                any = true;
            }
        }
        any
    }

    /// A REGISTER with this push target was refused for good (P-064).
    pub(super) fn rejected(&mut self, now: Now, target: &PushTarget) {
        for sleeper in self.sleepers.iter_mut().filter(|sleeper| sleeper.target == *target) {
            sleeper.machine.handle(now.mono, Input::Rejected);
        }
    }

    /// Ends the wake-ups of bindings that are no more, or have expired (P-047).
    pub(super) fn end_gone(&mut self, now: Now, record: &Record) {
        for sleeper in &mut self.sleepers {
            if record.get(sleeper.key).is_none_or(|binding| !binding.is_live(now.unix)) {
                sleeper.machine.handle(now.mono, Input::BindingGone);
            }
        }
    }

    /// The push service has answered.
    pub(super) fn answered(&mut self, now: Now, push: u64, outcome: Outcome) {
        let Some(outstanding) = self.pushes.iter_mut().find(|outstanding| outstanding.push == push) else { return };
        outstanding.answered = Some(outcome);
        for sleeper in self.sleepers.iter_mut().filter(|sleeper| sleeper.push == Some(push)) {
            sleeper.machine.handle(now.mono, Input::PnsAnswered(outcome));
        }
    }

    /// A push that [`Effect::Push`] wanted is on its way.
    pub(super) fn pushed(&mut self, key: BindingKey, push: u64, class: PushClass, deadline: Instant, ticket: Ticket) {
        let Some(sleeper) = self.sleepers.iter_mut().find(|sleeper| sleeper.key == key && !sleeper.done) else {
            ticket.withdraw();
            return;
        };
        sleeper.push = Some(push);
        let fingerprint = sleeper.fingerprint;
        self.pushes.push(Outstanding { push, fingerprint, class, deadline, ticket, answered: None });
    }

    /// A push that [`Effect::Push`] wanted may not be sent.
    pub(super) fn push_forbidden(&mut self, now: Now, key: BindingKey) {
        if let Some(sleeper) = self.sleepers.iter_mut().find(|sleeper| sleeper.key == key && !sleeper.done) {
            sleeper.machine.handle(now.mono, Input::Forbidden);
        }
    }

    /// Lets go of whoever has waited long enough, and of wake-ups whose binding has expired.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        for sleeper in &mut self.sleepers {
            if sleeper.expires_at <= now.unix {
                sleeper.machine.handle(now.mono, Input::BindingGone);
            }
            if sleeper.machine.poll_timeout().is_some_and(|at| at <= now.mono) {
                sleeper.machine.handle_timeout(now.mono);
            }
        }
    }

    /// Whether the phone of `binding` is being woken, or its REGISTER is on its way to the store.
    pub(super) fn is_coming(&self, binding: &Binding) -> bool {
        let device = binding.device();
        self.pending.iter().any(|pending| pending.refreshes(binding.key, device))
            || self.sleepers.iter().any(|sleeper| sleeper.device == device && !sleeper.done)
    }

    /// Whether a request waits, or a push is under way, so that a REGISTER may mean something to somebody.
    pub(super) fn is_waited_for(&self) -> bool {
        !(self.sleepers.is_empty() && self.pushes.is_empty() && self.contexts.is_empty())
    }

    /// Every Bucket Timer ends now.
    pub(super) fn give_up(&mut self) {
        for sleeper in &mut self.sleepers {
            // Each deadline lets at least one waiter go.
            for _ in 0..=sleeper.waiters.len() {
                let Some(deadline) = sleeper.machine.poll_timeout() else { break };
                sleeper.machine.handle_timeout(deadline);
            }
        }
    }

    /// When [`Active::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self, now: Now) -> Option<Instant> {
        let ends = |sleeper: &Sleeper| now.mono + Duration::from_secs(sleeper.expires_at.saturating_sub(now.unix));
        self.sleepers.iter().filter_map(|sleeper| sleeper.machine.poll_timeout().map(|at| at.min(ends(sleeper)))).min()
    }

    /// Takes what the machines have to say, one thing at a time.
    pub(super) fn poll(&mut self, now: Now) -> Option<Effect> {
        for at in 0..self.sleepers.len() {
            while let Some(output) = self.sleepers.get_mut(at).and_then(|sleeper| sleeper.machine.poll_output()) {
                if let Some(effect) = self.take(at, output, now) {
                    return Some(effect);
                }
            }
        }
        // Only now: every waiter is in its place, and every wish of this turn is known.
        for at in 0..self.sleepers.len() {
            if let Some(effect) = self.push_for(at, now) {
                return Some(effect);
            }
        }
        self.tidy();
        None
    }

    fn take(&mut self, at: usize, output: Output, now: Now) -> Option<Effect> {
        let sleeper = self.sleepers.get_mut(at)?;
        match output {
            Output::RequestPush { class, deadline } => {
                (sleeper.wanted, sleeper.push) = (Some((class, deadline)), None);
                None
            }
            Output::WithdrawPush => {
                (sleeper.wanted, sleeper.push) = (None, None);
                None
            }
            Output::Done => {
                sleeper.done = true;
                (sleeper.wanted, sleeper.push) = (None, None);
                None
            }
            Output::Release { waiter } => {
                let waiter = sleeper.remove(waiter)?;
                let event = match sleeper.awake.clone() {
                    Some(target) => HomeEvent::Woken { key: waiter.key, target },
                    // Not reachable while only `refreshed` says so; failing is the answer that leaves nobody waiting.
                    None => HomeEvent::WakeFailed { key: waiter.key, why: WakeFailure::BindingGone },
                };
                Some(waiter.told(event, now))
            }
            Output::Fail { waiter, why } => {
                let waiter = sleeper.remove(waiter)?;
                let key = waiter.key;
                Some(waiter.told(HomeEvent::WakeFailed { key, why }, now))
            }
        }
    }

    /// Gives the sleeper the push it wants: one under way for the same token, or a new one (P-057).
    fn push_for(&mut self, at: usize, now: Now) -> Option<Effect> {
        let sleeper = self.sleepers.get_mut(at)?;
        let (class, deadline) = sleeper.wanted?;
        let held = |pending: &Pending| pending.refreshes(sleeper.key, sleeper.device);
        if self.pending.iter().any(held) {
            return None;
        }
        sleeper.wanted = None;
        let shared = self.pushes.iter().find(|outstanding| {
            outstanding.fingerprint == sleeper.fingerprint
                && !class.outranks(outstanding.class)
                && outstanding.deadline > now.mono
                && !outstanding.ticket.is_withdrawn()
                && matches!(outstanding.answered, None | Some(Outcome::Accepted))
        });
        let Some(shared) = shared else {
            return Some(Effect::Push {
                key: sleeper.key,
                target: sleeper.target.clone(),
                fingerprint: sleeper.fingerprint,
                class,
                deadline,
            });
        };
        sleeper.push = Some(shared.push);
        if let Some(outcome) = shared.answered {
            sleeper.machine.handle(now.mono, Input::PnsAnswered(outcome));
        }
        Some(Effect::Coalesced)
    }

    /// Forgets what is over; a push that nobody shares in any more is withdrawn (P-047, P-069).
    fn tidy(&mut self) {
        self.sleepers.retain(|sleeper| !sleeper.done);
        let sleepers = &self.sleepers;
        self.pushes.retain(|outstanding| {
            let shared = sleepers.iter().any(|sleeper| sleeper.push == Some(outstanding.push));
            if !shared {
                outstanding.ticket.withdraw();
            }
            shared
        });
        self.contexts.retain(|context| {
            sleepers.iter().any(|sleeper| sleeper.waiters.iter().any(|waiter| waiter.worker == context.worker))
        });
    }
}

impl Sleeper {
    fn remove(&mut self, id: WaiterId) -> Option<Waiter> {
        let at = self.waiters.iter().position(|waiter| waiter.id == id)?;
        Some(self.waiters.remove(at))
    }
}

impl Waiter {
    fn told(self, event: HomeEvent, now: Now) -> Effect {
        let waited = now.mono.saturating_duration_since(self.since);
        Effect::Tell { to: self.worker, event, waited }
    }
}
