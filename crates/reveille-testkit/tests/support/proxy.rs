//! A SIP proxy that is just enough for two phones: it challenges REGISTER, remembers which connection a user came over and
//! passes messages between them. Single-threaded and slow; its only use is to show that the phones work.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use reveille_testkit::ua::SipMessage;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    peers: HashMap<u64, mpsc::UnboundedSender<Vec<u8>>>,
    users: HashMap<String, u64>,
    next: u64,
    seen: Vec<SipMessage>,
    /// Requests for users who are away, until they register.
    parked: Vec<(u64, SipMessage)>,
}

impl Proxy {
    /// Listens on TCP, or TLS where a configuration is given.
    pub(crate) async fn start(tls: Option<rustls::ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (shared, acceptor) =
            (Arc::clone(&state), tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config))));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        Some(acceptor) => serve(acceptor.accept(stream).await.unwrap(), shared).await,
                        None => serve(stream, shared).await,
                    }
                });
            }
        });
        Self { addr, state }
    }

    /// Every request the proxy has seen.
    pub(crate) fn seen(&self) -> Vec<SipMessage> {
        self.state.inner.lock().seen.clone()
    }

    /// Waits until a request for a user who is away is parked.
    pub(crate) async fn parked(&self) {
        loop {
            let changed = self.state.changed.notified();
            if !self.state.inner.lock().parked.is_empty() {
                return;
            }
            changed.await;
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, state: Arc<State>) {
    let (sender, mut outgoing) = mpsc::unbounded_channel::<Vec<u8>>();
    let me = {
        let mut inner = state.inner.lock();
        inner.next += 1;
        let me = inner.next;
        inner.peers.insert(me, sender);
        me
    };
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            read = stream.read_buf(&mut buffer) => {
                let Ok(1..) = read else { break };
                while buffer.starts_with(b"\r\n\r\n") {
                    buffer.drain(..4);
                    stream.write_all(b"\r\n").await.unwrap();
                }
                while let Some((message, taken)) = SipMessage::parse(&buffer, true) {
                    buffer.drain(..taken);
                    state.inner.lock().handle(me, message);
                    state.changed.notify_waiters();
                }
            }
            Some(bytes) = outgoing.recv() => if stream.write_all(&bytes).await.is_err() { break },
        }
    }
    let mut inner = state.inner.lock();
    inner.peers.remove(&me);
    inner.users.retain(|_, peer| *peer != me);
}

impl Inner {
    fn handle(&mut self, from: u64, message: SipMessage) {
        if !message.is_request() {
            return self.pass_response(message);
        }
        self.seen.push(message.clone());
        match message.method() {
            "REGISTER" => self.register(from, &message),
            _ => self.pass_request(from, message),
        }
    }

    fn register(&mut self, from: u64, request: &SipMessage) {
        if request.header("Authorization").is_none() {
            let mut answer = SipMessage::response(request, 401, "Unauthorized", Some("p"));
            answer.push("WWW-Authenticate", r#"Digest realm="r", nonce="n1", algorithm=SHA-256, qop="auth""#);
            answer.push("WWW-Authenticate", r#"Digest realm="r", nonce="n1", algorithm=MD5, qop="auth""#);
            return self.send(from, &answer);
        }
        let user = request.header("To").unwrap().split(['<', ':', '@']).nth(2).unwrap().to_owned();
        let mut answer = SipMessage::response(request, 200, "OK", Some("p"));
        answer.push("Feature-Caps", r#"*;+sip.pns="apns";+sip.pnspurr="0123abcd""#);
        self.send(from, &answer);
        self.users.insert(user, from);
        for (origin, parked) in std::mem::take(&mut self.parked) {
            self.pass_request(origin, parked);
        }
    }

    fn pass_request(&mut self, from: u64, mut request: SipMessage) {
        let user = request.uri().split([':', '@']).nth(1).unwrap().to_owned();
        let Some(to) = self.users.get(&user).copied() else {
            self.parked.push((from, request));
            return;
        };
        let vias: Vec<String> = request.headers("Via").map(str::to_owned).collect();
        let branch = request.branch().unwrap().to_owned();
        request.set("Via", &format!("SIP/2.0/TCP proxy;branch={branch}p{from}"));
        vias.iter().for_each(|via| request.push("Via", via));
        request.remove("Route");
        if request.method() == "INVITE" && request.to_tag().is_none() {
            request.push("Record-Route", "<sip:proxy;lr>");
        }
        self.send(to, &request);
    }

    fn pass_response(&mut self, mut response: SipMessage) {
        if response.code() == 100 {
            return;
        }
        let mut vias: Vec<String> = response.headers("Via").map(str::to_owned).collect();
        let to = vias.remove(0).rsplit_once('p').unwrap().1.parse().unwrap();
        response.remove("Via");
        vias.iter().for_each(|via| response.push("Via", via));
        self.send(to, &response);
    }

    fn send(&self, to: u64, message: &SipMessage) {
        if let Some(peer) = self.peers.get(&to) {
            let _ = peer.send(message.to_bytes().to_vec());
        }
    }
}
