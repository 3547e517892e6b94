//! What may be promised while the store is away, and how a promise is kept.
//!
//! A refresh that changes nothing but the registration itself (expiry, Call-ID, CSeq, time) is answered 200 and written when the
//! store is back. Anything else is refused: a new binding or another push target would be lost with this process.
//!
//! A promise that its node can write itself is replayed. A node that lost the shard meanwhile hands its promises in, and the
//! owner merges them; both go by the same rule, [`merge`]. Handing in or merging twice does no harm.

mod binding;

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// What has to be known of a binding to defer or merge its refresh.
pub trait Registration {
    /// Call-ID of the REGISTER that touched it last.
    fn call_id(&self) -> &str;
    /// CSeq number of that REGISTER.
    fn cseq(&self) -> u32;
    /// When that was, in unix time of any one unit.
    fn registered_at(&self) -> u64;
    /// When the binding ends, in the same unit.
    fn expires_at(&self) -> u64;
    /// Whether the binding is the same in all else: contact, push target, path, parameters.
    fn differs_only_in_registration(&self, other: &Self) -> bool;
}

/// Why a change may not be deferred; 503 with Retry-After.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotDeferrable {
    /// There is no such binding, or no more.
    #[error("a new binding cannot be promised while the store is away")]
    NewBinding,
    /// More changes than the registration.
    #[error("a changed binding cannot be promised while the store is away")]
    Changed,
    /// The binding is to end.
    #[error("the end of a binding cannot be promised while the store is away")]
    Removal,
    /// As much is promised as may be.
    #[error("too many refreshes wait for the store")]
    Full,
}

/// Whether the change from `old` to `new` may be deferred at unix time `now`.
///
/// # Errors
/// [`NotDeferrable`] says why not.
pub fn deferrable<B: Registration>(old: Option<&B>, new: &B, now: u64) -> Result<(), NotDeferrable> {
    let old = old.filter(|old| old.expires_at() > now).ok_or(NotDeferrable::NewBinding)?;
    if new.expires_at() <= now {
        return Err(NotDeferrable::Removal);
    }
    if !new.differs_only_in_registration(old) {
        return Err(NotDeferrable::Changed);
    }
    Ok(())
}

/// A refresh that was answered 200 and is not written yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise<B> {
    /// The binding as it was promised to be.
    pub binding: B,
    /// The binding as it was when the store was last known to hold it.
    pub base: B,
}

/// What is to be done with a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It is the newest registration: its registration is to be written.
    Take,
    /// The store knows a newer one, or its binding was removed: nothing is to be done.
    Keep,
    /// What was promised has expired.
    Over,
}

/// Whether a promise is newer than what the store holds (`None`: no such binding), at unix time `now`.
///
/// The newest registration wins: of one Call-ID that with the higher CSeq (RFC 3261 §10.3 step 7), else the later. But where
/// the store still holds what the promise was made on, the promise is the later whatever the clocks say; and where it holds
/// another Call-ID while the promise goes on with that of its base, the phone has started anew since, and the promise is the
/// earlier. So clocks of two nodes are compared only when a phone started anew twice within one outage.
pub fn merge<B: Registration>(stored: Option<&B>, promise: &Promise<B>, now: u64) -> Merged {
    let (promised, base) = (&promise.binding, &promise.base);
    if promised.expires_at() <= now {
        return Merged::Over;
    }
    let takes = match stored {
        // Expired for want of the promise; one that still ran by its own time was removed, and stays so.
        None => base.expires_at() <= now,
        Some(stored) if is_same(stored, base) => true,
        Some(stored) if stored.call_id() == promised.call_id() => promised.cseq() > stored.cseq(),
        Some(_) if promised.call_id() == base.call_id() => false,
        Some(stored) => promised.registered_at() > stored.registered_at(),
    };
    if takes { Merged::Take } else { Merged::Keep }
}

fn is_same<B: Registration>(one: &B, other: &B) -> bool {
    one.call_id() == other.call_id() && one.cseq() == other.cseq() && one.registered_at() == other.registered_at()
}

/// The promises of one shard, oldest first; one for each binding, named `K` (address-of-record and binding key).
#[derive(Clone, Debug)]
pub struct Deferred<K, B> {
    limit: usize,
    next: u64,
    order: BTreeMap<u64, (K, Promise<B>)>,
    places: HashMap<K, u64>,
}

impl<K: Hash + Eq + Clone, B: Registration> Deferred<K, B> {
    /// A queue for at most `limit` bindings.
    pub fn new(limit: usize) -> Self {
        Self { limit, next: 0, order: BTreeMap::new(), places: HashMap::new() }
    }

    /// Promises `new` in place of `old`, the binding as this node serves it. A binding that was promised before keeps its
    /// place and its base.
    ///
    /// # Errors
    /// [`NotDeferrable`]: nothing was promised.
    pub fn defer(&mut self, key: K, old: Option<&B>, new: B, now: u64) -> Result<(), NotDeferrable>
    where
        B: Clone,
    {
        deferrable(old, &new, now)?;
        if let Some((_, promise)) = self.places.get(&key).and_then(|place| self.order.get_mut(place)) {
            promise.binding = new;
            return Ok(());
        }
        if self.order.len() >= self.limit {
            return Err(NotDeferrable::Full);
        }
        let base = old.cloned().ok_or(NotDeferrable::NewBinding)?;
        self.push(key, Promise { binding: new, base });
        Ok(())
    }

    /// Puts a promise back that could not be kept yet, at the end. A later one for the same binding stays as it is, on the
    /// older base.
    pub fn put_back(&mut self, key: K, promise: Promise<B>) {
        match self.places.get(&key).and_then(|place| self.order.get_mut(place)) {
            Some((_, later)) => later.base = promise.base,
            None => self.push(key, promise),
        }
    }

