//! The edge half: may this sender say this, and whose business is it? In the order of RFC 3261 §16.3 (S-060).

use reveille_registrar::{
    aor::Aor,
    flow::{Liveness, NodeTag},
};
use reveille_sip::{
    header::HeaderId,
    message::Message,
    method::Method,
    uri::{Scheme, Uri},
};
use xxhash_rust::xxh3::Xxh3;

use super::{
    Core, Now,
    context::{Origin, Plan, Where},
    moved::MOVED,
    register::Registration,
    reply::Reply,
    routes,
};
use crate::{
    auth::{Unpinned, Verdict},
    ingress::Purpose,
    peers::Home,
};

/// What is to become of a request.
pub(super) enum Decision {
    /// It ends here.
    Reply(Reply),
    /// It waits until it is known where the nonce of its credentials belongs.
    Hold(Unpinned),
    /// It goes to the home of its address-of-record, as a registration.
    Register(Box<Registration>),
    /// It is forwarded.
    Deliver(Box<Plan>),
}

/// Why a request is not admitted, or not yet.
pub(super) enum Refusal {
    /// This is the answer.
    Reply(Reply),
    /// See [`Decision::Hold`].
    Hold(Unpinned),
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// The methods we know, for Allow in 200, 405 and 501 (RFC 3261 §20.5).
pub(super) const ALLOW: &str =
    "INVITE, ACK, CANCEL, BYE, REGISTER, OPTIONS, PRACK, UPDATE, INFO, REFER, SUBSCRIBE, NOTIFY, MESSAGE, PUBLISH";
/// The extensions we support as registrar.
pub(super) const SUPPORTED: &str = "path, outbound";
/// Branches a request may have in parallel when nobody said otherwise (RFC 5393 §5.3.3.1).
pub(super) const DEFAULT_BREADTH: u32 = 60;

impl Core {
    /// Decides what is to become of `message`.
    pub(super) fn admit(&mut self, now: Now, message: &Message, origin: &Origin) -> Decision {
        match self.try_admit(now, message, origin) {
            Ok(decision) => decision,
            Err(Refusal::Reply(reply)) => Decision::Reply(reply),
            Err(Refusal::Hold(nonce)) => Decision::Hold(nonce),
        }
    }

