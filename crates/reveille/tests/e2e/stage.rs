//! The stage every scenario plays on: a lab, a node, and the moves that scenarios share.

use std::net::SocketAddr;
use std::time::Duration;

use reveille::lab::{DOMAIN, Lab, LabOptions, PASSWORD, address};
use reveille::node::Node;
use reveille_registrar::Transport;
use reveille_testkit::pns::Provider;
use reveille_testkit::ua::{self, IncomingCall, Method, OutgoingCall, Phone, PhoneBuilder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

/// Patience for what has to happen; far above what it takes, for machines that do much else.
pub(crate) const SOON: Duration = Duration::from_secs(15);
/// What passes for "at once" where the alternative is to wait for `push.call_wait`, 30 s.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(10);
/// The sleeping party of most scenarios.
pub(crate) const BOB: &str = "sip:bob@lab.example";

/// A lab with a running node.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    node: Option<Node>,
}

/// Plays a scenario on a stage of its own and checks what has to hold after every one of them.
pub(crate) async fn play(options: LabOptions, scenario: impl AsyncFnOnce(&mut Stage)) {
    let lab = Lab::start(options).await.expect("the lab starts");
    let node = lab.start_node().await.expect("the node starts");
    let mut stage = Stage { lab, node: Some(node) };
    scenario(&mut stage).await;
    let pns = &stage.lab.pns;
    assert_eq!(pns.unauthenticated_total(), 0, "P-122: no push request leaves without a good credential");
    for provider in Provider::ALL {
        assert_eq!(pns.counts(provider).malformed, 0, "{provider:?}: a request was against the provider's rules");
    }
    if let Some(node) = stage.node.take() {
        timeout(SOON, node.stop()).await.expect("the node stops");
    }
}

