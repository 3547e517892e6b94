//! A client transaction as the phone waits on it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::PhoneError;
use super::agent::Agent;
use super::profile::Received;
use super::wire::SipMessage;

/// T1 of RFC 3261 §17: the first retransmission interval over UDP.
const T1: Duration = Duration::from_millis(500);
/// The longest interval between retransmissions.
const T2: Duration = Duration::from_secs(4);

/// A request that was sent, and its responses. Over UDP the request is repeated while someone waits for a response.
pub(super) struct Transaction {
    agent: Arc<Agent>,
    current: Arc<Mutex<SipMessage>>,
    responses: mpsc::Receiver<Received>,
    heard: bool,
}

impl Transaction {
    pub(super) fn new(agent: Arc<Agent>, current: Arc<Mutex<SipMessage>>, responses: mpsc::Receiver<Received>) -> Self {
        Self { agent, current, responses, heard: false }
    }

    /// The request as it was sent last.
    pub(super) fn request(&self) -> SipMessage {
        self.current.lock().clone()
    }

    /// The next response, provisional or final.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Received, PhoneError> {
        let end = Instant::now() + patience;
        let mut interval = T1;
        loop {
            let settled = self.heard && self.current.lock().method() == "INVITE";
            let repeat = !self.agent.profile.transport.is_reliable() && !settled;
            let wake = if repeat { end.min(Instant::now() + interval) } else { end };
            match timeout_at(wake, self.responses.recv()).await {
                Ok(Some(received)) => {
                    self.heard = true;
                    return Ok(received);
                }
                Ok(None) => return Err(PhoneError::NotConnected),
                Err(_) if Instant::now() >= end => return Err(PhoneError::Timeout("a response")),
                Err(_) => {
                    interval = (interval * 2).min(T2);
                    let bytes = self.current.lock().to_bytes();
                    self.agent.transmit(bytes)?;
                }
            }
        }
    }

    /// A response that is here already.
    pub(super) fn try_next(&mut self) -> Option<Received> {
        self.responses.try_recv().ok()
    }

    /// The final response; provisionals are let pass.
    pub(super) async fn last(&mut self, patience: Duration) -> Result<Received, PhoneError> {
        let end = Instant::now() + patience;
        loop {
            let received = self.next(end.saturating_duration_since(Instant::now())).await?;
            if received.message.code() >= 200 {
                return Ok(received);
            }
        }
    }
}
