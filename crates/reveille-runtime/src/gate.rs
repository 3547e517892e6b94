//! The entrance of an actor: a bounded number of requests, never a wait.
//!
//! A ractor mailbox has no bound, so the bound is kept here. A request takes a permit, which rides in the message and frees
//! itself when the handling ends; what finds no permit is given back to the caller, who answers 503 with Retry-After or sheds,
//! by what it was carrying. Results, facts and timers take none ([`Gate::tell`]), so an actor can always finish what it began.

use std::sync::Arc;

use prometheus::IntCounter;
use ractor::{ActorRef, MessagingErr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The entrance of one actor. Cheap to clone.
pub struct Gate<M: Send + 'static> {
    actor: ActorRef<Admitted<M>>,
    permits: Arc<Semaphore>,
    refusals: IntCounter,
}

impl<M: Send + 'static> Gate<M> {
    /// A gate that lets at most `capacity` requests wait or be handled at a time, and counts what it refuses in `refusals`
    /// (`reveille_gate_refusals_total{actor}`, see [`crate::RuntimeMetrics::gate_refusals`]).
    pub fn new(actor: ActorRef<Admitted<M>>, capacity: usize, refusals: IntCounter) -> Self {
        let permits = Arc::new(Semaphore::new(capacity.clamp(1, Semaphore::MAX_PERMITS)));
        Self { actor, permits, refusals }
    }

    /// Sends a request. Never waits.
    ///
    /// # Errors
    /// Gives the message back where the queue is full, and where the actor has stopped.
    pub fn try_send(&self, msg: M) -> Result<(), Refused<M>> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            self.refusals.inc();
            return Err(Refused::Full(msg));
        };
        self.cast(Admitted { msg, _permit: Some(permit) })
    }

    /// Sends a result, a fact or a timer: these are never refused for want of room.
    ///
    /// # Errors
    /// Only where the actor has stopped.
    pub fn tell(&self, msg: M) -> Result<(), Refused<M>> {
        self.cast(Admitted { msg, _permit: None })
    }

    /// How many more requests would be let in at this moment.
    pub fn room(&self) -> usize {
        self.permits.available_permits()
    }

    /// How many requests this gate's counter has seen refused.
    pub fn refused(&self) -> u64 {
        self.refusals.get()
    }

    /// The actor behind the gate.
    pub fn actor(&self) -> &ActorRef<Admitted<M>> {
        &self.actor
    }

    fn cast(&self, admitted: Admitted<M>) -> Result<(), Refused<M>> {
        self.actor.cast(admitted).map_err(|error| {
            self.refusals.inc();
            Refused::stopped(error)
        })
    }
}

impl<M: Send + 'static> Clone for Gate<M> {
    fn clone(&self) -> Self {
        Self { actor: self.actor.clone(), permits: Arc::clone(&self.permits), refusals: self.refusals.clone() }
    }
}

impl<M: Send + 'static> std::fmt::Debug for Gate<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("actor", &self.actor.get_id()).field("room", &self.room()).finish()
    }
}

/// A message and, for a request, the place it holds in the queue. Drop it when the handling ends.
#[derive(Debug)]
pub struct Admitted<M> {
    /// The message itself.
    pub msg: M,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<M> Admitted<M> {
    /// A message that holds no place: for an actor's messages to itself (`send_after`, results of its own tasks).
    pub fn free(msg: M) -> Self {
        Self { msg, _permit: None }
    }
}

/// Why a message was not taken. `Debug` and `Display` never show the message, which may carry secrets.
#[derive(thiserror::Error)]
pub enum Refused<M> {
    /// The queue is full: the caller answers 503 with Retry-After, or sheds.
    #[error("the queue is full")]
    Full(M),
    /// The actor is gone, or is being restarted. The message comes back where the actor system still had it.
    #[error("the actor has stopped")]
    Stopped(Option<M>),
}

impl<M> Refused<M> {
    /// The message, to answer whoever sent it.
    pub fn into_inner(self) -> Option<M> {
        match self {
            Self::Full(msg) => Some(msg),
            Self::Stopped(msg) => msg,
        }
    }

    fn stopped(error: MessagingErr<Admitted<M>>) -> Self {
        match error {
            MessagingErr::SendErr(admitted) => Self::Stopped(Some(admitted.msg)),
            MessagingErr::ChannelClosed | MessagingErr::InvalidActorType => Self::Stopped(None),
        }
    }
}

impl<M> std::fmt::Debug for Refused<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Stopped(_) => "Stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use ractor::{Actor, ActorProcessingErr};
    use tokio::sync::{Notify, mpsc};

    use super::*;

    /// Handles one message per notification, so that a test decides when a place becomes free.
    struct Slow {
        go: Arc<Notify>,
        done: mpsc::UnboundedSender<u32>,
    }

    impl Actor for Slow {
        type Msg = Admitted<u32>;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<Self::Msg>,
            admitted: Admitted<u32>,
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            self.go.notified().await;
            let number = admitted.msg;
            drop(admitted);
            self.done.send(number)?;
            Ok(())
        }
    }

    async fn slow_gate(capacity: usize) -> (Gate<u32>, Arc<Notify>, mpsc::UnboundedReceiver<u32>) {
        let go = Arc::new(Notify::new());
        let (done, finished) = mpsc::unbounded_channel();
        let (actor, _) = Slow::spawn(None, Slow { go: Arc::clone(&go), done }, ()).await.unwrap();
        (Gate::new(actor, capacity, IntCounter::new("refused", "refused").unwrap()), go, finished)
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_gives_the_request_back_and_counts_it() {
        let (gate, go, mut finished) = slow_gate(2).await;
        gate.try_send(1).unwrap();
        gate.try_send(2).unwrap();
        let Err(Refused::Full(3)) = gate.try_send(3) else { panic!("the third had no place") };
        assert_eq!(gate.refused(), 1);

        go.notify_one();
        assert_eq!(finished.recv().await, Some(1));
        gate.try_send(4).unwrap();
        assert_eq!(gate.refused(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn facts_pass_a_full_gate_and_hold_no_place() {
        let (gate, go, mut finished) = slow_gate(1).await;
        gate.try_send(1).unwrap();
        gate.tell(2).unwrap();
        gate.tell(3).unwrap();
        assert_eq!(gate.room(), 0);
        for expected in 1..=3 {
            go.notify_one();
            assert_eq!(finished.recv().await, Some(expected));
        }
        assert_eq!(gate.room(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_actor_returns_the_message() {
        let (gate, _, _finished) = slow_gate(1).await;
        gate.actor().stop_and_wait(None, None).await.unwrap();
        let refused = gate.try_send(7).unwrap_err();
        assert_eq!(format!("{refused:?}: {refused}"), "Stopped: the actor has stopped");
        assert_eq!(refused.into_inner(), Some(7));
        assert_eq!(gate.refused(), 1);
        assert_eq!(gate.room(), 1, "the permit of a refused request is free again");
    }
}
