//! Refresh pushes (RFC 8599 §5.5, P-092 to P-098): a phone that sleeps is woken to renew its binding before it ends.
//!
//! When that is due follows from the binding alone, so a shard that was started again or taken over knows it as soon as it has
//! its records (P-171). The table visits a record when the first thing of it is due; no binding has a timer of its own. More
//! is kept only of those bindings whose push was sent or put off and whose phone has not come: a [`Course`] each.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use reveille_push::{PushClass, PushTarget, Ticket};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    Shard, ShardOutput,
    message::{Now, PushOrder},
};
use crate::{
    aor::Aor,
    record::{Binding, BindingKey, Fingerprint, Record, fingerprint},
};

/// Whether and how often phones are woken to refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshRules {
    /// Whether at all.
    pub enabled: bool,
    /// Refresh pushes in a second to each push service, of the whole node (P-097).
    pub per_second: u32,
}

impl Default for RefreshRules {
    fn default() -> Self {
        Self { enabled: true, per_second: 1000 }
    }
}

/// No first push is later than this before the end, and that of a phone which refreshes by itself is not earlier, in seconds.
const LATEST: u64 = 120;
/// Bounds of the lead, which is a tenth of the lifetime, in seconds (P-093).
const LEADS: (u64, u64) = (180, 1800);
/// Refresh pushes in one period, from REGISTER to expiry (P-096).
const PER_PERIOD: u8 = 2;
/// What was due before the shard had its records is spread over this time, in seconds (P-097).
const SPREAD: u64 = 60;
/// One token is pushed no oftener than this for refreshes, whatever the number of its bindings, in seconds (P-116).
const APART: u64 = 60;
/// How long a push is put off while the phone seems to be coming anyway, in seconds.
const BUSY: u64 = 30;
/// Nothing more is due.
const NEVER: u64 = u64::MAX;
const SMALL: usize = 64;

/// What is going on beyond what the records say.
#[derive(Default)]
pub(super) struct Refreshes {
    courses: HashMap<Aor, Vec<Course>>,
    /// The number of courses.
    open: usize,
    /// Tokens pushed lately, and when.
    lately: HashMap<Fingerprint, u64>,
    sweep_at: usize,
}

/// A binding whose refresh push was sent or put off, until it is refreshed or ends.
struct Course {
    key: BindingKey,
    /// The REGISTER that began the period: a later one ends the course (P-095).
    generation: u32,
    expires_at: u64,
    sent: u8,
    /// When the next push is due, in unix seconds.
    due: u64,
    /// Whether the next push has its place in the node's pace.
    admitted: bool,
    /// The push sent last.
    ticket: Option<Ticket>,
}

impl Refreshes {
    fn course(&self, aor: &Aor, binding: &Binding) -> Option<&Course> {
        // As a rule nothing is going on, and nothing is hashed to find that out.
        let courses = if self.courses.is_empty() { None } else { self.courses.get(aor) };
        courses?.iter().find(|course| course.is_of(binding))
    }

    /// When the next push for `binding` is due.
    fn due(&self, aor: &Aor, binding: &Binding) -> u64 {
        if binding.push.is_none() {
            return NEVER;
        }
        self.course(aor, binding).map_or_else(|| first(aor, binding), |course| course.due)
    }

    /// Takes the course of `binding` out, or a new one; [`Refreshes::keep`] puts it back.
    fn take(&mut self, aor: &Aor, binding: &Binding) -> Course {
        if let Some(courses) = self.courses.get_mut(aor)
            && let Some(at) = courses.iter().position(|course| course.is_of(binding))
        {
            self.open -= 1;
            return courses.swap_remove(at);
        }
        Course {
            key: binding.key,
            generation: binding.generation,
            expires_at: binding.expires_at,
            sent: 0,
            due: NEVER,
            admitted: false,
            ticket: None,
        }
    }

    fn keep(&mut self, aor: &Aor, course: Course) {
        self.open += 1;
        self.courses.entry(aor.clone()).or_default().push(course);
    }

