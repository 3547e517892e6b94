//! SIP bytes to meaning and back: framing, index, typed headers, splicing. No runtime.
//!
//! Wire text is cut by [`frame`], indexed once by [`message`], read on demand through [`typed`] and [`uri`], judged by
//! [`validate`], forwarded by [`edit`] and answered by [`response`]. `rsip` is the vocabulary for locally made messages.

pub mod edit;
pub mod frame;
pub mod header;
pub mod limits;
pub mod message;
pub mod method;
pub mod redact;
pub mod response;
mod scan;
pub mod split;
pub mod typed;
pub mod uri;
pub mod validate;

pub use rsip;
