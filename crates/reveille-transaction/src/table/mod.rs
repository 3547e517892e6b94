//! All transactions of one worker: finding the one a message belongs to, driving its machine, and what comes out of that.

mod inbound;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState},
    time::Instant,
};

use bytes::Bytes;
use reveille_sip::{message::Message, method::Method, response::ResponseBuilder};

use self::record::{Client, Member, Server, Wish};
use crate::{
    arena::Arena,
    build, client, key,
    reach::Reach,
    server,
    timer::{TimerConfig, TimerQueue},
};

/// Names a server transaction of one table; never reused for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(u64);

/// Names a client transaction of one table; never reused for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u64);

/// What became of a message handed in.
#[derive(Debug)]
pub enum Received {
    /// Taken: whatever it means comes out as events and transmits.
    Consumed,
    /// The table is full (S-059); nothing is kept of this new request, which comes back to be shed with 503.
    Full(Box<Message>),
}

/// Why a client transaction ended without a final response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Timer B or F: nobody answered in time.
    Timeout,
    /// The flow died.
    Transport,
}

impl Failure {
    /// The status a proxy core takes it for (RFC 3261 §16.9; S-056).
    pub fn status(self) -> u16 {
        match self {
            Self::Timeout => 408,
            Self::Transport => 503,
        }
    }
}

/// What the transaction user hears.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "events are moved once, from the queue to their consumer; a box would cost more"
)]
pub enum Event<D> {
    /// A new request; neither an ACK nor a CANCEL.
    Request {
        /// The transaction through which it is answered.
        id: ServerId,
        /// The request.
        msg: Message,
        /// Where it came from.
        from: D,
    },
    /// An ACK to a 2xx, to be routed without state (RFC 3261 §13.2.2.4; S-049).
    Ack {
        /// The ACK.
        msg: Message,
        /// Where it came from.
        from: D,
    },
    /// A CANCEL for an INVITE that has no final response yet. Said once; the CANCEL itself is answered.
    Cancel {
        /// The INVITE's transaction.
        invite: ServerId,
    },
    /// A response: 1xx (100 too), the first final, and for an INVITE every further 2xx.
    Response {
        /// The transaction it answers.
        id: ClientId,
        /// The response, with our Via still on top.
        msg: Message,
    },
    /// No final response will come.
    Failed {
        /// The transaction.
        id: ClientId,
        /// Why.
        why: Failure,
    },
    /// The server machine ended: state kept by this id can go.
    ServerGone {
        /// The transaction.
        id: ServerId,
    },
    /// The client machine ended: state kept by this id can go.
    ClientGone {
        /// The transaction.
        id: ClientId,
    },
}

/// Bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit<D> {
    /// Where to.
    pub to: D,
    /// What.
    pub bytes: Bytes,
}

/// Counts since the table was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Copies of requests and responses that went no further.
    pub absorbed: u64,
    /// Responses repeated for a copy of their request.
    pub replayed: u64,
    /// Retransmissions by timers A, E and G.
    pub resent: u64,
    /// Client transactions ended by timer B or F.
    pub timeouts: u64,
    /// INVITE finals that no ACK came for (timer H), and non-INVITEs whose client gave up unanswered.
    pub unfinished: u64,
    /// Client transactions ended by their flow.
    pub transport_failures: u64,
    /// Responses that belong to no transaction, dropped (S-048).
    pub stray_responses: u64,
    /// Requests without the fields a matching key needs, dropped.
    pub unmatchable: u64,
    /// New requests refused because the table was full.
    pub shed: u64,
    /// CANCELs sent.
    pub cancels: u64,
}

/// The transactions of one worker. See the crate's page for how it is driven.
pub struct Transactions<D> {
    timers: TimerConfig,
    capacity: usize,
    seed: [u64; 2],
    servers: Arena<Server<D>>,
    clients: Arena<Client<D>>,
    server_keys: HashMap<Box<str>, u64>,
    client_keys: HashMap<Box<str>, u64>,
    reach: Reach<D, Member>,
    queue: TimerQueue<Member>,
    events: VecDeque<Event<D>>,
    transmits: VecDeque<Transmit<D>>,
    stats: Stats,
    scratch: String,
}

