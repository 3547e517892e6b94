//! S-147 among several nodes: a nonce belongs to the node of its first use, and a request waits until it is known which that is.

use std::sync::Arc;

use parking_lot::Mutex;
use reveille_registrar::shard::{ShardInput, WorkerRef};
use reveille_sip::{header::HeaderId, message::Message};

use super::{
    bench::{Bench, invite, tls},
    bob,
};
use crate::auth::{NoncePins, Pin, Unpinned};

/// Remembers what was asked, and leaves the answer to the test.
#[derive(Default)]
pub(super) struct FakePins(Mutex<Vec<(WorkerRef, Unpinned, u64)>>);

impl NoncePins for FakePins {
    fn ask(&self, to: WorkerRef, nonce: Unpinned, life: u64) {
        self.0.lock().push((to, nonce, life));
    }
}

struct Stage {
    bench: Bench,
    pins: Arc<FakePins>,
}

impl Stage {
    fn new() -> Self {
        let pins = Arc::<FakePins>::default();
        Self { bench: Bench::pinning(bob::digest().among(1), pins.clone()), pins }
    }

    /// The one question since the last call.
    fn question(&self) -> (WorkerRef, Unpinned) {
        let asked = std::mem::take(&mut *self.pins.0.lock());
        let [(to, nonce, life)] = asked.as_slice() else { panic!("{} questions", asked.len()) };
        assert_eq!((to.worker, *life), (3, 360), "a nonce's 300 s, and a minute for clocks that differ");
        (*to, *nonce)
    }

    fn pinned(&mut self, (to, nonce): (WorkerRef, Unpinned), pin: Pin) {
        self.bench.core.pinned(self.bench.now, to.context, nonce, pin);
    }

    /// Bob's INVITE with credentials for a challenge to it.
    fn proven_invite(&mut self) -> String {
        let call = invite("z9hG4bK1").replace("<sip:bob@trunk.test>;tag", "<sip:bob@example.com>;tag");
        self.bench.public(tls(1), &call);
        let challenge = self.challenge();
        let proof = bob::proof(&challenge, HeaderId::ProxyAuthenticate, "INVITE", "sip:alice@example.com");
        let call = call.replace("z9hG4bK1", "z9hG4bK2").replace("7 INVITE", "8 INVITE");
        call.replace("X-Odd: ;;,,;;,;", &format!("Proxy-Authorization: {proof}"))
    }

    /// The last answer that asks for credentials.
    fn challenge(&self) -> Message {
        let sent = self.bench.sent();
        sent.into_iter().map(|(_, message)| message).rfind(|m| matches!(m.status(), Some(401 | 407))).unwrap()
    }
}

#[test]
fn s147_the_first_use_of_a_nonce_waits_and_later_ones_do_not() {
    let mut stage = Stage::new();
    let invite = stage.proven_invite();
    stage.bench.public(tls(1), &invite);
    stage.bench.public(tls(1), &invite);
    assert!(stage.bench.asked().is_empty() && stage.bench.statuses(tls(1)).is_empty(), "a copy is absorbed");
    let question = stage.question();
    stage.pinned(question, Pin::Here);
    assert!(matches!(stage.bench.asked().as_slice(), [ShardInput::Resolve(_)]));
    assert_eq!(stage.bench.statuses(tls(1)), [100]);
    // The same credentials in another request: known here, and used.
    stage.bench.public(tls(1), &invite.replace("z9hG4bK2", "z9hG4bK3").replace("call-1@", "call-2@"));
    assert!(stage.pins.0.lock().is_empty(), "nobody is asked again");
    assert!(stage.challenge().value(HeaderId::ProxyAuthenticate).unwrap().contains("stale=true"));
    assert!(stage.bench.asked().is_empty());
}

#[test]
fn s147_a_nonce_of_another_node_is_stale_and_stays_so() {
    let mut stage = Stage::new();
    bob::register(&mut stage.bench, tls(1), "<sip:bob@192.0.2.7:5061;transport=tls>");
    let question = stage.question();
    stage.pinned(question, Pin::Elsewhere);
    let challenge = stage.challenge();
    assert_eq!(challenge.status(), Some(401));
    assert!(challenge.value(HeaderId::WwwAuthenticate).unwrap().contains("stale=true"), "nobody types a password");
    assert!(stage.bench.asked().is_empty());
}

#[test]
fn s147_where_nobody_can_be_asked_a_node_believes_its_own_nonces() {
    let mut stage = Stage::new();
    bob::register(&mut stage.bench, tls(1), "<sip:bob@192.0.2.7:5061;transport=tls>");
    let question = stage.question();
    stage.pinned(question, Pin::Unknown);
    assert!(matches!(stage.bench.asked().as_slice(), [ShardInput::Register(_)]));
}

/// A CANCEL finds what waits; the answer that comes later revives nothing.
#[test]
fn s147_what_waits_can_be_cancelled() {
    let mut stage = Stage::new();
    let invite = stage.proven_invite();
    stage.bench.public(tls(1), &invite);
    let question = stage.question();
    stage.bench.public(tls(1), &invite.replace("INVITE sip:", "CANCEL sip:").replace("8 INVITE", "8 CANCEL"));
    let mut statuses = stage.bench.statuses(tls(1));
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 487]);
    assert_eq!(stage.bench.core.contexts(), 0);
    stage.pinned(question, Pin::Here);
    assert!(stage.bench.asked().is_empty() && stage.bench.statuses(tls(1)).is_empty());
}
