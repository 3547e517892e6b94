//! The part of a phone that answers by itself: it matches responses, acknowledges finals, absorbs retransmissions, answers
//! what needs no decision and sorts the rest to whoever waits for it.
//!
//! It survives connections: a phone that slept and came back still knows its calls.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rsip::{Header, Uri};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::PhoneError;
use super::compose::{param, user_at};
use super::dialog::{Dialog, ack_for_refusal, new_tag, via};
use super::digest::Challenge;
use super::link::Link;
use super::profile::{Offer, Profile, Received};
use super::recent::Recent;
use super::transaction::Transaction;
use super::wire::SipMessage;

pub(super) struct Agent {
    pub(super) profile: Profile,
    inner: Mutex<Inner>,
    pongs: watch::Sender<u64>,
    link_up: watch::Sender<Option<u64>>,
    offers: mpsc::Sender<Offer>,
    inbox: mpsc::Sender<Received>,
}

#[derive(Default)]
struct Inner {
    link: Option<Link>,
    transcript: Vec<u8>,
    clients: Recent<Client>,
    servers: Recent<Server>,
    dialogs: Recent<mpsc::Sender<Received>>,
    invites: BTreeMap<String, u32>,
    retransmissions: u64,
    overflow: u64,
    /// By the header that answers it: the latest challenge and how often its nonce was used.
    challenges: HashMap<&'static str, (Challenge, u32)>,
    purr: Option<String>,
}

/// A client transaction's memory.
#[derive(Clone)]
struct Client {
    /// The request as it was sent last: a challenge makes another one of it.
    current: Arc<Mutex<SipMessage>>,
    waiter: mpsc::Sender<Received>,
    /// A challenge is still to be answered rather than reported.
    answers_challenge: bool,
    /// The dialog that a re-INVITE belongs to: its route set is the one that the ACK takes.
    dialog: Option<Dialog>,
}

/// A server transaction's memory.
#[derive(Default)]
struct Server {
    invite: Option<(SipMessage, String)>,
    last: Option<Bytes>,
    answered: bool,
}

/// Messages that may wait for a test to look at them.
const INBOX: usize = 1024;
/// Bytes of transcript kept.
const TRANSCRIPT: usize = 16 << 20;

/// The two ends of a phone's agent.
pub(super) struct Mailboxes {
    pub(super) offers: mpsc::Receiver<Offer>,
    pub(super) inbox: mpsc::Receiver<Received>,
}

impl Agent {
    pub(super) fn new(profile: Profile) -> (Arc<Self>, Mailboxes) {
        let (offers, offers_out) = mpsc::channel(INBOX);
        let (inbox, inbox_out) = mpsc::channel(INBOX);
        let (pongs, _) = watch::channel(0);
        let (link_up, _) = watch::channel(None);
        let agent = Self { profile, inner: Mutex::default(), pongs, link_up, offers, inbox };
        (Arc::new(agent), Mailboxes { offers: offers_out, inbox: inbox_out })
    }

    // What the link tells.

    /// Bytes arrived.
    pub(super) fn record(&self, bytes: &[u8]) {
        if self.profile.keep_transcript {
            let mut inner = self.inner.lock();
            let room = TRANSCRIPT.saturating_sub(inner.transcript.len());
            inner.transcript.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        }
    }

    pub(super) fn pong(&self) {
        self.pongs.send_modify(|count| *count += 1);
    }

    pub(super) fn link_closed(&self, serial: u64) {
        let mut inner = self.inner.lock();
        if inner.link.as_ref().is_some_and(|link| link.serial == serial) {
            inner.link = None;
            self.link_up.send_replace(None);
        }
    }

    /// A whole message arrived.
    pub(super) fn receive(&self, message: SipMessage) {
        let received = Received { at: Instant::now(), message };
        if self.profile.raw {
            return self.to_inbox(received);
        }
        if received.message.is_request() { self.receive_request(received) } else { self.receive_response(received) }
    }

