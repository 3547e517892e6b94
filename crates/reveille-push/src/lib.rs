//! RFC 8599 vocabulary and the wake-up machine. No runtime.
//!
//! * [`target`] reads push parameters from a Contact URI and removes them again; [`escape`] is their wire encoding.
//! * [`apns_param`], [`fcm`] and [`webpush`] know what each provider's `pn-param` and `pn-prid` mean.
//! * [`caps`] writes and reads the Feature-Caps indicators.
//! * [`wakeup`] is the machine that wakes one sleeping binding for everything that waits on it.
//! * [`service`] is the port to whoever sends the pushes.
//!
//! Nothing here reads a clock, opens a socket or prints a token.

pub mod apns_param;
pub mod caps;
pub mod escape;
pub mod fcm;
pub mod provider;
pub mod secret;
pub mod service;
pub mod strip;
pub mod target;
pub mod wakeup;
pub mod webpush;

pub use provider::{Provider, WebhookName};
pub use secret::Secret;
pub use service::{Outcome, PushClass, PushJob, PushServices, Ticket, Unsupported};
pub use target::{ContactPush, InvalidPush, PushTarget};
pub use wakeup::{WaiterId, WakeFailure, Wakeup};
