//! Reading what a decision needs, when it needs it.

use smallvec::SmallVec;

use super::Message;
use crate::{
    header::{HeaderError, HeaderId},
    typed::{CSeq, NameAddr, Via},
};

/// The Contacts of a message.
#[derive(Clone, Debug)]
pub enum Contacts<'a> {
    /// There is no Contact.
    None,
    /// `Contact: *` and nothing else.
    Wildcard,
    /// One or more addresses.
    List(SmallVec<[NameAddr<'a>; 2]>),
}

impl Message {
    /// The value of a header that must be there.
    fn required(&self, id: HeaderId) -> Result<&str, HeaderError> {
        match self.value(id) {
            Some(value) => Ok(value),
            None if self.has(id) => Err(HeaderError::Malformed(id)),
            None => Err(HeaderError::Missing(id)),
        }
    }

    /// Call-ID.
    ///
    /// # Errors
    /// When it is missing or empty.
    pub fn call_id(&self) -> Result<&str, HeaderError> {
        let value = self.required(HeaderId::CallId)?;
        if value.is_empty() || crate::split::has_white_space(value) {
            return Err(HeaderError::Malformed(HeaderId::CallId));
        }
        Ok(value)
    }

    /// From.
    ///
    /// # Errors
    /// When it is missing or breaks the grammar.
    pub fn from(&self) -> Result<NameAddr<'_>, HeaderError> {
        NameAddr::parse(self.required(HeaderId::From)?).map_err(|()| HeaderError::Malformed(HeaderId::From))
    }

    /// To.
    ///
    /// # Errors
    /// When it is missing or breaks the grammar.
    pub fn to(&self) -> Result<NameAddr<'_>, HeaderError> {
        NameAddr::parse(self.required(HeaderId::To)?).map_err(|()| HeaderError::Malformed(HeaderId::To))
    }

    /// The tag of From.
    pub fn from_tag(&self) -> Option<&str> {
        self.from().ok()?.tag()
    }

    /// The tag of To.
    pub fn to_tag(&self) -> Option<&str> {
        self.to().ok()?.tag()
    }

    /// CSeq.
    ///
    /// # Errors
    /// When it is missing, breaks the grammar, or its number is out of range (S-012).
    pub fn cseq(&self) -> Result<CSeq<'_>, HeaderError> {
        CSeq::parse(self.required(HeaderId::CSeq)?).ok_or(HeaderError::Malformed(HeaderId::CSeq))
    }

    /// The topmost Via value.
    ///
    /// # Errors
    /// When there is none or it breaks the grammar.
    pub fn top_via(&self) -> Result<Via<'_>, HeaderError> {
        let line = self.required(HeaderId::Via)?;
        let first = crate::split::outside_quotes(line, b',').next().unwrap_or("");
        Via::parse(first).ok_or(HeaderError::Malformed(HeaderId::Via))
    }

    /// All Via values, top first.
    pub fn vias(&self) -> impl Iterator<Item = Result<Via<'_>, HeaderError>> {
        self.values(HeaderId::Via).map(|v| Via::parse(v).ok_or(HeaderError::Malformed(HeaderId::Via)))
    }

    /// The Contacts.
    ///
    /// # Errors
    /// When one breaks the grammar, or `*` is not alone (S-104).
    pub fn contacts(&self) -> Result<Contacts<'_>, HeaderError> {
        if !self.has(HeaderId::Contact) {
            return Ok(Contacts::None);
        }
        let mut list = SmallVec::new();
        let mut wildcard = false;
        for value in self.values(HeaderId::Contact) {
            if value == "*" {
                wildcard = true;
                continue;
            }
            list.push(NameAddr::parse(value).map_err(|()| HeaderError::Malformed(HeaderId::Contact))?);
        }
        match (wildcard, list.is_empty()) {
            (true, true) if self.values(HeaderId::Contact).count() == 1 => Ok(Contacts::Wildcard),
            (true, _) => Err(HeaderError::Malformed(HeaderId::Contact)),
            (false, true) => Err(HeaderError::Malformed(HeaderId::Contact)),
            (false, false) => Ok(Contacts::List(list)),
        }
    }

    /// Max-Forwards.
    ///
    /// # Errors
    /// When it is no number up to 255.
    pub fn max_forwards(&self) -> Result<Option<u8>, HeaderError> {
        let malformed = HeaderError::Malformed(HeaderId::MaxForwards);
        let Some(line) = self.index().first_line(HeaderId::MaxForwards) else { return Ok(None) };
        let hops = crate::frame::digits(self.raw(line.value)).ok_or(malformed)?;
        u8::try_from(hops).map(Some).map_err(|_| malformed)
    }

    /// Expires, in seconds; `None` where it is absent or no number (S-105).
    pub fn expires(&self) -> Option<u32> {
        crate::typed::delta_seconds(self.value(HeaderId::Expires)?)
    }

    /// The Route values, top first.
    pub fn routes(&self) -> impl Iterator<Item = Result<NameAddr<'_>, HeaderError>> {
        self.addresses(HeaderId::Route)
    }

    /// The Record-Route values, top first.
    pub fn record_routes(&self) -> impl Iterator<Item = Result<NameAddr<'_>, HeaderError>> {
        self.addresses(HeaderId::RecordRoute)
    }

    /// The Path values, top first.
    pub fn paths(&self) -> impl Iterator<Item = Result<NameAddr<'_>, HeaderError>> {
        self.addresses(HeaderId::Path)
    }

    fn addresses(&self, id: HeaderId) -> impl Iterator<Item = Result<NameAddr<'_>, HeaderError>> {
        self.values(id).map(move |v| NameAddr::parse(v).map_err(|()| HeaderError::Malformed(id)))
    }
}
