//! Keys from files, and the tokens signed with them.

mod access;
mod apple;
mod cluster;
mod jwt;
mod keys;
mod vapid;

pub(crate) use self::{
    access::AccessTokens,
    apple::ProviderTokens,
    keys::{ServiceAccount, p256_key, read},
    vapid::Vapid,
};