    fn receive_response(&self, received: Received) {
        let message = &received.message;
        let key = format!("{} {}", message.branch().unwrap_or(""), message.method());
        let mut inner = self.inner.lock();
        let Some(client) = inner.clients.get(&key).cloned() else {
            drop(inner);
            return self.to_inbox(received);
        };
        let request = client.current.lock().clone();
        let ack = match message.code() {
            300.. if message.method() == "INVITE" => Some(ack_for_refusal(&request, message)),
            200.. if message.method() == "INVITE" => {
                let dialog = match client.dialog.clone() {
                    Some(dialog) => Some(dialog.refreshed(message)),
                    None => Dialog::of_caller(&request, message),
                };
                dialog.map(|dialog| dialog.ack(self, &inner.local(), message.cseq().0))
            }
            _ => None,
        };
        if let Some(ack) = ack {
            inner.transmit(ack.to_bytes());
        }
        // The challenge of a request that was repeated already comes again only as a retransmission.
        if message.cseq().0 != request.cseq().0 {
            return;
        }
        if client.answers_challenge
            && let Some(retry) = self.answer_challenge(&mut inner, &request, message)
        {
            let bytes = retry.to_bytes();
            let key = format!("{} {}", retry.branch().unwrap_or(""), retry.method());
            client.current.lock().clone_from(&retry);
            inner.clients.insert(key, Client { answers_challenge: false, ..client });
            inner.transmit(bytes);
            return;
        }
        let _ = client.waiter.try_send(received);
    }

    /// The request again with credentials, where `response` is a challenge this phone can answer.
    fn answer_challenge(&self, inner: &mut Inner, request: &SipMessage, response: &SipMessage) -> Option<SipMessage> {
        let (challenge, header) = match response.code() {
            401 => ("WWW-Authenticate", "Authorization"),
            407 => ("Proxy-Authenticate", "Proxy-Authorization"),
            _ => return None,
        };
        let chosen = Challenge::choose(response.headers(challenge), self.profile.digest)?;
        inner.challenges.insert(header, (chosen, 0));
        let mut retry = request.clone();
        let (number, method) = request.cseq();
        retry.replace_first(via(self, &inner.local()));
        // A text, since the method may be one that rsip doesn't have.
        retry.set("CSeq", &format!("{} {method}", number + 1));
        inner.authorize(&self.profile, &mut retry, header);
        Some(retry)
    }

    fn receive_request(&self, received: Received) {
        let request = received.message.clone();
        let (method, branch) = (request.method(), request.branch().unwrap_or(""));
        let mut inner = self.inner.lock();
        match method {
            "ACK" => {
                inner.to_dialog(&request, received);
                return;
            }
            "CANCEL" => return inner.cancelled(&request, branch, received),
            _ => {}
        }
        let key = format!("{branch} {method}");
        if let Some(server) = inner.servers.get(&key) {
            let again = server.last.clone();
            inner.retransmissions += 1;
            again.into_iter().for_each(|bytes| inner.transmit(bytes));
            return;
        }
        inner.servers.insert(key, Server::default());
        match (method, request.to_tag()) {
            ("INVITE", None) => {
                *inner.invites.entry(request.call_id().to_owned()).or_default() += 1;
                self.offer(&mut inner, request, received);
            }
            (_, Some(_)) if !inner.has_dialog(&request) => {
                inner.answer(&SipMessage::response(&request, 481, "Call/Transaction Does Not Exist", None));
            }
            ("INVITE", Some(_)) => {
                inner.answer(&SipMessage::response(&request, 100, "Trying", None));
                inner.to_dialog(&request, received);
            }
            (_, Some(_)) => {
                inner.answer(&SipMessage::response(&request, 200, "OK", None));
                inner.to_dialog(&request, received);
            }
            (_, None) => {
                if self.profile.auto_answer {
                    inner.answer(&SipMessage::response(&request, 200, "OK", Some(&new_tag())));
                }
                drop(inner);
                self.to_inbox(received);
            }
        }
    }

