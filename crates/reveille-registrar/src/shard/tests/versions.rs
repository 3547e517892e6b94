//! Records of other versions of this software, as they lie in the store during an upgrade.

use bytes::Bytes;

use super::stage::{Stage, aor, contact, phone, request};
use crate::{
    record::Record,
    shard::{Amendment, RegisterError, RegisterRequest, ShardInput},
};

fn register(request: RegisterRequest) -> ShardInput {
    ShardInput::Register(Box::new(request))
}

/// What a later version has added to a record and to its bindings goes through every refresh, and into every write.
#[test]
fn what_a_later_version_added_is_kept() {
    let mut stage = Stage::new();
    stage.tell(register(request(vec![phone("192.0.2.1", 1), contact("sip:alice@192.0.2.2")], "one", 1)));
    let mut record = stage.shard.record(&aor()).unwrap();
    record.more = b"of the record".to_vec();
    record.bindings[0].more = b"of the phone".to_vec();
    let mut stage = Stage::new();
    stage.tell(ShardInput::Loaded(vec![(aor(), Bytes::from(record.encode()))]));
    let turn = stage.tell(register(request(vec![phone("192.0.2.9", 1)], "one", 2)));
    let written = Record::decode(turn.writes[0].1.as_ref().unwrap()).unwrap();
    assert_eq!(written.more, record.more);
    assert_eq!((&written.bindings[0].more, written.bindings[0].cseq), (&record.bindings[0].more, 2));
    assert!(written.bindings[1].more.is_empty());
}

/// A record of a version that is not known here is left where it is: nobody registers over it, nothing of it expires, and its user is
/// one who exists. A node that knows the version serves it.
#[test]
fn a_record_of_a_later_version_is_left_alone() {
    let mut stage = Stage::new();
    let later = Bytes::from_static(b"\x04whatever it may be");
    stage.tell(ShardInput::Loaded(vec![(aor(), later)]));
    let turn = stage.tell(register(request(vec![phone("192.0.2.1", 1)], "one", 1)));
    assert_eq!(turn.registered(), Err(RegisterError::LaterVersion));
    assert_eq!(RegisterError::LaterVersion.status(), 503);
    assert!(turn.writes.is_empty());
    let fetch = crate::shard::ContactsUpdate::Fetch;
    let fetch = RegisterRequest { contacts: fetch, ..request(vec![], "two", 1) };
    assert_eq!(
        stage.tell(register(fetch)).registered(),
        Err(RegisterError::LaterVersion),
        "it would seem to have none"
    );
    assert!(stage.call().1.resolved().2, "the user exists");
    let (done, mut answer) = tokio::sync::oneshot::channel();
    let amendment = Amendment { aor: aor(), change: Box::new(|_: &mut Record| true), done };
    assert!(stage.tell(ShardInput::Amend(amendment)).writes.is_empty());
    assert!(answer.try_recv().is_err(), "whoever has a promise to keep hears that it was not");
    let turn = stage.pass(std::time::Duration::from_secs(30 * 24 * 3600));
    assert!(turn.writes.is_empty());
    assert_eq!(stage.shard.bindings(), 0);
    let turn = stage.tell(register(request(vec![phone("192.0.2.1", 1)], "one", 2)));
    assert_eq!(turn.registered(), Err(RegisterError::LaterVersion), "a month later as well");
}
