//! What a REGISTER does to a record (RFC 3261 §10.3, RFC 5626 §6, RFC 8599 §5.6.1). A pure function.

use reveille_push::{Provider, PushTarget};

use super::message::{ContactUpdate, ContactsUpdate, RegisterError, RegisterRequest};
use crate::{
    dead::{DEAD_FOR, DeadTargets},
    record::{Binding, BindingKey, DeadPush, Record, fingerprint, identity::Identity},
};

/// The limits and policies a REGISTER is held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    /// S-112.
    pub(super) max_bindings: usize,
    /// What a token known to be dead gets: its binding without push, or 555 (P-036, P-156).
    pub(super) accept_dead_push: bool,
    /// What other addresses-of-record have found out about tokens.
    pub(super) dead: &'a DeadTargets,
}

/// What a REGISTER did.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    /// The record as it is now.
    pub(super) record: Record,
    /// Bindings made or refreshed: the only ones that release requests (P-059).
    pub(super) touched: Vec<BindingKey>,
    /// Those of `touched` that are new.
    pub(super) created: Vec<BindingKey>,
    /// Whether anything is different.
    pub(super) changed: bool,
}

/// Applies a REGISTER to `record`: the whole of it or, on an error, nothing (S-107, S-108).
pub(super) fn apply(
    record: &Record,
    request: &RegisterRequest,
    unix: u64,
    rules: Rules<'_>,
) -> Result<Applied, RegisterError> {
    let mut applied = Applied { record: record.clone(), ..Applied::default() };
    applied.record.bindings.retain(|binding| binding.is_live(unix));
    applied.changed = applied.record.bindings.len() != record.bindings.len();
    match &request.contacts {
        ContactsUpdate::Fetch => {}
        ContactsUpdate::RemoveAll => {
            for binding in &applied.record.bindings {
                in_order(binding, request)?;
            }
            applied.changed |= !applied.record.bindings.is_empty();
            applied.record.bindings.clear();
        }
        ContactsUpdate::Update(contacts) if repeats(&mut applied, request, contacts) => {}
        ContactsUpdate::Update(contacts) => {
            for contact in contacts {
                if contact.expires == 0 {
                    remove(&mut applied, request, contact)?;
                } else {
                    update(&mut applied, request, contact, unix, rules)?;
                }
            }
        }
    }
    // Removals of the same request make room first: only the result counts.
    if applied.record.bindings.len() > rules.max_bindings {
        return Err(RegisterError::TooMany);
    }
    Ok(applied)
}

/// Whether this is the very REGISTER that made the bindings what they are, sent once more by an edge whose first home fell silent
/// after it had written: it is answered as then, and changes nothing, the flow included.
fn repeats(applied: &mut Applied, request: &RegisterRequest, contacts: &[ContactUpdate]) -> bool {
    if !request.sent_on {
        return false;
    }
    let mut touched = Vec::new();
    for contact in contacts {
        let identity = identity(request, contact);
        if contact.expires == 0 {
            if !identity.find_removed(&applied.record, &request.call_id).is_empty() {
                return false;
            }
            continue;
        }
        let found = identity.find(&applied.record, &touched).and_then(|key| applied.record.get(key));
        match found.filter(|binding| is_made_by(binding, request, contact)) {
            Some(binding) => touched.push(binding.key),
            None => return false,
        }
    }
    let any = !touched.is_empty();
    if any {
        applied.touched = touched;
    }
    any
}

fn is_made_by(binding: &Binding, request: &RegisterRequest, contact: &ContactUpdate) -> bool {
    (binding.call_id.as_str(), binding.cseq) == (request.call_id.as_str(), request.cseq)
        && binding.contact == contact.uri
        && binding.params == contact.params
        && (binding.q, binding.pnsreg) == (contact.q, contact.pnsreg)
        && binding.instance == contact.instance
        // A token that was called dead since is told as it is now.
        && (binding.push == contact.push || binding.push.is_none())
}

fn remove(applied: &mut Applied, request: &RegisterRequest, contact: &ContactUpdate) -> Result<(), RegisterError> {
    for key in identity(request, contact).find_removed(&applied.record, &request.call_id) {
        if applied.touched.contains(&key) {
            continue;
        }
        if let Some(binding) = applied.record.get(key) {
            in_order(binding, request)?;
        }
        applied.record.bindings.retain(|binding| binding.key != key);
        applied.changed = true;
    }
    Ok(())
}

