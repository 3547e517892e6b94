//! Request methods.

/// A method of RFC 3261 or one of its extensions. Copy, since the name of an extension method stays in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the variants are the methods' names
pub enum Method {
    Invite,
    Ack,
    Cancel,
    Bye,
    Register,
    Options,
    Prack,
    Update,
    Info,
    Refer,
    Subscribe,
    Notify,
    Message,
    Publish,
    /// A method we have no rules for; see `Message::method_name`.
    Extension,
}

impl Method {
    /// The method a token names; methods compare case-sensitively (RFC 3261 §7.1).
    pub fn from_token(token: &str) -> Self {
        Self::from_octets(token.as_bytes())
    }

    pub(crate) fn from_octets(token: &[u8]) -> Self {
        match token {
            b"INVITE" => Self::Invite,
            b"ACK" => Self::Ack,
            b"CANCEL" => Self::Cancel,
            b"BYE" => Self::Bye,
            b"REGISTER" => Self::Register,
            b"OPTIONS" => Self::Options,
            b"PRACK" => Self::Prack,
            b"UPDATE" => Self::Update,
            b"INFO" => Self::Info,
            b"REFER" => Self::Refer,
            b"SUBSCRIBE" => Self::Subscribe,
            b"NOTIFY" => Self::Notify,
            b"MESSAGE" => Self::Message,
            b"PUBLISH" => Self::Publish,
            _ => Self::Extension,
        }
    }

    /// The token; empty for [`Method::Extension`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Cancel => "CANCEL",
            Self::Bye => "BYE",
            Self::Register => "REGISTER",
            Self::Options => "OPTIONS",
            Self::Prack => "PRACK",
            Self::Update => "UPDATE",
            Self::Info => "INFO",
            Self::Refer => "REFER",
            Self::Subscribe => "SUBSCRIBE",
            Self::Notify => "NOTIFY",
            Self::Message => "MESSAGE",
            Self::Publish => "PUBLISH",
            Self::Extension => "",
        }
    }

    /// Whether a 2xx to an initial request of this method makes a dialog (RFC 3261 §12.1, RFC 6665 §4.1, RFC 3515 §2.4.4).
    pub fn forms_dialog(self) -> bool {
        matches!(self, Self::Invite | Self::Subscribe | Self::Refer)
    }
}

impl From<rsip::Method> for Method {
    fn from(method: rsip::Method) -> Self {
        Self::from_token(&method.to_string())
    }
}
