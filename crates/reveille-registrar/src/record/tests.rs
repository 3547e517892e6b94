use std::net::SocketAddr;

use proptest::prelude::*;
use reveille_push::{Provider, PushTarget, Secret, WebhookName};

use super::*;
use crate::flow::{NodeTag, Transport};

/// Texts as phones send them, and any others.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-zA-Z0-9@:;=.-]{0,60}",
        "[0-9a-f]{0,80}",
        "[0-9A-F]{11,30}",
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(@[a-z0-9.]{3,9})?",
        "<urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}>",
        "[0-9a-f]{64}:voip&[0-9a-f]{64}:remote",
        "sip:a(;transport=tls|;pn-provider=apns|;pn-param=|;reg-id=[12]|;\\+sip.instance=|\"<urn:uuid:|;pn-prid=){0,9}",
    ]
}

fn flow() -> impl Strategy<Value = FlowRef> {
    prop_oneof![
        (any::<u32>(), any::<u32>(), any::<u64>(), 0..6_u8).prop_map(|(node, epoch, connection, transport)| {
            let transport = Transport::from_u8(transport).unwrap();
            FlowRef::Stream { node: NodeTag(node), epoch, connection, transport }
        }),
        (any::<u32>(), any::<u16>(), any::<SocketAddr>()).prop_map(|(node, listener, remote)| FlowRef::Datagram {
            node: NodeTag(node),
            listener,
            remote
        }),
    ]
}

fn push() -> impl Strategy<Value = PushTarget> {
    (0..5_usize, text(), text()).prop_map(|(provider, param, prid)| PushTarget {
        provider: Provider::ALL
            .get(provider)
            .copied()
            .unwrap_or_else(|| Provider::Webhook(WebhookName::new("acme").unwrap())),
        param: param.into(),
        prid: Secret::from(prid),
    })
}

/// What a later version may have added; mostly nothing.
fn more() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(any::<u8>(), 1..300)]
}

prop_compose! {
    fn binding()(
        numbers in (any::<u64>(), any::<u32>(), any::<u16>(), any::<u32>(), any::<u64>(), any::<u64>()),
        texts in (text(), text(), text()),
        instance in proptest::option::of(text()),
        reg_id in proptest::option::of(any::<u32>()),
        flow in proptest::option::of(flow()),
        path in proptest::collection::vec(text(), 0..3),
        push in proptest::option::of(push()),
        dead in proptest::option::of((any::<u64>(), any::<u64>(), any::<u8>())),
        bits in any::<(bool, bool, bool)>(),
        more in more(),
    ) -> Binding {
        let (key, generation, q, cseq, expires_at, registered_at) = numbers;
        let (mut contact, mut params, call_id) = texts;
        // As a rule the Contact says what the push target says, and the parameters what the instance says.
        if let (true, Some(push)) = (bits.1, &push) {
            let escape = |text: &str| reveille_push::escape::encode_pvalue(text.as_bytes());
            contact = format!("sip:a@b;pn-prid={};pn-param={};x", escape(push.prid.expose()), escape(&push.param));
        }
        if let (true, Some(instance)) = (bits.2, &instance) {
            params = format!("{params};+sip.instance={instance};reg-id=1");
        }
        Binding {
            key: BindingKey(key), generation, contact, params, q, instance, reg_id, call_id, cseq, expires_at,
            registered_at, flow, path, push, pnsreg: bits.0,
            dead_push: dead.map(|(target, at, verdicts)| DeadPush { target: Fingerprint(target), at, verdicts }),
            more,
        }
    }
}

proptest! {
    /// S-110, P-103: what is kept is what came, for every text.
    #[test]
    fn decode_undoes_encode(next_key in any::<u64>(), bindings in proptest::collection::vec(binding(), 0..4), more in more()) {
        let record = Record { next_key, bindings, more };
        let bytes = record.encode();
        prop_assert_eq!(count(&bytes), record.bindings.len() as u64);
        let decoded = Record::decode(&bytes);
        prop_assert!(decoded.as_ref() == Ok(&record));
        let again = decoded.unwrap();
        for (one, other) in record.bindings.iter().zip(&again.bindings) {
            prop_assert_eq!(&one.contact, &other.contact);
            prop_assert_eq!(&one.params, &other.params);
        }
    }

    /// Any bytes give an answer.
    #[test]
    fn decode_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Record::decode(&bytes);
        for version in [1, 2] {
            let mut versioned = vec![version];
            versioned.extend(&bytes);
            let _ = (Record::decode(&versioned), count(&versioned));
        }
    }

    /// So do the bytes of a record, damaged.
    #[test]
    fn decode_survives_damage(binding in binding(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Record { next_key: 9, bindings: vec![binding], more: vec![] }.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Record::decode(&bytes);
        let _ = Record::decode(&bytes[..cut.index(bytes.len())]);
    }
}

