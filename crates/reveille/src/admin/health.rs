//! Whether traffic should be sent here.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use prometheus::{IntGauge, Registry};
use reveille_runtime::metrics::{self, MetricsError};

/// A reason not to send traffic here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Bindings are still being read, or listeners are not open yet.
    Starting,
    /// The node finishes what it has and takes nothing new.
    Draining,
    /// The limit of connections is reached.
    ConnectionLimit,
    /// The store does not take writes.
    Store,
    /// The node has no lease: it serves from memory and promises nothing new.
    Degraded,
}

impl Reason {
    /// The name in the answer of `/health/ready`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::ConnectionLimit => "connection limit reached",
            Self::Store => "store unavailable",
            Self::Degraded => "degraded",
        }
    }
}

/// The readiness of a node, shared by whoever knows something of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    reasons: Arc<Mutex<BTreeSet<Reason>>>,
    ready: IntGauge,
    draining: IntGauge,
}

impl Health {
    /// A node that is starting. Registers `reveille_ready` and `reveille_draining`.
    ///
    /// # Errors
    /// Where the registry has these already.
    pub fn new(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            reasons: Arc::new(Mutex::new(BTreeSet::from([Reason::Starting]))),
            ready: metrics::gauge(registry, "reveille_ready", "1 while the node wants traffic.")?,
            draining: metrics::gauge(registry, "reveille_draining", "1 while the node finishes what it has.")?,
        })
    }

    /// The start is over.
    pub fn started(&self) {
        self.clear(Reason::Starting);
    }

    /// A drain has begun: there is no way back from it.
    pub fn drain(&self) {
        self.draining.set(1);
        self.raise(Reason::Draining);
    }

    /// Adds a reason.
    pub fn raise(&self, reason: Reason) {
        let mut reasons = self.reasons.lock();
        reasons.insert(reason);
        self.ready.set(0);
    }

    /// Takes a reason away, if it was there.
    pub fn clear(&self, reason: Reason) {
        let mut reasons = self.reasons.lock();
        reasons.remove(&reason);
        self.ready.set(i64::from(reasons.is_empty()));
    }

    /// Whether traffic is wanted.
    pub fn is_ready(&self) -> bool {
        self.reasons.lock().is_empty()
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.reasons.lock().contains(&Reason::Draining)
    }

    /// Every reason there is.
    pub fn reasons(&self) -> Vec<Reason> {
        self.reasons.lock().iter().copied().collect()
    }
}
