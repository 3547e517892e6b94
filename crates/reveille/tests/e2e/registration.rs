//! REGISTER with push parameters: queries, refusals, announcements, and what other phones get to see.

use reveille::lab::{DOMAIN, LabOptions};
use reveille_registrar::Transport;
use reveille_testkit::pns::{DeviceKind, Provider};
use reveille_testkit::ua::{PushParams, SipMessage};

use super::stage::{
    BOB, SOON, Stage, answer, call, device, each_provider, ended, hang_up, play, prid, registered, unavailable_at_once,
};

fn query(provider: Option<&str>) -> PushParams {
    PushParams { provider: provider.map(str::to_owned), param: None, prid: None }
}

/// Feature-Caps lines that announce a push service, sorted.
fn announced(answer: &SipMessage) -> Vec<String> {
    let mut lines: Vec<String> = answer.headers("Feature-Caps").map(str::to_owned).collect();
    lines.sort();
    lines
}

/// P-022, P-024 to P-026, P-040, P-042: what the node can push through, and the VAPID key where it belongs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capability_query() {
    play(LabOptions::default(), async |stage| {
        let mut phone = stage.plain("bob", Transport::Tls).push(query(None)).build();
        phone.connect().await.unwrap();
        let answer = phone.register(3600).await.unwrap();
        assert_eq!(answer.code(), 200);
        let webpush = format!("*;+sip.pns=\"webpush\";+sip.vapid=\"{}\"", stage.lab.pns.vapid_public_key());
        let apns = "*;+sip.pns=\"apns\"".to_owned();
        let fcm = "*;+sip.pns=\"fcm\"".to_owned();
        assert_eq!(announced(&answer), [apns.clone(), fcm.clone(), webpush.clone()], "one header field each");
        for (name, line) in [("apns", apns), ("fcm", fcm), ("webpush", webpush)] {
            phone.set_push(Some(query(Some(name))));
            let answer = phone.register(3600).await.unwrap();
            assert_eq!((answer.code(), announced(&answer)), (200, vec![line]));
        }
        // A registration all the same, without push.
        let caller = stage.caller().await;
        let mut to_phone = call(&caller, BOB).await;
        let mut incoming = phone.expect_invite(SOON).await.unwrap();
        self::answer(&mut to_phone, &mut incoming).await;
        hang_up(&mut to_phone, &mut incoming).await;
    })
    .await;
}

/// P-023, P-027, P-028, P-031: the full set on the first answer and on every refresh, and none in fetch or removal (P-032).
async fn announced_on_every_refresh(stage: &mut Stage, provider: Provider) {
    for (user, can_refresh) in [("bob", false), ("alice", true)] {
        let builder = stage.phone(user, provider);
        let mut phone = if can_refresh { builder.pnsreg().build() } else { builder.build() };
        phone.connect().await.unwrap();
        for _ in 0..3 {
            let answer = phone.register(3600).await.unwrap();
            assert_eq!(answer.code(), 200);
            let lines = announced(&answer);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert_eq!(answer.feature_cap("+sip.pns").as_deref(), Some(provider.as_str()));
            let vapid = (provider == Provider::WebPush).then(|| stage.lab.pns.vapid_public_key());
            assert_eq!(answer.feature_cap("+sip.vapid"), vapid, "P-026: for Web Push alone");
            assert_eq!(answer.feature_cap("+sip.pnsreg").as_deref(), can_refresh.then_some("180"));
            // P-049: the phone's own parameters come back to it.
            let contacts = answer.values("Contact");
            assert!(contacts.len() == 1 && contacts[0].contains(";pn-prid="), "one binding, with its token");
        }
        let mut fetch = phone.register_request(3600);
        fetch.remove("Contact");
        let fetched = phone.exchange(fetch).await.unwrap();
        assert_eq!((fetched.code(), announced(&fetched).len(), fetched.values("Contact").len()), (200, 0, 1));
        let removed = phone.unregister().await.unwrap();
        assert_eq!((removed.code(), announced(&removed).len(), removed.values("Contact").len()), (200, 0, 0));
    }
}
each_provider!(announced_on_every_refresh, LabOptions::default());

/// P-043: state is what the last accepted REGISTER says: without the token, push is off.
async fn push_turned_off(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.awake("bob", provider).await;
    let token = phone.push().cloned().unwrap();
    phone.set_push(Some(query(Some(provider.as_str()))));
    assert_eq!(phone.register(3600).await.unwrap().code(), 200);
    phone.sleep().await;
    let caller = stage.caller().await;
    let mut call = caller.invite(BOB).unwrap();
    assert_eq!(ended(&mut call).await, 480);
    assert_eq!(stage.lab.pns.pushed(token.prid.as_deref().unwrap()), 0);
}
each_provider!(push_turned_off, LabOptions::default());

/// P-037: 423 with the least lifetime that leaves time for a refresh push; nothing is stored.
async fn too_short(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.phone("bob", provider).build();
    phone.connect().await.unwrap();
    let answer = phone.register(599).await.unwrap();
    assert_eq!((answer.code(), answer.header("Min-Expires")), (423, Some("600")));
    assert_eq!(announced(&answer).len(), 0, "P-032");
    assert_eq!(phone.register(600).await.unwrap().code(), 200);
}
each_provider!(too_short, LabOptions::default());

/// P-112, P-123: a token in the clear is refused and not kept, in a query too.
async fn token_in_the_clear(stage: &mut Stage, provider: Provider) {
    let caller = stage.caller().await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let device = stage.lab.pns.register_device(provider);
        let mut phone = stage.plain("bob", transport).device(device).build();
        phone.connect().await.unwrap();
        assert_eq!(phone.register(3600).await.unwrap().code(), 403, "{transport:?}");
        let token = phone.push().cloned();
        for provider in [None, Some(provider.as_str())] {
            phone.set_push(Some(query(provider)));
            assert_eq!(phone.register(3600).await.unwrap().code(), 403, "{transport:?}");
        }
        phone.set_push(token);
        unavailable_at_once(&caller, BOB).await;
        assert_eq!(stage.pushes(&phone), 0);
    }
}
each_provider!(token_in_the_clear, LabOptions::default());

