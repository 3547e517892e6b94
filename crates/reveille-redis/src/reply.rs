//! What a reply means: an answer, a request to come again, or a refusal for good.

use redis::{ServerError, ServerErrorKind, Value};

use crate::config::Endpoint;
use crate::error::CommandError;

/// One reply.
#[derive(Debug)]
pub(crate) enum Reply {
    /// An answer.
    Answer(Value),
    /// The slot lies elsewhere for good.
    Moved(Endpoint),
    /// The slot is being moved; this once, ask there.
    Ask(Endpoint),
    /// The server does not know our functions.
    Unloaded,
    /// The server has no functions, or we may not call them.
    Unsupported,
    /// The server is no master (any more).
    ReadOnly,
    /// The server cannot just now.
    Later,
    /// The server will not.
    Refused(String),
}

impl Reply {
    pub(crate) fn of(value: Value, from: &Endpoint) -> Self {
        match value {
            Value::ServerError(error) => Self::of_error(&error, from),
            answer => Reply::Answer(answer),
        }
    }

    fn of_error(error: &ServerError, from: &Endpoint) -> Self {
        let details = error.details().unwrap_or_default();
        match (error.kind(), error.code()) {
            (Some(ServerErrorKind::Moved), _) => target(details, from).map_or(Reply::Later, Reply::Moved),
            (Some(ServerErrorKind::Ask), _) => target(details, from).map_or(Reply::Later, Reply::Ask),
            (Some(ServerErrorKind::NoScript), _) => Reply::Unloaded,
            (Some(ServerErrorKind::ReadOnly), _) => Reply::ReadOnly,
            (
                Some(
                    ServerErrorKind::BusyLoading
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown,
                ),
                _,
            ) => Reply::Later,
            (_, "OOM" | "BUSY" | "NOREPLICAS" | "MISCONF" | "UNBLOCKED") => Reply::Later,
            (Some(ServerErrorKind::NoPerm), _) if details.contains("fcall") => Reply::Unsupported,
            (_, "ERR") if details.starts_with("Function not found") => Reply::Unloaded,
            (_, "ERR") if details.starts_with("unknown command") && details.to_ascii_lowercase().contains("fcall") => {
                Reply::Unsupported
            }
            (_, code) => Reply::Refused(format!("{code} {details}")),
        }
    }
}

/// `3999 10.0.0.1:6381`; without a host it is the host that answers.
fn target(details: &str, from: &Endpoint) -> Option<Endpoint> {
    let address = details.split_ascii_whitespace().nth(1)?;
    match address.strip_prefix(':') {
        Some(port) => Some(Endpoint::new(from.host.clone(), port.parse().ok()?)),
        None => Endpoint::from_host_port(address),
    }
}

/// Takes values apart that come in an agreed shape.
pub(crate) trait Shape: Sized {
    /// An array.
    fn array(self) -> Result<Vec<Value>, CommandError>;
    /// Octets.
    fn octets(self) -> Result<Vec<u8>, CommandError>;
    /// Text.
    fn text(self) -> Result<String, CommandError> {
        String::from_utf8(self.octets()?).map_err(|_| CommandError::Answer)
    }
    /// A number, as such or as text.
    fn number(self) -> Result<u64, CommandError>;
}

impl Shape for Value {
    fn array(self) -> Result<Vec<Value>, CommandError> {
        match self {
            Value::Array(values) => Ok(values),
            Value::Nil => Ok(Vec::new()),
            _ => Err(CommandError::Answer),
        }
    }

    fn octets(self) -> Result<Vec<u8>, CommandError> {
        match self {
            Value::BulkString(octets) => Ok(octets),
            Value::SimpleString(text) => Ok(text.into_bytes()),
            _ => Err(CommandError::Answer),
        }
    }

    fn number(self) -> Result<u64, CommandError> {
        match self {
            Value::Int(number) => u64::try_from(number).map_err(|_| CommandError::Answer),
            other => other.text()?.parse().map_err(|_| CommandError::Answer),
        }
    }
}

impl Shape for Option<Value> {
    fn array(self) -> Result<Vec<Value>, CommandError> {
        self.ok_or(CommandError::Answer)?.array()
    }

    fn octets(self) -> Result<Vec<u8>, CommandError> {
        self.ok_or(CommandError::Answer)?.octets()
    }

    fn number(self) -> Result<u64, CommandError> {
        self.ok_or(CommandError::Answer)?.number()
    }
}

/// Parts of a refusal by one of our functions: its name, a number, and text.
pub(crate) struct Refusal {
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) text: String,
}

/// Tells a refusal by one of our functions from an answer.
pub(crate) fn refusal(value: Value) -> Result<Result<Value, Refusal>, CommandError> {
    const NAMES: [&[u8]; 6] = [b"FENCED", b"STALE", b"CONFLICT", b"CLAIMED", b"FULL", b"HELD"];
    match value {
        Value::Array(parts) if matches!(parts.first(), Some(Value::BulkString(name)) if NAMES.contains(&name.as_slice())) =>
        {
            let mut parts = parts.into_iter();
            let (name, number) = (parts.next().text()?, parts.next().number()?);
            let text = match parts.next() {
                None => String::new(),
                some => some.text()?,
            };
            Ok(Err(Refusal { name, number, text }))
        }
        answer => Ok(Ok(answer)),
    }
}