fn update(
    applied: &mut Applied,
    request: &RegisterRequest,
    contact: &ContactUpdate,
    unix: u64,
    rules: Rules<'_>,
) -> Result<(), RegisterError> {
    let identity = identity(request, contact);
    let found = identity.find(&applied.record, &applied.touched);
    let former = found.and_then(|key| applied.record.bindings.iter().position(|binding| binding.key == key));
    let (key, generation, mut dead_push, more) = match former.and_then(|at| applied.record.bindings.get(at)) {
        Some(binding) => {
            if !applied.touched.contains(&binding.key) {
                in_order(binding, request)?;
            }
            (binding.key, binding.generation.saturating_add(1), binding.dead_push, binding.more.clone())
        }
        None => (applied.record.take_key(), 1, None, Vec::new()),
    };
    let mut push = contact.push.clone();
    if let Some(target) = &push {
        dead_push = dead_push.filter(|dead| dead.target == fingerprint(target) && unix < dead.at + DEAD_FOR);
        // Of what this record and what the others know, the stricter; with it this binding is at its second chance, if it has one.
        let elsewhere = rules.dead.find(target, unix);
        dead_push = dead_push.into_iter().chain(elsewhere).max_by_key(|dead| (dead.verdicts, dead.at));
        if dead_push.is_some_and(|dead| is_barred(target, dead)) {
            if !rules.accept_dead_push {
                return Err(RegisterError::DeadPush);
            }
            push = None;
        }
    }
    let binding = Binding {
        key,
        generation,
        contact: contact.uri.clone(),
        params: contact.params.clone(),
        q: contact.q,
        instance: contact.instance.clone(),
        reg_id: identity.reg_id,
        call_id: request.call_id.clone(),
        cseq: request.cseq,
        expires_at: unix.saturating_add(contact.expires.into()),
        registered_at: unix,
        flow: request.flow,
        path: request.path.clone(),
        push,
        dead_push,
        pnsreg: contact.pnsreg,
        more,
    };
    match former.and_then(|at| applied.record.bindings.get_mut(at)) {
        Some(slot) => *slot = binding,
        None => {
            applied.record.bindings.push(binding);
            applied.created.push(key);
        }
    }
    if !applied.touched.contains(&key) {
        applied.touched.push(key);
    }
    applied.changed = true;
    Ok(())
}

/// Whether a token called dead may not come back for now. APNs revives tokens, so there the first verdict is forgiven to a
/// phone that registers with it again; elsewhere a dead token stays dead (P-156).
fn is_barred(target: &PushTarget, dead: DeadPush) -> bool {
    match target.provider {
        Provider::Apns | Provider::ApnsSandbox => dead.verdicts >= 2,
        Provider::Fcm | Provider::WebPush | Provider::Webhook(_) => true,
    }
}

/// S-107: within one Call-ID the CSeq has to grow; another Call-ID is a phone that has started anew.
fn in_order(binding: &Binding, request: &RegisterRequest) -> Result<(), RegisterError> {
    if binding.call_id == request.call_id && request.cseq <= binding.cseq {
        return Err(RegisterError::OutOfOrder);
    }
    Ok(())
}

fn identity<'a>(request: &RegisterRequest, contact: &'a ContactUpdate) -> Identity<'a> {
    // RFC 5626 §6: reg-id means nothing without an instance-id, nor where the first hop does not take part (S-119).
    let reg_id = contact.reg_id.filter(|_| request.outbound && contact.instance.is_some());
    Identity { uri: &contact.uri, instance: contact.instance.as_deref(), reg_id, push: contact.push.as_ref() }
}

/// Notes the verdict that `target` is dead on every binding that uses it and was not registered since: the binding stays,
/// without push, and other addresses-of-record learn of it (P-154, P-156). True if there was one.
pub(super) fn bury(
    record: &mut Record,
    target: crate::record::Fingerprint,
    since: Option<u64>,
    unix: u64,
    others: &DeadTargets,
) -> bool {
    let mut any = false;
    for binding in &mut record.bindings {
        let uses = binding.push.as_ref().is_some_and(|push| fingerprint(push) == target);
        if !uses || since.is_some_and(|since| binding.registered_at >= since) {
            continue;
        }
        let earlier = binding.dead_push.filter(|dead| dead.target == target && unix < dead.at + DEAD_FOR);
        let verdicts = earlier.map_or(1, |dead| dead.verdicts.saturating_add(1));
        let dead = DeadPush { target, at: unix, verdicts };
        if let Some(push) = binding.push.take() {
            others.enter(&push, dead);
        }
        binding.dead_push = Some(dead);
        any = true;
    }
    any
}