    fn offer(&self, inner: &mut Inner, request: SipMessage, received: Received) {
        let tag = new_tag();
        let (sender, requests) = mpsc::channel(64);
        inner.answer(&SipMessage::response(&request, 100, "Trying", None));
        inner.dialogs.insert(dialog_key(request.call_id(), &tag), sender);
        if let Some(server) = inner.server_of(&request) {
            server.invite = Some((request.clone(), tag.clone()));
        }
        if self.offers.try_send(Offer { invite: received, tag: tag.clone(), requests }).is_err() {
            inner.answer(&SipMessage::response(&request, 486, "Busy Here", Some(&tag)));
        }
    }

    fn to_inbox(&self, received: Received) {
        if self.inbox.try_send(received).is_err() {
            self.inner.lock().overflow += 1;
        }
    }

    // What the phone and its calls ask.

    pub(super) fn set_link(&self, link: Option<Link>) -> Option<Link> {
        self.link_up.send_replace(link.as_ref().map(|link| link.serial));
        std::mem::replace(&mut self.inner.lock().link, link)
    }

    pub(super) fn link(&self) -> Option<Link> {
        self.inner.lock().link.clone()
    }

    pub(super) fn local(&self) -> String {
        self.inner.lock().local()
    }

    pub(super) fn watch_link(&self) -> watch::Receiver<Option<u64>> {
        self.link_up.subscribe()
    }

    pub(super) fn watch_pongs(&self) -> watch::Receiver<u64> {
        self.pongs.subscribe()
    }

    /// Queues bytes on the present connection.
    pub(super) fn transmit(&self, bytes: Bytes) -> Result<(), PhoneError> {
        let link = self.link().ok_or(PhoneError::NotConnected)?;
        link.send(bytes).then_some(()).ok_or(PhoneError::NotConnected)
    }

    /// Sends a response and remembers it for retransmissions.
    pub(super) fn answer(&self, response: &SipMessage) -> Result<(), PhoneError> {
        let mut inner = self.inner.lock();
        if inner.link.is_none() {
            return Err(PhoneError::NotConnected);
        }
        inner.answer(response);
        Ok(())
    }

    /// Whether the INVITE of this response's transaction has had its final answer.
    pub(super) fn is_answered(&self, invite: &SipMessage) -> bool {
        self.inner.lock().server_of(invite).is_none_or(|server| server.answered)
    }

    /// Sends a request, with credentials where the server has asked for them before, and follows its transaction; a
    /// challenge is answered once on the way.
    pub(super) fn start(self: &Arc<Self>, request: SipMessage) -> Result<Transaction, PhoneError> {
        self.start_in(None, request)
    }

    /// [`Self::start`] for a request inside a dialog.
    pub(super) fn start_in(
        self: &Arc<Self>,
        dialog: Option<Dialog>,
        mut request: SipMessage,
    ) -> Result<Transaction, PhoneError> {
        let header = if request.method() == "REGISTER" { "Authorization" } else { "Proxy-Authorization" };
        self.inner.lock().authorize(&self.profile, &mut request, header);
        self.start_as(request, true, dialog)
    }

    /// Sends a request as it is and follows its transaction; a challenge is reported like any other final response.
    pub(super) fn start_plain(self: &Arc<Self>, request: SipMessage) -> Result<Transaction, PhoneError> {
        self.start_as(request, false, None)
    }

    fn start_as(
        self: &Arc<Self>,
        request: SipMessage,
        answers_challenge: bool,
        dialog: Option<Dialog>,
    ) -> Result<Transaction, PhoneError> {
        let bytes = request.to_bytes();
        let key = format!("{} {}", request.branch().unwrap_or(""), request.method());
        let (waiter, responses) = mpsc::channel(64);
        let current = Arc::new(Mutex::new(request));
        let client = Client { current: Arc::clone(&current), waiter, answers_challenge, dialog };
        self.inner.lock().clients.insert(key, client);
        self.transmit(bytes)?;
        Ok(Transaction::new(Arc::clone(self), current, responses))
    }

    /// Where requests inside the dialog (call id, our tag) will come out.
    pub(super) fn open_dialog(&self, call_id: &str, tag: &str) -> mpsc::Receiver<Received> {
        let (sender, requests) = mpsc::channel(64);
        self.inner.lock().dialogs.insert(dialog_key(call_id, tag), sender);
        requests
    }

