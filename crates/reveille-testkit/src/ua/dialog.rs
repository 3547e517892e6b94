//! Dialog state (RFC 3261 §12) from either side, and the requests sent inside it.

use rsip::prelude::UntypedHeader as _;
use rsip::{Header, Method, Uri, UriWithParams, headers, typed};

use super::agent::Agent;
use super::compose;
use super::wire::{SipMessage, uri_of};

/// One dialog as its owner sees it.
#[derive(Clone)]
pub(super) struct Dialog {
    call_id: String,
    /// Our From value, tag included.
    local: String,
    /// The peer's To value, tag included.
    remote: String,
    target: Uri,
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
            target: compose::uri(response.contact_uri()?),
            routes,
            cseq: invite.cseq().0,
        })
    }

    /// The called side, from the INVITE and the tag we answer with.
    pub(super) fn of_called(invite: &SipMessage, tag: &str) -> Option<Self> {
        Some(Self {
            call_id: invite.call_id().to_owned(),
            local: compose::tagged(invite.header("To")?, tag),
            remote: invite.header("From")?.to_owned(),
            target: compose::uri(invite.contact_uri()?),
            routes: invite.values("Record-Route"),
            cseq: 0,
        })
    }

    /// A request was repeated with credentials under this number.
    pub(super) fn reached(&mut self, cseq: u32) {
        self.cseq = self.cseq.max(cseq);
    }

    /// The peer accepted a re-INVITE or an UPDATE: its Contact is the new target. The route set stays, whatever the response
    /// recorded (RFC 3261 §12.2.1.2).
    pub(super) fn refreshed(mut self, response: &SipMessage) -> Self {
        if let Some(contact) = response.contact_uri() {
            self.target = compose::uri(contact);
        }
        self
    }

    /// The next request in this dialog.
    pub(super) fn request(&mut self, agent: &Agent, local: &str, method: Method) -> SipMessage {
        self.cseq += 1;
        self.compose(agent, local, method, self.cseq)
    }

    /// The ACK for a 2xx to the INVITE of this number (RFC 3261 §13.2.2.4).
    pub(super) fn ack(&self, agent: &Agent, local: &str, cseq: u32) -> SipMessage {
        self.compose(agent, local, Method::Ack, cseq)
    }

    fn compose(&self, agent: &Agent, local: &str, method: Method, cseq: u32) -> SipMessage {
        // RFC 3261 §12.2.1.1: a strict router at the head of the route set goes into the Request-URI.
        let strict = self.routes.first().map(|route| uri_of(route)).filter(|uri| !uri.contains(";lr"));
        let mut headers: Vec<Header> = vec![via(agent, local).into(), headers::MaxForwards::from(70).into()];
        let routes = self.routes.iter().skip(usize::from(strict.is_some()));
        headers.extend(routes.map(|route| headers::Route::new(route).into()));
        if strict.is_some() {
            let last = UriWithParams { uri: self.target.clone(), params: Vec::new() };
            headers.push(headers::Route::new(last.to_string()).into());
        }
        headers.extend([
            headers::From::new(&self.local).into(),
            headers::To::new(&self.remote).into(),
            headers::CallId::new(&self.call_id).into(),
            compose::cseq(cseq, method),
        ]);
        compose::request(method, strict.map_or_else(|| self.target.clone(), compose::uri), headers)
    }
}

/// A Via value with a new branch.
pub(super) fn via(agent: &Agent, local: &str) -> typed::Via {
    compose::via(agent.profile.transport.via(), local, &format!("z9hG4bK{}", new_tag()))
}

/// A random token for tags, branches and nonces.
pub(super) fn new_tag() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// RFC 3261 §17.1.1.3: the hop-by-hop ACK repeats the INVITE's Via and Route.
pub(super) fn ack_for_refusal(invite: &SipMessage, response: &SipMessage) -> SipMessage {
    beside(invite, Method::Ack, response.header("To"))
}

/// RFC 3261 §9.1: a CANCEL repeats the INVITE's Via, Route and To.
pub(super) fn cancel(invite: &SipMessage) -> SipMessage {
    beside(invite, Method::Cancel, invite.header("To"))
}

/// A request that goes where the INVITE went.
fn beside(invite: &SipMessage, method: Method, to: Option<&str>) -> SipMessage {
    let mut headers: Vec<Header> = invite.header("Via").map(|via| headers::Via::new(via).into()).into_iter().collect();
    headers.push(headers::MaxForwards::from(70).into());
    headers.extend(invite.headers("Route").map(|route| headers::Route::new(route).into()));
    headers.extend(invite.header("From").map(|from| headers::From::new(from).into()));
    headers.extend(to.map(|to| headers::To::new(to).into()));
    headers.push(headers::CallId::new(invite.call_id()).into());
    headers.push(compose::cseq(invite.cseq().0, method));
    compose::request(method, compose::uri(invite.uri()), headers)
}
