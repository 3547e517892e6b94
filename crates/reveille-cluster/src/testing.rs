//! What this crate's tests are written with.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use reveille_registrar::flow::NodeTag;

use crate::roster::{NodeInfo, Roles};

/// The moment every test starts at.
#[allow(clippy::disallowed_methods, reason = "an Instant can be had no other way; tests move on from this one")]
pub(crate) fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// So many milliseconds later.
pub(crate) fn at(ms: u64) -> Instant {
    start() + Duration::from_millis(ms)
}

/// A home node.
pub(crate) fn node(tag: u32) -> NodeInfo {
    NodeInfo {
        tag: NodeTag(tag),
        id: format!("home-{tag}"),
        roles: Roles { edge: false, home: true },
        address: ([127, 0, 0, 1], 5003).into(),
        weight: 100,
        version: "0.1.0".into(),
        draining: false,
    }
}
