//! Header names (RFC 3261 §7.3.3, §20 and the registry).

macro_rules! headers {
    ($($(#[$doc:meta])* $id:ident $name:literal $($compact:literal)?,)*) => {
        /// A header we have a use for; all others are [`HeaderId::Other`] and keep their name in the message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)] // the variants are the headers' names
        pub enum HeaderId { $($id,)* Other }

        impl HeaderId {
            /// The canonical long name; empty for [`HeaderId::Other`].
            pub fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)* Self::Other => "" }
            }

            /// How many variants there are.
            pub(crate) const COUNT: usize = Self::Other as usize + 1;

            const NAMES: &[(Self, &'static str)] = &[$((Self::$id, $name),)*];

            /// The header a name denotes, long or compact, in any case (S-001, S-004).
            #[inline]
            pub fn from_name(name: &[u8]) -> Self {
                if let [letter] = name {
                    return match letter.to_ascii_lowercase() {
                        $($($compact => Self::$id,)?)*
                        _ => Self::Other,
                    };
                }
                // At most one name can be in the slot; it is compared as nearly everyone writes it first.
                match SLOTS.1.get(slot(name, SLOTS.0)) {
                    Some(Some((id, known)))
                        if is_same(name, known.as_bytes()) || name.eq_ignore_ascii_case(known.as_bytes()) => *id,
                    _ => Self::Other,
                }
            }
        }
    };
}

headers! {
    Via "Via" b'v',
    MaxForwards "Max-Forwards",
    From "From" b'f',
    To "To" b't',
    CallId "Call-ID" b'i',
    CSeq "CSeq",
    Contact "Contact" b'm',
    ContentLength "Content-Length" b'l',
    Expires "Expires",
    Authorization "Authorization",
    Supported "Supported" b'k',
    Route "Route",
    RecordRoute "Record-Route",
    UserAgent "User-Agent",
    Allow "Allow",
    ContentType "Content-Type" b'c',
    ProxyAuthorization "Proxy-Authorization",
    Path "Path",
    Require "Require",
    ProxyRequire "Proxy-Require",
    Unsupported "Unsupported",
    MinExpires "Min-Expires",
    WwwAuthenticate "WWW-Authenticate",
    ProxyAuthenticate "Proxy-Authenticate",
    FeatureCaps "Feature-Caps",
    FlowTimer "Flow-Timer",
    ServiceRoute "Service-Route",
    Event "Event" b'o',
    AllowEvents "Allow-Events" b'u',
    Reason "Reason",
    RetryAfter "Retry-After",
    Timestamp "Timestamp",
    MaxBreadth "Max-Breadth",
    Date "Date",
    Subject "Subject" b's',
    Server "Server",
    SessionExpires "Session-Expires" b'x',
    Accept "Accept",
    ReferTo "Refer-To" b'r',
    ReferredBy "Referred-By" b'b',
    ContentEncoding "Content-Encoding" b'e',
    AcceptContact "Accept-Contact" b'a',
    RejectContact "Reject-Contact" b'j',
    RequestDisposition "Request-Disposition" b'd',
    Identity "Identity" b'y',
    RAck "RAck",
    RSeq "RSeq",
    Warning "Warning",
}

impl HeaderId {
    /// A bit of its own.
    pub(crate) const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// Whether a second line or value of this header is a fault (RFC 3261 §7.3.1, §20; S-013).
    pub fn is_single(self) -> bool {
        matches!(
            self,
            Self::From
                | Self::To
                | Self::CallId
                | Self::CSeq
                | Self::MaxForwards
                | Self::ContentLength
                | Self::ContentType
                | Self::Expires
                | Self::Timestamp
        )
    }
}

// Each header has a bit of its own.
const _: () = assert!(HeaderId::COUNT <= 64);

const SLOT_COUNT: usize = 512;

type Slots = [Option<(HeaderId, &'static str)>; SLOT_COUNT];

/// The perfect hash of the names we know and its multiplier, found by the compiler.
static SLOTS: (u32, Slots) = find_slots();

/// Length, first and last letter tell all names apart; the multiplier spreads them so that no two share a slot.
const fn slot(name: &[u8], multiplier: u32) -> usize {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return SLOT_COUNT };
    let key = ((name.len() as u32) << 16) | (((*first | 0x20) as u32) << 8) | (*last | 0x20) as u32;
    (key.wrapping_mul(multiplier) >> 23) as usize
}

const fn find_slots() -> (u32, Slots) {
    let mut multiplier = 0x9e37_79b1_u32;
    loop {
        let mut slots: Slots = [None; SLOT_COUNT];
        let mut at = 0;
        while at < HeaderId::NAMES.len() {
            let (id, name) = HeaderId::NAMES[at];
            let slot = slot(name.as_bytes(), multiplier);
            if slots[slot].is_some() {
                break;
            }
            slots[slot] = Some((id, name));
            at += 1;
        }
        if at == HeaderId::NAMES.len() {
            return (multiplier, slots);
        }
        multiplier = multiplier.wrapping_add(0x85eb_ca76);
    }
}

/// Whether two names are the same to the letter, compared in words that may overlap.
#[inline]
fn is_same(name: &[u8], known: &[u8]) -> bool {
    name.len() == known.len()
        && match (name.first_chunk::<8>(), known.first_chunk::<8>()) {
            (Some(a), Some(b)) if name.len() <= 16 => {
                u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b) && name.last_chunk::<8>() == known.last_chunk::<8>()
            }
            (None, None) => match (name.first_chunk::<4>(), known.first_chunk::<4>()) {
                (Some(a), Some(b)) => a == b && name.last_chunk::<4>() == known.last_chunk::<4>(),
                _ => name.first_chunk::<2>() == known.first_chunk::<2>() && name.last() == known.last(),
            },
            _ => name == known,
        }
}

/// Why a header could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The header is not there.
    #[error("{} is missing", .0.name())]
    Missing(HeaderId),
    /// Its value breaks the grammar.
    #[error("{} is malformed", .0.name())]
    Malformed(HeaderId),
    /// It is there more than once.
    #[error("{} is there more than once", .0.name())]
    Duplicate(HeaderId),
}
