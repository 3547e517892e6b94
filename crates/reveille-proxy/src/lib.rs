//! The request path: validate, authenticate, route, fork, park, forward.
//!
//! [`core::Core`] is the whole of it as a deterministic value, one per worker; [`worker`] feeds it. It reaches the world
//! through four ports: [`egress::Flows`] (connections), [`home::Homes`] (owners of addresses-of-record), [`peers::Peers`] (other
//! nodes) and [`reveille_push::service::PushServices`].

pub mod auth;
pub mod core;
pub mod egress;
pub mod home;
pub mod ingress;
pub mod metrics;
pub mod mistakes;
pub mod peers;
pub mod settings;
pub mod worker;
