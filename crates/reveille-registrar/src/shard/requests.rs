//! Requests that look for a phone: what they are told at once, and how they come to wait.

use reveille_push::WakeFailure;
use reveille_sip::method::Method;

use super::{
    Shard,
    bucket::Context,
    message::{HomeEvent, NextRequest, Now, ResolveRequest, Target, WakeRequest},
};
use crate::record::{Binding, BindingKey};

impl Shard {
    pub(super) fn resolve(&mut self, now: Now, request: &ResolveRequest) {
        let record = self.record(&request.aor);
        let known = record.is_some() || self.is_later(&request.aor);
        let record = record.unwrap_or_default();
        let judge = self.judge();
        let ways = judge.ways(now, record.bindings.iter(), request.class);
        let active = self.active.get(&request.aor);
        let key_for = |binding: &Binding| active.map_or(binding.key, |active| active.key_for(binding));
        let waiting: Vec<(BindingKey, &Binding)> =
            ways.waiting.iter().map(|&binding| (key_for(binding), binding)).collect();
        let event = HomeEvent::Resolved {
            targets: ways.direct,
            waiting: waiting.iter().map(|&(key, binding)| (key, binding.q)).collect(),
            known,
        };
        self.reply(request.waiter, event);
        if waiting.is_empty() {
            return;
        }
        if request.method == Method::Invite {
            let context = Context { worker: request.waiter, offered: ways.devices };
            self.active.entry(request.aor.clone()).or_default().contexts.push(context);
        }
        for (key, binding) in waiting {
            let wake = WakeRequest {
                aor: request.aor.clone(),
                waiter: request.waiter,
                key,
                class: request.class,
                deadline: request.deadline,
            };
            self.join(now, &wake, binding);
        }
        self.settle(now, &request.aor);
    }

    /// Wakes exactly one phone: the forward over its flow died (P-054).
    pub(super) fn wake(&mut self, now: Now, request: &WakeRequest) {
        let record = self.record(&request.aor).unwrap_or_default();
        match record.get(request.key).filter(|binding| binding.is_live(now.unix)) {
            None => self.wake_failed(request, WakeFailure::BindingGone),
            Some(binding) if !self.judge().pushable(binding, request.class) => {
                self.wake_failed(request, WakeFailure::PushFailed);
            }
            Some(binding) => {
                self.join(now, request, binding);
                self.settle(now, &request.aor);
            }
        }
    }

    /// The next way to a phone whose flow failed (S-131): another flow of it, else a push, else none.
    pub(super) fn next_way(&mut self, now: Now, request: &NextRequest) {
        let wake = &request.wake;
        let record = self.record(&wake.aor).unwrap_or_default();
        let Some(failed) = record.get(wake.key) else {
            return self.wake_failed(wake, WakeFailure::BindingGone);
        };
        let judge = self.judge();
        let (device, tried) = (failed.device(), &request.tried);
        if let Some(next) = judge.next_direct(now, record.bindings.iter(), device, tried, wake.class) {
            let target = Target::of(next, judge.pushable(next, wake.class));
            return self.reply(wake.waiter, HomeEvent::Woken { key: wake.key, target });
        }
        let sleeping = record
            .live(now.unix)
            .filter(|binding| binding.device() == failed.device() && judge.pushable(binding, wake.class))
            .max_by_key(|binding| (binding.registered_at, binding.key));
        match sleeping {
            Some(binding) => {
                self.join(now, wake, binding);
                self.settle(now, &wake.aor);
            }
            None => self.wake_failed(wake, WakeFailure::NotConnected),
        }
    }

    fn wake_failed(&mut self, request: &WakeRequest, why: WakeFailure) {
        self.reply(request.waiter, HomeEvent::WakeFailed { key: request.key, why });
    }

    /// Puts a request into the bucket (P-052), or refuses it where the bucket is full (P-071).
    fn join(&mut self, now: Now, request: &WakeRequest, binding: &Binding) {
        let Some(target) = &binding.push else { return self.wake_failed(request, WakeFailure::PushFailed) };
        let active = self.active.entry(request.aor.clone()).or_default();
        if active.waiting() >= self.config.max_waiters {
            self.metrics.wakeups.with_label_values(&[WakeFailure::Overflow.as_str()]).observe(0.0);
            return self.wake_failed(request, WakeFailure::Overflow);
        }
        self.counted.waiters += 1;
        self.metrics.waiters.inc();
        active.join(now, request.waiter, (request.key, binding, target), request.class, request.deadline);
    }
}
