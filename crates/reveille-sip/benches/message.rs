//! What the stages of a message cost: frame, index, extract, splice, answer.

#![allow(missing_docs)] // the macros make public items

use std::{hint::black_box, net::IpAddr};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reveille_sip::{
    edit::Edit,
    frame::{Frame, Framer},
    limits::Limits,
    message::{Contacts, Message},
    response::ResponseBuilder,
    validate,
};

const REGISTER: &str = concat!(
    "REGISTER sip:sip.carrier.example SIP/2.0\r\n",
    "Via: SIP/2.0/TLS 192.168.178.41:52106;branch=z9hG4bK.uGmX9dLq2;rport\r\n",
    "Max-Forwards: 70\r\n",
    "From: <sip:+4930123456@sip.carrier.example>;tag=PqW3~hk0a\r\n",
    "To: <sip:+4930123456@sip.carrier.example>\r\n",
    "Call-ID: 8ZkYl0qXbT\r\n",
    "CSeq: 21 REGISTER\r\n",
    "Supported: replaces, outbound, gruu, path\r\n",
    "Contact: <sip:+4930123456@192.168.178.41:52106;transport=tls;pn-provider=apns;pn-param=ABCD123456.example.phone.voip;",
    "pn-prid=9f3c51d2a7e84b06c1d58e72f0a4b69388c2e17d5f604ab9d3e17c28fa05be64>;",
    "+sip.instance=\"<urn:uuid:3c1f0f5e-6b1d-4d5a-9c6e-8f2b7a4d1e90>\";reg-id=1\r\n",
    "Expires: 3600\r\n",
    "Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, INFO, PRACK, UPDATE\r\n",
    "User-Agent: ExamplePhone/5.2 (iOS 17.4) core/4.1\r\n",
    "Content-Length: 0\r\n",
    "\r\n",
);

/// What a registrar reads of a REGISTER; the sum of lengths stands for it.
fn extract(message: &Message) -> usize {
    let branch = message.top_via().ok().and_then(|v| v.branch()).map_or(0, str::len);
    let tags = message.from_tag().map_or(0, str::len) + message.to_tag().map_or(0, str::len);
    let cseq = message.cseq().map_or(0, |c| c.number as usize);
    let call_id = message.call_id().map_or(0, str::len);
    let contact = match message.contacts() {
        Ok(Contacts::List(list)) => {
            list.first().and_then(|c| Some((c.params.get_unquoted("+sip.instance")?, c.uri().ok()?)))
        }
        _ => None,
    };
    let push = contact.map_or(0, |(instance, uri)| {
        let length = |name| uri.param(name).flatten().map_or(0, str::len);
        instance.len() + length("pn-provider") + length("pn-param") + length("pn-prid")
    });
    branch + tags + cseq + call_id + push
}

fn splice(message: &Message) -> Bytes {
    let mut edit = Edit::new(message);
    edit.add_top_via_params(Some(IpAddr::from([203, 0, 113, 77])), Some(52106));
    edit.push_via("SIP/2.0/TLS 198.51.100.7:5061;branch=z9hG4bKr1f8e02ac9d47b35");
    edit.set_max_forwards(message.max_forwards().ok().flatten().unwrap_or(70).saturating_sub(1));
    edit.finish()
}

fn stages(criterion: &mut Criterion) {
    let limits = Limits::default();
    let bytes = Bytes::from_static(REGISTER.as_bytes());
    let Ok(message) = Message::parse(bytes.clone(), &limits) else { return };
    let mut group = criterion.benchmark_group("message");
    group.throughput(Throughput::Elements(1));
    group.bench_function("frame", |bencher| {
        let mut framer = Framer::new(limits.clone());
        bencher.iter(|| {
            framer.push(black_box(REGISTER.as_bytes()));
            matches!(framer.next(), Ok(Some(Frame::Message(_))))
        });
    });
    group.bench_function("index", |bencher| bencher.iter(|| Message::parse(black_box(bytes.clone()), &limits)));
    group.bench_function("validate", |bencher| bencher.iter(|| validate::request(black_box(&message))));
    group.bench_function("extract", |bencher| bencher.iter(|| extract(black_box(&message))));
    group.bench_function("splice", |bencher| bencher.iter(|| splice(black_box(&message))));
    group.bench_function("answer", |bencher| {
        bencher.iter(|| ResponseBuilder::to(black_box(&message), 200).to_tag("z8Kq1").build());
    });
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
