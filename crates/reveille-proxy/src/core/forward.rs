//! Rewriting messages as they pass (RFC 3261 §16.6, §16.7): what is not named here leaves as it came.

use bytes::Bytes;
use reveille_registrar::flow::{FlowRef, Liveness};
use reveille_sip::{
    edit::Edit,
    header::HeaderId,
    message::Message,
    method::Method,
    uri::{Scheme, Uri},
};
use reveille_transaction::BranchId;

use super::{
    Core,
    context::{Context, Delivery, Origin, Outgoing, Where},
    onward::{ELSEWHERE, Way},
    privacy::hide_push_parameters,
    rebound::lost_route,
    reply::via_correction,
    routes::{self, WAKEABLE},
};
use crate::{egress::LocalAddress, ingress::Purpose};

/// Max-Forwards of a request that came without one (RFC 3261 §16.6 step 3).
const MAX_FORWARDS: u8 = 70;

/// Why a request could not be put on its way.
pub(super) enum Unsendable {
    /// The flow closed since it was chosen: another may still lead to the phone (S-056, S-131).
    FlowGone,
    /// The branch ends with this status.
    Refused(u16),
}

impl Core {
    /// The request as it leaves on one branch.
    pub(super) fn build_request(
        &self,
        id: u64,
        context: &Context,
        delivery: &Delivery,
        branch: BranchId,
        way: &Way<'_>,
    ) -> Result<Outgoing, Unsendable> {
        let (flow, target) = (way.flow, way.target);
        let request = &delivery.request;
        let sips = |uri: &str| Uri::parse(uri).is_ok_and(|u| u.scheme() == Scheme::Sips);
        let next = target.map_or(request.request_uri(), |t| t.contact.as_str());
        if (sips(request.request_uri()) || sips(next)) && !flow.transport().is_secure() {
            return Err(Unsendable::Refused(480)); // S-074: never downgraded
        }
        let via_branch = format!(
            "z9hG4bK.{:x}.{:x}.{id:x}.{:x}.{:016x}",
            self.shared.salt, self.worker, branch.0, delivery.plan.loop_hash
        );
        let mut edit = self.begin_edit(request, &context.origin, delivery.plan.own_routes);
        if let Some(rebound) = delivery.plan.rebound.as_ref().filter(|_| way.onward && target.is_none())
            && matches!(delivery.plan.destination, Where::Home(_))
        {
            let own = self.shared.peers.own();
            let is_ours = self.shared.flows.unseal(&rebound.token).is_ok_and(|flow| flow.node() == own);
            edit.prepend(HeaderId::Route, &lost_route(&rebound.token, ELSEWHERE, is_ours || rebound.is_closed));
        }
        if let Some(target) = target {
            // Within a dialog the phone goes by the address that it gave the other side.
            if delivery.plan.rebound.is_none() {
                edit.set_request_uri(request_uri_of(&target.contact));
            }
            let wakeable = delivery.branches.iter().any(|entry| entry.id == branch && entry.pushable);
            for (at, path) in way.path.iter().enumerate().rev() {
                // RFC 3327 §5.1
                match path.strip_suffix('>').filter(|_| at == 0 && way.onward && wakeable) {
                    Some(open) => edit.prepend(HeaderId::Route, &format!("{open};{WAKEABLE}>")),
                    None => edit.prepend(HeaderId::Route, path),
                }
            }
        }
        if let Some(path) = &delivery.plan.path {
            edit.prepend(HeaderId::Path, path);
        }
        if stays_on_path(request) {
            // Only the nodes that hold the two flows stay in the dialog; a home in between does not, nor does the hop to it.
            if context.origin.purpose != Purpose::Cluster {
                // A caller whose connection is gone could not be reached within the dialog.
                let near = self.record_route(&context.origin.flow).ok_or(Unsendable::Refused(503))?;
                edit.prepend(HeaderId::RecordRoute, &near);
            }
            if !way.onward {
                let far = self.record_route(&flow).ok_or(Unsendable::FlowGone)?;
                edit.prepend(HeaderId::RecordRoute, &far); // S-071: the upper value faces the next hop
            }
        }
        edit.replace(HeaderId::MaxBreadth, &delivery.breadth_share.to_string()); // RFC 5393 §5.3.3
        let local = self.shared.flows.local(&flow).ok_or(Unsendable::FlowGone)?;
        edit.push_via(&via(&local, &via_branch));
        Ok(Outgoing { flow, branch: via_branch, bytes: edit.finish() })
    }

