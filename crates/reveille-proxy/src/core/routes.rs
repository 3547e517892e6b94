//! Reading Route: which values are ours, what they say, and where they lead (RFC 3261 §16.4, RFC 5626 §5.3).
//!
//! A forwarded request carries two Record-Route values of ours: the upper faces the next hop, the lower the previous one
//! (RFC 5658 §3); each has in its user part the sealed flow of the side it faces. Whoever sends within the dialog
//! therefore lists its own side first and the far side second: the *last* of our values is where the request goes, whichever node
//! wrote those before it. Its sender may have lost that node meanwhile and come to us instead. A single value of ours is the old rule
//! of RFC 5626 §5.3: arrived on that very flow means outgoing, else it is the destination.

use reveille_registrar::flow::{FlowRef, NodeTag};
use reveille_sip::{edit::Edit, header::HeaderId, limits::Limits, message::Message, uri::Uri};

use super::reply::Reply;
use crate::egress::{Bound, Flows};

/// What the Route headers of a request say to us.
#[derive(Debug)]
pub(super) struct RouteSet {
    /// Values at the top that are ours and done with.
    pub(super) own: usize,
    /// The flow they lead to; none where the Request-URI decides, or another node.
    pub(super) flow: Option<FlowRef>,
    /// The node of ours that the last of our values leads to; that value stays, since it is that node's to read.
    pub(super) onward: Option<NodeTag>,
    /// The binding that the value of the flow, or of the other node, names beside it, and its token.
    pub(super) rebound: Option<Rebound>,
    /// Whether that value says that its flow is gone ([`LOST`]).
    pub(super) lost: bool,
    /// Whether the value of the flow says that its phone can be woken if it is silent ([`WAKEABLE`]).
    pub(super) wakeable: bool,
    /// Whether values of others remain beneath.
    pub(super) others: bool,
    /// Whether a token of ours was among them: the request belongs to a dialog or flow that we let in (S-228, S-229).
    pub(super) vouched: bool,
}

/// The parameter by which a home tells an edge, in the Route value that names a flow, that it can have the phone woken: silence
/// on that flow is then worth little patience (P-054).
pub(super) const WAKEABLE: &str = "rv-wake";

/// The parameter of a Route value by which a node that met a flow's end says so to the home of its binding.
pub(super) const LOST: &str = "rv-lost";

/// Value of [`LOST`] where the node says so that had the flow, and not one that could not reach that node.
pub(super) const CLOSED: &str = "closed";

/// How the phone can be found that a route led to, when the flow of that route is gone.
#[derive(Clone, Debug)]
pub(super) struct Rebound {
    /// Its binding.
    pub(super) bound: Bound,
    /// The token that says so.
    pub(super) token: String,
    /// Whether the flow is known to be gone by the node that had it.
    pub(super) is_closed: bool,
}

/// Reads the Route set of `request`, which arrived on `arrival` at the node `own`. Tokens are made under keys that all nodes share,
/// so a value whose token can be read is ours, whatever host it names.
///
/// # Errors
/// 403 for a token that is not ours (S-128), 400 for a Route that cannot be read.
pub(super) fn read(request: &Message, arrival: &FlowRef, own: NodeTag, flows: &dyn Flows) -> Result<RouteSet, Reply> {
    let mut set = RouteSet {
        own: 0,
        flow: None,
        onward: None,
        rebound: None,
        lost: false,
        wakeable: false,
        others: false,
        vouched: false,
    };
    let (mut read, mut tokens) = (0, 0);
    for route in request.routes() {
        let uri = route.ok().and_then(|r| Uri::parse(r.uri).ok()).ok_or_else(|| Reply::new(400))?;
        let names_us = flows.names_us(uri.host(), uri.port());
        let token = uri.user();
        let flow = token.map(|token| (token, flows.unseal(token)));
        match flow {
            Some((_, Err(_))) if names_us => return Err(Reply::new(403)),
            Some((token, Ok(flow))) => {
                let bound = flows.unseal_binding(token);
                let is_closed = uri.param(LOST).flatten() == Some(CLOSED);
                set.rebound = bound.map(|bound| Rebound { bound, token: token.to_owned(), is_closed });
                set.lost = uri.param(LOST).is_some();
                set.wakeable = uri.param(WAKEABLE).is_some();
                set.vouched = true;
                tokens += 1;
                let is_here = flow.node() == own;
                set.onward = (!is_here).then(|| flow.node());
                set.flow = is_here.then_some(flow);
                set.own = read + usize::from(is_here);
            }
            None if names_us => set.own += usize::from(set.onward.is_none()),
            None | Some((_, Err(_))) => {
                set.others = true;
                break;
            }
        }
        read += 1;
    }
    // A value of the arrival flow says where the request comes from, not where it goes.
    if tokens == 1 && set.flow.as_ref() == Some(arrival) {
        set.flow = None;
    }
    Ok(set)
}

/// Undoes what a strict router did: where the Request-URI is one of our Record-Route URIs, the real one is the last Route
/// value (RFC 3261 §16.4; S-066).
pub(super) fn repair_strict(request: &Message, flows: &dyn Flows) -> Option<Message> {
    let uri = Uri::parse(request.request_uri()).ok()?;
    let token = uri.user()?;
    uri.param("lr")?;
    if flows.unseal(token).is_err() {
        return None;
    }
    let mut values: Vec<&str> = request.values(HeaderId::Route).collect();
    let last = values.pop()?;
    let target = last.trim().trim_start_matches('<').split('>').next()?.to_owned();
    let mut edit = Edit::new(request);
    // Our own URI goes back on top, so that the reading of Route sees it as a loose router would have sent it.
    values.insert(0, request.request_uri());
    let joined =
        values.iter().map(|v| if v.starts_with('<') { (*v).to_owned() } else { format!("<{v}>") }).collect::<Vec<_>>();
    edit.set_request_uri(target);
    edit.replace(HeaderId::Route, &joined.join(", "));
    Message::parse(edit.finish(), &Limits::default()).ok()
}
