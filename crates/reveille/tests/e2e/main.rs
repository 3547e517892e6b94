//! Whole nodes over loopback, called and registered with by scripted phones, woken through push services that check every
//! credential. Each test has a lab of its own, so all of them run side by side.
//!
//! A test that is about waking runs once per push service: `wake::answered::apns`, `…::fcm`, `…::webpush`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop where something is not as it should be")]

mod admin;
mod calls;
mod dialogs;
mod failures;
mod flows;
mod forking;
mod refresh;
mod registration;
mod restart;
mod rsip_peer;
mod stage;
mod waiting;
mod wake;
