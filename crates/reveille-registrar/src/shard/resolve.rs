//! Where a request for an address-of-record can go, and what it has to wait for (P-052 to P-055, S-076, S-131).

use std::time::Duration;

use reveille_push::{PushClass, PushServices};

use super::message::{Now, Target};
use crate::{
    flow::{FlowProbe, Liveness},
    record::{Binding, BindingKey, Device},
};

/// What reachability is judged by.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) flows: &'a dyn FlowProbe,
    pub(super) services: &'a dyn PushServices,
    pub(super) awake_window: Duration,
}

/// How a binding can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// At once.
    Direct,
    /// After a push.
    Push,
    /// Not at all.
    Lost,
}

/// The ways to all phones of a record, one per phone.
pub(super) struct Ways<'a> {
    /// Where the request can go at once, by q and then newest first.
    pub(super) direct: Vec<Target>,
    /// Whose phone has to be woken.
    pub(super) waiting: Vec<&'a Binding>,
    /// Every phone in either list.
    pub(super) devices: Vec<Device>,
}

impl Judge<'_> {
    /// How `binding` is reached by a request of that class.
    pub(super) fn way(&self, now: Now, binding: &Binding, class: PushClass) -> Way {
        if !binding.is_live(now.unix) {
            return Way::Lost;
        }
        let liveness = binding.flow.as_ref().map(|flow| self.flows.liveness(flow));
        let Some(target) = &binding.push else {
            return if liveness == Some(Liveness::Gone) { Way::Lost } else { Way::Direct };
        };
        // P-054: a socket alone proves nothing, since a suspended phone may keep it; a word on it lately does.
        if let Some(Liveness::Open { last_heard }) = liveness
            && now.mono.saturating_duration_since(last_heard) <= self.awake_window
        {
            return Way::Direct;
        }
        // What another node holds it alone can judge: it says at once where the connection is gone, and soon where it is silent.
        let is_elsewhere = match liveness {
            None => !binding.path.is_empty(),
            Some(liveness) => liveness == Liveness::Elsewhere,
        };
        if is_elsewhere && now.unix.saturating_sub(binding.registered_at) <= self.awake_window.as_secs() {
            return Way::Direct;
        }
        if self.services.can_wake(target, class) {
            return Way::Push;
        }
        match liveness {
            Some(Liveness::Open { .. } | Liveness::Connectionless | Liveness::Elsewhere) => Way::Direct,
            None if !binding.path.is_empty() => Way::Direct,
            None | Some(Liveness::Gone) => Way::Lost,
        }
    }

    /// Whether a push may follow if the binding's flow proves dead (P-054).
    pub(super) fn pushable(&self, binding: &Binding, class: PushClass) -> bool {
        binding.push.as_ref().is_some_and(|target| self.services.can_wake(target, class))
    }

    /// The ways to every phone. A phone with several flows is offered over one of them, the newest that is open, and woken
    /// only if none is (S-131, S-078).
    pub(super) fn ways<'a>(&self, now: Now, bindings: impl Iterator<Item = &'a Binding>, class: PushClass) -> Ways<'a> {
        let mut best: Vec<(Device, Way, &Binding)> = Vec::new();
        for binding in bindings {
            let (device, way) = (binding.device(), self.way(now, binding, class));
            if way == Way::Lost {
                continue;
            }
            let rank = |way: Way, binding: &Binding| (way == Way::Direct, binding.registered_at, binding.key);
            match best.iter_mut().find(|(other, ..)| *other == device) {
                None => best.push((device, way, binding)),
                Some(kept) if rank(way, binding) > rank(kept.1, kept.2) => *kept = (device, way, binding),
                Some(_) => {}
            }
        }
        best.sort_by_key(|(_, _, binding)| std::cmp::Reverse((binding.q, binding.registered_at, binding.key)));
        let mut ways = Ways { direct: Vec::new(), waiting: Vec::new(), devices: Vec::new() };
        for (device, way, binding) in best {
            ways.devices.push(device);
            if way == Way::Push {
                ways.waiting.push(binding);
                continue;
            }
            let target = Target::of(binding, self.pushable(binding, class));
            // S-076: the same place is not offered twice, whoever registered it.
            if !ways.direct.iter().any(|other| is_same_place(other, &target)) {
                ways.direct.push(target);
            }
        }
        ways
    }

    /// Another way to the phone of `key`, newest first: a binding that was not tried yet (S-131).
    pub(super) fn next_direct<'a>(
        &self,
        now: Now,
        bindings: impl Iterator<Item = &'a Binding>,
        device: Device,
        tried: &[BindingKey],
        class: PushClass,
    ) -> Option<&'a Binding> {
        bindings
            .filter(|binding| binding.device() == device && !tried.contains(&binding.key))
            .filter(|binding| self.way(now, binding, class) == Way::Direct)
            .max_by_key(|binding| (binding.registered_at, binding.key))
    }
}

/// Equal URIs over one flow and path. Phones behind two NATs may well give the same private address: they have two flows.
fn is_same_place(one: &Target, other: &Target) -> bool {
    one.flow == other.flow && one.path == other.path && crate::record::identity::same_uri(&one.contact, &other.contact)
}