impl<D: Clone + Eq + Hash> Transactions<D> {
    /// A table for `capacity` transactions. Past that, requests outside a dialog are refused; a quarter more is kept for requests
    /// inside one and for CANCEL (S-059).
    pub fn new(timers: TimerConfig, capacity: usize) -> Self {
        let random = || RandomState::new().hash_one(0u8);
        Self {
            timers,
            capacity,
            seed: [random(), random()],
            servers: Arena::new(),
            clients: Arena::new(),
            server_keys: HashMap::new(),
            client_keys: HashMap::new(),
            reach: Reach::new(),
            queue: TimerQueue::new(),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            stats: Stats::default(),
            scratch: String::new(),
        }
    }

    /// Fixes what To tags are made from, which is random otherwise.
    pub fn with_tag_seed(mut self, seed: [u64; 2]) -> Self {
        self.seed = seed;
        self
    }

    /// The To tag for responses we make in this transaction: the same each time, and the one on the 200 to its CANCEL
    /// (RFC 3261 §8.2.6.2, §9.2; S-045).
    pub fn tag(&self, id: ServerId) -> Option<String> {
        self.servers.get(id.0).map(|server| self.tag_of(&server.key))
    }

    /// The Reason the caller gave with the CANCEL of this INVITE (S-096).
    pub fn cancel_reason(&self, invite: ServerId) -> Option<&str> {
        self.servers.get(invite.0)?.cancel_reason.as_deref()
    }

    /// Sends a response through the server machine. What the machine may not send (a second final, a provisional after a final, a
    /// 408 or a 1xx but 100 to a non-INVITE) is swallowed. False if the transaction is gone.
    pub fn respond(&mut self, now: Instant, id: ServerId, status: u16, bytes: Bytes) -> bool {
        let Some(server) = self.servers.get_mut(id.0) else { return false };
        let sent = server.machine.respond(now, &self.timers, status, bytes);
        if !server.machine.is_pending() {
            server.request = Bytes::new();
        }
        if let Some(bytes) = sent
            && !server.unreachable
        {
            self.transmits.push_back(Transmit { to: server.from.clone(), bytes });
        }
        self.settle_server(id.0);
        true
    }

    /// Sends the responses of this transaction to `to` from now on: the connection its request came by is gone, another leads to
    /// the same place (RFC 3261 §18.2.2). False if the transaction is gone.
    pub fn reroute(&mut self, id: ServerId, to: D) -> bool {
        let Some(server) = self.servers.get_mut(id.0) else { return false };
        let old = std::mem::replace(&mut server.from, to.clone());
        let left = server.position;
        server.unreachable = false;
        let moved = self.reach.leave(&old, left);
        self.tell_position(moved, left);
        let position = self.reach.join(&to, Member::Server(id.0));
        if let Some(server) = self.servers.get_mut(id.0) {
            server.position = position;
        }
        true
    }

    /// Sends a request and starts its machine. `bytes` is the request as it goes out, with our own Via, holding `branch`, on top. Not
    /// for ACK, which has no transaction.
    pub fn request(
        &mut self,
        now: Instant,
        method: Method,
        branch: &str,
        bytes: Bytes,
        to: D,
        reliable: bool,
    ) -> ClientId {
        let machine = match method {
            Method::Invite => client::Machine::Invite(client::invite::Machine::start(now, &self.timers, reliable)),
            _ => client::Machine::NonInvite(client::non_invite::Machine::start(now, &self.timers, reliable)),
        };
        // The token as sent: an extension method has no other name.
        let token = bytes.split(|&byte| byte == b' ').next().and_then(|token| std::str::from_utf8(token).ok());
        let mut name = std::mem::take(&mut self.scratch);
        key::client(&mut name, branch, token.unwrap_or_else(|| method.as_str()));
        let id = self.open_client(name.as_str().into(), bytes, to, reliable, machine, false);
        self.scratch = name;
        ClientId(id)
    }

