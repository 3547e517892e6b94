//! A server that had a write's whole time and gave nothing back.
//!
//! What waits for it is answered at once from then on: a phone that is sent 503 now comes again, one that waits in vain does so as
//! well, only later. Whether the server is back is asked by a small write of our own, since a server may answer and take no writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use backon::ExponentialBackoff;
use parking_lot::Mutex;

use super::{Done, Writer};
use crate::backoff;
use crate::call::{Call, turn_away};
use crate::config::Endpoint;
use crate::gateway::{Gateway, Outcome, Request, Round};
use crate::keys::shard_slot;
use crate::pending::Fate;

/// See the module.
pub(super) struct Away {
    /// A shard that lies there: the write that asks belongs to its slot.
    shard: u16,
    slot: u16,
    asking: bool,
    next: Instant,
    pauses: ExponentialBackoff,
}

impl Away {
    pub(super) fn new(shard: u16, slot: u16, now: Instant) -> Self {
        Self { shard, slot, asking: false, next: now, pauses: backoff::pauses() }
    }

    /// When the server is to be asked; not while it is.
    pub(super) fn due(&self) -> Option<Instant> {
        Some(self.next).filter(|_| !self.asking)
    }

    /// What asks the server.
    pub(super) fn ask(&mut self, gateway: &Gateway) -> Request {
        self.asking = true;
        let mut cmd = redis::cmd("SET");
        cmd.arg(gateway.keys.probe(self.shard)).arg(&gateway.node).arg("PX").arg(PROBE_LASTS_MS);
        Request::new(self.slot, cmd)
    }

    /// It was asked. Returns whether it is back: it took the write, or knows who would.
    pub(super) fn asked(&mut self, outcome: Option<&Outcome>, now: Instant) -> bool {
        self.asking = false;
        self.next = now + self.pauses.next().unwrap_or(backoff::LONGEST);
        matches!(outcome, Some(Outcome::Answer(_) | Outcome::Redirected | Outcome::Refused(_)))
    }
}

/// Servers that some writer has found to be away: what one of them has waited for the others need not wait for as well.
#[derive(Default)]
pub(crate) struct Absent {
    any: AtomicBool,
    servers: Mutex<Vec<Endpoint>>,
}

impl Absent {
    fn note(&self, server: &Endpoint) {
        let mut servers = self.servers.lock();
        if !servers.contains(server) {
            servers.push(server.clone());
        }
        self.any.store(true, Ordering::Release);
    }

    fn forget(&self, server: &Endpoint) {
        let mut servers = self.servers.lock();
        servers.retain(|absent| absent != server);
        self.any.store(!servers.is_empty(), Ordering::Release);
    }

    fn has(&self, server: &Endpoint) -> bool {
        self.any.load(Ordering::Acquire) && self.servers.lock().contains(server)
    }
}

/// How long the key of the question stays, milliseconds.
const PROBE_LASTS_MS: u32 = 1000;

impl Writer {
    /// Whether a server is away, by what any writer has found.
    pub(super) fn is_away(&mut self, at: usize, now: Instant) -> bool {
        let server = &mut self.servers[at];
        if server.away.is_none() && self.shared.absent.has(&server.endpoint) {
            let shard = server.ready.front().copied().or_else(|| server.again.front().map(|call| call.shard));
            server.away = shard.map(|shard| Away::new(shard, shard_slot(shard), now));
        }
        server.away.is_some()
    }

    /// A server is away: nothing waits for it, and now and then it is asked whether it is back.
    pub(super) fn decide_without(&mut self, at: usize, now: Instant) {
        for call in std::mem::take(&mut self.servers[at].again) {
            self.end(call, now, |_| Fate::Unknown);
        }
        while let Some(shard) = self.servers[at].ready.pop_front() {
            let Some(line) = self.lines.get_mut(&shard) else { continue };
            line.listed = false;
            turn_away(&self.shared, shard, line, now);
        }
        let server = &mut self.servers[at];
        let Some(away) = server.away.as_mut().filter(|away| away.due().is_some_and(|due| due <= now)) else { return };
        let mut request = away.ask(&self.shared.gateway);
        let (shared, pool, endpoint) = (self.shared.clone(), self.pool.clone(), server.endpoint.clone());
        self.running.push(Box::pin(async move {
            let round = shared.gateway.round(&pool, &endpoint, &mut [&mut request], None).await;
            Done { endpoint, calls: Vec::new(), round, began: now }
        }));
    }

    /// A call had its whole time: its server is away.
    pub(super) fn give_up(&mut self, call: Call, now: Instant) {
        let endpoint = self.table.of(call.request.slot).clone();
        let (shard, slot) = (call.shard, call.request.slot);
        let server = self.server(endpoint);
        if server.away.is_none() {
            tracing::warn!(server = %server.endpoint, "Redis takes no writes; until it does they are decided at once");
            server.away = Some(Away::new(shard, slot, now));
            let endpoint = server.endpoint.clone();
            self.shared.absent.note(&endpoint);
        }
        self.end(call, now, |_| Fate::Unknown);
    }

    /// A server has answered, or not: an answer says that it is back.
    pub(super) fn look_at(&mut self, endpoint: &Endpoint, round: &Round, was_asked: bool, now: Instant) {
        if let Some(server) = self.servers.iter_mut().find(|server| server.endpoint == *endpoint)
            && let Some(away) = &mut server.away
        {
            let answered = round.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Answer(_)));
            if answered || was_asked && away.asked(round.outcomes.first(), now) {
                tracing::info!(server = %server.endpoint, "Redis takes writes");
                (server.away, server.rests_until) = (None, None);
                self.shared.absent.forget(endpoint);
            }
        }
    }
}
