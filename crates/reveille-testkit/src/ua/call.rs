//! Calls: the one a phone makes and the one it is offered.

use std::sync::Arc;
use std::time::Duration;

use rsip::{Method, typed};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::PhoneError;
use super::agent::Agent;
use super::compose::param;
use super::dialog::{Dialog, cancel};
use super::profile::{Offer, Received};
use super::transaction::Transaction;
use super::wire::{SipMessage, escape_pvalue};

/// The session description every call carries; no media is ever sent.
pub(super) const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n";

/// What both kinds of call share once there is a dialog.
struct Leg {
    agent: Arc<Agent>,
    requests: mpsc::Receiver<Received>,
}

impl Leg {
    /// The next request of this method inside the dialog; others are let pass.
    async fn expect(&mut self, method: &'static str, patience: Duration) -> Result<Received, PhoneError> {
        let search = async {
            loop {
                match self.requests.recv().await {
                    Some(received) if received.message.method() == method => return Ok(received),
                    Some(_) => {}
                    None => return Err(PhoneError::NotConnected),
                }
            }
        };
        timeout(patience, search).await.map_err(|_| PhoneError::Timeout(method))?
    }

    async fn send(&self, dialog: &mut Dialog, method: Method, patience: Duration) -> Result<Received, PhoneError> {
        let local = self.agent.local();
        let mut request = dialog.request(&self.agent, &local, method);
        let refreshes = matches!(method, Method::Invite | Method::Update);
        if refreshes {
            request.add(dialog_contact(&self.agent));
            request.set_body("application/sdp", SDP);
        }
        let mut transaction = self.agent.start_in(Some(dialog.clone()), request)?;
        let received = transaction.last(patience).await?;
        dialog.reached(transaction.request().cseq().0);
        if refreshes && received.message.code() < 300 {
            *dialog = dialog.clone().refreshed(&received.message);
        }
        Ok(received)
    }

    /// Answers a request inside the dialog that awaits an answer.
    fn respond_to(&self, request: &SipMessage, status: u16, reason: &str) -> Result<(), PhoneError> {
        let mut response = SipMessage::response(request, status, reason, None);
        if (200..300).contains(&status) {
            response.add(dialog_contact(&self.agent));
            response.set_body("application/sdp", SDP);
        }
        self.agent.answer(&response)
    }
}

/// Our Contact inside dialogs: never push parameters, but the PURR where we were given one (P-105, P-108).
pub(super) fn dialog_contact(agent: &Agent) -> typed::Contact {
    let mut uri = agent.contact_uri(&agent.local());
    uri.params.extend(agent.purr().map(|purr| param("pn-purr", Some(&escape_pvalue(&purr)))));
    uri.into()
}

/// A call this phone makes. ACKs are sent as soon as the final response arrives, whether or not anyone waits for it.
pub struct OutgoingCall {
    leg: Leg,
    transaction: Transaction,
    call_id: String,
    provisionals: Vec<Received>,
    last: Option<Received>,
    dialog: Option<Dialog>,
    sent_at: Instant,
}

impl OutgoingCall {
    /// Sends the INVITE; with `plain` no credentials are added and a challenge is not answered.
    pub(super) fn start(agent: &Arc<Agent>, invite: SipMessage, plain: bool) -> Result<Self, PhoneError> {
        let call_id = invite.call_id().to_owned();
        let requests = agent.open_dialog(&call_id, invite.from_tag().unwrap_or(""));
        let sent_at = Instant::now();
        let transaction = if plain { agent.start_plain(invite)? } else { agent.start(invite)? };
        let leg = Leg { agent: Arc::clone(agent), requests };
        Ok(Self { leg, transaction, call_id, provisionals: Vec::new(), last: None, dialog: None, sent_at })
    }

    /// Call-ID of this call.
    pub fn call_id(&self) -> &str {
        &self.call_id
    }

    /// When the INVITE left (the first one, where a challenge made it two).
    pub fn sent_at(&self) -> Instant {
        self.sent_at
    }

    /// The INVITE as it was sent last.
    pub fn invite(&self) -> SipMessage {
        self.transaction.request()
    }

    /// The provisional responses so far, 100 included, in the order of their arrival.
    pub fn provisionals(&mut self) -> &[Received] {
        while let Some(received) = self.transaction.try_next() {
            self.note(received);
        }
        &self.provisionals
    }

    /// Waits for a provisional response with this status; it may have come earlier.
    ///
    /// # Errors
    /// When it does not come in time, or a final response comes first.
    pub async fn expect_provisional(&mut self, status: u16, patience: Duration) -> Result<Received, PhoneError> {
        let end = Instant::now() + patience;
        loop {
            if let Some(found) = self.provisionals.iter().find(|one| one.message.code() == status) {
                return Ok(found.clone());
            }
            if self.last.is_some() {
                return Err(PhoneError::Unexpected("a final response before the provisional"));
            }
            let received = self.transaction.next(end.saturating_duration_since(Instant::now())).await?;
            self.note(received);
        }
    }

