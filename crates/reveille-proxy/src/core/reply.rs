//! Our own answers.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use reveille_registrar::flow::Transport;
use reveille_sip::{
    header::HeaderId, limits::Limits, message::Message, method::Method, response::ResponseBuilder, typed::Via,
    validate::Rejection,
};
use reveille_transaction::ServerId;
use smallvec::SmallVec;

use super::{Core, Now, Work, context::Origin};
use crate::{
    core::context::Context,
    egress::{Destination, Flows},
};

/// An answer of ours, before it has a request to answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: SmallVec<[(HeaderId, String); 2]>,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self { status, headers: SmallVec::new() }
    }

    pub(super) fn with(mut self, header: HeaderId, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }
}

impl From<Rejection> for Reply {
    fn from(rejection: Rejection) -> Self {
        let reply = Self::new(rejection.status);
        match rejection.extra {
            Some((header, value)) => reply.with(header, value),
            None => reply,
        }
    }
}

impl Core {
    /// 503 with a Retry-After that differs from one caller to the next, so that they do not all come back at once (S-220).
    pub(super) fn overloaded(&mut self) -> Reply {
        let base = self.shared.settings.retry_after.max(1);
        self.next_context += 1;
        let spread =
            xxhash_rust::xxh3::xxh3_64(&(self.next_context ^ self.shared.salt).to_le_bytes()) % u64::from(base);
        Reply::new(503).with(HeaderId::RetryAfter, (u64::from(base) + spread).to_string())
    }

    /// Answers through the server transaction and remembers nothing but the answer.
    pub(super) fn reply(&mut self, now: Now, server: ServerId, request: &Message, origin: &Origin, reply: Reply) {
        let (method, status) = (request.method(), reply.status);
        let tag = self.transactions.tag(server);
        let bytes = self.build_reply(request, origin, reply, tag.as_deref());
        self.count(method, status);
        self.respond(now, server, status, bytes);
    }

    /// Answers a request that cannot have a transaction.
    pub(super) fn reply_statelessly(&mut self, request: &Message, origin: &Origin, reply: Reply) {
        self.count(request.method(), reply.status);
        // The tag must be the same for every copy of the request (S-045), so it is made of the request.
        let seed = xxhash_rust::xxh3::xxh3_64_with_seed(
            request.value(HeaderId::CallId).unwrap_or("").as_bytes(),
            self.shared.salt,
        );
        let bytes = self.build_reply(request, origin, reply, Some(&format!("{seed:016x}")));
        if self.shared.flows.send(&origin.flow, bytes).is_err() {
            self.shared.metrics.dropped("reply_flow_gone");
        }
    }

    /// The bytes of an answer. `tag` is left out of a 100 only.
    pub(super) fn build_reply(&self, request: &Message, origin: &Origin, reply: Reply, tag: Option<&str>) -> Bytes {
        let mut builder = ResponseBuilder::to(request, reply.status);
        if let Some(tag) = tag {
            builder = builder.to_tag(tag);
        }
        let (received, rport) = via_correction(request, origin);
        if let Some(received) = received {
            builder = builder.received(received, rport);
        }
        for (header, value) in &reply.headers {
            builder = builder.header(*header, value);
        }
        if !self.shared.settings.server_header.is_empty() && reply.status > 100 {
            builder = builder.header(HeaderId::Server, &self.shared.settings.server_header);
        }
        builder.build()
    }

    /// Gives a context its final answer and lets go of what it held.
    pub(super) fn answer(&mut self, now: Now, id: u64, request: &Message, reply: Reply) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let Context { server, origin, .. } = *context;
        context.work = Work::Answered;
        self.reply(now, server, request, &origin, reply);
        self.forget_if_over(id);
    }

    pub(super) fn count(&self, method: Method, status: u16) {
        if status >= 200 {
            self.shared.metrics.final_response(method, status);
        }
        if status >= 300 {
            self.shared.metrics.refused(method, status);
        }
    }
}

/// What to write into the top Via: `received` where the source is not what it claims or `rport` was asked, and `rport`
/// where it was asked (RFC 3261 §18.2.1, RFC 3581 §4; S-087).
pub(super) fn via_correction(request: &Message, origin: &Origin) -> (Option<IpAddr>, Option<u16>) {
    let Ok(via) = request.top_via() else { return (None, None) };
    let source = origin.remote.ip().to_canonical();
    let wants_rport = via.rport().is_some();
    let claimed = via.host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    // A `received` that the sender wrote itself is overwritten: responses may one day be sent there.
    let received = (wants_rport || claimed != Some(source) || via.received().is_some()).then_some(source);
    (received, wants_rport.then_some(origin.remote.port()))
}

/// Sends a response whose connection is gone to where its Via says, once (RFC 3261 §18.2.2; S-088). Names are not resolved, and
/// the address is the sender's own, for we wrote or checked it on the way in; requests are not for this way.
pub(super) fn send_anew(flows: &dyn Flows, bytes: Bytes) {
    let Ok(response) = Message::parse(bytes.clone(), &Limits::default()) else { return };
    let Some(destination) = response.status().and_then(|_| via_destination(&response.top_via().ok()?)) else { return };
    let sent = flows.open(&destination).and_then(|flow| flows.send(&flow, bytes));
    if sent.is_err() {
        tracing::debug!("a response had no way back: its connection is gone and its Via cannot be reached");
    }
}

fn via_destination(via: &Via<'_>) -> Option<Destination> {
    let transport = match via.transport {
        t if t.eq_ignore_ascii_case("TCP") => Transport::Tcp,
        t if t.eq_ignore_ascii_case("TLS") => Transport::Tls,
        _ => return None, // UDP has no connection to lose, WebSocket and QUIC none that we could open
    };
    let host = via.received().unwrap_or(via.host).trim_start_matches('[').trim_end_matches(']');
    let default = if transport == Transport::Tls { 5061 } else { 5060 };
    let address = SocketAddr::new(host.parse().ok()?, via.port.unwrap_or(default));
    Some(Destination { transport, address, server_name: None, lane: 0 })
}
