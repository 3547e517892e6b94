//! What an operator decides about the request path. Filled by the binary from its configuration.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use reveille_registrar::aor::Aliases;
use reveille_transaction::TimerConfig;

/// Settings of the request path; shared by all workers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The SIP domains we are registrar for, lower case. The first is the realm's default.
    pub domains: Vec<String>,
    /// Names of domains that stand for others.
    pub aliases: Aliases,
    /// Transaction timers.
    pub timers: TimerConfig,
    /// Transactions a worker holds at most; beyond, new requests get 503 (S-059).
    pub transactions: usize,
    /// Lifetimes and limits of registrations.
    pub registration: RegistrationSettings,
    /// How long requests wait for a phone to wake.
    pub wake: WakeSettings,
    /// Whether a flow on which a REGISTER was authenticated may speak for its user without a challenge for each request (S-156).
    pub trust_registered_flow: bool,
    /// Networks that count as strongly protected without TLS (P-112).
    pub strong_alternative: Vec<IpNet>,
    /// What we call ourselves in `Server`; empty: the header is left out (S-224).
    pub server_header: String,
    /// Seconds for Retry-After in 503, before jitter.
    pub retry_after: u32,
}

/// Lifetimes and limits of registrations, in seconds.
#[derive(Clone, Debug)]
pub struct RegistrationSettings {
    /// Below this (and below an hour), 423 (S-106).
    pub min_expires: u32,
    /// Above this, silently shortened.
    pub max_expires: u32,
    /// Granted when the phone asks for nothing.
    pub default_expires: u32,
    /// The least a push binding may ask for (P-037).
    pub push_min_expires: u32,
    /// Contacts in one REGISTER at most; more is 403 (S-112).
    pub max_contacts: usize,
    /// Push contacts in one REGISTER at most (P-009).
    pub max_push_contacts: usize,
    /// Whether an unsupported push service is refused with 555, or registered without push (P-036).
    pub reject_unsupported_push: bool,
    /// Whether push parameters count that stand among the parameters of the Contact header, outside its brackets (P-010).
    pub header_pn_params: bool,
    /// `Flow-Timer` for phones that use outbound (RFC 5626 §4.4), seconds.
    pub flow_timer: u32,
    /// `sip.pnsreg` for phones that can refresh by themselves (P-027), seconds; above 120.
    pub pnsreg: u32,
    /// The least granted to a phone that can be woken for calls alone, and so not to refresh (P-098); 0 for as much as it asks.
    pub voip_expires: u32,
}

/// How long requests wait, and for what.
#[derive(Clone, Debug)]
pub struct WakeSettings {
    /// Bucket Timer of an INVITE (P-067).
    pub call_wait: Duration,
    /// Bucket Timer of any other request (P-067).
    pub request_wait: Duration,
    /// How long a phone that can be pushed may stay silent on a flow that looks open, before the flow is taken for dead
    /// and the phone is woken (P-054).
    pub flow_patience: Duration,
}

impl Settings {
    /// Whether `host` is one of our domains; hosts compare case-insensitively.
    pub fn is_our_domain(&self, host: &str) -> bool {
        self.domains.iter().any(|d| d.eq_ignore_ascii_case(host))
    }

    /// Whether signalling from `address` is protected by something as strong as TLS (P-112).
    pub fn strongly_protected(&self, address: IpAddr) -> bool {
        self.strong_alternative.iter().any(|net| net.contains(&address))
    }
}
