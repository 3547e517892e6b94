//! The Reveille SIP push proxy and registrar: configuration, wiring, admin port, operator verbs.
//!
//! The binary is a thin shell over this library, so that tests and the demo start whole nodes in their own process.

pub mod admin;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod lab;
pub mod lab_pns;
pub mod node;
pub mod operator;
pub mod shutdown;

/// Messages and records are many small, short-lived pieces made on one thread and dropped on another, which the system's
/// allocator pays for with time and with memory that it keeps (`docs/performance.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