    /// What every forwarded copy has in common.
    fn begin_edit<'m>(&self, request: &'m Message, origin: &Origin, own_routes: usize) -> Edit<'m> {
        let mut edit = Edit::new(request);
        // A REGISTER on its way to its home carries what the home is to keep.
        if request.method() != Method::Register {
            hide_push_parameters(request, &mut edit);
        }
        let hops = request.max_forwards().ok().flatten().map_or(MAX_FORWARDS, |hops| hops.saturating_sub(1));
        edit.set_max_forwards(hops);
        let (received, rport) = via_correction(request, origin);
        edit.add_top_via_params(received, rport); // S-087
        if own_routes > 0 {
            edit.pop_routes(own_routes);
        }
        if origin.purpose == Purpose::Public {
            // S-149: credentials for us end here. S-230: what only a trusted neighbour may say.
            if let Some(auth) = &self.shared.auth {
                let ours = format!("realm=\"{}\"", auth.realm());
                edit.retain_lines(HeaderId::ProxyAuthorization, |line| !line.contains(&ours));
                if request.method() == Method::Register {
                    edit.retain_lines(HeaderId::Authorization, |line| !line.contains(&ours));
                }
            }
            edit.remove(HeaderId::Path);
            edit.remove_named("P-Asserted-Identity");
            edit.remove(HeaderId::FeatureCaps);
        }
        edit
    }

    pub(super) fn record_route(&self, flow: &FlowRef) -> Option<String> {
        let LocalAddress { transport, host, port } = self.shared.flows.local(flow)?;
        let token = self.shared.flows.seal(flow);
        Some(format!("<sip:{token}@{host}:{port};transport={};lr>", transport.uri_param()))
    }

    /// ACK for a 2xx: routed like a new request, without a transaction and without an answer (RFC 3261 §16.11; S-049, S-018).
    pub(super) fn forward_ack(&mut self, message: &Message, origin: &Origin) {
        let repaired = routes::repair_strict(message, &*self.shared.flows);
        let request = repaired.as_ref().unwrap_or(message);
        let Ok(set) = routes::read(request, &origin.flow, self.shared.peers.own(), &*self.shared.flows) else {
            return self.shared.metrics.dropped("ack_route");
        };
        let onward = set.onward.and_then(|node| self.flow_to(node, request));
        let Some(flow) = onward.or(set.flow.filter(|flow| self.usable(flow))) else {
            return self.shared.metrics.dropped("ack_without_flow");
        };
        if request.max_forwards().ok().flatten() == Some(0) {
            return self.shared.metrics.dropped("ack_max_forwards");
        }
        let Some(local) = self.shared.flows.local(&flow) else { return };
        let mut edit = self.begin_edit(request, origin, set.own);
        // Stateless forwarding: the branch must be the same for each copy of this ACK (RFC 3261 §16.11).
        let seed = request.top_via().ok().and_then(|v| v.branch()).unwrap_or("");
        let branch = xxhash_rust::xxh3::xxh3_64_with_seed(seed.as_bytes(), self.shared.salt);
        edit.push_via(&via(&local, &format!("z9hG4bK.{:x}.{branch:016x}", self.shared.salt)));
        if self.shared.flows.send(&flow, edit.finish()).is_err() {
            self.shared.metrics.dropped("ack_flow_gone");
        }
    }

    /// Whether a flow can still carry something.
    fn usable(&self, flow: &FlowRef) -> bool {
        !matches!(self.shared.flows.liveness(flow), Liveness::Gone)
    }
}

/// A response as it goes up: our Via off, challenges of other branches on (S-083), push parameters hidden (P-105).
/// `None` where ours was the only Via: the response ends here (S-086).
/// With `joined`, the response goes to whoever sent that request, and not to the sender of the one that was forwarded.
pub(super) fn build_response(
    response: &Message,
    method: Method,
    challenges: &[(HeaderId, String)],
    joined: Option<&Message>,
    to: Purpose,
) -> Option<Bytes> {
    let _next_hop = response.vias().nth(1)?;
    let mut edit = Edit::new(response);
    // What a home answers to a REGISTER has been made for the phone that asked (P-049).
    if method != Method::Register {
        hide_push_parameters(response, &mut edit);
    }
    match joined {
        None => edit.pop_via(),
        Some(request) => {
            let vias: Vec<&str> = request.values(HeaderId::Via).collect();
            edit.replace(HeaderId::Via, &vias.join(", "));
        }
    }
    for (header, value) in challenges {
        edit.append(*header, value);
    }
    if to != Purpose::Cluster {
        edit.remove(HeaderId::Reveille);
    }
    Some(edit.finish())
}

fn via(local: &LocalAddress, branch: &str) -> String {
    format!("SIP/2.0/{} {}:{};branch={branch}", local.transport.via_token(), local.host, local.port)
}

/// Whether later requests of the dialog must come back through us (S-070).
fn stays_on_path(request: &Message) -> bool {
    let method = request.method();
    request.to_tag().is_none() && (method.forms_dialog() || method == Method::Notify)
}

/// A Contact as a Request-URI: without `method` and embedded headers (RFC 3261 §16.6 step 2, §19.1.1).
fn request_uri_of(contact: &str) -> String {
    let bare = contact.split_once('?').map_or(contact, |(uri, _)| uri);
    if !bare.contains(";method=") {
        return bare.to_owned();
    }
    bare.split(';').filter(|part| !part.starts_with("method=")).collect::<Vec<_>>().join(";")
}
