//! A message from the network finds its transaction (RFC 3261 §17.1.3, §17.2.3), or opens one.

use std::{hash::Hash, time::Instant};

use bytes::Bytes;
use reveille_sip::{header::HeaderId, message::Message, method::Method, response::ResponseBuilder};

use super::{ClientId, Event, Received, ServerId, Transactions, Transmit};
use crate::{
    build, client,
    key::{self, Style, ToTag},
    server::{self, invite::AckUse},
};

impl<D: Clone + Eq + Hash> Transactions<D> {
    /// Takes a message from the network. Retransmissions end here, with the last response repeated; a CANCEL is answered; an ACK to
    /// a final response of 300 and above is absorbed; a response nobody waits for is dropped. `reliable` tells of the transport it
    /// came by.
    pub fn receive(&mut self, now: Instant, msg: Message, from: D, reliable: bool) -> Received {
        if !msg.is_request() {
            self.receive_response(now, msg);
            return Received::Consumed;
        }
        // Lent out so that keys can be looked up while the table changes.
        let mut scratch = std::mem::take(&mut self.scratch);
        let received = match msg.method() {
            Method::Ack => self.receive_ack(now, msg, from, &mut scratch),
            Method::Cancel => self.receive_cancel(now, msg, from, reliable, &mut scratch),
            _ => self.receive_request(now, msg, from, reliable, &mut scratch),
        };
        self.scratch = scratch;
        received
    }

    fn receive_request(
        &mut self,
        now: Instant,
        msg: Message,
        from: D,
        reliable: bool,
        scratch: &mut String,
    ) -> Received {
        if key::server(scratch, &msg, msg.method_name(), ToTag::Own).is_none() {
            self.stats.unmatchable += 1;
            return Received::Consumed;
        }
        if self.replayed(scratch, &from) {
            return Received::Consumed;
        }
        let inside_dialog = msg.to_tag().is_some();
        if self.len() >= if inside_dialog { self.hard_capacity() } else { self.capacity } {
            self.stats.shed += 1;
            return Received::Full(Box::new(msg));
        }
        let (machine, request) = if msg.method() == Method::Invite {
            (server::Machine::Invite(server::invite::Machine::start(reliable)), Bytes::new())
        } else {
            let machine = server::non_invite::Machine::start(now, &self.timers, reliable);
            (server::Machine::NonInvite(machine), msg.bytes().clone())
        };
        let id = self.open_server(scratch.as_str().into(), from.clone(), request, machine, false);
        self.events.push_back(Event::Request { id: ServerId(id), msg, from });
        Received::Consumed
    }

    /// If the request of this key is known, repeats what was said to it last (S-042).
    fn replayed(&mut self, key: &str, from: &D) -> bool {
        let Some(&id) = self.server_keys.get(key) else { return false };
        if self.servers.get(id).is_some_and(|server| server.unreachable) {
            // The client came again by another way: the old one is dead, so it is answered there.
            self.reroute(ServerId(id), from.clone());
        }
        let Some(server) = self.servers.get(id) else { return false };
        self.stats.absorbed += 1;
        if let Some(bytes) = server.machine.retransmission() {
            self.stats.replayed += 1;
            self.transmits.push_back(Transmit { to: server.from.clone(), bytes });
        }
        true
    }

    fn receive_ack(&mut self, now: Instant, msg: Message, from: D, scratch: &mut String) -> Received {
        let matched = match key::server(scratch, &msg, "INVITE", ToTag::Own) {
            None => {
                self.stats.unmatchable += 1;
                return Received::Consumed;
            }
            Some(Style::Branch) => self.server_keys.get(scratch.as_str()).copied(),
            Some(Style::Legacy) => self.legacy_ack(&msg, scratch),
        };
        if let Some(id) = matched
            && let Some(server) = self.servers.get_mut(id)
            && let server::Machine::Invite(machine) = &mut server.machine
            && machine.ack(now, &self.timers) == AckUse::Absorbed
        {
            self.stats.absorbed += 1;
            self.settle_server(id);
            return Received::Consumed;
        }
        self.events.push_back(Event::Ack { msg, from });
        Received::Consumed
    }

