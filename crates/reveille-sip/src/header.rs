//! Header names (RFC 3261 §7.3.3, §20 and the registry).

use wide::u8x16;

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

            /// Every name, long and compact.
            const NAMES: &[(Self, &'static [u8])] =
                &[$((Self::$id, $name.as_bytes()), $((Self::$id, &[$compact]),)?)*];
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
    /// Ours, in answers between nodes.
    Reveille "X-Reveille",
}

impl HeaderId {
    /// The header a name denotes, long or compact, in any case (S-001, S-004).
    pub fn from_name(name: &[u8]) -> Self {
        let (Some(first), Some(last)) = (name.first(), name.last()) else { return Self::Other };
        // At most one name can be in the slot.
        let slot = &SLOTS.1[slot(name.len(), *first, *last, SLOTS.0)];
        match slot.name.get(..name.len()) {
            Some(known) if name.len() == slot.length && name.eq_ignore_ascii_case(known) => slot.id,
            _ => Self::Other,
        }
    }

    /// The header whose name, written as nearly everyone writes it, stands before the first colon, and the length of that
    /// name. `None` says nothing.
    #[inline]
    pub(crate) fn before_colon(line: &[u8; 16]) -> Option<(Self, usize)> {
        let octets = u8x16::new(*line);
        let colon = octets.simd_eq(u8x16::splat(b':')).to_bitmask();
        let length = (u32::from(colon as u16) | 1 << 16).trailing_zeros() as usize;
        let last = line.get(length.wrapping_sub(1))?;
        let slot = &SLOTS.1[slot(length, line[0], *last, SLOTS.0)];
        let same = octets.simd_eq(u8x16::new(slot.begin())).to_bitmask();
        let whole = (1_u32 << length) - 1;
        (slot.length == length && u32::from(same as u16) & whole == whole).then_some((slot.id, length))
    }

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

#[derive(Clone, Copy)]
struct Slot {
    /// Filled up with NUL, which is no character of names.
    name: [u8; 20],
    length: usize,
    id: HeaderId,
}

/// The perfect hash of the names we know and its multiplier, found by the compiler.
static SLOTS: (u32, [Slot; SLOT_COUNT]) = find_slots();

impl Slot {
    const EMPTY: Self = Self { name: [0; 20], length: 0, id: HeaderId::Other };

    #[inline]
    fn begin(&self) -> [u8; 16] {
        self.name.first_chunk().copied().unwrap_or_default()
    }
}

/// Length, first and last letter tell all names apart; the multiplier spreads them so that no two share a slot.
#[inline]
const fn slot(length: usize, first: u8, last: u8, multiplier: u32) -> usize {
    let key = ((length as u32) << 16) | (((first | 0x20) as u32) << 8) | (last | 0x20) as u32;
    (key.wrapping_mul(multiplier) >> 23) as usize
}

const fn find_slots() -> (u32, [Slot; SLOT_COUNT]) {
    let mut multiplier = 0x9e37_79b1_u32;
    'multipliers: loop {
        multiplier = multiplier.wrapping_add(0x85eb_ca76);
        let mut slots = [Slot::EMPTY; SLOT_COUNT];
        let mut at = 0;
        while at < HeaderId::NAMES.len() {
            let (id, name) = HeaderId::NAMES[at];
            at += 1;
            let slot = &mut slots[slot(name.len(), name[0], name[name.len() - 1], multiplier)];
            if slot.length != 0 {
                continue 'multipliers;
            }
            (slot.id, slot.length) = (id, name.len());
            let mut letter = 0;
            while letter < name.len() {
                slot.name[letter] = name[letter];
                letter += 1;
            }
        }
        return (multiplier, slots);
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