    /// Takes the oldest promise.
    pub fn pop(&mut self) -> Option<(K, Promise<B>)> {
        let (_, (key, promise)) = self.order.pop_first()?;
        self.places.remove(&key);
        Some((key, promise))
    }

    /// What is promised for a binding.
    pub fn get(&self, key: &K) -> Option<&Promise<B>> {
        self.places.get(key).and_then(|place| self.order.get(place)).map(|(_, promise)| promise)
    }

    /// How many bindings wait.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn push(&mut self, key: K, promise: Promise<B>) {
        self.places.insert(key.clone(), self.next);
        self.order.insert(self.next, (key, promise));
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Binding {
        call: &'static str,
        cseq: u32,
        at: u64,
        expires: u64,
        prid: u32,
    }

    impl Registration for Binding {
        fn call_id(&self) -> &str {
            self.call
        }
        fn cseq(&self) -> u32 {
            self.cseq
        }
        fn registered_at(&self) -> u64 {
            self.at
        }
        fn expires_at(&self) -> u64 {
            self.expires
        }
        fn differs_only_in_registration(&self, other: &Self) -> bool {
            self.prid == other.prid
        }
    }

    fn binding(call: &'static str, cseq: u32, at: u64) -> Binding {
        Binding { call, cseq, at, expires: at + 100, prid: 1 }
    }

    fn promise(binding: Binding, base: Binding) -> Promise<Binding> {
        Promise { binding, base }
    }

    #[test]
    fn only_a_refresh_may_be_deferred() {
        let old = binding("x", 1, 10);
        let check = |new: &Binding| deferrable(Some(&old), new, 50);
        assert_eq!(check(&binding("x", 2, 50)), Ok(()));
        assert_eq!(check(&binding("y", 1, 50)), Ok(()), "a phone that started anew");
        assert_eq!(check(&Binding { prid: 2, ..binding("x", 2, 50) }), Err(NotDeferrable::Changed));
        assert_eq!(check(&Binding { expires: 50, ..binding("x", 2, 50) }), Err(NotDeferrable::Removal));
        assert_eq!(deferrable(None, &old, 50), Err(NotDeferrable::NewBinding));
        assert_eq!(
            deferrable(Some(&old), &binding("x", 2, 110), 110),
            Err(NotDeferrable::NewBinding),
            "it had expired"
        );
    }

    #[test]
    fn newest_registration_wins() {
        let base = binding("x", 1, 10);
        let cases = [
            ("unchanged, though its clock is ahead", Some(base.clone()), binding("x", 2, 9), Merged::Take),
            ("unchanged, a new start", Some(base.clone()), binding("y", 1, 9), Merged::Take),
            ("a higher CSeq in the store", Some(binding("x", 3, 11)), binding("x", 2, 12), Merged::Keep),
            ("a lower CSeq in the store", Some(binding("x", 2, 30)), binding("x", 3, 20), Merged::Take),
            ("merged before", Some(binding("x", 2, 20)), binding("x", 2, 20), Merged::Keep),
            ("started anew since", Some(binding("y", 1, 19)), binding("x", 2, 20), Merged::Keep),
            ("both anew, the store earlier", Some(binding("y", 1, 19)), binding("z", 1, 20), Merged::Take),
            ("both anew, the store later", Some(binding("y", 1, 21)), binding("z", 1, 20), Merged::Keep),
            ("removed", None, binding("x", 2, 20), Merged::Keep),
        ];
        for (name, stored, promised, expected) in cases {
            assert_eq!(merge(stored.as_ref(), &promise(promised, base.clone()), 40), expected, "{name}");
        }
    }

    #[test]
    fn a_binding_that_expired_for_want_of_its_promise_comes_back() {
        let kept = promise(binding("x", 2, 90), binding("x", 1, 10));
        assert_eq!(merge(None, &kept, 109), Merged::Keep, "it still ran: it was removed");
        assert_eq!(merge(None, &kept, 110), Merged::Take);
        assert_eq!(merge(None, &kept, 190), Merged::Over);
    }

    #[test]
    fn promises_are_kept_in_order_one_for_each_binding() {
        let mut deferred = Deferred::new(2);
        let old = binding("x", 1, 10);
        let defer = |deferred: &mut Deferred<u32, Binding>, key, cseq| {
            deferred.defer(key, Some(&old), binding("x", cseq, 20), 20)
        };
        for (key, cseq) in [(7, 2), (5, 2), (7, 3)] {
            assert_eq!(defer(&mut deferred, key, cseq), Ok(()));
        }
        assert_eq!(defer(&mut deferred, 9, 2), Err(NotDeferrable::Full));
        assert_eq!(deferred.get(&7).map(|promise| promise.base.cseq), Some(1));
        assert_eq!(deferred.pop().map(|(key, promise)| (key, promise.binding.cseq)), Some((7, 3)));
        assert_eq!(deferred.pop().map(|(key, _)| key), Some(5));
        assert!(deferred.pop().is_none() && deferred.is_empty());
    }

    /// A promise whose writing was interrupted while the phone refreshed again.
    #[test]
    fn what_is_put_back_gives_its_base_to_a_later_promise() {
        let mut deferred = Deferred::new(2);
        let (first, second) = (binding("x", 2, 20), binding("x", 3, 30));
        deferred.defer(7, Some(&first), second, 30).unwrap();
        deferred.put_back(7, promise(first, binding("x", 1, 10)));
        let (_, promise) = deferred.pop().unwrap();
        assert_eq!((promise.binding.cseq, promise.base.cseq), (3, 1));
        deferred.put_back(7, promise);
        assert_eq!(deferred.len(), 1);
    }
}
