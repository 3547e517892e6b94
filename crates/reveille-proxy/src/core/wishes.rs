//! What one Contact of a REGISTER wishes of push, and what it gets (RFC 8599 §5.6.1; P-010, P-017, P-034 to P-041, P-111 to P-115).

use std::borrow::Cow;

use reveille_push::{
    PushTarget,
    caps::{Announcement, carries_pns, pns_tokens, wants_pnsreg},
    target::{self, ContactPush, is_pn_name},
};
use reveille_sip::{header::HeaderId, message::Message, typed::NameAddr, uri::Uri};

use super::{Core, context::Origin, register::too_brief, reply::Reply};
use crate::ingress::Purpose;

impl Core {
    /// The push target to keep, if any; what the 200 will announce is added to `announcements`. With a lifetime of 0 a Contact
    /// wishes nothing (P-034).
    pub(super) fn check_push(
        &self,
        request: &Message,
        origin: &Origin,
        contact: &NameAddr<'_>,
        expires: u32,
        announcements: &mut Vec<Announcement>,
    ) -> Result<Option<PushTarget>, Reply> {
        let limits = &self.shared.settings.registration;
        let carries = is_cut(target::strip(contact.uri)) || is_cut(target::strip_params(contact.params.as_str()));
        let protected = origin.transport.is_secure() || self.shared.settings.strongly_protected(origin.remote.ip());
        if carries && !protected {
            return Err(Reply::new(403)); // P-112; a token in the clear is one whether it is of use to us or not (P-010)
        }
        let uri = Uri::parse(contact.uri).map_err(|_| Reply::new(400))?;
        let (wish, named) = self.wish(&uri, contact);
        if matches!(wish, ContactPush::None) || expires == 0 {
            return Ok(None);
        }
        if self.shared.auth.is_none() && origin.purpose == Purpose::Public {
            return Err(Reply::new(403)); // P-115
        }
        // P-035: where a trusted proxy nearer to the phone says "sip.pns" of this very service, it does the pushing.
        let is_trusted = origin.purpose != Purpose::Public;
        let takes = |name: &str| {
            is_trusted
                && request
                    .lines(HeaderId::FeatureCaps)
                    .flat_map(pns_tokens)
                    .any(|token| token.eq_ignore_ascii_case(name))
        };
        if named.as_deref().is_some_and(takes)
            && !matches!(wish, ContactPush::Invalid(invalid) if invalid.status() == 400)
        {
            return Ok(None);
        }
        let unsupported = || if limits.reject_unsupported_push { Err(Reply::new(555)) } else { Ok(None) };
        match wish {
            ContactPush::None => Ok(None),
            ContactPush::QueryAll => {
                let all = self.shared.pushes.announced();
                let taken = is_trusted && request.lines(HeaderId::FeatureCaps).any(carries_pns);
                if all.is_empty() && !taken {
                    return unsupported();
                }
                all.into_iter().filter(|a| !takes(a.provider.as_str())).for_each(|a| announce(announcements, a));
                Ok(None)
            }
            ContactPush::Query(Ok(provider)) => match self.shared.pushes.announce(provider) {
                Some(announcement) => {
                    announce(announcements, announcement);
                    Ok(None)
                }
                None => unsupported(),
            },
            ContactPush::Query(Err(name)) | ContactPush::Unknown(name) => {
                self.shared.mistakes.tell(request.value(HeaderId::UserAgent).unwrap_or(""), &name); // P-017
                unsupported()
            }
            ContactPush::Invalid(invalid) if invalid.status() == 400 => Err(Reply::new(400)), // P-004, P-009
            ContactPush::Invalid(_) => unsupported(),
            ContactPush::Target(target) => {
                if self.shared.pushes.check(&target).is_err() {
                    return unsupported();
                }
                let Some(mut announcement) = self.shared.pushes.announce(target.provider) else { return unsupported() };
                if expires < limits.push_min_expires {
                    return Err(too_brief(limits.push_min_expires)); // P-037
                }
                let refreshes_itself = wants_pnsreg(contact.params.iter()) && expires > 240;
                announcement.pnsreg = refreshes_itself.then_some(limits.pnsreg.min(expires - 1)); // P-027, P-028
                announce(announcements, announcement);
                Ok(Some(target))
            }
        }
    }

    /// What a Contact says of push, and the service it names. What stands outside the URI counts by option alone, and only where
    /// the URI itself says nothing (P-010).
    fn wish(&self, uri: &Uri<'_>, contact: &NameAddr<'_>) -> (ContactPush, Option<String>) {
        let outside =
            self.shared.settings.registration.header_pn_params && !uri.params().any(|(name, _)| is_pn_name(name));
        if !outside {
            return (target::from_params(uri.params()), target::named_provider(uri.params()));
        }
        let params = || {
            contact.params.iter().map(|(name, value)| {
                (name, value.map(|v| v.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(v)))
            })
        };
        (target::from_params(params()), target::named_provider(params()))
    }
}

/// Whether something was taken out.
fn is_cut(text: Cow<'_, str>) -> bool {
    matches!(text, Cow::Owned(_))
}

/// Adds an announcement; one header per push service (P-022).
fn announce(list: &mut Vec<Announcement>, announcement: Announcement) {
    match list.iter_mut().find(|a| a.provider == announcement.provider) {
        Some(present) => *present = announcement,
        None => list.push(announcement),
    }
}
