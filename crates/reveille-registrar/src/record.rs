//! What is known of one address-of-record: its bindings, as a value.

mod codec;
pub(crate) mod identity;
mod text;

use reveille_push::PushTarget;
use xxhash_rust::xxh3::Xxh3;

pub use codec::{DecodeError, count, is_later};
pub use identity::{AddressFamily, same_instance};

use crate::flow::FlowRef;

/// All bindings of an address-of-record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The key the next new binding gets. Keys only grow, so that one seen in a route, a waiter or a push verdict can never
    /// come to mean another binding.
    pub next_key: u64,
    /// The bindings, in the order in which they were made.
    pub bindings: Vec<Binding>,
    /// What a later version has added and this one does not know: kept as it is, and written again.
    pub more: Vec<u8>,
}

impl Record {
    /// An empty record whose keys begin at `first_key`.
    ///
    /// A record vanishes with its last binding, and with it `next_key`: beginning at a number made from the time keeps keys
    /// from coming back all the same.
    pub fn new(first_key: u64) -> Self {
        Self { next_key: first_key, bindings: Vec::new(), more: Vec::new() }
    }

    /// Takes the next key.
    pub fn take_key(&mut self) -> BindingKey {
        let key = BindingKey(self.next_key);
        self.next_key += 1;
        key
    }

    /// The binding of that key.
    pub fn get(&self, key: BindingKey) -> Option<&Binding> {
        self.bindings.iter().find(|binding| binding.key == key)
    }

    /// The bindings that have not expired (S-116).
    pub fn live(&self, unix: u64) -> impl Iterator<Item = &Binding> {
        self.bindings.iter().filter(move |binding| binding.is_live(unix))
    }

    /// The value for the store and for memory; see the module's codec for the form.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads what [`Record::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] for bytes that are no record, or one of a later version. Any bytes give an answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }
}

/// Names a binding within its address-of-record, for good: a refresh keeps the key, a new binding never gets an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindingKey(pub u64);

/// One binding (RFC 3261 §10), with what RFC 5626, RFC 3327 and RFC 8599 add.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    /// Its name.
    pub key: BindingKey,
    /// Counts the REGISTERs that touched it, from 1.
    pub generation: u32,
    /// The Contact's URI, verbatim, push parameters and all (S-110).
    pub contact: String,
    /// The Contact's header parameters, verbatim, without `expires` and `q`.
    pub params: String,
    /// q in thousandths (S-111).
    pub q: u16,
    /// `+sip.instance`, verbatim (S-123).
    pub instance: Option<String>,
    /// `reg-id`, where it is honoured (S-119).
    pub reg_id: Option<u32>,
    /// Call-ID of the REGISTER that touched it last.
    pub call_id: String,
    /// CSeq number of that REGISTER.
    pub cseq: u32,
    /// When it ends, in unix seconds.
    pub expires_at: u64,
    /// When it was touched last, in unix seconds.
    pub registered_at: u64,
    /// The flow that REGISTER came over.
    pub flow: Option<FlowRef>,
    /// The Path values of that REGISTER, in order (S-117).
    pub path: Vec<String>,
    /// Where to push to wake its phone.
    pub push: Option<PushTarget>,
    /// The push target that the push service has called dead (P-156).
    pub dead_push: Option<DeadPush>,
    /// Whether the phone refreshes by itself (`+sip.pnsreg`, P-094).
    pub pnsreg: bool,
    /// What a later version has added and this one does not know: kept through every refresh, and written again.
    pub more: Vec<u8>,
}

impl Binding {
    /// Whether it has not expired.
    pub fn is_live(&self, unix: u64) -> bool {
        self.expires_at > unix
    }

    /// Stands for the phone behind the binding: equal for bindings that ring the same device, whether by instance-id or, for
    /// want of one, by push token (S-131, P-057). A phone with two flows is offered a request over one of them at a time.
    pub fn device(&self) -> Device {
        let mut hash = Xxh3::new();
        if let Some(instance) = &self.instance {
            hash.update(b"i");
            hash.update(identity::canonical_instance(instance).as_bytes());
        } else if let Some(push) = &self.push {
            return Device(fingerprint(push).0 ^ 1);
        } else {
            hash.update(b"k");
            hash.update(&self.key.0.to_le_bytes());
        }
        Device(hash.digest())
    }
}

impl std::fmt::Debug for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The Contact holds the push token (P-109).
        f.debug_struct("Binding")
            .field("key", &self.key)
            .field("generation", &self.generation)
            .field("reg_id", &self.reg_id)
            .field("expires_at", &self.expires_at)
            .field("flow", &self.flow)
            .field("push", &self.push.as_ref().map(|push| push.provider))
            .finish_non_exhaustive()
    }
}

/// See [`Binding::device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device(pub u64);

/// Stands for a push target where its secret has no business: 64 bits of its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

/// The fingerprint of a push target: provider, param and PRID (P-057).
pub fn fingerprint(target: &PushTarget) -> Fingerprint {
    let mut hash = Xxh3::new();
    for part in [target.provider.as_str(), &target.param, target.prid.expose()] {
        hash.update(&part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    Fingerprint(hash.digest())
}

/// A push target that was called dead (P-156).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadPush {
    /// Which one.
    pub target: Fingerprint,
    /// When the verdict came, in unix seconds.
    pub at: u64,
    /// How many such verdicts came for it within a day of each other.
    pub verdicts: u8,
}

#[cfg(test)]
mod tests;
