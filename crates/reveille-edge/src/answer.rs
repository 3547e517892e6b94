//! Answers that the edge gives by itself, before the proxy has seen a request.

use std::net::SocketAddr;

use bytes::Bytes;
use rand::Rng;
use reveille_sip::{header::HeaderId, message::Message, method::Method, response::ResponseBuilder};

use crate::settings::LimitsSettings;

/// The 503 for a request that the proxy had no room for (S-220); nothing for responses and ACKs, which are never answered.
pub(crate) fn overloaded(message: &Message, remote: SocketAddr, limits: &LimitsSettings) -> Option<Bytes> {
    if !message.is_request() || message.method() == Method::Ack {
        return None;
    }
    // Jittered, lest everybody comes back at once.
    let longest = limits.retry_after_max.max(limits.retry_after_min);
    let seconds = rand::rng().random_range(limits.retry_after_min..=longest);
    // RFC 3261 §8.2.6.2: a final answer carries a tag.
    let tag = format!("{:016x}", rand::random::<u64>());
    let mut response = ResponseBuilder::to(message, 503).to_tag(&tag).header(HeaderId::RetryAfter, seconds.to_string());
    if let Some((received, rport)) = source(message, remote) {
        response = response.received(received, rport);
    }
    Some(response.build())
}

/// What to add to the top Via (S-087): `received` where the source is not the sent-by host, and always with `rport`, which is
/// filled where it was asked for.
fn source(message: &Message, remote: SocketAddr) -> Option<(std::net::IpAddr, Option<u16>)> {
    let via = message.top_via().ok()?;
    let wants_rport = via.rport().is_some();
    let sent_by = via.host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    (wants_rport || sent_by != Some(remote.ip())).then(|| (remote.ip(), wants_rport.then(|| remote.port())))
}

/// Where the answer to a datagram goes (RFC 3261 §18.2.2, RFC 3581 §4): back to the source port with `rport`, else to the
/// port of sent-by. Always to the source host: an answer of ours must not be aimed at others through `maddr`.
pub(crate) fn datagram_target(message: &Message, remote: SocketAddr) -> SocketAddr {
    match message.top_via() {
        Ok(via) if via.rport().is_none() => SocketAddr::new(remote.ip(), via.port.unwrap_or(5060)),
        _ => remote,
    }
}
