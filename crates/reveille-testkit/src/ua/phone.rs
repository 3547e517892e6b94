//! One phone: its builder, its registration and what it can send and wait for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rsip::prelude::UntypedHeader as _;
use rsip::{Method, headers, typed};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::PhoneError;
use super::agent::{Agent, Mailboxes};
use super::builder::{PhoneBuilder, PushParams};
use super::call::{IncomingCall, OutgoingCall, SDP, dialog_contact};
use super::compose::{self, param};
use super::dialog::{new_tag, via};
use super::digest::DigestSupport;
use super::link::{Link, Transport};
use super::profile::{Profile, Received};
use super::wire::SipMessage;
use crate::pns::Wake;

/// A SIP phone with one registration. Dropping it closes its connection.
pub struct Phone {
    agent: Arc<Agent>,
    mailboxes: Mailboxes,
    push: Option<PushParams>,
    wakes: Option<mpsc::Receiver<Wake>>,
    instance: Option<String>,
    reg_id: Option<u32>,
    pnsreg: bool,
    call_id: String,
    from_tag: String,
    cseq: u32,
    links: u64,
}

impl Phone {
    pub(super) fn new(builder: PhoneBuilder) -> Self {
        let call_id = format!("{}@{}", uuid::Uuid::new_v4(), builder.profile.domain);
        let PhoneBuilder { profile, push, wakes, instance, reg_id, pnsreg } = builder;
        let (agent, mailboxes) = Agent::new(profile);
        Self {
            agent,
            mailboxes,
            push,
            wakes,
            instance,
            reg_id,
            pnsreg,
            call_id,
            from_tag: new_tag(),
            cseq: 0,
            links: 0,
        }
    }

    /// A phone of `user@domain` whose proxy is at `server`.
    pub fn builder(user: &str, domain: &str, server: SocketAddr, transport: Transport) -> PhoneBuilder {
        let profile = Profile {
            user: user.to_owned(),
            domain: domain.to_owned(),
            auth_user: user.to_owned(),
            password: String::new(),
            digest: DigestSupport::All,
            server,
            transport,
            patience: Duration::from_secs(10),
            raw: false,
            auto_answer: true,
            keep_transcript: true,
        };
        PhoneBuilder::new(profile)
    }

    // Connection.

    /// Connects to the proxy given at the start; an older connection is closed.
    ///
    /// # Errors
    /// When the connection cannot be made.
    pub async fn connect(&mut self) -> Result<(), PhoneError> {
        self.connect_to(self.agent.profile.server).await
    }

    /// Connects to another edge of the same cluster.
    ///
    /// # Errors
    /// When the connection cannot be made.
    pub async fn connect_to(&mut self, server: SocketAddr) -> Result<(), PhoneError> {
        self.sleep().await;
        self.links += 1;
        let opening = Link::open(server, &self.agent.profile.transport, &self.agent, self.links);
        let link =
            timeout(self.agent.profile.patience, opening).await.map_err(|_| PhoneError::Timeout("a connection"))??;
        self.agent.set_link(Some(link));
        Ok(())
    }

    /// Closes the connection as a phone does that is about to be suspended; what is left is its PRID.
    pub async fn sleep(&self) {
        if let Some(link) = self.agent.set_link(None) {
            link.close().await;
        }
    }

    /// Dies with the socket open: never reads, never answers, never closes. The phone may [`Self::connect`] again, over a
    /// new socket; hold the returned guard for as long as the old one shall stay open.
    pub async fn drop_silently(&self) -> DeadFlow {
        let link = self.agent.set_link(None);
        if let Some(link) = &link {
            link.freeze().await;
        }
        DeadFlow { _link: link }
    }

    /// Whether the phone has a connection that the peer has not closed.
    pub fn is_connected(&self) -> bool {
        self.agent.link().is_some()
    }

