//! What the tests of the lab need on the other side: an HTTP/2 client that signs with a library, and a tiny SIP proxy.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod proxy;
pub(crate) mod sender;
