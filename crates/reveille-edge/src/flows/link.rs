//! One connection, as the table holds it, and its task's hold on its place there.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use reveille_proxy::{
    egress::{Bound, Destination, Trust},
    ingress::{Held, Purpose},
};
use reveille_registrar::flow::FlowRef;

use super::Core;
use crate::queue::{CloseReason, SendQueue};

/// One connection, as the table holds it.
pub(crate) struct Link {
    pub(crate) flow: FlowRef,
    pub(crate) remote: SocketAddr,
    pub(crate) purpose: Purpose,
    pub(crate) queue: SendQueue,
    /// The binding that last registered over it.
    pub(super) bound: ArcSwapOption<Bound>,
    /// Whom its peer has proved to be.
    pub(super) trusted: ArcSwapOption<Trust>,
    /// Whether its phone can be woken when it is silent.
    pub(super) wakeable: AtomicBool,
    /// Our end; unknown while a connection is being made.
    pub(crate) local: OnceLock<SocketAddr>,
    pub(super) id: u64,
    /// The listener that accepted it; none if we dialled.
    pub(super) listener: Option<u16>,
    pub(super) destination: Option<Box<Destination>>,
    /// Milliseconds since the table's base at which something was last heard.
    pub(super) last_heard: AtomicU64,
}

impl Link {
    pub(crate) fn heard(&self, millis: u64) {
        self.last_heard.store(millis, Ordering::Relaxed);
    }

    pub(crate) fn is_dialled(&self) -> bool {
        self.listener.is_none()
    }
}

impl Held for Link {
    fn hold(&self) -> bool {
        self.queue.hold()
    }

    fn release(&self, call: bool) {
        self.queue.release(call);
    }
}

/// How a link came to be.
pub(crate) enum Origin {
    Accepted { listener: u16, local: SocketAddr },
    Dialled(Destination),
}

/// A link's place in the table, held by the connection's task: whatever becomes of the task, the link goes and the proxy hears
/// of it.
pub(crate) struct Registration {
    pub(super) link: Arc<Link>,
    pub(super) core: Arc<Core>,
    pub(super) reason: CloseReason,
}

impl Registration {
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn end(mut self, reason: CloseReason) {
        self.reason = reason;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.link.queue.close(self.reason);
        self.core.table.remove(&self.link);
        self.core.metrics.closed(self.reason);
        self.core.metrics.transport(self.link.flow.transport()).flows.dec();
        tracing::debug!(flow = ?self.link.flow, reason = self.reason.as_str(), "flow closed");
        self.core.ingress.flow_closed(&self.link.flow);
    }
}
