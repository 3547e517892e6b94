//! What every actor and every task shares: gates, supervision, the deadline queue, the clock, telemetry.
//!
//! Nothing here knows SIP or push. The crates above take from it the few mechanisms that must behave alike everywhere: how a
//! queue is bounded ([`gate`]), how a fault is survived ([`supervise`]), how timers are kept ([`deadline`]), how the time is
//! read ([`clock`]), and how the process is seen from outside ([`telemetry`], [`metrics`]).

pub mod clock;
pub mod deadline;
pub mod gate;
pub mod metrics;
pub mod supervise;
pub mod telemetry;

pub use deadline::DeadlineQueue;
pub use gate::{Admitted, Gate, Refused};
pub use metrics::RuntimeMetrics;
pub use supervise::{Child, Fatal, FatalWatch, RestartPolicy, Supervisor};
