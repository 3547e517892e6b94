//! What may be written into a log (S-235, S-236, P-109).

use std::{fmt::Write, hash::BuildHasher, sync::OnceLock};

use crate::message::Message;

/// An address-of-record with its user part shortened to its first letter.
pub fn aor(aor: &str) -> String {
    let (user, host) = aor.split_once('@').unwrap_or((aor, ""));
    let first: String = user.chars().take(1).filter(|c| c.is_ascii_alphanumeric()).collect();
    let host: String = host.chars().filter(|c| !c.is_control()).collect();
    format!("{first}***@{host}")
}

/// Eight hex digits that tell two secrets apart within one run of the process, and nothing else: the hash is keyed with a
/// key that is made at start and never leaves it.
pub fn token_hash(secret: &[u8]) -> String {
    static KEY: OnceLock<std::hash::RandomState> = OnceLock::new();
    let hash = KEY.get_or_init(std::hash::RandomState::new).hash_one(secret);
    format!("{:08x}", hash & 0xffff_ffff)
}

/// A message for a person to read: push parameters, credentials and control characters masked.
pub(crate) fn message(message: &Message) -> String {
    let head = message.bytes().len() - message.body().len();
    let text = String::from_utf8_lossy(message.bytes().get(..head).unwrap_or_default());
    let mut out = String::with_capacity(text.len());
    for line in text.split("\r\n") {
        let name = line.split(':').next().unwrap_or("").trim().to_ascii_lowercase();
        if matches!(
            name.as_str(),
            "authorization" | "proxy-authorization" | "authentication-info" | "cookie" | "set-cookie"
        ) {
            out.push_str(&name);
            out.push_str(": [redacted]");
        } else {
            out.extend(mask_passwords(&mask_push(line)).chars().map(|c| if c.is_control() { '?' } else { c }));
        }
        out.push('\n');
    }
    let _ = write!(out, "[body of {} octets]", message.body().len());
    out
}

/// Masks the value of every parameter whose name has `pn-` or `pnspurr` in it. Rather too much than too little: a value
/// goes on to the next semicolon, bracket or white space, whatever else is in it.
fn mask_push(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    while let Some(found) = next_secret(&lower, at) {
        let tail = line.get(found..).unwrap_or("");
        let name =
            tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "-_.+%".contains(c)).len();
        let rest = tail.get(name..).unwrap_or("");
        out.push_str(line.get(at..found + name).unwrap_or(""));
        at = found + name;
        if let Some(value) = rest.trim_start().strip_prefix('=').map(str::trim_start) {
            let end = match value.strip_prefix('"') {
                Some(quoted) => quoted.find('"').map_or(value.len(), |end| end + 2),
                None => value.find(|c: char| matches!(c, ';' | '>') || c.is_whitespace()).unwrap_or(value.len()),
            };
            out.push_str("=[redacted]");
            at = line.len() - value.len() + end;
        }
    }
    out + line.get(at..).unwrap_or("")
}

fn next_secret(lower: &str, from: usize) -> Option<usize> {
    let rest = lower.as_bytes().get(from..)?;
    let hit = memchr::memmem::find_iter(rest, "pn").find(|at| {
        let tail = rest.get(*at..).unwrap_or_default();
        tail.starts_with(b"pn-") || tail.starts_with(b"pnspurr")
    })?;
    Some(from + hit)
}

/// Masks the password of `sip:user:password@host`.
fn mask_passwords(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for part in line.split_inclusive(['<', '>', ' ', '\t', '"']) {
        let lower = part.to_ascii_lowercase();
        let scheme = ["sip:", "sips:"].iter().find_map(|s| lower.find(s).map(|at| at + s.len()));
        let userinfo = scheme.and_then(|start| Some((start, start + part.get(start..)?.find('@')?)));
        let password = userinfo.and_then(|(start, end)| Some((start + part.get(start..end)?.find(':')? + 1, end)));
        match password {
            Some((start, end)) => {
                out.push_str(part.get(..start).unwrap_or(""));
                out.push_str("[redacted]");
                out.push_str(part.get(end..).unwrap_or(""));
            }
            None => out.push_str(part),
        }
    }
    out
}
