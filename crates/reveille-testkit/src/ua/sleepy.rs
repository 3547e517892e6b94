//! A phone that sleeps: it registers, closes its connection, and does everything else because a push told it to.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::PhoneError;
use super::call::IncomingCall;
use super::phone::{Incoming, Phone};

/// How the phone behaves once woken.
#[derive(Clone, Debug)]
pub struct SleepyConfig {
    /// Expiry it asks for, in seconds.
    pub expires: u32,
    /// How it ends a call it answered.
    pub ending: Ending,
    /// How long it stays awake for the request it was woken for, and waits for each step of a call.
    pub patience: Duration,
    /// How long it stays awake after a request was dealt with, for more; zero takes only what is here already.
    pub linger: Duration,
}

impl Default for SleepyConfig {
    fn default() -> Self {
        Self { expires: 3600, ending: Ending::AwaitBye, patience: Duration::from_secs(10), linger: Duration::ZERO }
    }
}

/// Who hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The caller.
    AwaitBye,
    /// The phone, as soon as the call is acknowledged.
    SendBye,
    /// Nobody rings through: the phone refuses with this status.
    Reject(u16),
}

/// A point of the timeline.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it happened.
    pub at: Instant,
    /// What happened.
    pub step: Step,
}

/// What can happen to a sleepy phone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Registered for the first time; the round trip, challenge included.
    Registered {
        /// From the first byte out to the 200.
        latency: Duration,
    },
    /// The connection is closed.
    Asleep,
    /// A push arrived.
    Woken,
    /// Connected again.
    Connected,
    /// The binding is refreshed.
    Reregistered {
        /// From the first byte out to the 200.
        latency: Duration,
    },
    /// A call is here.
    InviteReceived {
        /// Its Call-ID.
        call_id: String,
    },
    /// 180 went out.
    Ringing,
    /// 200 went out, or the refusal.
    Answered {
        /// The status.
        status: u16,
    },
    /// The ACK is here.
    Acked,
    /// The call is over.
    Ended {
        /// The phone hung up.
        by_us: bool,
    },
    /// The caller gave up before the phone answered.
    Cancelled,
    /// A request outside any dialog, answered 200.
    MessageReceived {
        /// Its method.
        method: String,
        /// Its body.
        body: String,
    },
    /// A step failed; the phone goes back to sleep.
    Failed(String),
}

/// A running sleepy phone.
pub struct SleepyPhone {
    /// The timeline as it happens. Bounded: a reader that lags holds the phone up, one that went away does not.
    pub events: mpsc::Receiver<Event>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Phone>,
}

impl SleepyPhone {
    /// Starts the phone; it must have a device.
    pub fn spawn(phone: Phone, config: SleepyConfig) -> Self {
        let (sender, events) = mpsc::channel(1024);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut sleepy = Sleepy { phone, config, events: sender };
            tokio::select! {
                () = sleepy.live() => {}
                _ = stopped => {}
            }
            sleepy.phone
        });
        Self { events, stop, task }
    }

    /// The next event.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn next(&mut self, patience: Duration) -> Result<Event, PhoneError> {
        let event = timeout(patience, self.events.recv()).await.map_err(|_| PhoneError::Timeout("an event"))?;
        event.ok_or(PhoneError::Unexpected("the phone stopped"))
    }

    /// Reads events until one satisfies `wanted`; returns all that were read, that one last.
    ///
    /// # Errors
    /// When it does not come in time, or the phone reports a failure first.
    pub async fn until(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&Step) -> bool,
    ) -> Result<Vec<Event>, PhoneError> {
        let end = Instant::now() + patience;
        let mut seen = Vec::new();
        loop {
            let event = self.next(end.saturating_duration_since(Instant::now())).await?;
            let (done, failed) = (wanted(&event.step), matches!(event.step, Step::Failed(_)));
            seen.push(event);
            if done {
                return Ok(seen);
            }
            if failed {
                return Err(PhoneError::Unexpected("the phone failed a step"));
            }
        }
    }

    /// Stops the phone where it is and returns it, connected or not.
    ///
    /// # Errors
    /// When its task panicked.
    pub async fn stop(self) -> Result<Phone, PhoneError> {
        let _ = self.stop.send(());
        self.task.await.map_err(|_| PhoneError::Unexpected("the phone panicked"))
    }
}

