//! `pn-param` and `pn-prid` of FCM (RFC 8599 §11; P-016, P-017).

/// Why FCM push information cannot be used (P-036).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FcmError {
    /// Neither a project identifier nor a project number.
    #[error("project is malformed")]
    Project,
    /// Not a registration token.
    #[error("registration token is malformed")]
    Token,
}

/// What a `pn-param` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FcmProject<'a> {
    /// A Project ID, such as `acme-phone-prod`.
    Id(&'a str),
    /// A project number (sender id), which configuration maps to a Project ID.
    Number(&'a str),
}

impl<'a> FcmProject<'a> {
    /// Reads a decoded `pn-param`.
    ///
    /// # Errors
    /// [`FcmError::Project`] for anything but a project's identifier or number.
    pub fn parse(param: &'a str) -> Result<Self, FcmError> {
        let octets = param.as_bytes();
        if !octets.is_empty() && octets.len() <= 20 && octets.iter().all(u8::is_ascii_digit) {
            return Ok(FcmProject::Number(param));
        }
        let inner = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-';
        let sound = (6..=30).contains(&octets.len())
            && octets.iter().all(inner)
            && octets.first().is_some_and(u8::is_ascii_lowercase)
            && octets.last().is_some_and(|c| *c != b'-');
        if sound { Ok(FcmProject::Id(param)) } else { Err(FcmError::Project) }
    }
}

/// Whether both values can be FCM's; what is sent is still chosen by configuration (P-118, P-158).
///
/// # Errors
/// [`FcmError`] naming the value at fault.
pub fn validate(param: &str, prid: &str) -> Result<(), FcmError> {
    FcmProject::parse(param)?;
    let letter = |c: u8| c.is_ascii_alphanumeric() || b"_:%.-".contains(&c);
    if (16..=1024).contains(&prid.len()) && prid.bytes().all(letter) { Ok(()) } else { Err(FcmError::Token) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P-017.
    #[test]
    fn projects_are_ids_or_numbers() {
        let cases = [
            ("acme-phone-prod", Ok(FcmProject::Id("acme-phone-prod"))),
            ("abcde1", Ok(FcmProject::Id("abcde1"))),
            ("123456789012", Ok(FcmProject::Number("123456789012"))),
            ("abcde", Err(FcmError::Project)),
            ("acme-phone-", Err(FcmError::Project)),
            ("1acme-phone", Err(FcmError::Project)),
            ("Acme-phone", Err(FcmError::Project)),
            ("acme_phone", Err(FcmError::Project)),
            ("", Err(FcmError::Project)),
            ("a234567890123456789012345678901", Err(FcmError::Project)),
        ];
        for (param, expected) in cases {
            assert_eq!(FcmProject::parse(param), expected, "{param}");
        }
    }

    /// P-016, P-017.
    #[test]
    fn tokens_are_checked() {
        assert_eq!(validate("acme-phone-prod", "dQw4:APA91bF_x-9.%"), Ok(()));
        assert_eq!(validate("acme-phone-prod", "short"), Err(FcmError::Token));
        assert_eq!(validate("acme-phone-prod", "dQw4:APA91bF_x-9/../x"), Err(FcmError::Token));
        assert_eq!(validate("acme-phone-prod", &"a".repeat(1025)), Err(FcmError::Token));
    }
}