    /// The phone's address on the present connection.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.agent.link().map(|link| link.local)
    }

    /// Waits until the peer closes the connection.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_closed(&self, patience: Duration) -> Result<(), PhoneError> {
        let mut link = self.agent.watch_link();
        let closed = timeout(patience, link.wait_for(Option::is_none)).await;
        closed.map(|_| ()).map_err(|_| PhoneError::Timeout("the end of the connection"))
    }

    /// Sends the keep-alive of RFC 5626 §3.5.1 and waits for its answer; returns how long that took.
    ///
    /// # Errors
    /// When no answer comes in time.
    pub async fn ping(&self) -> Result<Duration, PhoneError> {
        let start = Instant::now();
        let mut pongs = self.agent.watch_pongs();
        pongs.mark_unchanged();
        self.agent.transmit(Bytes::from_static(b"\r\n\r\n"))?;
        match timeout(self.agent.profile.patience, pongs.changed()).await {
            Ok(_) => Ok(start.elapsed()),
            Err(_) => Err(PhoneError::Timeout("a keep-alive answer")),
        }
    }

    // Registration.

    /// The present push parameters.
    pub fn push(&self) -> Option<&PushParams> {
        self.push.as_ref()
    }

    /// Changes the push parameters of the next REGISTER: another PRID, or none.
    pub fn set_push(&mut self, push: Option<PushParams>) {
        self.push = push;
    }

    /// The PURR of the last 2xx (RFC 8599 §6.2.1).
    pub fn purr(&self) -> Option<String> {
        self.agent.purr()
    }

    /// Registers, answering a challenge; the final response, whatever it is.
    ///
    /// # Errors
    /// When the phone is not connected or no response comes in time.
    pub async fn register(&mut self, expires: u32) -> Result<SipMessage, PhoneError> {
        Ok(self.register_timed(expires).await?.message)
    }

    /// [`Self::register`], with the time the response arrived.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn register_timed(&mut self, expires: u32) -> Result<Received, PhoneError> {
        let request = self.register_request(expires);
        let mut transaction = self.agent.start(request)?;
        let received = transaction.last(self.agent.profile.patience).await?;
        self.cseq = self.cseq.max(transaction.request().cseq().0);
        if received.message.code() == 200 {
            self.agent.set_purr(received.message.feature_cap("+sip.pnspurr"));
        }
        Ok(received)
    }

    /// Sends one REGISTER without credentials and returns its final response: 401 where digest is on.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn register_raw(&mut self, expires: u32) -> Result<SipMessage, PhoneError> {
        let request = self.register_request(expires);
        self.exchange_once(request).await
    }

    /// Removes this phone's binding, by a REGISTER without PRID (RFC 8599 §4.1.2).
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn unregister(&mut self) -> Result<SipMessage, PhoneError> {
        let push = self.push.clone();
        self.push = push.clone().map(|push| PushParams { prid: None, param: None, ..push });
        let answer = self.register(0).await;
        self.push = push;
        answer
    }

    /// The next REGISTER, ready to be altered and sent with [`Self::exchange`] or [`Self::send_raw`].
    pub fn register_request(&mut self, expires: u32) -> SipMessage {
        let mut request = self.request(Method::Register, &format!("sip:{}", self.agent.profile.domain), &self.aor());
        self.cseq += 1;
        request.put(compose::from(compose::uri(&self.aor()), &self.from_tag));
        request.put(headers::CallId::new(&self.call_id));
        request.put(compose::cseq(self.cseq, Method::Register));
        request.add(self.binding());
        request.add(headers::Expires::from(expires));
        if self.reg_id.is_some() {
            request.add(headers::Supported::new("path, outbound"));
        }
        request
    }

    /// The Contact value of a REGISTER, push parameters included.
    pub fn register_contact(&self) -> String {
        self.binding().to_string()
    }

    fn binding(&self) -> typed::Contact {
        let mut uri = self.agent.contact_uri(&self.agent.local());
        uri.params.extend(self.push.as_ref().map(PushParams::to_uri_params).unwrap_or_default());
        let instance = self.instance.as_ref().map(|id| param("+sip.instance", Some(&format!("\"<urn:uuid:{id}>\""))));
        let reg_id = self.reg_id.map(|reg_id| param("reg-id", Some(&reg_id.to_string())));
        let pnsreg = self.pnsreg.then(|| param("+sip.pnsreg", None));
        let params = instance.into_iter().chain(reg_id).chain(pnsreg).collect();
        typed::Contact { display_name: None, uri, params }
    }

    /// `sip:user@domain`.
    pub fn aor(&self) -> String {
        compose::user_at(&self.agent.profile.user, &self.agent.profile.domain).to_string()
    }

    // Push.

    /// Waits for a push.
    ///
    /// # Errors
    /// When the phone has no device, or no push comes in time.
    pub async fn wait_wake(&mut self, patience: Duration) -> Result<Wake, PhoneError> {
        let wakes = self.wakes.as_mut().ok_or(PhoneError::NoDevice)?;
        let wake = timeout(patience, wakes.recv()).await.map_err(|_| PhoneError::Timeout("a push"))?;
        wake.ok_or(PhoneError::NoDevice)
    }

    /// A push that is here already.
    pub fn take_wake(&mut self) -> Option<Wake> {
        self.wakes.as_mut().and_then(|wakes| wakes.try_recv().ok())
    }

    pub(super) async fn next_wake(&mut self) -> Option<Wake> {
        self.wakes.as_mut()?.recv().await
    }

    // Calls.

    /// Waits for a new call.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn expect_invite(&mut self, patience: Duration) -> Result<IncomingCall, PhoneError> {
        let offer =
            timeout(patience, self.mailboxes.offers.recv()).await.map_err(|_| PhoneError::Timeout("an INVITE"))?;
        Ok(IncomingCall::new(Arc::clone(&self.agent), offer.ok_or(PhoneError::NotConnected)?))
    }

    /// Calls `target` (a SIP URI). Returns as soon as the INVITE is queued; a challenge is answered in the background.
    ///
    /// # Errors
    /// When the phone is not connected.
    pub fn invite(&self, target: &str) -> Result<OutgoingCall, PhoneError> {
        self.invite_with(self.invite_request(target))
    }

    /// Sends an INVITE made by [`Self::invite_request`] and altered since.
    ///
    /// # Errors
    /// As [`Self::invite`].
    pub fn invite_with(&self, request: SipMessage) -> Result<OutgoingCall, PhoneError> {
        OutgoingCall::start(&self.agent, request, false)
    }

    /// Sends an INVITE as it is; a challenge is a final response like any other.
    ///
    /// # Errors
    /// When the phone is not connected.
    pub fn invite_raw(&self, request: SipMessage) -> Result<OutgoingCall, PhoneError> {
        OutgoingCall::start(&self.agent, request, true)
    }

    /// An INVITE with a session description, ready to be altered.
    pub fn invite_request(&self, target: &str) -> SipMessage {
        use Method::{Ack, Bye, Cancel, Invite, Message, Options, Update};
        let mut request = self.request(Invite, target, target);
        request.add(dialog_contact(&self.agent));
        request.add(typed::Allow::from(vec![Invite, Ack, Cancel, Bye, Options, Message, Update]));
        request.set_body("application/sdp", SDP);
        request
    }

    // Other requests.

    /// Sends a text and waits for the final response.
    ///
    /// # Errors
    /// When the phone is not connected or no response comes in time.
    pub async fn message(&self, target: &str, text: &str) -> Result<SipMessage, PhoneError> {
        let mut request = self.request(Method::Message, target, target);
        request.set_body("text/plain", text.to_owned());
        self.exchange(request).await
    }

    /// Sends OPTIONS and waits for the final response.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub async fn options(&self, target: &str) -> Result<SipMessage, PhoneError> {
        self.exchange(self.request(Method::Options, target, target)).await
    }

    /// A request outside any dialog with the headers every request needs.
    pub fn request(&self, method: Method, uri: &str, to: &str) -> SipMessage {
        let headers = vec![
            via(&self.agent, &self.agent.local()).into(),
            headers::MaxForwards::from(70).into(),
            compose::from(compose::uri(&self.aor()), &new_tag()).into(),
            typed::To::from(compose::uri(to)).into(),
            headers::CallId::new(uuid::Uuid::new_v4().to_string()).into(),
            compose::cseq(1, method),
            headers::UserAgent::new("lab phone").into(),
        ];
        compose::request(method, compose::uri(uri), headers)
    }

    /// Sends any request but INVITE, answers a challenge and waits for the final response.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub async fn exchange(&self, request: SipMessage) -> Result<SipMessage, PhoneError> {
        Ok(self.agent.start(request)?.last(self.agent.profile.patience).await?.message)
    }

    /// Sends any request and waits for its final response, challenge or not.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub async fn exchange_once(&self, request: SipMessage) -> Result<SipMessage, PhoneError> {
        Ok(self.agent.start_plain(request)?.last(self.agent.profile.patience).await?.message)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the phone is not connected.
    pub fn send_raw(&self, bytes: impl Into<Bytes>) -> Result<(), PhoneError> {
        self.agent.transmit(bytes.into())
    }

    /// The next message that belongs to no transaction or call of ours: MESSAGE and its like (answered 200 already unless the
    /// phone is manual), responses to what [`Self::send_raw`] sent, everything for a raw phone.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn next_message(&mut self, patience: Duration) -> Result<Received, PhoneError> {
        let received =
            timeout(patience, self.mailboxes.inbox.recv()).await.map_err(|_| PhoneError::Timeout("a message"))?;
        received.ok_or(PhoneError::NotConnected)
    }

    /// The next request of one method from [`Self::next_message`]; others are let pass.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn expect_request(&mut self, method: &'static str, patience: Duration) -> Result<Received, PhoneError> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let received = self.next_message(left).await.map_err(|_| PhoneError::Timeout(method))?;
            if received.message.is_request() && received.message.method() == method {
                return Ok(received);
            }
        }
    }

    /// Answers a request by hand (manual and raw phones).
    ///
    /// # Errors
    /// When the phone is not connected.
    pub fn respond(&self, request: &SipMessage, status: u16, reason: &str) -> Result<(), PhoneError> {
        self.agent.answer(&SipMessage::response(request, status, reason, Some(&new_tag())))
    }

    // What the script may look at.

    /// Every byte received so far, up to 16 MiB.
    pub fn transcript(&self) -> Vec<u8> {
        self.agent.transcript()
    }

    /// New INVITEs (retransmissions not counted) by Call-ID: each must be 1 where a call is delivered exactly once.
    pub fn invites(&self) -> BTreeMap<String, u32> {
        self.agent.invites()
    }

    /// Requests that came again under the same branch.
    pub fn retransmissions(&self) -> u64 {
        self.agent.retransmissions()
    }

    /// Messages thrown away because the script left too many unread.
    pub fn overflow(&self) -> u64 {
        self.agent.overflow()
    }

    pub(super) async fn next_event(&mut self) -> Option<Incoming> {
        tokio::select! {
            offer = self.mailboxes.offers.recv() => Some(Incoming::Call(Box::new(IncomingCall::new(Arc::clone(&self.agent), offer?)))),
            received = self.mailboxes.inbox.recv() => Some(Incoming::Message(received?)),
        }
    }
}

/// What reaches a phone that just listens.
pub(super) enum Incoming {
    Call(Box<IncomingCall>),
    Message(Received),
}

impl Drop for Phone {
    fn drop(&mut self) {
        self.agent.set_link(None);
    }
}

/// A socket that is open and dead; it closes when this is dropped.
pub struct DeadFlow {
    _link: Option<Link>,
}
