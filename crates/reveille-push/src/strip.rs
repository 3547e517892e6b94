//! Taking push parameters out of a URI, or out of a header's parameters, before another device is told (P-049, P-105).
//!
//! Works on text, so that a URI too odd for the parser is stripped all the same.

use std::borrow::Cow;

/// Whether a URI parameter's name is one of push: `pn-` and anything, in any case, escaped or not (P-010).
pub fn is_pn_name(name: &str) -> bool {
    canonical_name(name).starts_with("pn-")
}

/// `uri` without any `pn-*` URI parameter. Everything else stays as it was; URI headers (`?…`) are not looked into.
pub fn strip(uri: &str) -> Cow<'_, str> {
    // A user part may hold `;` and `?`, but an `@` only where it ends: parameters are looked for behind the first one.
    let user = uri.find('@').map_or(0, |at| at + 1);
    let (head, rest) = uri.split_at(user);
    let (params, headers) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    match drop_params(params, false) {
        Cow::Borrowed(_) => Cow::Borrowed(uri),
        Cow::Owned(params) => Cow::Owned(format!("{head}{params}{headers}")),
    }
}

/// Header parameters (`;name=value;…`, quoted strings understood) without any `pn-*`: some clients put them there (P-010).
pub fn strip_params(params: &str) -> Cow<'_, str> {
    drop_params(params, true)
}

/// `text` up to its first semicolon, then every parameter that is not of push.
fn drop_params(text: &str, quotes: bool) -> Cow<'_, str> {
    let mut segments = split_at_semicolons(text, quotes);
    let lead = segments.next().unwrap_or_default();
    let is_unwanted = |segment: &&str| is_pn_name(segment.split('=').next().unwrap_or_default().trim());
    if !segments.clone().any(|segment| is_unwanted(&segment)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    out.push_str(lead);
    for segment in segments.filter(|segment| !is_unwanted(segment)) {
        out.push(';');
        out.push_str(segment);
    }
    Cow::Owned(out)
}

/// Splits at semicolons; with `quotes`, not at those within quoted strings.
pub(crate) fn split_at_semicolons(text: &str, quotes: bool) -> impl Iterator<Item = &str> + Clone {
    split_outside_quotes(text, ';', quotes)
}

/// Splits at `separator`; with `quotes`, not within quoted strings.
pub(crate) fn split_outside_quotes(text: &str, separator: char, quotes: bool) -> impl Iterator<Item = &str> + Clone {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let at_separator = c == separator && !quoted;
        if quotes {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ => {}
            }
        }
        at_separator
    })
}

/// A parameter name as it is compared: unescaped where it was escaped, in lower case (RFC 3261 §19.1.4).
pub(crate) fn canonical_name(name: &str) -> Cow<'_, str> {
    let name = match percent_encoding::percent_decode_str(name).decode_utf8() {
        Ok(name) => name,
        Err(_) => Cow::Borrowed(name),
    };
    if name.bytes().any(|c| c.is_ascii_uppercase()) { Cow::Owned(name.to_ascii_lowercase()) } else { name }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// P-105, P-010: known and extra parameters go, whatever their spelling; all else stays.
    #[test]
    fn push_parameters_leave_the_uri() {
        let cases = [
            ("sip:a@h;pn-provider=fcm;pn-param=x;pn-prid=y;transport=tls", "sip:a@h;transport=tls"),
            ("sip:a@h:5061;ob;PN-Prid=y;pn-msg-str=z;lr", "sip:a@h:5061;ob;lr"),
            ("sip:a@h;pn%2Dprid=y;lr", "sip:a@h;lr"),
            ("sip:a@h;pn-provider", "sip:a@h"),
            ("sip:a@h;pn-purr=1;lr", "sip:a@h;lr"),
            ("sip:a@[2001:db8::1];pn-prid=y?Subject=a;pn-x", "sip:a@[2001:db8::1]?Subject=a;pn-x"),
            ("sip:a;pn-prid=z@h;lr", "sip:a;pn-prid=z@h;lr"),
            ("sip:a?b;c@h;pn-prid=z", "sip:a?b;c@h"),
            ("sip:h;pn-prid=z", "sip:h"),
            ("sip:a@h;pn-prid=x@y;lr", "sip:a@h;lr"),
            ("sip:a@h;apn-prid=z", "sip:a@h;apn-prid=z"),
            ("", ""),
        ];
        for (uri, expected) in cases {
            assert_eq!(strip(uri), expected, "{uri}");
        }
        assert!(matches!(strip("sip:a@h;lr"), Cow::Borrowed(_)));
    }

    /// P-010: quoted semicolons do not end a header parameter.
    #[test]
    fn header_parameters_are_stripped() {
        assert_eq!(strip_params(";q=0.5;pn-tok=\"a;b\\\";c\";+x=\"a;pn-y\""), ";q=0.5;+x=\"a;pn-y\"");
        assert_eq!(strip_params(";q=0.5"), ";q=0.5");
    }

    proptest! {
        /// P-105: after stripping nothing is left to strip, for any text.
        #[test]
        fn stripping_is_final(uri in "(sip:)?[a@;?=\\[\\]%2D]{0,6}(;(pn-prid|PN-x|p%6e-y|lr|pn-)(=[a-z%;?\"]{0,5})?){0,5}") {
            let once = strip(&uri).into_owned();
            prop_assert!(matches!(strip(&once), Cow::Borrowed(_)), "{} -> {}", uri, once);
        }

        /// P-103.
        #[test]
        fn stripping_is_total(text in any::<String>()) {
            let _ = (strip(&text), strip_params(&text));
        }
    }
}
