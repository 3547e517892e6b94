//! Toward the push services: one dispatcher per credential, over pooled HTTP/2, to APNs, FCM, Web Push and
//! webhooks.
//!
//! A registrar shard submits a [`reveille_push::service::PushJob`]; the dispatcher of the credential that serves its target
//! queues it by class, gathers a batch, writes the batch as concurrent streams, repeats what may be repeated within the job's
//! deadline, and gives back exactly one [`reveille_push::service::Outcome`].
//!
//! ```text
//! Services ── Gate ──> Dispatcher (actor: queue, window, breaker) ──> attempt (task) ──> Pool ──> push service
//!     ^ check, announce     ^ Returned                                  |  Provider: route, authorize, request, classify
//!     └── health ───────────┘ <─────────────────────────────────────────┘
//! ```
//!
//! No request leaves without a credential (P-122), and none goes to an address that was not vetted (P-138 to P-141).

mod alarm;
mod apns;
mod attempt;
mod breaker;
mod credential;
mod dispatcher;
mod fcm;
mod metrics;
mod opaque;
mod pool;
mod provider;
mod queue;
mod rate;
mod resolve;
mod services;
mod settings;
mod shared;
mod tls;
mod webhook;
mod webpush;
mod window;

pub use resolve::{BoxFuture, HickoryResolver, Resolver};
pub use services::{Hosting, Services, check, start};
pub use settings::{
    ApnsSettings, DEFAULT_ALLOW_HOSTS, FcmSettings, Limits, Settings, SettingsError, WebPushSettings, WebhookSettings,
};
pub use shared::{Away, InForce, SharedCredentials};
