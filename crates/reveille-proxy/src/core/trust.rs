//! Flows that speak for a user because a REGISTER on them was authenticated (RFC 5626 §15; S-156). An operator's choice: without it
//! every request that begins something is challenged.

use reveille_registrar::aor::Aor;

use super::{Core, Now, context::Origin};
use crate::{egress::Trust, ingress::Purpose};

impl Core {
    /// A REGISTER on this flow of ours was authenticated and accepted: the flow speaks for its user as long as the registration lasts,
    /// in seconds; no longer, if it was the removal of one.
    pub(super) fn vouch(&self, now: Now, origin: &Origin, aor: &Aor, lifetime: Option<u64>) {
        if self.may_be_trusted(origin) {
            let user = lifetime.map(|lifetime| Trust { aor: aor.clone(), until: now.unix.saturating_add(lifetime) });
            self.shared.flows.trust(&origin.flow, user);
        }
    }

    /// Whether what comes from `origin` needs no further proof to speak for `claimed`.
    pub(super) fn is_trusted(&self, now: Now, origin: &Origin, claimed: &Aor) -> bool {
        self.may_be_trusted(origin)
            && self.shared.flows.trusted(&origin.flow).is_some_and(|user| user.aor == *claimed && now.unix < user.until)
    }

    /// Only a connection that nobody can write into is evidence of who is at its other end.
    fn may_be_trusted(&self, origin: &Origin) -> bool {
        self.shared.settings.trust_registered_flow
            && self.shared.auth.is_some()
            && origin.purpose == Purpose::Public
            && origin.transport.is_secure()
    }
}