    pub(super) fn set_purr(&self, purr: Option<String>) {
        self.inner.lock().purr = purr;
    }

    pub(super) fn purr(&self) -> Option<String> {
        self.inner.lock().purr.clone()
    }

    /// Our Contact URI without push parameters, for dialogs (P-105, P-108).
    pub(super) fn contact_uri(&self, local: &str) -> Uri {
        let params = self.profile.transport.uri_param().into_iter().chain([param("ob", None)]);
        Uri { params: params.collect(), ..user_at(&self.profile.user, local) }
    }

    pub(super) fn transcript(&self) -> Vec<u8> {
        self.inner.lock().transcript.clone()
    }

    pub(super) fn invites(&self) -> BTreeMap<String, u32> {
        self.inner.lock().invites.clone()
    }

    pub(super) fn retransmissions(&self) -> u64 {
        self.inner.lock().retransmissions
    }

    pub(super) fn overflow(&self) -> u64 {
        self.inner.lock().overflow
    }
}

impl Inner {
    fn local(&self) -> String {
        self.link.as_ref().map_or_else(|| "phone.invalid".to_owned(), |link| link.local.to_string())
    }

    fn transmit(&self, bytes: Bytes) {
        if let Some(link) = &self.link {
            link.send(bytes);
        }
    }

    fn server_of(&mut self, request: &SipMessage) -> Option<&mut Server> {
        self.servers.get_mut(&format!("{} {}", request.branch().unwrap_or(""), request.method()))
    }

    /// Sends a response and lets its transaction remember it.
    fn answer(&mut self, response: &SipMessage) {
        let bytes = response.to_bytes();
        if let Some(server) = self.server_of(response) {
            server.last = Some(bytes.clone());
            server.answered |= response.code() >= 200;
        }
        self.transmit(bytes);
    }

    /// Adds credentials from the challenge seen last for this header, with the next nonce count.
    fn authorize(&mut self, profile: &Profile, request: &mut SipMessage, header: &'static str) {
        let Some((challenge, count)) = self.challenges.get_mut(header) else { return };
        *count += 1;
        let Profile { auth_user, password, .. } = profile;
        let value = challenge.answer(auth_user, password, request.method(), request.uri(), *count, &new_tag());
        request.put(match header {
            "Authorization" => Header::Authorization(value.into()),
            _ => Header::ProxyAuthorization(value.into()),
        });
    }

    fn has_dialog(&self, request: &SipMessage) -> bool {
        self.dialogs.get(&dialog_key(request.call_id(), request.to_tag().unwrap_or(""))).is_some()
    }

    fn to_dialog(&self, request: &SipMessage, received: Received) {
        let key = dialog_key(request.call_id(), request.to_tag().unwrap_or(""));
        if let Some(dialog) = self.dialogs.get(&key) {
            let _ = dialog.try_send(received);
        }
    }

    /// RFC 3261 §9.2: 200 to the CANCEL, 487 to an INVITE without a final answer.
    fn cancelled(&mut self, cancel: &SipMessage, branch: &str, received: Received) {
        let invite = self.servers.get_mut(&format!("{branch} INVITE"));
        let Some((answered, Some((invite, tag)))) = invite.map(|server| (server.answered, server.invite.clone()))
        else {
            let response = SipMessage::response(cancel, 481, "Call/Transaction Does Not Exist", Some(&new_tag()));
            return self.transmit(response.to_bytes());
        };
        self.transmit(SipMessage::response(cancel, 200, "OK", Some(&tag)).to_bytes());
        if !answered {
            self.answer(&SipMessage::response(&invite, 487, "Request Terminated", Some(&tag)));
            if let Some(dialog) = self.dialogs.get(&dialog_key(invite.call_id(), &tag)) {
                let _ = dialog.try_send(received);
            }
        }
    }
}

fn dialog_key(call_id: &str, local_tag: &str) -> String {
    format!("{local_tag} {call_id}")
}
