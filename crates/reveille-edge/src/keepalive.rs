//! STUN keep-alives on a SIP datagram socket (RFC 5626 §4.4.2, §8; S-126): told apart by the magic cookie, answered with the
//! address the request came from. Keep-alives of streams are CRLFs, which the framer reports; those that we send ourselves, to
//! other nodes, are timed here.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

/// Keep-alives on a connection to another node (RFC 5626 §4.4.1): sent at a steady pace, whatever else is sent, for the other
/// side listens for them; and answered by anything, for all that matters is that something still comes.
#[derive(Debug)]
pub(crate) struct Pulse {
    every: Duration,
    patience: Duration,
    next: Instant,
    /// When the first keep-alive was sent since something was heard.
    unanswered: Option<Instant>,
}

/// What is due on a connection to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing yet.
    Rest,
    /// A keep-alive is to be sent.
    Ping,
    /// The other side is gone.
    Dead,
}

impl Pulse {
    pub(crate) fn new(now: Instant, every: Duration, patience: Duration) -> Self {
        Self { every, patience, next: now + every, unanswered: None }
    }

    /// Something was heard.
    pub(crate) fn heard(&mut self) {
        self.unanswered = None;
    }

    /// When to ask [`Pulse::beat`] again.
    pub(crate) fn deadline(&self) -> Instant {
        self.unanswered.map_or(self.next, |since| self.next.min(since + self.patience))
    }

    /// What is due. A keep-alive counts as sent.
    pub(crate) fn beat(&mut self, now: Instant) -> Beat {
        if self.unanswered.is_some_and(|since| now >= since + self.patience) {
            return Beat::Dead;
        }
        if now < self.next {
            return Beat::Rest;
        }
        // From now, and not from when it was due: after a pause of ours none is made up for.
        self.next = now + self.every;
        self.unanswered.get_or_insert(now);
        Beat::Ping
    }
}

/// What a datagram is, by its first octets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Datagram {
    /// Nothing but keep-alive filler: swallowed.
    Filler,
    /// STUN: the answer, where one is due.
    Stun(Option<StunAnswer>),
    /// Anything else, to be read as SIP.
    Sip,
}

/// A Binding success response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StunAnswer {
    octets: [u8; 44],
    len: usize,
}

impl AsRef<[u8]> for StunAnswer {
    fn as_ref(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
}

/// Sorts a datagram that came from `remote`.
pub(crate) fn sort(datagram: &[u8], remote: SocketAddr) -> Datagram {
    // No SIP message is that short; and phones send CRLFs and NULs to keep a NAT binding open.
    if datagram.len() <= 4 || datagram.iter().all(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
        return Datagram::Filler;
    }
    let is_stun = datagram.first().is_some_and(|octet| octet & 0xC0 == 0) && datagram.get(4..8) == Some(&COOKIE);
    if is_stun { Datagram::Stun(answer(datagram, remote)) } else { Datagram::Sip }
}

/// Answers a Binding request; everything else is left unanswered, errors included, since an error response to a forged
/// source serves nobody (S-233).
fn answer(request: &[u8], remote: SocketAddr) -> Option<StunAnswer> {
    let (head, attributes) = request.split_first_chunk::<20>()?;
    let (kind, rest) = head.split_first_chunk::<2>()?;
    let (length, transaction) = rest.split_first_chunk::<2>()?;
    if *kind != BINDING_REQUEST
        || usize::from(u16::from_be_bytes(*length)) != attributes.len()
        || !understood(attributes)
    {
        return None;
    }
    // `transaction` is the cookie and the transaction id, which is also what an IPv6 address is combined with (RFC 5389 §15.2).
    let mut octets = [0_u8; 44];
    let port = remote.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    let (family, ip): (u8, &[u8]) = match remote.ip() {
        IpAddr::V4(ip) => (1, &ip.octets()),
        IpAddr::V6(ip) => (2, &ip.octets()),
    };
    let value_len = 4 + ip.len();
    let fields: [&[u8]; 7] = [
        &BINDING_SUCCESS,
        &u16::try_from(4 + value_len).ok()?.to_be_bytes(),
        transaction,
        &XOR_MAPPED_ADDRESS.to_be_bytes(),
        &u16::try_from(value_len).ok()?.to_be_bytes(),
        &[0, family],
        &port.to_be_bytes(),
    ];
    let mut len = 0;
    for octet in fields.into_iter().flatten().copied().chain(ip.iter().zip(transaction).map(|(a, b)| a ^ b)) {
        *octets.get_mut(len)? = octet;
        len += 1;
    }
    Some(StunAnswer { octets, len })
}

/// Whether the attributes are well-formed and none of them must be understood yet is unknown (RFC 5389 §7.3.1).
fn understood(mut attributes: &[u8]) -> bool {
    while !attributes.is_empty() {
        let Some((head, rest)) = attributes.split_first_chunk::<4>() else { return false };
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let padded = usize::from(u16::from_be_bytes([head[2], head[3]])).next_multiple_of(4);
        let Some(rest) = rest.get(padded..) else { return false };
        if kind < 0x8000 && !KNOWN_ATTRIBUTES.contains(&kind) {
            return false;
        }
        attributes = rest;
    }
    true
}

const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// USERNAME, MESSAGE-INTEGRITY, REALM, NONCE: RFC 5626 §8 has the server neither ask for nor check credentials.
const KNOWN_ATTRIBUTES: [u16; 4] = [0x0006, 0x0008, 0x0014, 0x0015];

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 5626 §4.4.1: between two nodes a silence ends in a bounded time, from whenever it begins.
    #[tokio::test(start_paused = true)]
    async fn a_pulse_stops_when_nothing_comes_back() {
        let millis = Duration::from_millis;
        for silent_from in [0, 400, 1_750, 9_999] {
            let start = Instant::now();
            let mut pulse = Pulse::new(start, millis(500), millis(1_000));
            let mut pings = 0;
            let dead = loop {
                let now = pulse.deadline();
                // The other side answers what reaches it, at once.
                match pulse.beat(now) {
                    Beat::Ping if now < start + millis(silent_from) => pulse.heard(),
                    Beat::Ping => pings += 1,
                    Beat::Rest => panic!("asked at {now:?} for nothing"),
                    Beat::Dead => break now,
                }
            };
            let silence = dead - (start + millis(silent_from));
            assert!(silence >= millis(1_000) && silence <= millis(1_500), "{silent_from}: {silence:?}");
            assert_eq!(pings, 2, "{silent_from}");
        }
    }