struct Sleepy {
    phone: Phone,
    config: SleepyConfig,
    events: mpsc::Sender<Event>,
}

impl Sleepy {
    async fn live(&mut self) {
        if let Err(error) = self.first_registration().await {
            return self.tell(Step::Failed(error.to_string())).await;
        }
        loop {
            self.phone.sleep().await;
            self.tell(Step::Asleep).await;
            let Some(wake) = self.phone.next_wake().await else { return };
            self.tell_at(wake.at, Step::Woken).await;
            if let Err(error) = self.awake().await {
                self.tell(Step::Failed(error.to_string())).await;
            }
        }
    }

    async fn first_registration(&mut self) -> Result<(), PhoneError> {
        self.phone.connect().await?;
        let (at, latency) = self.register().await?;
        self.tell_at(at, Step::Registered { latency }).await;
        Ok(())
    }

    /// When the 200 arrived, and how long it took.
    async fn register(&mut self) -> Result<(Instant, Duration), PhoneError> {
        let start = Instant::now();
        let received = self.phone.register_timed(self.config.expires).await?;
        match received.message.code() {
            200 => Ok((received.at, received.at.saturating_duration_since(start))),
            _ => Err(PhoneError::Unexpected("the REGISTER was refused")),
        }
    }

    async fn awake(&mut self) -> Result<(), PhoneError> {
        self.phone.connect().await?;
        self.tell(Step::Connected).await;
        let (at, latency) = self.register().await?;
        self.tell_at(at, Step::Reregistered { latency }).await;
        // A refresh push brings nothing after the REGISTER, so nothing is awaited for longer than the patience.
        let mut patience = self.config.patience;
        while let Ok(Some(incoming)) = timeout(patience, self.phone.next_event()).await {
            match incoming {
                Incoming::Call(call) => self.take(*call).await?,
                Incoming::Message(received) => {
                    let method = received.message.method().to_owned();
                    let body = String::from_utf8_lossy(received.message.body()).into_owned();
                    self.tell_at(received.at, Step::MessageReceived { method, body }).await;
                }
            }
            patience = self.config.linger;
        }
        Ok(())
    }

    async fn take(&mut self, mut call: IncomingCall) -> Result<(), PhoneError> {
        let patience = self.config.patience;
        let step = Step::InviteReceived { call_id: call.call_id().to_owned() };
        self.tell_at(call.received_at(), step).await;
        let ringing = Instant::now();
        call.ring()?;
        self.tell_at(ringing, Step::Ringing).await;
        let answering = Instant::now();
        let answered = match self.config.ending {
            Ending::Reject(status) => call.reject(status, "Refused").map(|()| status),
            Ending::AwaitBye | Ending::SendBye => call.answer().map(|()| 200),
        };
        let Ok(status) = answered else {
            // The only final answer given for us is the 487 to a CANCEL.
            self.tell(Step::Cancelled).await;
            return Ok(());
        };
        self.tell_at(answering, Step::Answered { status }).await;
        let ack = call.expect_ack(patience).await?;
        self.tell_at(ack.at, Step::Acked).await;
        match self.config.ending {
            Ending::Reject(_) => {}
            Ending::AwaitBye => {
                let bye = call.expect_bye(patience).await?;
                self.tell_at(bye.at, Step::Ended { by_us: false }).await;
            }
            Ending::SendBye => {
                if call.bye(patience).await?.code() != 200 {
                    return Err(PhoneError::Unexpected("the BYE was refused"));
                }
                self.tell(Step::Ended { by_us: true }).await;
            }
        }
        Ok(())
    }

    async fn tell(&self, step: Step) {
        self.tell_at(Instant::now(), step).await;
    }

    async fn tell_at(&self, at: Instant, step: Step) {
        let _ = self.events.send(Event { at, step }).await;
    }
}
