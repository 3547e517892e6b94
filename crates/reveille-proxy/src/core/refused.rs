//! A REGISTER that is refused for good ends the waiting of what waited for its phone (P-064), wherever that waits.

use reveille_push::target::{self, ContactPush};
use reveille_registrar::{aor::Aor, shard::ShardInput};
use reveille_sip::{
    message::{Contacts, Message},
    uri::Uri,
};

use super::{Core, context::Origin, register::Registration};
use crate::ingress::Purpose;

impl Registration {
    /// The Path value that goes to the home, where this node adds one: it says whether the REGISTER is refused (P-064).
    pub(super) fn mark(&self, path: String) -> String {
        match self.refused {
            None => path,
            Some(status) => path.replace('>', &format!(";{REFUSED}={status}>")),
        }
    }
}

impl Core {
    /// A REGISTER that is refused for good ends the waiting of what waited for it (P-064). Only the authenticated reach this.
    pub(super) fn reject_waiting(&self, aor: &Aor, request: &Message) {
        if let Ok(Contacts::List(list)) = request.contacts() {
            let contacts = list.iter().map(|c| c.uri.to_owned()).collect();
            if self.shared.homes.ask(aor, ShardInput::RegisterRejected { aor: aor.clone(), contacts }).is_err() {
                self.shared.metrics.dropped("home_busy");
            }
        }
    }
}

/// In the Path value that an edge adds: it has refused this REGISTER, with this status. Nothing is registered then.
const REFUSED: &str = "rv-refused";

/// The status with which another node has refused a REGISTER; nobody else is believed.
pub(super) fn by_edge(request: &Message, origin: &Origin) -> Option<u16> {
    let path = request.paths().next().filter(|_| origin.purpose == Purpose::Cluster)?.ok()?;
    let status = Uri::parse(path.uri).ok()?.param(REFUSED)??.parse().ok()?;
    (400..700).contains(&status).then_some(status)
}

/// Whether a request could wait for what is named in this REGISTER.
pub(super) fn names_a_target(request: &Message) -> bool {
    let Ok(Contacts::List(list)) = request.contacts() else { return false };
    list.iter()
        .filter_map(|contact| Uri::parse(contact.uri).ok())
        .any(|uri| matches!(target::from_params(uri.params()), ContactPush::Target(_)))
}