/// One test for each push service: `name::apns`, `name::fcm`, `name::webpush`.
macro_rules! each_provider {
    ($(#[$doc:meta])* $name:ident, $options:expr) => {
        mod $name {
            use super::super::stage::play;
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn apns() {
                play($options, async |stage| super::$name(stage, Provider::Apns).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn fcm() {
                play($options, async |stage| super::$name(stage, Provider::Fcm).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn webpush() {
                play($options, async |stage| super::$name(stage, Provider::WebPush).await).await;
            }
        }
    };
}
pub(crate) use each_provider;

/// Options that set keys of `[push]`.
pub(crate) fn push(keys: &str) -> LabOptions {
    LabOptions { push: keys.to_owned(), ..LabOptions::default() }
}

/// The transports a phone can use toward the node.
pub(crate) const TRANSPORTS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

impl Stage {
    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("the node runs")
    }

    /// The TLS listener, where phones with push go.
    pub(crate) fn tls(&self) -> SocketAddr {
        self.listener(Transport::Tls)
    }

    pub(crate) fn listener(&self, transport: Transport) -> SocketAddr {
        address(self.node(), transport).expect("the lab's node listens on every transport")
    }

    /// The node, for a test that ends it itself.
    pub(crate) fn take_node(&mut self) -> Node {
        self.node.take().expect("the node runs")
    }

    /// Ends the node in order and starts another one on what it stored.
    pub(crate) async fn restart(&mut self) {
        let node = self.take_node();
        timeout(SOON, node.stop()).await.expect("the node stops");
        self.start_again().await;
    }

    /// Starts a node on what an earlier one stored.
    pub(crate) async fn start_again(&mut self) {
        self.node = Some(self.lab.start_node().await.expect("the node starts again"));
    }

    /// A phone with a device, over TLS.
    pub(crate) fn phone(&self, user: &str, provider: Provider) -> PhoneBuilder {
        self.lab.phone(user, provider, self.tls()).expect("the lab's certificate is good")
    }

    /// A phone without a device, over any transport.
    pub(crate) fn plain(&self, user: &str, transport: Transport) -> PhoneBuilder {
        if transport == Transport::Tls {
            return self.lab.plain_phone(user, self.tls()).expect("the lab's certificate is good");
        }
        let way = if transport == Transport::Udp { ua::Transport::Udp } else { ua::Transport::Tcp };
        Phone::builder(user, DOMAIN, self.listener(transport), way).password(PASSWORD)
    }

    /// A phone that has registered its token and keeps its connection.
    pub(crate) async fn awake(&self, user: &str, provider: Provider) -> Phone {
        registered(self.phone(user, provider)).await
    }

    /// A phone that has registered its token and gone to sleep.
    pub(crate) async fn asleep(&self, user: &str, provider: Provider) -> Phone {
        let phone = self.awake(user, provider).await;
        phone.sleep().await;
        phone
    }

    /// Somebody who calls; connected over TLS, not registered.
    pub(crate) async fn caller(&self) -> Phone {
        self.caller_named("caller").await
    }

    pub(crate) async fn caller_named(&self, user: &str) -> Phone {
        let mut caller = self.plain(user, Transport::Tls).build();
        caller.connect().await.expect("the caller connects");
        caller
    }

    /// Waits for a push and does what it asks for: connects and refreshes the registration.
    pub(crate) async fn wake(&self, phone: &mut Phone) {
        phone.wait_wake(SOON).await.expect("a push arrives");
        self.refresh(phone).await;
    }

    /// Connects anew and refreshes the registration.
    pub(crate) async fn refresh(&self, phone: &mut Phone) {
        phone.connect_to(self.tls()).await.expect("the phone connects again");
        assert_eq!(phone.register(3600).await.expect("the REGISTER is answered").code(), 200);
    }

    /// Pushes that reached the push service for this phone, whatever it answered.
    pub(crate) fn pushes(&self, phone: &Phone) -> u64 {
        self.lab.pns.pushed(prid(phone))
    }

    /// Waits until the metrics whose line begins so add up to what is wanted.
    pub(crate) async fn sum_when(&self, metric: &str, wanted: impl Fn(f64) -> bool) {
        loop {
            let (_, metrics) = self.get("/metrics").await;
            let lines = metrics.lines().filter(|line| line.starts_with(metric));
            if wanted(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// GET on the admin port: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        get(self.node().admin_addr(), path).await
    }
}

/// The phone as this numbered device of its user: with an instance-id of its own.
pub(crate) fn device(builder: PhoneBuilder, number: u32) -> PhoneBuilder {
    builder.instance(format!("{number:032x}").parse().expect("a UUID"))
}

/// Connects and registers.
pub(crate) async fn registered(builder: PhoneBuilder) -> Phone {
    let mut phone = builder.build();
    phone.connect().await.expect("the phone connects");
    assert_eq!(phone.register(3600).await.expect("the REGISTER is answered").code(), 200);
    phone
}

/// The phone's PRID.
pub(crate) fn prid(phone: &Phone) -> &str {
    phone.push().and_then(|push| push.prid.as_deref()).expect("the phone has a device")
}

/// A call on its way: the 100 is here, so the node has it in hand.
pub(crate) async fn call(caller: &Phone, target: &str) -> OutgoingCall {
    let mut call = caller.invite(target).expect("the caller is connected");
    call.expect_provisional(100, SOON).await.expect("100 comes first (S-043)");
    call
}

/// The status of the final answer to a call.
pub(crate) async fn ended(call: &mut OutgoingCall) -> u16 {
    call.final_response(SOON).await.expect("the call has a final answer").message.code()
}

/// Rings, answers, and waits until both sides know that they talk.
pub(crate) async fn answer(call: &mut OutgoingCall, incoming: &mut IncomingCall) {
    incoming.ring().unwrap();
    call.expect_provisional(180, SOON).await.expect("180 reaches the caller");
    incoming.answer().unwrap();
    assert_eq!(ended(call).await, 200);
    incoming.expect_ack(SOON).await.expect("the ACK reaches the phone");
}

/// The caller hangs up.
pub(crate) async fn hang_up(call: &mut OutgoingCall, incoming: &mut IncomingCall) {
    assert_eq!(call.bye(SOON).await.expect("the BYE is answered").code(), 200);
    incoming.expect_bye(SOON).await.expect("the BYE reaches the phone");
}

/// A final answer that is 480 and did not wait for the Bucket Timer.
pub(crate) async fn unavailable_at_once(caller: &Phone, target: &str) {
    let start = Instant::now();
    let mut refused = caller.invite(target).unwrap();
    assert_eq!(ended(&mut refused).await, 480);
    assert!(start.elapsed() < AT_ONCE, "480 took {:?}", start.elapsed());
}

/// Returns when whatever the node did about this call has reached the phone: the worker that has the call (messages of one
/// Call-ID meet in one worker) has answered something newer, and so has the phone's own connection.
pub(crate) async fn settle(caller: &Phone, call_id: &str, phone: &Phone) {
    let domain = format!("sip:{DOMAIN}");
    let mut options = caller.request(Method::Options, &domain, &domain);
    options.set("Call-ID", call_id);
    assert_eq!(caller.exchange(options).await.expect("the probe is answered").code(), 200);
    phone.ping().await.expect("the keep-alive is answered");
}

/// How often this call's INVITE came to the phone, retransmissions not counted.
pub(crate) fn copies(phone: &Phone, call_id: &str) -> u32 {
    phone.invites().get(call_id).copied().unwrap_or(0)
}

/// GET over plain HTTP: status and body.
pub(crate) async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(addr).await.expect("the admin port takes connections");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(SOON, exchange).await.expect("the admin port answers");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