    fn try_admit(&mut self, now: Now, message: &Message, origin: &Origin) -> Result<Decision, Refusal> {
        let repaired = routes::repair_strict(message, &*self.shared.flows);
        let request = repaired.as_ref().unwrap_or(message);
        let method = request.method();
        let shared = self.shared.clone();
        let flows = &*shared.flows;
        let uri = Uri::parse(request.request_uri()).map_err(|_| Reply::new(400))?;
        let set = routes::read(request, &origin.flow, shared.peers.own(), flows)?;
        let host_is_ours = self.shared.settings.is_our_domain(uri.host()) || flows.names_us(uri.host(), uri.port());
        let routed = set.flow.is_some() || set.onward.is_some() || set.others;
        let for_us = !routed && host_is_ours && uri.user().is_none();

        if method == Method::Options && for_us {
            return Ok(Decision::Reply(self.options()));
        }
        if uri.scheme() == Scheme::Other && !routed {
            return Err(Reply::new(416).into()); // S-016: nothing but the Request-URI could say where to
        }
        let is_register = method == Method::Register && !routed;
        if request.max_forwards().ok().flatten() == Some(0) && !(is_register && host_is_ours) {
            return Err(Reply::new(483).into()); // S-061
        }
        let loop_hash = loop_hash(request, shared.peers.own(), origin);
        if self.has_looped(request, loop_hash) {
            let reply = Reply::new(482); // RFC 5393 §4.2
            let is_node = origin.purpose == Purpose::Cluster;
            return Err(if is_node { reply.with(HeaderId::Reveille, MOVED) } else { reply }.into());
        }
        let unknown: Vec<&str> = request.values(HeaderId::ProxyRequire).filter(|tag| !tag.is_empty()).collect();
        if !unknown.is_empty() {
            return Err(Reply::new(420).with(HeaderId::Unsupported, unknown.join(", ")).into()); // S-062
        }
        let breadth = match request.value(HeaderId::MaxBreadth).map(|v| v.trim().parse::<u32>()) {
            None => DEFAULT_BREADTH,
            Some(Ok(0)) => return Err(Reply::new(440).into()), // RFC 5393 §5.3.3.2
            Some(Ok(breadth)) => breadth.min(DEFAULT_BREADTH),
            Some(Err(_)) => return Err(Reply::new(400).into()),
        };
        // A node among others passes requests on to them as long as anybody is connected to it.
        let is_alone = shared.peers.own() == NodeTag::default();
        if (self.draining() && is_alone || self.is_closing_to(origin)) && request.to_tag().is_none() {
            return Err(self.overloaded().into()); // S-139
        }
        if is_register {
            if !self.shared.settings.is_our_domain(uri.host()) && !flows.names_us(uri.host(), uri.port()) {
                return Err(Reply::new(404).into()); // S-093
            }
            let registration = self.admit_register(now, request, origin)?;
            if shared.peers.home(registration.aor()) == Home::Here {
                return Ok(Decision::Register(Box::new(registration)));
            }
            let path = (origin.purpose != Purpose::Cluster).then(|| self.path(request, origin)).transpose()?;
            let path = path.map(|path| registration.mark(path));
            let destination = Where::Home(registration.aor().clone());
            let plan = Plan {
                request: repaired,
                own_routes: set.own,
                destination,
                breadth,
                loop_hash,
                wakeable: false,
                path,
                rebound: None,
            };
            return Ok(Decision::Deliver(Box::new(plan)));
        }
        if for_us {
            // S-093: what we know is not allowed here, what we do not know is not implemented.
            return Err(if method == Method::Extension {
                Reply::new(501).with(HeaderId::Allow, ALLOW)
            } else {
                Reply::new(405).with(HeaderId::Allow, ALLOW)
            }
            .into());
        }
        // A token vouches for the dialog it was made in; a new dialog must prove itself whatever it carries.
        if !(set.vouched && request.to_tag().is_some()) {
            self.authenticate_caller(now, request, origin)?;
        }
        if let (Some(flow), Some(rebound)) = (&set.flow, &set.rebound)
            && origin.purpose == Purpose::Cluster
            && request.to_tag().is_none()
        {
            flows.bind(flow, rebound.bound.clone()); // its home knows better than we do yet
        }
        let leads_to_flow = set.flow.is_some() || set.onward.is_some();
        let rebound = set.rebound.filter(|_| leads_to_flow && request.to_tag().is_some());
        // Of its own flows a node knows by itself; of others' only a node that met the end may say so.
        let lost = set.lost && origin.purpose == Purpose::Cluster;
        let is_gone = match (&set.flow, set.onward) {
            (Some(flow), _) => flows.liveness(flow) == Liveness::Gone,
            (None, Some(node)) => lost || self.is_lost(node, request),
            (None, None) => false,
        };
        let mut own_routes = set.own;
        let destination = if let Some(rebound) = rebound.as_ref().filter(|_| is_gone) {
            // Routes outlive nodes: the binding's home knows where the phone is now, or wakes it.
            own_routes += usize::from(set.onward.is_some());
            Where::Home(rebound.bound.aor.clone())
        } else if let Some(flow) = set.flow {
            if is_gone {
                return Err(Reply::new(430).into()); // S-128
            }
            Where::Flow(flow)
        } else if let Some(node) = set.onward {
            Where::Node(node)
        } else if set.others {
            // A Route that leads to others is followed only inside what we routed before (S-229).
            return Err(Reply::new(403).into());
        } else if host_is_ours && uri.scheme() != Scheme::Tel {
            Where::Home(Aor::from_uri(&uri, &self.shared.settings.aliases).map_err(|_| Reply::new(404))?)
        } else if host_is_ours || uri.scheme() == Scheme::Tel {
            return Err(Reply::new(404).into());
        } else {
            return Err(Reply::new(403).into()); // S-228: we are no open relay
        };
        Ok(Decision::Deliver(Box::new(Plan {
            request: repaired,
            own_routes,
            destination,
            breadth,
            loop_hash,
            wakeable: set.wakeable && origin.purpose == Purpose::Cluster,
            path: None,
            rebound,
        })))
    }

