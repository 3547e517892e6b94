//! Faults of the lab as a whole; what befalls one device's pushes is a [`super::Verdict`].

/// How the lab treats whoever connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listener {
    /// As it should.
    #[default]
    Sound,
    /// Nobody listens: connections are refused.
    Refused,
    /// A connection is closed as soon as it stands.
    Closed,
    /// The certificate comes from an authority that nobody knows.
    UnknownRoot,
    /// The certificate is for another host.
    WrongName,
    /// The answer to a TLS hello is plain HTTP/1.1.
    NoTls,
}

impl Listener {
    /// Its name, as the control port has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::UnknownRoot => "unknown-root",
            Self::WrongName => "wrong-name",
            Self::NoTls => "no-tls",
        }
    }

    /// The reverse of [`Self::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Sound, Self::Refused, Self::Closed, Self::UnknownRoot, Self::WrongName, Self::NoTls]
            .into_iter()
            .find(|one| one.as_str() == name)
    }
}
