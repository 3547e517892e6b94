//! The same request once more. When a home dies while a phone rings, the caller's edge asks the next home, and that sends the call to
//! the phone's edge again. The phone must not ring twice: the edge joins the new request to the branch that is ringing.
//!
//! The same happens at a home: one that handed its shard over had sent its requests after it, and dies; the edges behind it ask again.

use reveille_sip::{header::HeaderId, message::Message, method::Method};
use reveille_transaction::ServerId;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Core, Now,
    context::{Origin, Plan, Where, Work},
    reply::Reply,
};
use crate::ingress::Purpose;

/// What a request of another node is known by, and what came back.
pub(super) struct Twin {
    key: u64,
    /// The newest response that was passed on, where another home would have to hear it too.
    pub(super) last: Option<Message>,
    /// Whether the request was joined to another, so that responses go by the Vias of that one.
    pub(super) joined: bool,
}

impl Twin {
    fn of(request: &Message) -> Option<Self> {
        let mut hash = Xxh3::new();
        let (cseq, uri) = (request.value(HeaderId::CSeq)?, request.request_uri());
        for part in [request.value(HeaderId::CallId)?, request.from_tag()?, cseq, uri] {
            hash.update(part.as_bytes());
            hash.update(&[0]);
        }
        Some(Self { key: hash.digest(), last: None, joined: false })
    }
}

impl Core {
    /// What tells copies of one request for one phone, or one address-of-record, from all others; none where no copy could come.
    pub(super) fn twin(request: &Message, origin: &Origin, plan: &Plan) -> Option<Twin> {
        let ends_here = !matches!(plan.destination, Where::Node(_));
        let is_new = request.method() != Method::Register && request.to_tag().is_none();
        if origin.purpose != Purpose::Cluster || !ends_here || !is_new {
            return None;
        }
        Twin::of(request)
    }

    /// This node has become the home of a request that it had sent elsewhere. If it has the request by that other way already, both
    /// are one from now on; if it comes that way later, it is known by then. True where it was there.
    pub(super) fn join_at_home(&mut self, now: Now, id: u64) -> bool {
        let Some(twin) = self.delivery(id).and_then(|delivery| Twin::of(&delivery.request)) else { return false };
        if self.twins.contains_key(&twin.key)
            && let Some(context) = self.contexts.remove(&id)
        {
            if let Work::Deliver(delivery) = &context.work
                && self.join(now, &twin, context.server, &delivery.request, &context.origin)
            {
                self.shared.metrics.context_closed();
                return true;
            }
            self.contexts.insert(id, context);
        }
        self.remember(id, Some(twin));
        false
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
        if context.origin.purpose != Purpose::Cluster && origin.purpose == Purpose::Cluster {
            // Whoever sent this had it from here, and has lost its shard since.
            self.reply(now, server, request, origin, Reply::new(482));
            return true;
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