    /// The INVITE of an ACK without a magic cookie. The ACK's To tag is that of our final response, while the INVITE's key holds the
    /// INVITE's own (RFC 3261 §17.2.3). `scratch` holds the key under the ACK's tag: that of a re-INVITE.
    fn legacy_ack(&self, msg: &Message, scratch: &mut String) -> Option<u64> {
        if let Some(&id) = self.server_keys.get(scratch.as_str()) {
            return Some(id);
        }
        key::server(scratch, msg, "INVITE", ToTag::Absent)?;
        let id = *self.server_keys.get(scratch.as_str())?;
        let server::Machine::Invite(machine) = &self.servers.get(id)?.machine else { return None };
        match machine.final_response() {
            Some(bytes) => (build::own(bytes)?.to_tag() == msg.to_tag()).then_some(id),
            None => Some(id),
        }
    }

    /// RFC 3261 §9.2. The CANCEL is a transaction of its own, ours alone.
    fn receive_cancel(
        &mut self,
        now: Instant,
        msg: Message,
        from: D,
        reliable: bool,
        scratch: &mut String,
    ) -> Received {
        if key::server(scratch, &msg, "INVITE", ToTag::Own).is_none() {
            self.stats.unmatchable += 1;
            return Received::Consumed;
        }
        let invite = self.server_keys.get(scratch.as_str()).copied();
        let tag = self.tag_of(scratch);
        let key = key::server(scratch, &msg, "CANCEL", ToTag::Own);
        if key.is_none() || self.replayed(scratch, &from) {
            return Received::Consumed;
        }
        let status = if invite.is_some() { 200 } else { 481 };
        let bytes = ResponseBuilder::to(&msg, status).to_tag(&tag).build();
        if reliable || self.len() >= self.hard_capacity() {
            // Nothing to absorb, or no room for it: the answer leaves without a transaction.
            self.transmits.push_back(Transmit { to: from, bytes });
        } else {
            let machine = server::non_invite::Machine::start(now, &self.timers, reliable);
            let machine = server::Machine::NonInvite(machine);
            let id = self.open_server(scratch.as_str().into(), from, Bytes::new(), machine, true);
            self.respond(now, ServerId(id), status, bytes);
        }
        if let Some(id) = invite
            && let Some(server) = self.servers.get_mut(id)
            && server.machine.is_pending()
            && !server.cancelled
        {
            server.cancelled = true;
            server.cancel_reason = msg.value(HeaderId::Reason).map(Into::into);
            self.events.push_back(Event::Cancel { invite: ServerId(id) });
        }
        Received::Consumed
    }

    fn receive_response(&mut self, now: Instant, msg: Message) {
        let Some((id, status)) = self.client_of(&msg) else {
            self.stats.stray_responses += 1;
            return;
        };
        let Some(client) = self.clients.get_mut(id) else { return };
        let heard = client.machine.response(now, &self.timers, status);
        if matches!(heard, client::Heard::Ack | client::Heard::DeliverAndAck)
            && let Some(bytes) = build::ack(&client.request, &msg)
        {
            self.transmits.push_back(Transmit { to: client.to.clone(), bytes });
        }
        if matches!(heard, client::Heard::Absorbed | client::Heard::Ack) {
            self.stats.absorbed += 1;
        } else if !client.internal {
            self.events.push_back(Event::Response { id: ClientId(id), msg });
        }
        self.cancel_if_allowed(now, id);
        self.settle_client(id);
    }

    /// The transaction that a response belongs to, by the branch and sent-by of its top Via and the method of its CSeq (S-041).
    fn client_of(&mut self, msg: &Message) -> Option<(u64, u16)> {
        let status = msg.status()?;
        let via = msg.top_via().ok()?;
        let cseq = msg.cseq().ok()?;
        key::client(&mut self.scratch, via.branch()?, cseq.name);
        let id = *self.client_keys.get(self.scratch.as_str())?;
        let ours = build::sent_by(&self.clients.get(id)?.request);
        ours.is_none_or(|ours| is_sent_by(ours, via.host, via.port)).then_some((id, status))
    }

    /// The bound for what belongs to something established.
    fn hard_capacity(&self) -> usize {
        self.capacity + self.capacity / 4 + 1
    }
}

/// Whether `sent_by`, as we wrote it, is this host and port.
fn is_sent_by(sent_by: &str, host: &str, port: Option<u16>) -> bool {
    let Some(rest) = sent_by.get(host.len()..) else { return false };
    let same_host = sent_by.get(..host.len()).is_some_and(|ours| ours.eq_ignore_ascii_case(host));
    same_host
        && match (rest.strip_prefix(':'), port) {
            (Some(ours), Some(port)) => ours.parse() == Ok(port),
            (None, None) => rest.is_empty(),
            _ => false,
        }
}
