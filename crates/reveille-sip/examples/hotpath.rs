//! The way of one forwarded REGISTER through this crate, N times: frame, index, splice.
//!
//! Made to be counted, not timed. The instructions of one message are the difference of two runs:
//!
//! ```text
//! cargo build --release -p reveille-sip --example hotpath
//! valgrind --tool=callgrind target/release/examples/hotpath 1000
//! valgrind --tool=callgrind target/release/examples/hotpath 2000
//! ```

use std::{hint::black_box, net::IpAddr};

use reveille_sip::{
    edit::Edit,
    frame::{Frame, Framer},
    limits::Limits,
    message::Message,
};

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
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_u32);
    let limits = Limits::default();
    let source = IpAddr::from([203, 0, 113, 77]);
    let mut framer = Framer::new(limits.clone());
    let mut octets = 0;
    for _ in 0..rounds {
        framer.push(black_box(REGISTER.as_bytes()));
        let Ok(Some(Frame::Message(bytes))) = framer.next() else { continue };
        let Ok(message) = Message::parse(bytes, &limits) else { continue };
        let hops = message.max_forwards().ok().flatten().unwrap_or(70);
        let mut edit = Edit::new(&message);
        edit.add_top_via_params(Some(source), Some(52106));
        edit.push_via("SIP/2.0/TLS 198.51.100.7:5061;branch=z9hG4bKr1f8e02ac9d47b35");
        edit.set_max_forwards(hops.saturating_sub(1));
        octets += black_box(edit.finish()).len();
    }
    println!("{} octets in, {octets} octets out", REGISTER.len());
}
