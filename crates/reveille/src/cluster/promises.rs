//! What a node had promised while Redis was away, kept by the node that owns the shard by now.

use std::{sync::Arc, time::Duration};

use reveille_cluster::{Merged, Promise as Promised, merge};
use reveille_redis::RedisStore;
use reveille_registrar::{Record, Registrar, replica::Promise};
use reveille_runtime::clock;

/// How long reading and clearing may take each; what fails is found again with the next promise, or by the next owner.
const PATIENCE: Duration = Duration::from_secs(2);

/// Merges what was handed in for a shard into its records, and clears it once it is written.
pub(super) async fn keep(store: Arc<RedisStore>, registrar: Registrar, shard: u16) {
    let handed_in = match store.deferred(shard, clock::now() + PATIENCE).await {
        Ok(handed_in) if handed_in.is_empty() => return,
        Ok(handed_in) => handed_in,
        Err(error) => return tracing::warn!(shard, %error, "what was handed in for a shard cannot be read"),
    };
    let mut kept = Vec::new();
    for deferred in handed_in {
        match deferred.value.as_deref().map(Promise::decode) {
            Some(Ok(promise)) => {
                let unix = clock::unix_now();
                if !registrar.amend(&deferred.aor, move |record| apply(record, &promise, unix)).await {
                    return; // the shard has gone on: its next owner finds all of it
                }
            }
            Some(Err(_)) if deferred.value.as_deref().is_some_and(Promise::is_later) => {
                tracing::warn!(shard, "a promise of a later version is left to a node that can read it");
                continue;
            }
            Some(Err(_)) => tracing::error!(shard, "a promise cannot be read and is dropped"),
            None => {}
        }
        kept.push(deferred.id);
    }
    store.flush(shard).await;
    if !store.is_healthy() {
        return; // what was merged may not be written
    }
    tracing::info!(shard, promises = kept.len(), "promises of another node were kept");
    if let Err(error) = store.take_deferred(shard, &kept, clock::now() + PATIENCE).await {
        tracing::debug!(shard, %error, "promises that were kept are not cleared, and will be looked at again");
    }
}

/// Brings the bindings of a record up to what was promised, each by the newest registration. A binding that was removed meanwhile
/// stays so; one that is new is none of the promise's business.
fn apply(record: &mut Record, promise: &Promise, unix: u64) -> bool {
    let mut changed = false;
    for binding in &promise.record.bindings {
        let Some(base) = promise.base.get(binding.key) else { continue };
        let promised = Promised { binding: binding.clone(), base: base.clone() };
        if merge(record.get(binding.key), &promised, unix) != Merged::Take {
            continue;
        }
        match record.bindings.iter_mut().find(|stored| stored.key == binding.key) {
            Some(stored) => *stored = binding.clone(),
            None => record.bindings.push(binding.clone()),
        }
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use reveille_registrar::{Binding, BindingKey};

    use super::*;

    fn binding(key: u64, call_id: &str, cseq: u32, at: u64) -> Binding {
        Binding {
            key: BindingKey(key),
            generation: cseq,
            contact: "sip:alice@192.0.2.1".to_owned(),
            params: String::new(),
            q: 1000,
            instance: None,
            reg_id: None,
            call_id: call_id.to_owned(),
            cseq,
            expires_at: at + 600,
            registered_at: at,
            flow: None,
            path: Vec::new(),
            push: None,
            dead_push: None,
            pnsreg: false,
            more: Vec::new(),
        }
    }

    fn record(bindings: &[Binding]) -> Record {
        Record { next_key: 100, bindings: bindings.to_vec(), more: Vec::new() }
    }

    /// The newest registration wins, whichever node it came to; a binding that is gone does not come back.
    #[test]
    fn the_newest_registration_wins() {
        let base = binding(1, "a", 5, 1000);
        let promise =
            Promise { base: record(std::slice::from_ref(&base)), record: record(&[binding(1, "a", 6, 1100)]) };
        let cases = [
            ("nothing happened", Some(base.clone()), Some(6)),
            ("the phone went on here", Some(binding(1, "a", 7, 1090)), Some(7)),
            ("the phone started anew here", Some(binding(1, "b", 1, 1050)), Some(1)),
            ("it was removed", None, None),
        ];
        for (what, stored, expected) in cases {
            let mut stored = record(stored.as_slice());
            let before = stored.clone();
            assert_eq!(apply(&mut stored, &promise, 1200), stored != before, "{what}");
            assert_eq!(stored.bindings.first().map(|binding| binding.cseq), expected, "{what}");
            assert!(!apply(&mut stored, &promise, 1200), "once is enough: {what}");
        }
    }

    #[test]
    fn promises_are_read_back() {
        let promise =
            Promise { base: record(&[binding(1, "a", 5, 1000)]), record: record(&[binding(1, "a", 6, 1100)]) };
        let bytes = promise.encode();
        assert_eq!(Promise::decode(&bytes), Ok(promise));
        let mut later = bytes.clone();
        later[4] = 9; // the version of the base
        assert!(Promise::decode(&later).is_err() && Promise::is_later(&later) && !Promise::is_later(&bytes));
        for length in 0..bytes.len() {
            assert!(Promise::decode(&bytes[..length]).is_err(), "{length}");
        }
    }
}