    /// A push that is asked for now may be for more than a refresh: one that has not left is not wanted beside it (P-057).
    pub(super) fn outdone(&mut self, aor: &Aor, key: BindingKey) {
        let courses = self.courses.get_mut(aor).into_iter().flatten();
        courses.filter(|course| course.key == key).filter_map(|course| course.ticket.take()).for_each(|t| t.withdraw());
    }

    /// Bindings whose push was sent or put off and whose phone has not come.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    fn note(&mut self, target: Fingerprint, unix: u64) {
        if self.lately.len() >= self.sweep_at {
            self.lately.retain(|_, at| *at + APART > unix);
            // Twice what remains: the cost of a sweep is spread over as many new entries.
            self.sweep_at = (2 * self.lately.len()).max(SMALL);
        }
        self.lately.insert(target, unix);
    }
}

impl Course {
    fn is_of(&self, binding: &Binding) -> bool {
        self.key == binding.key && self.generation == binding.generation
    }
}

impl Shard {
    /// When a record wants to be visited, in unix seconds: for a push, or for the whole minute in which a binding will have ended.
    /// `None` for a record without bindings.
    pub(super) fn next_due(&self, aor: &Aor, record: &Record) -> Option<u64> {
        let due = |binding: &Binding| {
            let ends = binding.expires_at.div_ceil(60).saturating_mul(60);
            if self.config.refresh.enabled { ends.min(self.refreshes.due(aor, binding)) } else { ends }
        };
        record.bindings.iter().map(due).min()
    }

    /// The same for a record that has just been read: what is overdue is spread (P-097).
    pub(super) fn first_due(&self, now: Now, aor: &Aor, record: &Record) -> Option<u64> {
        let due = self.next_due(aor, record)?;
        if due > now.unix {
            return Some(due);
        }
        let ends = record.live(now.unix).map(|binding| binding.expires_at).min().unwrap_or(NEVER);
        // A phone that has little time left needs some of it to come.
        let window = SPREAD.min((ends - now.unix) / 3 * 2);
        Some(now.unix + xxh3_64_with_seed(aor.as_str().as_bytes(), now.unix) % (window + 1))
    }

    /// Sends the pushes that are due for a record.
    pub(super) fn refresh_due(&mut self, now: Now, aor: &Aor, record: &Record) {
        if !self.config.refresh.enabled {
            return;
        }
        for binding in record.live(now.unix) {
            if let Some(target) = &binding.push
                && self.refreshes.due(aor, binding) <= now.unix
            {
                self.refresh(now, aor, binding, target);
            }
        }
    }

    fn refresh(&mut self, now: Now, aor: &Aor, binding: &Binding, target: &PushTarget) {
        let mut course = self.refreshes.take(aor, binding);
        match self.put_off(now, aor, binding, target, &mut course) {
            Some(until) => course.due = until,
            None => self.send_refresh(now, aor, binding, target, &mut course),
        }
        self.refreshes.keep(aor, course);
    }