fn phone() -> Binding {
    let prid = "5be1c0ffee01235be1c0ffee01235be1c0ffee01235be1c0ffee01235be1c0ff";
    let param = "ABCDE12345.org.example.phone.voip";
    let instance = "\"<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>\"";
    Binding {
        key: BindingKey(1_700_000_000 << 16),
        generation: 200,
        contact: format!("sip:alice@192.0.2.1:51234;transport=tls;pn-provider=apns;pn-param={param};pn-prid={prid}"),
        params: format!("+sip.instance={instance};reg-id=1"),
        q: 1000,
        instance: Some(instance.into()),
        reg_id: Some(1),
        call_id: "f81d4fae-7dec-11d0-a765-00a0c91e6bf7".into(),
        cseq: 300,
        expires_at: 1_700_003_600,
        registered_at: 1_700_000_000,
        flow: Some(FlowRef::Stream { node: NodeTag(0), epoch: 1, connection: 123_456, transport: Transport::Tls }),
        path: vec![],
        push: Some(PushTarget { provider: Provider::Apns, param: param.into(), prid: Secret::from(prid) }),
        dead_push: None,
        pnsreg: false,
        more: vec![],
    }
}

/// The budget of a binding in memory is 400 bytes, the table around it included.
#[test]
fn an_apns_binding_is_small() {
    let record = Record { next_key: (1_700_000_000 << 16) + 1, bindings: vec![phone()], more: vec![] };
    let bytes = record.encode();
    assert!(bytes.len() <= 210, "{}", bytes.len());
    assert!(Record::decode(&bytes) == Ok(record));
}

/// P-109: the value is what holds the token; what prints does not.
#[test]
fn a_printed_record_shows_no_token() {
    let record = Record { next_key: 0, bindings: vec![phone()], more: vec![] };
    assert!(!format!("{record:?}").contains("5be1c0ffee"));
}

#[test]
fn a_later_version_is_not_misread() {
    let mut bytes = Record::new(7).encode();
    assert!(Record::decode(&bytes).is_ok() && !is_later(&bytes));
    bytes[0] = 4;
    assert_eq!((Record::decode(&bytes), is_later(&bytes), count(&bytes)), (Err(DecodeError), true, 0));
}

/// P-021: a push service that nodes before did not know makes a record that they leave alone.
#[test]
fn an_operators_own_push_service_makes_it_version_3() {
    let mut own = phone();
    let provider = Provider::Webhook(WebhookName::new("acme").unwrap());
    own.push = Some(PushTarget { provider, param: "app".into(), prid: Secret::from("token".to_owned()) });
    let record = Record { next_key: (1_700_000_000 << 16) + 1, bindings: vec![phone(), own], more: vec![] };
    let bytes = record.encode();
    assert_eq!((bytes[0], count(&bytes)), (3, 2));
    assert!(Record::decode(&bytes) == Ok(record));
}

/// S-123: instance-ids are compared as URNs.
#[test]
fn s123_instances_are_urns() {
    let uuid = "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
    let cases = [
        (format!("<{uuid}>"), format!("\"<{}>\"", uuid.to_ascii_uppercase()), true),
        (format!("<{uuid}>"), "<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf7>".into(), false),
        ("<URN:Imei:90-1>".into(), "<urn:imei:90-1>".into(), true),
        ("<urn:x:aB>".into(), "<urn:x:ab>".into(), false),
        (String::new(), "<>".into(), true),
    ];
    for (one, other, same) in cases {
        assert_eq!(same_instance(&one, &other), same, "{one} {other}");
    }
}

