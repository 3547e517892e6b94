//! Matching keys: which transaction a message belongs to (RFC 3261 §17.1.3, §17.2.3).

use std::fmt::Write;

use reveille_sip::message::Message;

/// Marks a branch made by RFC 3261 rules.
const MAGIC_COOKIE: &str = "z9hG4bK";

/// How a request is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// By branch and sent-by.
    Branch,
    /// By the fields of RFC 2543: no magic cookie, or nothing after it (S-033, S-034).
    Legacy,
}

/// Which To tag goes into a legacy key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToTag {
    /// The message's own.
    Own,
    /// None: an ACK looking for the INVITE that had no To tag yet.
    Absent,
}

/// Writes into `out` the key of the server transaction that `msg` names under `method` (an ACK or a CANCEL looks under `INVITE`).
/// `None` when the message lacks what a key needs.
pub(crate) fn server(out: &mut String, msg: &Message, method: &str, to_tag: ToTag) -> Option<Style> {
    out.clear();
    let via = msg.top_via().ok()?;
    let branch = via.branch().unwrap_or_default();
    let style = style(branch);
    if style == Style::Legacy {
        // Not separable by a line break in any field, and no branch starts with one.
        let cseq = msg.cseq().ok()?;
        let to = if to_tag == ToTag::Own { msg.to_tag().unwrap_or_default() } else { "" };
        let from = msg.from_tag().unwrap_or_default();
        write!(out, "\n{}\n{to}\n{from}\n{}\n{}\n", msg.request_uri(), msg.call_id().ok()?, cseq.number).ok()?;
    }
    out.push_str(branch);
    out.push('\n');
    out.extend(via.host.chars().map(|c| c.to_ascii_lowercase()));
    write!(out, ":{}\n{method}", via.port.unwrap_or_default()).ok()?;
    Some(style)
}

/// Writes into `out` the key of a client transaction (RFC 3261 §17.1.3).
pub(crate) fn client(out: &mut String, branch: &str, method: &str) {
    out.clear();
    out.push_str(branch);
    out.push('\n');
    out.push_str(method);
}

fn style(branch: &str) -> Style {
    match branch.split_at_checked(MAGIC_COOKIE.len()) {
        Some((cookie, rest)) if cookie.eq_ignore_ascii_case(MAGIC_COOKIE) && !rest.is_empty() => Style::Branch,
        _ => Style::Legacy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{parse, request};

    fn key(msg: &Message) -> (Style, String) {
        let mut out = String::new();
        let style = server(&mut out, msg, msg.method_name(), ToTag::Own).unwrap();
        (style, out)
    }

    #[test]
    fn bare_cookie_and_missing_cookie_are_legacy_s033_s034() {
        for (branch, expected) in [
            ("z9hG4bK-1", Style::Branch),
            ("Z9HG4BKx", Style::Branch),
            ("z9hG4bK", Style::Legacy),
            ("390skdjuw", Style::Legacy),
            ("", Style::Legacy),
        ] {
            assert_eq!(style(branch), expected, "{branch}");
        }
    }

    #[test]
    fn same_branch_from_another_sent_by_is_another_transaction_s040() {
        let one = request("INVITE", "z9hG4bK-1");
        let text = String::from_utf8(one.bytes().to_vec()).unwrap();
        assert_eq!(key(&one), key(&parse(&text.replace("caller.example", "CALLER.example"))));
        assert_ne!(key(&one), key(&parse(&text.replace("caller.example", "other.example"))));
        assert_ne!(key(&one), key(&parse(&text.replace("caller.example:5070", "caller.example:5071"))));
        assert_ne!(key(&one), key(&request("MESSAGE", "z9hG4bK-1")));
    }

    #[test]
    fn bare_cookie_from_two_callers_does_not_merge_s034() {
        let one = request("INVITE", "z9hG4bK");
        let text = String::from_utf8(one.bytes().to_vec()).unwrap();
        assert_eq!(key(&one), key(&parse(&text)));
        for (what, with) in
            [("call-1", "call-2"), ("from-1", "from-2"), ("sip:bob@", "sip:carol@"), ("CSeq: 1 ", "CSeq: 2 ")]
        {
            let other = parse(&text.replace(what, with));
            assert_ne!(key(&one), key(&other), "{what}");
        }
    }
}
