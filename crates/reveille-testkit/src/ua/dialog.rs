//! Dialog state (RFC 3261 §12) from either side, and the requests sent inside it.

use super::agent::Agent;
use super::wire::{SipMessage, uri_of};

/// One dialog as its owner sees it.
#[derive(Clone)]
pub(super) struct Dialog {
    call_id: String,
    /// Our From value, tag included.
    local: String,
    /// The peer's To value, tag included.
    remote: String,
    target: String,
    routes: Vec<String>,
    cseq: u32,
}

impl Dialog {
    /// The caller's side, from a response that carries a To tag and a Contact.
    pub(super) fn of_caller(invite: &SipMessage, response: &SipMessage) -> Option<Self> {
        response.to_tag()?;
        let mut routes = response.values("Record-Route");
        routes.reverse();
        Some(Self {
            call_id: invite.call_id().to_owned(),
            local: invite.header("From")?.to_owned(),
            remote: response.header("To")?.to_owned(),
            target: response.contact_uri()?.to_owned(),
            routes,
            cseq: invite.cseq().0,
        })
    }

    /// The called side, from the INVITE and the tag we answer with.
    pub(super) fn of_called(invite: &SipMessage, tag: &str) -> Option<Self> {
        Some(Self {
            call_id: invite.call_id().to_owned(),
            local: format!("{};tag={tag}", invite.header("To")?),
            remote: invite.header("From")?.to_owned(),
            target: invite.contact_uri()?.to_owned(),
            routes: invite.values("Record-Route"),
            cseq: 0,
        })
    }

    /// A request was repeated with credentials under this number.
    pub(super) fn reached(&mut self, cseq: u32) {
        self.cseq = self.cseq.max(cseq);
    }

    /// The next request in this dialog; an ACK keeps the number, which its sender sets.
    pub(super) fn request(&mut self, agent: &Agent, local: &str, method: &str) -> SipMessage {
        if method != "ACK" {
            self.cseq += 1;
        }
        // RFC 3261 §12.2.1.1: a strict router at the head of the route set goes into the Request-URI.
        let strict = self.routes.first().map(|route| uri_of(route)).filter(|uri| !uri.contains(";lr"));
        let mut request = SipMessage::request(method, strict.unwrap_or(&self.target));
        request.push("Via", &via(agent, local));
        request.push("Max-Forwards", "70");
        for route in self.routes.iter().skip(usize::from(strict.is_some())) {
            request.push("Route", route);
        }
        if strict.is_some() {
            request.push("Route", &format!("<{}>", self.target));
        }
        request.push("From", &self.local);
        request.push("To", &self.remote);
        request.push("Call-ID", &self.call_id);
        request.push("CSeq", &format!("{} {method}", self.cseq));
        request
    }
}

/// A Via value with a new branch.
pub(super) fn via(agent: &Agent, local: &str) -> String {
    format!("SIP/2.0/{} {local};branch=z9hG4bK{};rport", agent.profile.transport.via(), new_tag())
}

/// A random token for tags, branches and nonces.
pub(super) fn new_tag() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// RFC 3261 §17.1.1.3: the hop-by-hop ACK repeats the INVITE's Via and Route.
pub(super) fn ack_for_refusal(invite: &SipMessage, response: &SipMessage) -> SipMessage {
    let mut ack = SipMessage::request("ACK", invite.uri());
    ack.push("Via", invite.header("Via").unwrap_or(""));
    ack.push("Max-Forwards", "70");
    ack.push("From", invite.header("From").unwrap_or(""));
    ack.push("To", response.header("To").unwrap_or(""));
    ack.push("Call-ID", invite.call_id());
    ack.push("CSeq", &format!("{} ACK", invite.cseq().0));
    for route in invite.headers("Route") {
        ack.push("Route", route);
    }
    ack
}