/// P-017, P-036, P-041, P-118, P-138: what the node cannot or may not push through is 555 and leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsupported_is_555() {
    play(LabOptions::default(), async |stage| {
        let params = |provider: &str, param: Option<&str>, prid: Option<&str>| PushParams {
            provider: Some(provider.to_owned()),
            param: param.map(str::to_owned),
            prid: prid.map(str::to_owned),
        };
        let token = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let table = [
            ("unknown service", params("acme", None, Some("token-of-acme"))),
            ("unknown service, query", params("acme", None, None)),
            ("a frequent mistake", params("firebase", Some("reveille-lab"), Some(token))),
            ("no sandbox credential", params("apns.dev", Some("LABTEAM001.org.reveille.lab.voip"), Some(token))),
            ("another team", params("apns", Some("OTHERTEAM1.org.reveille.lab.voip"), Some(token))),
            ("another app", params("apns", Some("LABTEAM001.org.example.app.voip"), Some(token))),
            ("another project", params("fcm", Some("somebody-else"), Some(token))),
            ("another host", params("webpush", None, Some("https://push.example.net/p/1"))),
            ("an address", params("webpush", None, Some("https://127.0.0.1/p/1"))),
            ("not https", params("webpush", None, Some("http://push.localhost/p/1"))),
            ("webpush has no param", params("webpush", Some("x"), Some("https://push.localhost/p/1"))),
        ];
        let caller = stage.caller().await;
        for (case, params) in table {
            let mut phone = stage.plain("bob", Transport::Tls).push(params).build();
            phone.connect().await.unwrap();
            let answer = phone.register(3600).await.unwrap();
            assert_eq!((answer.code(), announced(&answer).len()), (555, 0), "{case}");
        }
        unavailable_at_once(&caller, BOB).await;
    })
    .await;
}

/// P-036: the operator may prefer a registration without push.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsupported_is_accepted_where_configured() {
    play(super::stage::push("unsupported = \"accept\""), async |stage| {
        let push = PushParams { provider: Some("acme".to_owned()), param: None, prid: Some("token".to_owned()) };
        let mut phone = stage.plain("bob", Transport::Tls).push(push).build();
        phone.connect().await.unwrap();
        let answer = phone.register(3600).await.unwrap();
        assert_eq!((answer.code(), announced(&answer).len()), (200, 0));
    })
    .await;
}

/// P-049, P-105: each phone gets its own push parameters back, and never those of another.
async fn others_tokens_are_not_shown(stage: &mut Stage, provider: Provider) {
    let builder = |number| device(stage.phone("bob", provider), number);
    let mut one = registered(builder(1)).await;
    let mut other = registered(builder(2)).await;
    for _ in 0..2 {
        for phone in [&mut one, &mut other] {
            let contacts = phone.register(3600).await.unwrap().values("Contact");
            assert_eq!(contacts.len(), 2);
            assert_eq!(contacts.iter().filter(|contact| contact.contains("pn-")).count(), 1);
        }
    }
    let seen = String::from_utf8_lossy(&other.transcript()).into_owned();
    for part in prid(&one).split(['&', ':', '/']).filter(|part| part.len() > 16) {
        assert!(!seen.contains(part), "a token of another phone");
    }
}
each_provider!(others_tokens_are_not_shown, LabOptions::default());

/// P-009: more push Contacts than one REGISTER may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_push_contacts() {
    play(LabOptions::default(), async |stage| {
        let mut phone = stage.phone("bob", Provider::Fcm).build();
        phone.connect().await.unwrap();
        let mut request = phone.register_request(3600);
        for _ in 0..4 {
            let device = stage.lab.pns.register_device(DeviceKind::Fcm);
            let contact = format!(
                "<sip:bob@192.0.2.1;pn-provider=fcm;pn-param={};pn-prid={}>",
                device.param.unwrap(),
                device.prid
            );
            request.push("Contact", &contact);
        }
        assert_eq!(phone.exchange(request).await.unwrap().code(), 403);
        let caller = stage.caller().await;
        unavailable_at_once(&caller, BOB).await;
    })
    .await;
}

/// S-140, S-115, S-152: who may register as whom.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_user_may_register() {
    play(LabOptions::default(), async |stage| {
        for transport in super::stage::TRANSPORTS {
            let table = [
                ("wrong password", stage.plain("bob", transport).password("guess"), 401),
                ("nobody of that name", stage.plain("nobody", transport), 401),
                ("somebody else", stage.plain("bob", transport).auth_user("carol"), 403),
                ("bob", stage.plain("bob", transport), 200),
            ];
            for (case, builder, status) in table {
                let mut phone = builder.build();
                phone.connect().await.unwrap();
                let answer = phone.register(3600).await.unwrap();
                assert_eq!(answer.code(), status, "{case} over {transport:?}");
                assert_eq!(answer.headers("WWW-Authenticate").count(), if status == 401 { 2 } else { 0 }, "{case}");
            }
        }
        // S-093: a domain that is not ours.
        let mut phone = stage.plain("bob", Transport::Tcp).build();
        phone.connect().await.unwrap();
        let mut request = phone.register_request(3600);
        request.set_uri("sip:elsewhere.example");
        assert_eq!(phone.exchange(request).await.unwrap().code(), 404);
        assert_ne!(DOMAIN, "elsewhere.example");
    })
    .await;
}
