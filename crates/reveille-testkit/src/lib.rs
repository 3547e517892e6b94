//! Scripted SIP phones and a lab push service; serves the tests, the demo and the load tests.
//!
//! [`pns`] is a push service on the loopback interface that speaks APNs, FCM and Web Push over HTTP/2 and TLS, checks every
//! credential as strictly as the real ones and can be told to misbehave. [`ua`] holds SIP phones that register, sleep, wake,
//! call and answer. [`sipp`] runs the SIPp program, and [`redis`] runs redis-servers. None of it shares code with the product, so
//! that a mistake in the product's parser, digest or JWT code is seen rather than mirrored.

pub mod ca;
pub mod pns;
pub mod port;
pub mod redis;
pub mod sipp;
pub mod ua;