    /// Answers a probe (S-092).
    fn options(&mut self) -> Reply {
        if self.draining() {
            return self.overloaded();
        }
        Reply::new(200)
            .with(HeaderId::Allow, ALLOW)
            .with(HeaderId::Accept, "application/sdp")
            .with(HeaderId::Supported, SUPPORTED)
    }

    /// Callers on public listeners prove who they are, and may only speak for themselves (S-140, S-152).
    fn authenticate_caller(&self, now: Now, request: &Message, origin: &Origin) -> Result<(), Refusal> {
        if origin.purpose != Purpose::Public {
            return Ok(());
        }
        let Some(auth) = self.shared.auth.clone() else { return Ok(()) };
        let from = request.from().ok().and_then(|f| Uri::parse(f.uri).ok()).ok_or_else(|| Reply::new(400))?;
        let claimed = Aor::from_uri(&from, &self.shared.settings.aliases);
        if claimed.as_ref().is_ok_and(|claimed| self.is_trusted(now, origin, claimed)) {
            return Ok(());
        }
        let lines = request.lines(HeaderId::ProxyAuthorization);
        let verdict = auth.verify(now.unix, request.method_name(), request.request_uri(), lines, &request.body());
        let user = self.settle_verdict(now, verdict, HeaderId::ProxyAuthenticate, 407)?;
        let claimed = claimed.map_err(|_| Reply::new(403))?;
        let own = self.shared.settings.is_our_domain(from.host()) && user_of(&claimed) == user;
        own.then_some(()).ok_or_else(|| Reply::new(403).into())
    }

    /// Turns a digest verdict into the user, or into the answer that asks again.
    pub(super) fn settle_verdict(
        &self,
        now: Now,
        verdict: Verdict,
        challenge: HeaderId,
        status: u16,
    ) -> Result<String, Refusal> {
        let stale = match verdict {
            Verdict::Accepted { user, .. } => return Ok(user),
            Verdict::BadRequest => return Err(Reply::new(400).into()),
            Verdict::Unpinned(nonce) => return Err(Refusal::Hold(nonce)),
            Verdict::Stale => true,
            Verdict::Missing | Verdict::Rejected => false,
        };
        self.shared.metrics.challenged();
        let mut reply = Reply::new(status);
        if let Some(auth) = &self.shared.auth {
            for line in auth.challenge(now.unix, stale) {
                reply = reply.with(challenge, line);
            }
        }
        Err(reply.into())
    }

    /// Whether one of the Vias is ours and was made under the same routing inputs (RFC 5393 §4.2.1). A changed hash is a spiral.
    fn has_looped(&self, request: &Message, hash: u64) -> bool {
        let mark = format!("{hash:016x}");
        request.vias().skip_while(Result::is_err).flatten().any(|via| {
            via.branch().is_some_and(|b| b.ends_with(&mark)) && self.shared.flows.names_us(via.host, via.port)
        })
    }
}

/// The user part of an address-of-record. A user name is the same person in all our domains.
pub(super) fn user_of(aor: &Aor) -> &str {
    aor.as_str().rsplit_once('@').map_or("", |(user, _)| user)
}

/// Everything that changes routing, and nothing else (RFC 3261 §16.6 step 8; S-064).
pub(super) fn loop_hash(request: &Message, node: NodeTag, origin: &Origin) -> u64 {
    let mut hash = Xxh3::new();
    // Nodes may share a name towards phones: what one has seen is no loop at the next. Nor is it one where a node that passed a
    // request on as its edge gets it back as its home, the shard having moved meanwhile.
    hash.update(&node.0.to_le_bytes());
    hash.update(&[u8::from(origin.purpose == Purpose::Cluster)]);
    let mut add = |part: &str| {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    };
    add(request.request_uri());
    request.lines(HeaderId::Route).for_each(&mut add);
    add(request.from_tag().unwrap_or(""));
    add(request.to_tag().unwrap_or(""));
    add(request.value(HeaderId::CallId).unwrap_or(""));
    add(request.value(HeaderId::CSeq).unwrap_or(""));
    request.lines(HeaderId::ProxyRequire).for_each(&mut add);
    request.lines(HeaderId::ProxyAuthorization).for_each(&mut add);
    hash.digest()
}