    /// The final response.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn final_response(&mut self, patience: Duration) -> Result<Received, PhoneError> {
        let end = Instant::now() + patience;
        loop {
            if let Some(last) = &self.last {
                return Ok(last.clone());
            }
            let received = self.transaction.next(end.saturating_duration_since(Instant::now())).await?;
            self.note(received);
        }
    }

    fn note(&mut self, received: Received) {
        if received.message.code() < 200 {
            self.provisionals.push(received);
            return;
        }
        if received.message.code() < 300 && self.dialog.is_none() {
            self.dialog = Dialog::of_caller(&self.transaction.request(), &received.message);
        }
        self.last.get_or_insert(received);
    }

    /// Sends CANCEL; the 487 comes out of [`Self::final_response`]. Returns the answer to the CANCEL itself.
    ///
    /// # Errors
    /// When it cannot be sent or is not answered in time.
    pub async fn cancel(&mut self, patience: Duration) -> Result<SipMessage, PhoneError> {
        let cancel = cancel(&self.transaction.request());
        Ok(self.leg.agent.start_plain(cancel)?.last(patience).await?.message)
    }

    /// Sends a request inside the dialog and waits for its final response.
    ///
    /// # Errors
    /// When there is no dialog yet, or no answer in time.
    pub async fn request(&mut self, method: Method, patience: Duration) -> Result<SipMessage, PhoneError> {
        let dialog = self.dialog.as_mut().ok_or(PhoneError::NoDialog)?;
        Ok(self.leg.send(dialog, method, patience).await?.message)
    }

    /// Hangs up.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn bye(&mut self, patience: Duration) -> Result<SipMessage, PhoneError> {
        self.request(Method::Bye, patience).await
    }

    /// Waits for the peer's BYE, which has been answered 200 already.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn expect_bye(&mut self, patience: Duration) -> Result<Received, PhoneError> {
        self.leg.expect("BYE", patience).await
    }

    /// Waits for any request of `method` inside the dialog.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn expect_request(&mut self, method: &'static str, patience: Duration) -> Result<Received, PhoneError> {
        self.leg.expect(method, patience).await
    }

    /// Answers a request that came out of [`Self::expect_request`] and awaits an answer: a re-INVITE.
    ///
    /// # Errors
    /// When the phone is not connected.
    pub fn respond_to(&self, request: &SipMessage, status: u16, reason: &str) -> Result<(), PhoneError> {
        self.leg.respond_to(request, status, reason)
    }
}

/// A call this phone is offered; 100 went out already. A CANCEL is answered, with 487 to the INVITE, without being asked.
pub struct IncomingCall {
    leg: Leg,
    invite: Received,
    tag: String,
    dialog: Option<Dialog>,
}

impl IncomingCall {
    pub(super) fn new(agent: Arc<Agent>, offer: Offer) -> Self {
        let dialog = Dialog::of_called(&offer.invite.message, &offer.tag);
        Self { leg: Leg { agent, requests: offer.requests }, invite: offer.invite, tag: offer.tag, dialog }
    }

    /// The INVITE.
    pub fn invite(&self) -> &SipMessage {
        &self.invite.message
    }

    /// When the INVITE arrived.
    pub fn received_at(&self) -> Instant {
        self.invite.at
    }

    /// Call-ID of this call.
    pub fn call_id(&self) -> &str {
        self.invite.message.call_id()
    }

    /// 180.
    ///
    /// # Errors
    /// When the phone is not connected.
    pub fn ring(&self) -> Result<(), PhoneError> {
        self.respond(180, "Ringing")
    }

    /// 200 with a session description.
    ///
    /// # Errors
    /// When the phone is not connected, or the call has had its final answer.
    pub fn answer(&self) -> Result<(), PhoneError> {
        self.respond(200, "OK")
    }

    /// A final refusal.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn reject(&self, status: u16, reason: &str) -> Result<(), PhoneError> {
        self.respond(status, reason)
    }

    /// Any response.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn respond(&self, status: u16, reason: &str) -> Result<(), PhoneError> {
        if self.leg.agent.is_answered(&self.invite.message) {
            return Err(PhoneError::Unexpected("the call has had its final answer"));
        }
        let mut response = SipMessage::response(&self.invite.message, status, reason, Some(&self.tag));
        if status > 100 && status < 300 {
            response.add(dialog_contact(&self.leg.agent));
        }
        if status == 200 {
            response.set_body("application/sdp", SDP);
        }
        self.leg.agent.answer(&response)
    }

    /// Answers a request that came out of [`Self::expect_request`] and awaits an answer: a re-INVITE.
    ///
    /// # Errors
    /// When the phone is not connected.
    pub fn respond_to(&self, request: &SipMessage, status: u16, reason: &str) -> Result<(), PhoneError> {
        self.leg.respond_to(request, status, reason)
    }

    /// Waits for the ACK.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn expect_ack(&mut self, patience: Duration) -> Result<Received, PhoneError> {
        self.leg.expect("ACK", patience).await
    }

    /// Waits for the caller's CANCEL, which has been answered already.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn expect_cancel(&mut self, patience: Duration) -> Result<Received, PhoneError> {
        self.leg.expect("CANCEL", patience).await
    }

    /// Waits for the peer's BYE, which has been answered 200 already.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn expect_bye(&mut self, patience: Duration) -> Result<Received, PhoneError> {
        self.leg.expect("BYE", patience).await
    }

    /// Waits for any request of `method` inside the dialog.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn expect_request(&mut self, method: &'static str, patience: Duration) -> Result<Received, PhoneError> {
        self.leg.expect(method, patience).await
    }

    /// Sends a request inside the dialog and waits for its final response.
    ///
    /// # Errors
    /// When the INVITE had no usable Contact, or no answer comes in time.
    pub async fn request(&mut self, method: Method, patience: Duration) -> Result<SipMessage, PhoneError> {
        let dialog = self.dialog.as_mut().ok_or(PhoneError::NoDialog)?;
        Ok(self.leg.send(dialog, method, patience).await?.message)
    }

    /// Hangs up.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn bye(&mut self, patience: Duration) -> Result<SipMessage, PhoneError> {
        self.request(Method::Bye, patience).await
    }
}
