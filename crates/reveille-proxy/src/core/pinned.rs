//! Requests whose credentials are good if their nonce belongs to this node: they wait until that is known (S-147), in their server
//! transaction, so that copies are absorbed and a CANCEL finds them. Only the first use of a nonce waits, and only among several nodes.

use reveille_registrar::shard::WorkerRef;
use reveille_sip::message::Message;
use reveille_transaction::ServerId;

use super::{
    Core, Now,
    context::{Origin, Work},
    reply::Reply,
};
use crate::auth::{Pin, Unpinned};

impl Core {
    /// Asks where the nonce of a request belongs; the request goes on with [`Self::pinned`].
    pub(super) fn hold(&mut self, now: Now, server: ServerId, message: Message, origin: &Origin, nonce: Unpinned) {
        let shared = self.shared.clone();
        let (Some(pins), Some(auth)) = (&shared.pins, &shared.auth) else {
            // Nobody to ask, as when all are away.
            if let Some(auth) = &shared.auth {
                auth.pinned(now.unix, nonce, Pin::Unknown);
            }
            return self.request(now, server, message, origin);
        };
        let work = Work::Pinning(Box::new(message.clone()));
        let context = self.open_context(server, origin, message.method(), now, work);
        let to = WorkerRef { worker: self.worker, context };
        pins.ask(to, nonce, auth.life(now.unix, nonce));
    }

    /// Takes word of where a nonce belongs: whoever waited for it is judged again.
    pub fn pinned(&mut self, now: Now, context: u64, nonce: Unpinned, pin: Pin) {
        if let Some(auth) = &self.shared.auth {
            auth.pinned(now.unix, nonce, pin);
        }
        let held = self.contexts.get_mut(&context).and_then(|context| {
            match std::mem::replace(&mut context.work, Work::Answered) {
                Work::Pinning(message) => Some((context.server, context.origin, *message)),
                work => {
                    context.work = work;
                    None
                }
            }
        });
        let Some((server, origin, message)) = held else { return };
        self.forget_if_over(context);
        self.request(now, server, message, &origin);
        self.settle(now, None);
    }

    /// The caller took back what waits: it is answered at once, and nobody is asked to be woken for it.
    pub(super) fn cancel_held(&mut self, now: Now, id: u64) {
        let held = self.contexts.get_mut(&id).and_then(|context| match &context.work {
            Work::Pinning(message) => Some((**message).clone()),
            _ => None,
        });
        if let Some(message) = held {
            self.answer(now, id, &message, Reply::new(487));
        }
    }
}
