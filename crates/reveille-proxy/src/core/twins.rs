//! The same INVITE once more. When a home dies while a phone rings, the caller's edge asks the next home, and that sends the call to
//! the phone's edge again. The phone must not ring twice: the edge joins the new request to the branch that is ringing.

use reveille_sip::{header::HeaderId, message::Message, method::Method};
use reveille_transaction::ServerId;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Core, Now,
    context::{Origin, Plan, Where, Work},
    reply::Reply,
};
use crate::ingress::Purpose;

/// What an INVITE that a home sent down a flow is known by, and what came back.
pub(super) struct Twin {
    key: u64,
    /// The newest response that was passed on, where another home would have to hear it too.
    pub(super) last: Option<Message>,
    /// Whether the request was joined to another, so that responses go by the Vias of that one.
    pub(super) joined: bool,
}

impl Core {
    /// What tells copies of one INVITE for one phone from all others; none where a copy could not come from a home.
    pub(super) fn twin(request: &Message, origin: &Origin, plan: &Plan) -> Option<Twin> {
        let by_home = origin.purpose == Purpose::Cluster && matches!(plan.destination, Where::Flow(_));
        if !by_home || request.method() != Method::Invite || request.to_tag().is_some() {
            return None;
        }
        let mut hash = Xxh3::new();
        let cseq = request.cseq().ok()?.number.to_string();
        for part in [request.value(HeaderId::CallId)?, request.from_tag()?, &cseq, request.request_uri()] {
            hash.update(part.as_bytes());
            hash.update(&[0]);
        }
        Some(Twin { key: hash.digest(), last: None, joined: false })
    }

    /// Joins `request` to the copy of it that is ringing, or was answered just now. False where there is none.
    pub(super) fn join(&mut self, now: Now, twin: &Twin, server: ServerId, request: &Message, origin: &Origin) -> bool {
        let Some(&id) = self.twins.get(&twin.key) else { return false };
        let Some(context) = self.contexts.get_mut(&id) else { return false };
        let Work::Deliver(delivery) = &mut context.work else { return false };
        let Some(known) = &mut delivery.twin else { return false };
        let succeeded = known.last.as_ref().and_then(Message::status).is_some_and(|status| status >= 200);
        if delivery.answered && !succeeded {
            return false; // refused, or its flow failed: this copy is another try
        }
        known.joined = true;
        let last = known.last.clone();
        let old = (std::mem::replace(&mut context.server, server), std::mem::replace(&mut context.origin, *origin));
        let old_request = std::mem::replace(&mut delivery.request, request.clone());
        self.servers.remove(&old.0);
        self.servers.insert(server, id);
        // The first home is dead, or has lost its shard: what it hears matters to nobody.
        self.reply(now, old.0, &old_request, &old.1, Reply::new(482));
        if let Some(last) = last {
            self.send_up(now, id, &last, &[]);
        }
        true
    }

    /// Makes a request known to copies that may come.
    pub(super) fn remember(&mut self, id: u64, twin: Option<Twin>) {
        if let (Some(twin), Some(delivery)) = (twin, self.delivery(id)) {
            let key = twin.key;
            delivery.twin = Some(twin);
            self.twins.insert(key, id);
        }
    }

    pub(super) fn forget_twin(&mut self, work: &Work, id: u64) {
        if let Work::Deliver(delivery) = work
            && let Some(twin) = &delivery.twin
            && self.twins.get(&twin.key) == Some(&id)
        {
            self.twins.remove(&twin.key);
        }
    }
}