/// S-131: what tells phones apart.
#[test]
fn devices() {
    let named = phone();
    let other_flow = Binding { reg_id: Some(2), contact: "sip:x@y".into(), push: None, ..phone() };
    let unnamed = Binding { instance: None, ..phone() };
    let moved = Binding { contact: "sip:x@y".into(), key: BindingKey(3), ..unnamed.clone() };
    let plain = Binding { push: None, ..unnamed.clone() };
    assert_eq!(named.device(), other_flow.device());
    assert_eq!(unnamed.device(), moved.device());
    assert_ne!(named.device(), unnamed.device());
    assert_ne!(plain.device(), Binding { key: BindingKey(3), ..plain.clone() }.device());
}

/// A binding that has what [`phone`] has not.
fn desk() -> Binding {
    Binding {
        key: BindingKey((1_700_000_000 << 16) + 1),
        generation: 3,
        contact: "sip:alice@[2001:db8::7]:5061;transport=tls".into(),
        params: String::new(),
        q: 500,
        instance: None,
        reg_id: None,
        call_id: "a84b4c76e66710@pc33.example.com".into(),
        cseq: 7,
        flow: Some(FlowRef::Datagram { node: NodeTag(7), listener: 2, remote: "[2001:db8::7]:5061".parse().unwrap() }),
        path: vec!["<sip:edge1.example.com:5061;transport=tls;lr;ob>".into(), "<sip:10.0.0.1;lr>".into()],
        push: None,
        dead_push: Some(DeadPush { target: Fingerprint(0x0123_4567_89ab_cdef), at: 1_699_999_000, verdicts: 2 }),
        pnsreg: true,
        ..phone()
    }
}

/// What nodes wrote that knew version 1 alone is read, and written back in the same octets, so that such nodes can read it in their
/// turn while an upgrade rolls. What a later version added makes it version 2, and is kept.
#[test]
fn version_1_is_read_and_written() {
    let first_key = 1_700_000_000 << 16;
    let cases = [
        (VERSION_1_ONE, Record { next_key: first_key + 1, bindings: vec![phone()], more: vec![] }),
        (VERSION_1_TWO, Record { next_key: first_key + 2, bindings: vec![phone(), desk()], more: vec![] }),
    ];
    for (vector, expected) in cases {
        let stored = octets(&vector.concat());
        let mut record = Record::decode(&stored).unwrap();
        assert!(record == expected);
        assert_eq!(record.encode(), stored);
        record.more = b"of the record".to_vec();
        record.bindings[0].more = b"of the phone".to_vec();
        let upgraded = record.encode();
        assert_eq!((upgraded[0], count(&upgraded)), (2, expected.bindings.len() as u64));
        assert!(Record::decode(&upgraded) == Ok(record));
    }
}

fn octets(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Written by the program before version 2.
const VERSION_1_ONE: &[&str] = &[
    "0181808088bfaa190101c801ae0e03647369703a616c696365403139322e302e322e313a35313233340000000402000e001103000f43f8",
    "1d4fae7dec11d0a76500a0c91e6bf6083e22010143f81d4fae7dec11d0a76500a0c91e6bf7ac0290fecfaa06a038020001c0c407010184",
    "01414243444531323334352e6f72672e6578616d706c652e70686f6e652e766f69700181015be1c0ffee01235be1c0ffee01235be1c0ff",
    "ee01235be1c0ffee01235be1c0ff6c420e",
];
const VERSION_1_TWO: &[&str] = &[
    "0182808088bfaa190202c801ae0e03647369703a616c696365403139322e302e322e313a35313233340000000402000e001103000f43f8",
    "1d4fae7dec11d0a76500a0c91e6bf6083e22010143f81d4fae7dec11d0a76500a0c91e6bf7ac0290fecfaa06a038020001c0c407010184",
    "01414243444531323334352e6f72672e6578616d706c652e70686f6e652e766f69700181015be1c0ffee01235be1c0ffee01235be1c0ff",
    "ee01235be1c0ffee01235be1c0ff6c420e0103d90102707369703a616c696365405b323030313a6462383a3a375d3a35303631000000f4",
    "03021da84b4c76e667104440706333332e6578616d706c652e636f6d0790fecfaa06a03821070220010db8000000000000000000000007",
    "0000c51302036c3c7369703a65646765312e6578616d706c652e636f6d3a3530363100001c3b6c723b6f623e01443c7369703a31302e30",
    "2e302e313b6c723eefcdab896745230198dacfaa0602",
];