    // What this process slept through is no silence of the other's: whatever came meanwhile is read first.
    #[tokio::test(start_paused = true)]
    async fn a_pulse_survives_a_pause_of_our_own() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, Duration::from_millis(500), Duration::from_secs(1));
        assert_eq!(pulse.beat(pulse.deadline()), Beat::Ping);
        let late = start + Duration::from_secs(60);
        pulse.heard();
        assert_eq!((pulse.beat(late), pulse.beat(late)), (Beat::Ping, Beat::Rest), "one, and not a hundred");
        assert_eq!(pulse.deadline(), late + Duration::from_millis(500));
    }

    fn request(attributes: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 1];
        out.extend_from_slice(&u16::try_from(attributes.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&COOKIE);
        // The transaction id of RFC 5769 §2.
        out.extend_from_slice(&[0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);
        out.extend_from_slice(attributes);
        out
    }

    fn answered(datagram: &[u8], remote: &str) -> Option<Vec<u8>> {
        match sort(datagram, remote.parse().unwrap()) {
            Datagram::Stun(answer) => answer.map(|a| a.as_ref().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    // S-126, with the mapped addresses of the test vectors of RFC 5769 §2.2 and §2.3.
    #[test]
    fn s126_binding_request_is_answered_with_xor_mapped_address() {
        let v4 = answered(&request(&[]), "192.0.2.1:32853").unwrap();
        assert_eq!(v4[..4], [1, 1, 0, 12]);
        assert_eq!(v4[4..20], request(&[])[4..20]);
        assert_eq!(v4[20..], [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let v6 = answered(&request(&[]), "[2001:db8:1234:5678:11:2233:4455:6677]:32853").unwrap();
        assert_eq!(v6[..4], [1, 1, 0, 24]);
        assert_eq!(
            v6[20..],
            [
                0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc,
                0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9
            ]
        );
    }

    // S-126, S-233: what is not an answerable Binding request gets nothing.
    #[test]
    fn s126_s233_odd_stun_is_not_answered() {
        let mut indication = request(&[]);
        indication[1] = 0x11;
        let mut success = request(&[]);
        success[0] = 1;
        let mut short = request(&[]);
        short[3] = 4;
        let unknown_required = request(&[0x00, 0x77, 0, 0]);
        let cut_attribute = request(&[0x80, 0x22, 0, 9, 1, 2, 3, 4]);
        for datagram in [indication, success, short, unknown_required, cut_attribute, request(&[])[..19].to_vec()] {
            assert_eq!(answered(&datagram, "192.0.2.1:5060"), None, "{datagram:?}");
        }
        // SOFTWARE is optional, USERNAME known.
        assert!(answered(&request(&[0x80, 0x22, 0, 3, b'a', b'b', b'c', 0, 0, 6, 0, 0]), "192.0.2.1:5060").is_some());
    }

    // S-126: short and empty datagrams are swallowed.
    #[test]
    fn s126_filler_is_swallowed_and_sip_is_not() {
        let cases: [(&[u8], Datagram); 7] = [
            (b"", Datagram::Filler),
            (b"\0\0\0\0", Datagram::Filler),
            (b"\r\n\r\n", Datagram::Filler),
            (b"\r\n\r\n\r\n", Datagram::Filler),
            (b"jaK", Datagram::Filler),
            (b"OPTIONS sip:a SIP/2.0\r\n\r\n", Datagram::Sip),
            (b"\0\0\0\0\0\0\0\x01", Datagram::Sip),
        ];
        for (octets, want) in cases {
            assert_eq!(sort(octets, "192.0.2.1:5060".parse().unwrap()), want, "{octets:?}");
        }
    }
}
