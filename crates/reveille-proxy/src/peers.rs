//! The other nodes of the cluster, as the request path sees them: who owns an address-of-record, and how a node is reached.
//!
//! Between nodes the protocol is SIP over mutual TLS. An edge sends a request to the home of its address-of-record; a home sends it
//! on to the edge that its Path or Record-Route token names; an in-dialog request goes straight from edge to edge.

use reveille_registrar::{aor::Aor, flow::NodeTag};

use crate::egress::Destination;

/// Who is there. Never blocks: a look into a table that others keep current.
pub trait Peers: Send + Sync {
    /// This node, as flows name it.
    fn own(&self) -> NodeTag;

    /// Where the shard of an address-of-record is at this moment.
    fn home(&self, aor: &Aor) -> Home;

    /// The cluster listener of a node; `None` for a node that is not there.
    fn destination(&self, node: NodeTag) -> Option<Destination>;

    /// Where a node was that is not there by its lease any more. It may be cut from the store alone, and is worth asking over a
    /// connection that is still open.
    fn former(&self, _: NodeTag) -> Option<Destination> {
        None
    }

    /// How many connections to another node there may be, at least 1: [`Destination::lane`] is then below this number.
    fn lanes(&self) -> u8 {
        1
    }
}

/// Where a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// On this node.
    Here,
    /// On another.
    At(NodeTag),
    /// Nobody owns it, or nobody that we know of: a takeover is under way.
    Nowhere,
}

/// A node without others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Peers for Alone {
    fn own(&self) -> NodeTag {
        NodeTag::default()
    }

    fn home(&self, _: &Aor) -> Home {
        Home::Here
    }

    fn destination(&self, _: NodeTag) -> Option<Destination> {
        None
    }
}
