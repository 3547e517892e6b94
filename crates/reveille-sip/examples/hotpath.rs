//! The way of one forwarded REGISTER through this crate, N times: frame, index, splice; or one stage of it alone.
//!
//! Made to be counted, not timed. The instructions of one message are the difference of two runs:
//!
//! ```text
//! cargo build --release -p reveille-sip --example hotpath
//! valgrind --tool=callgrind target/release/examples/hotpath 1000
//! valgrind --tool=callgrind target/release/examples/hotpath 2000
//! ```
//!
//! A second argument names the stage: `frame`, `index`, `splice`, `splice-into` (a buffer that is kept), `validate` or
//! `extract`; `all` is the default.

use std::{hint::black_box, net::IpAddr};

use bytes::{Bytes, BytesMut};
use reveille_sip::{
    edit::Edit,
    frame::{Frame, Framed, Framer},
    limits::Limits,
    message::{Contacts, Message},
    validate,
};

/// As in the program: what an allocation costs is part of what a message costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// 808 octets, as a phone with push parameters sends them.
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
    "Accept: application/sdp, text/plain, application/vnd.\r\n",
    "User-Agent: ExamplePhone/5.2 (iOS 17.4) core/4.1\r\n",
    "Content-Length: 0\r\n",
    "\r\n",
);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1_000_u32);
    let stage = arguments.next().unwrap_or_else(|| "all".to_owned());
    let limits = Limits::default();
    let mut framer = Framer::new(limits.clone());
    let bytes = Bytes::from_static(REGISTER.as_bytes());
    let Ok(message) = Message::parse(bytes.clone(), &limits) else { return };
    let mut out = BytesMut::with_capacity(2 * REGISTER.len());
    let mut sum = 0;
    for _ in 0..rounds {
        sum += match stage.as_str() {
            "frame" => frame(&mut framer).map_or(0, |framed| framed.bytes().len()),
            "index" => Message::parse(black_box(bytes.clone()), &limits).map_or(0, |m| m.bytes().len()),
            "splice" => edited(black_box(&message)).finish().len(),
            "splice-into" => {
                out.clear();
                edited(black_box(&message)).finish_into(&mut out);
                out.len()
            }
            "validate" => usize::from(validate::request(black_box(&message)).is_ok()),
            "extract" => extract(black_box(&message)),
            _ => frame(&mut framer)
                .and_then(|framed| Message::parse_framed(framed, &limits).ok())
                .map_or(0, |message| edited(&message).finish().len()),
        };
    }
    println!("{stage}: {} octets each time, {sum} in sum", REGISTER.len());
}

fn frame(framer: &mut Framer) -> Option<Framed> {
    framer.push(black_box(REGISTER.as_bytes()));
    match framer.next() {
        Ok(Some(Frame::Message(framed))) => Some(framed),
        _ => None,
    }
}

/// What the edge changes in a request that it passes on.
fn edited(message: &Message) -> Edit<'_> {
    let hops = message.max_forwards().ok().flatten().unwrap_or(70);
    let mut edit = Edit::new(message);
    edit.add_top_via_params(Some(IpAddr::from([203, 0, 113, 77])), Some(52106));
    edit.push_via("SIP/2.0/TLS 198.51.100.7:5061;branch=z9hG4bKr1f8e02ac9d47b35");
    edit.set_max_forwards(hops.saturating_sub(1));
    edit
}

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
