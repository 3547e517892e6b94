//! What the table keeps per transaction, and how one comes and goes.

use std::{hash::Hash, time::Instant};

use bytes::Bytes;

use super::{ClientId, Event, Failure, ServerId, Transactions, Transmit};
use crate::{build, client, key, server};

/// A transaction of either side, as timers and flows name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Member {
    Server(u64),
    Client(u64),
}

#[derive(Debug)]
pub(super) struct Server<D> {
    pub(super) key: Box<str>,
    pub(super) from: D,
    /// Its place among those on the same destination.
    pub(super) position: usize,
    /// Its flow died.
    pub(super) unreachable: bool,
    /// The request of a non-INVITE, from which a 100 may have to be made; empty once answered.
    pub(super) request: Bytes,
    pub(super) machine: server::Machine,
    /// Ours alone, a CANCEL's: nobody hears of it.
    pub(super) internal: bool,
    pub(super) cancelled: bool,
    pub(super) cancel_reason: Option<Box<str>>,
    /// The one entry of the timer queue that counts.
    pub(super) scheduled: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Client<D> {
    pub(super) key: Box<str>,
    pub(super) to: D,
    pub(super) position: usize,
    pub(super) request: Bytes,
    pub(super) reliable: bool,
    pub(super) machine: client::Machine,
    pub(super) internal: bool,
    pub(super) wish: Wish,
    pub(super) scheduled: Option<Instant>,
}

/// Whether an INVITE is to be cancelled.
#[derive(Debug)]
pub(super) enum Wish {
    None,
    /// As soon as allowed, with this Reason.
    Cancel(Option<Box<str>>),
    /// Done.
    Cancelled,
}

impl<D: Clone + Eq + Hash> Transactions<D> {
    pub(super) fn open_server(
        &mut self,
        key: Box<str>,
        from: D,
        request: Bytes,
        machine: server::Machine,
        internal: bool,
    ) -> u64 {
        let id = self.servers.insert(Server {
            key: key.clone(),
            from: from.clone(),
            position: 0,
            unreachable: false,
            request,
            machine,
            internal,
            cancelled: false,
            cancel_reason: None,
            scheduled: None,
        });
        self.server_keys.insert(key, id);
        let position = self.reach.join(&from, Member::Server(id));
        if let Some(server) = self.servers.get_mut(id) {
            server.position = position;
        }
        self.settle_server(id);
        id
    }

    /// Opens a client transaction and sends its request.
    pub(super) fn open_client(
        &mut self,
        key: Box<str>,
        request: Bytes,
        to: D,
        reliable: bool,
        machine: client::Machine,
        internal: bool,
    ) -> u64 {
        self.transmits.push_back(Transmit { to: to.clone(), bytes: request.clone() });
        let id = self.clients.insert(Client {
            key: key.clone(),
            to: to.clone(),
            position: 0,
            request,
            reliable,
            machine,
            internal,
            wish: Wish::None,
            scheduled: None,
        });
        self.client_keys.insert(key, id);
        let position = self.reach.join(&to, Member::Client(id));
        if let Some(client) = self.clients.get_mut(id) {
            client.position = position;
        }
        self.settle_client(id);
        id
    }

    /// After a machine moved: removes it if it ended, else sees that its next timer is queued.
    pub(super) fn settle_server(&mut self, id: u64) {
        let Some(server) = self.servers.get_mut(id) else { return };
        if !server.machine.is_done() {
            let next = server.machine.next();
            if let Some(at) = next.filter(|at| server.scheduled.is_none_or(|scheduled| *at < scheduled)) {
                server.scheduled = Some(at);
                self.schedule(at, Member::Server(id));
            }
            return;
        }
        let Some(server) = self.servers.remove(id) else { return };
        if self.server_keys.get(&server.key) == Some(&id) {
            self.server_keys.remove(&server.key);
        }
        let moved = self.reach.leave(&server.from, server.position);
        self.tell_position(moved, server.position);
        if !server.internal {
            self.events.push_back(Event::ServerGone { id: ServerId(id) });
        }
    }

    /// As [`Self::settle_server`].
    pub(super) fn settle_client(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if !client.machine.needs_request() {
            client.request = Bytes::new();
        }
        if !client.machine.is_done() {
            let next = client.machine.next();
            if let Some(at) = next.filter(|at| client.scheduled.is_none_or(|scheduled| *at < scheduled)) {
                client.scheduled = Some(at);
                self.schedule(at, Member::Client(id));
            }
        } else if self.remove_client(id) == Some(false) {
            self.events.push_back(Event::ClientGone { id: ClientId(id) });
        }
    }

    /// Ends a client transaction without a final response.
    pub(super) fn fail_client(&mut self, id: u64, why: Failure) {
        if self.remove_client(id) == Some(false) {
            self.events.push_back(Event::Failed { id: ClientId(id), why });
            self.events.push_back(Event::ClientGone { id: ClientId(id) });
        }
    }

    /// Removes a client transaction; returns whether it was internal.
    pub(super) fn remove_client(&mut self, id: u64) -> Option<bool> {
        let client = self.clients.remove(id)?;
        if self.client_keys.get(&client.key) == Some(&id) {
            self.client_keys.remove(&client.key);
        }
        let moved = self.reach.leave(&client.to, client.position);
        self.tell_position(moved, client.position);
        Some(client.internal)
    }

    /// Sends the CANCEL that was wished for, if its time has come.
    pub(super) fn cancel_if_allowed(&mut self, now: Instant, id: u64) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let client::Machine::Invite(machine) = &mut client.machine else { return };
        if !machine.is_proceeding() {
            return;
        }
        let Wish::Cancel(reason) = &mut client.wish else { return };
        let reason = reason.take();
        client.wish = Wish::Cancelled;
        machine.cancelled(now, &self.timers);
        let Some(bytes) = build::cancel(&client.request, reason.as_deref()) else { return };
        let branch = client.key.split('\n').next().unwrap_or_default();
        let mut name = std::mem::take(&mut self.scratch);
        key::client(&mut name, branch, "CANCEL");
        let (to, reliable) = (client.to.clone(), client.reliable);
        let machine = client::non_invite::Machine::start(now, &self.timers, reliable);
        self.stats.cancels += 1;
        self.settle_client(id);
        self.open_client(name.as_str().into(), bytes, to, reliable, client::Machine::NonInvite(machine), true);
        self.scratch = name;
    }

    pub(super) fn tell_position(&mut self, moved: Option<Member>, position: usize) {
        match moved {
            Some(Member::Server(id)) => {
                if let Some(server) = self.servers.get_mut(id) {
                    server.position = position;
                }
            }
            Some(Member::Client(id)) => {
                if let Some(client) = self.clients.get_mut(id) {
                    client.position = position;
                }
            }
            None => {}
        }
    }

    /// Queues a timer. When most of the queue is outdated it is rid of that, which costs each entry a constant on average.
    fn schedule(&mut self, at: Instant, member: Member) {
        self.queue.push(at, member);
        if self.queue.len() > 2 * (self.servers.len() + self.clients.len()) + SLACK {
            let (servers, clients) = (&self.servers, &self.clients);
            self.queue.retain(|at, member| {
                let scheduled = match member {
                    Member::Server(id) => servers.get(*id).and_then(|server| server.scheduled),
                    Member::Client(id) => clients.get(*id).and_then(|client| client.scheduled),
                };
                scheduled == Some(at)
            });
        }
    }
}

/// Outdated timers that are not worth a clean-up.
const SLACK: usize = 1024;