    /// Until when a push that is due has to wait; [`NEVER`] where it may not be sent at all.
    fn put_off(&self, now: Now, aor: &Aor, binding: &Binding, target: &PushTarget, course: &mut Course) -> Option<u64> {
        let rest = binding.expires_at.saturating_sub(now.unix);
        // P-098, P-151.
        if !self.services.can_wake(target, PushClass::Refresh) {
            return Some(NEVER);
        }
        if self.active.get(aor).is_some_and(|active| active.is_coming(binding)) {
            return Some(now.unix + BUSY.min(rest / 2).max(1));
        }
        let pushed = self.refreshes.lately.get(&fingerprint(target)).filter(|_| course.sent == 0);
        if let Some(until) = pushed.map(|at| at + APART).filter(|until| *until > now.unix) {
            return Some(until);
        }
        if std::mem::take(&mut course.admitted) {
            return None;
        }
        match self.pace.reserve(target.provider, now.mono, Duration::from_secs(rest)) {
            None => {
                self.refreshed_as("crowded_out");
                Some(NEVER)
            }
            Some(Duration::ZERO) => None,
            Some(wait) => {
                course.admitted = true;
                self.refreshed_as("put_off");
                Some(now.unix + wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
            }
        }
    }

    fn send_refresh(&mut self, now: Now, aor: &Aor, binding: &Binding, target: &PushTarget, course: &mut Course) {
        let rest = binding.expires_at.saturating_sub(now.unix);
        let token = fingerprint(target);
        // P-096: the second at half of what remains.
        course.sent += 1;
        course.due = if course.sent < PER_PERIOD { now.unix + (rest / 2).max(1) } else { NEVER };
        let (ticket, repeat) = (Ticket::new(), u32::from(course.sent - 1));
        if let Some(former) = course.ticket.replace(ticket.clone()) {
            former.withdraw(); // still waiting to be sent
        }
        let given_up = Duration::from_secs(course.due.min(binding.expires_at) - now.unix);
        self.refreshed_as(if repeat == 0 { "first" } else { "second" });
        self.refreshes.note(token, now.unix);
        self.metrics.pushes.with_label_values(&[PushClass::Refresh.as_str()]).inc();
        let push = self.take_id();
        self.in_flight.insert(push, token);
        let order = PushOrder {
            aor: aor.clone(),
            key: binding.key,
            push,
            target: target.clone(),
            class: PushClass::Refresh,
            deadline: later(now.mono, given_up),
            keep_until: later(now.mono, Duration::from_secs(rest)),
            repeat,
            ticket,
        };
        self.outputs.push_back(ShardOutput::Push(Box::new(order)));
    }

    /// The record of `aor` is now `record`: what was going on for bindings that were refreshed or are no more is over, and what has
    /// not left is withdrawn (P-047, P-095). To be called before the record is put.
    pub(super) fn end_refreshes(&mut self, now: Now, aor: &Aor, record: &Record) {
        if self.refreshes.courses.is_empty() {
            return;
        }
        let Some(courses) = self.refreshes.courses.get_mut(aor) else { return };
        let before = courses.len();
        let mut ends = Vec::new();
        courses.retain(|course| {
            let binding = record.get(course.key).filter(|binding| binding.push.is_some());
            if binding.is_some_and(|binding| course.is_of(binding)) {
                return true;
            }
            if let Some(ticket) = &course.ticket {
                ticket.withdraw();
            }
            if course.sent > 0 {
                ends.push(match binding {
                    Some(_) => "renewed",
                    None if course.expires_at <= now.unix => "lapsed",
                    None => "ended",
                });
            }
            false
        });
        let ended = before - courses.len();
        self.refreshes.open -= ended;
        if courses.is_empty() {
            self.refreshes.courses.remove(aor);
        }
        if ended > 0 {
            self.table.unplan(aor);
        }
        ends.into_iter().for_each(|end| self.refreshed_as(end));
    }

    fn refreshed_as(&self, event: &str) {
        self.metrics.refreshes.with_label_values(&[event]).inc();
    }
}

/// When the first push of a period is due (P-093, P-094).
fn first(aor: &Aor, binding: &Binding) -> u64 {
    let lifetime = binding.expires_at.saturating_sub(binding.registered_at);
    let latest = binding.expires_at.saturating_sub(LATEST);
    if binding.pnsreg {
        return latest;
    }
    let lead = (lifetime / 10).clamp(LEADS.0, LEADS.1);
    // The same on every node and after every start. The time is in it lest a phone be drawn the same lot each time.
    let draw = xxh3_64_with_seed(aor.as_str().as_bytes(), binding.key.0 ^ binding.expires_at.rotate_left(32));
    let lead = lead + draw % (lead / 5 + 1);
    // So short a lifetime is not granted to a phone with push, but may have been stored.
    binding.expires_at.saturating_sub(lead).max(binding.registered_at + lifetime / 4).min(latest)
}

fn later(at: Instant, time: Duration) -> Instant {
    at.checked_add(time).unwrap_or(at)
}