    /// Wishes an INVITE ended. The CANCEL goes out once a provisional response has come (now, if one has), never after a final
    /// (RFC 3261 §9.1; S-051). `reason` is the value of its Reason header. Without effect on other methods.
    pub fn cancel(&mut self, now: Instant, id: ClientId, reason: Option<&str>) {
        let Some(client) = self.clients.get_mut(id.0) else { return };
        let client::Machine::Invite(machine) = &client.machine else { return };
        if machine.is_pending() && matches!(client.wish, Wish::None) {
            client.wish = Wish::Cancel(reason.filter(|reason| !reason.is_empty()).map(Into::into));
            self.cancel_if_allowed(now, id.0);
            self.settle_client(id.0);
        }
    }

    /// Forgets a client transaction: no CANCEL, no more events, late responses are dropped (S-048).
    pub fn abandon(&mut self, id: ClientId) {
        self.remove_client(id.0);
    }

    /// The flow died. Every unanswered client transaction on it fails at once (S-056); what its server transactions have to say
    /// goes nowhere, unless rerouted.
    pub fn transport_failed(&mut self, _now: Instant, to: &D) {
        for member in self.reach.on(to) {
            match member {
                Member::Server(id) => {
                    if let Some(server) = self.servers.get_mut(id) {
                        server.unreachable = true;
                    }
                }
                Member::Client(id) => {
                    if self.clients.get(id).is_some_and(|client| client.machine.is_pending()) {
                        self.stats.transport_failures += 1;
                        self.fail_client(id, Failure::Transport);
                    }
                }
            }
        }
    }

    /// The next thing to hear.
    pub fn poll_event(&mut self) -> Option<Event<D>> {
        self.events.pop_front()
    }

    /// The next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit<D>> {
        self.transmits.pop_front()
    }

    /// When to call [`Self::handle_timeout`]; at times earlier than anything is due, never later.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.next()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, member)) = self.queue.pop_due(now) {
            match member {
                Member::Server(id) => self.server_due(now, at, id),
                Member::Client(id) => self.client_due(now, at, id),
            }
        }
    }

    /// How many transactions live, those of CANCEL included.
    pub fn len(&self) -> usize {
        self.servers.len() + self.clients.len()
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts since the table was made.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn server_due(&mut self, now: Instant, at: Instant, id: u64) {
        let Some(server) = self.servers.get_mut(id) else { return };
        if server.scheduled != Some(at) {
            return;
        }
        server.scheduled = None;
        match server.machine.timeout(now, &self.timers) {
            server::Fired::Nothing | server::Fired::Done => {}
            server::Fired::TimedOut => self.stats.unfinished += 1,
            server::Fired::OweTrying => {
                let trying = build::own(&server.request).map(|request| ResponseBuilder::to(&request, 100).build());
                let sent = trying.and_then(|bytes| server.machine.respond(now, &self.timers, 100, bytes));
                match (sent, &mut server.machine) {
                    (Some(bytes), _) if !server.unreachable => {
                        self.transmits.push_back(Transmit { to: server.from.clone(), bytes });
                    }
                    (None, server::Machine::NonInvite(machine)) => machine.forgive(),
                    _ => {}
                }
            }
            server::Fired::Resend(bytes) => {
                if !server.unreachable {
                    self.stats.resent += 1;
                    self.transmits.push_back(Transmit { to: server.from.clone(), bytes });
                }
            }
        }
        self.settle_server(id);
    }

    fn client_due(&mut self, now: Instant, at: Instant, id: u64) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if client.scheduled != Some(at) {
            return;
        }
        client.scheduled = None;
        match client.machine.timeout(now, &self.timers) {
            client::Fired::Nothing | client::Fired::Done => {}
            client::Fired::Resend => {
                self.stats.resent += 1;
                self.transmits.push_back(Transmit { to: client.to.clone(), bytes: client.request.clone() });
            }
            client::Fired::TimedOut => {
                self.stats.timeouts += 1;
                return self.fail_client(id, Failure::Timeout);
            }
        }
        self.settle_client(id);
    }
}

impl<D> fmt::Debug for Transactions<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactions")
            .field("servers", &self.servers.len())
            .field("clients", &self.clients.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl<D> Transactions<D> {
    fn tag_of(&self, key: &str) -> String {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        key.hash(&mut hasher);
        self.seed.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}
