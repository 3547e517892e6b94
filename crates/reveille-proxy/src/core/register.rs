//! REGISTER: what the edge half checks, what the shard is asked, what the 200 says (RFC 3261 §10.3, RFC 5626 §6,
//! RFC 8599 §5.6.1).

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reveille_push::{
    Provider, PushClass, PushTarget,
    caps::{Announcement, wants_pnsreg},
    target,
};
use reveille_registrar::{
    aor::Aor,
    replica::StoreError,
    shard::{BindingView, ContactUpdate, ContactsUpdate, RegisterError, RegisterRequest, ShardInput, WorkerRef},
};
use reveille_sip::{
    header::HeaderId,
    message::{Contacts, Message},
    method::Method,
    typed::NameAddr,
    uri::{Scheme, Uri},
};
use reveille_transaction::ServerId;

use super::{
    Core, Now, Timer,
    admission::{Refusal, SUPPORTED, user_of},
    context::{Origin, Registering, Work},
    refused,
    reply::Reply,
};
use crate::{ingress::Purpose, peers::Home};

/// A REGISTER that may be carried out.
pub(super) struct Registration {
    aor: Aor,
    contacts: ContactsUpdate,
    path: Vec<String>,
    outbound: bool,
    sent_on: bool,
    announcements: Vec<Announcement>,
    /// What the phone is told, where this edge refuses it and the home is elsewhere: requests that wait there are to be ended too.
    pub(super) refused: Option<u16>,
}

impl Registration {
    /// The same, of a REGISTER that another node may have seen before.
    pub(super) fn sent_on(self) -> Self {
        Self { sent_on: true, ..self }
    }

    /// Whose it is.
    pub(super) fn aor(&self) -> &Aor {
        &self.aor
    }
}

/// How long a shard may take before the phone is told to try again; the store's worst pause is far below.
const HOME_PATIENCE: Duration = Duration::from_secs(10);
/// Below this, a registrar may not refuse a lifetime as too brief (RFC 3261 §10.3 step 7).
const AN_HOUR: u32 = 3600;

impl Core {
    /// Checks a REGISTER in the order of RFC 3261 §10.3 (S-100). Nothing is stored before it returns.
    pub(super) fn admit_register(&self, now: Now, request: &Message, origin: &Origin) -> Result<Registration, Refusal> {
        let unknown: Vec<&str> =
            request.values(HeaderId::Require).filter(|t| !matches!(*t, "path" | "outbound" | "")).collect();
        if !unknown.is_empty() {
            return Err(Reply::new(420).with(HeaderId::Unsupported, unknown.join(", ")).into());
        }
        let to = request.to().ok().and_then(|to| Uri::parse(to.uri).ok()).ok_or_else(|| Reply::new(400))?;
        if !matches!(to.scheme(), Scheme::Sip | Scheme::Sips) {
            return Err(Reply::new(400).into()); // S-102
        }
        let user = self.authenticate_registrant(now, request, origin)?;
        if !self.shared.settings.is_our_domain(to.host()) {
            return Err(Reply::new(404).into());
        }
        let aor = Aor::from_uri(&to, &self.shared.settings.aliases).map_err(|_| Reply::new(404))?;
        if user.is_some_and(|user| user != user_of(&aor)) {
            return Err(Reply::new(403).into()); // S-115: no third-party registration
        }
        let checked = match refused::by_edge(request, origin) {
            Some(status) => Err(Reply::new(status)),
            None => self.check_contacts(request, origin, &aor),
        };
        let reply = match checked {
            Ok(registration) => return Ok(registration),
            Err(reply) => reply,
        };
        match self.shared.peers.home(&aor) {
            _ if reply.status == 423 => Err(reply.into()),
            Home::Here => {
                self.reject_waiting(&aor, request);
                Err(reply.into())
            }
            // Who waits for this phone waits there. The home says what is to be said when it has told them.
            Home::At(_) if refused::names_a_target(request) => Ok(Registration {
                aor,
                contacts: ContactsUpdate::Fetch,
                path: Vec::new(),
                outbound: false,
                sent_on: false,
                announcements: Vec::new(),
                refused: Some(reply.status),
            }),
            Home::At(_) | Home::Nowhere => Err(reply.into()),
        }
    }

    fn authenticate_registrant(&self, now: Now, request: &Message, origin: &Origin) -> Result<Option<String>, Refusal> {
        if origin.purpose == Purpose::Cluster {
            return Ok(None);
        }
        let Some(auth) = self.shared.auth.clone() else { return Ok(None) };
        let lines = request.lines(HeaderId::Authorization);
        let verdict = auth.verify(now.unix, request.method_name(), request.request_uri(), lines, &request.body());
        self.settle_verdict(now, verdict, HeaderId::WwwAuthenticate, 401).map(Some)
    }

    pub(super) fn check_contacts(&self, request: &Message, origin: &Origin, aor: &Aor) -> Result<Registration, Reply> {
        let limits = &self.shared.settings.registration;
        let path = if origin.purpose == Purpose::Public {
            Vec::new() // S-230: a stranger's Path never reaches storage
        } else {
            request.values(HeaderId::Path).map(str::to_owned).collect()
        };
        let mut registration = Registration {
            aor: aor.clone(),
            contacts: ContactsUpdate::Fetch,
            path,
            outbound: false,
            sent_on: origin.purpose == Purpose::Cluster,
            announcements: Vec::new(),
            refused: None,
        };
        let expires = request.expires();
        match request.contacts().map_err(|_| Reply::new(400))? {
            Contacts::None => {}
            Contacts::Wildcard if expires == Some(0) => registration.contacts = ContactsUpdate::RemoveAll,
            Contacts::Wildcard => return Err(Reply::new(400)), // S-104
            Contacts::List(list) => {
                if list.len() > limits.max_contacts {
                    return Err(Reply::new(403));
                }
                let mut updates = Vec::with_capacity(list.len());
                for contact in &list {
                    let update =
                        self.check_contact(request, origin, contact, expires, &mut registration.announcements)?;
                    updates.push(update);
                }
                let live = updates.iter().filter(|u| u.expires > 0).count();
                let wants_reg_id = updates.iter().any(|u| u.reg_id.is_some());
                if wants_reg_id && live > 1 {
                    return Err(Reply::new(400)); // S-120
                }
                registration.outbound = wants_reg_id && self.outbound_applies(request, origin)?;
                if !registration.outbound {
                    updates.iter_mut().for_each(|u| u.reg_id = None); // S-119
                }
                if updates.iter().filter(|u| u.push.is_some()).count() > limits.max_push_contacts {
                    return Err(Reply::new(403)); // P-009
                }
                registration.contacts = ContactsUpdate::Update(updates);
            }
        }
        Ok(registration)
    }

    /// Whether the first hop supports RFC 5626: the phone is our neighbour, or its edge marked its Path `ob` (S-119).
    fn outbound_applies(&self, request: &Message, origin: &Origin) -> Result<bool, Reply> {
        let direct = request.vias().count() == 1;
        let marked = origin.purpose != Purpose::Public
            && request
                .paths()
                .last()
                .and_then(Result::ok)
                .and_then(|p| Uri::parse(p.uri).ok()?.param("ob").map(|_| ()))
                .is_some();
        if direct || marked {
            Ok(true)
        } else if request.lists_option(HeaderId::Supported, "outbound") {
            Err(Reply::new(439))
        } else {
            Ok(false)
        }
    }

    fn check_contact(
        &self,
        request: &Message,
        origin: &Origin,
        contact: &NameAddr<'_>,
        header_expires: Option<u32>,
        announcements: &mut Vec<Announcement>,
    ) -> Result<ContactUpdate, Reply> {
        let limits = &self.shared.settings.registration;
        let uri = Uri::parse(contact.uri).map_err(|_| Reply::new(400))?;
        let names_us = self.shared.flows.names_us(uri.host(), uri.port()) && !is_own_connection(&uri, request, origin);
        if self.shared.settings.is_our_domain(uri.host()) || names_us {
            return Err(Reply::new(403)); // S-114, S-232
        }
        let asked = contact.expires().or(header_expires).unwrap_or(limits.default_expires);
        if asked > 0 && asked < limits.min_expires && asked < AN_HOUR {
            return Err(too_brief(limits.min_expires)); // S-106
        }
        let expires = asked.min(limits.max_expires);
        let pnsreg = wants_pnsreg(contact.params.iter());
        let push = self.check_push(request, origin, contact, expires, announcements)?;
        let expires = match &push {
            Some(target) if !self.can_be_refreshed(target) => expires.max(limits.voip_expires), // P-098
            _ => expires,
        };
        let instance = contact.params.get_unquoted("+sip.instance").map(str::to_owned);
        let reg_id = match contact.params.get("reg-id").flatten() {
            None => None,
            Some(value) => match value.parse::<u32>() {
                Ok(id) if (1..=0x7fff_ffff).contains(&id) => instance.is_some().then_some(id),
                _ => return Err(Reply::new(400)),
            },
        };
        let q = contact.q().map_err(|_| Reply::new(400))?.unwrap_or(1000);
        let params = contact
            .params
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("expires") && !name.eq_ignore_ascii_case("q"))
            .fold(String::new(), |text, (name, value)| match value {
                Some(value) => format!("{text};{name}={value}"),
                None => format!("{text};{name}"),
            });
        Ok(ContactUpdate { uri: contact.uri.to_owned(), params, q, expires, instance, reg_id, push, pnsreg })
    }

    /// Whether a phone can be woken to refresh.
    fn can_be_refreshed(&self, target: &PushTarget) -> bool {
        // The target itself knows, as a rule; the other question is what the operator has allowed beyond that.
        target.can_wake(PushClass::Refresh) || self.shared.pushes.can_wake(target, PushClass::Refresh)
    }

    pub(super) fn begin_register(
        &mut self,
        now: Now,
        server: ServerId,
        request: Message,
        origin: &Origin,
        registration: Registration,
    ) -> Option<u64> {
        let Registration { aor, contacts, path, outbound, sent_on, announcements, .. } = registration;
        let targets = match &contacts {
            ContactsUpdate::Update(list) => list.iter().filter_map(|c| c.push.as_ref()).map(|p| p.provider).collect(),
            _ => Vec::new(),
        };
        let ask = RegisterRequest {
            aor: aor.clone(),
            call_id: request.value(HeaderId::CallId).unwrap_or("").to_owned(),
            cseq: request.cseq().map(|c| c.number).unwrap_or(0),
            contacts,
            path,
            // What another node sends names the phone's flow in Path.
            flow: (origin.purpose != Purpose::Cluster).then_some(origin.flow),
            outbound,
            sent_on,
            reply: WorkerRef { worker: self.worker, context: self.next_context },
        };
        if self.shared.homes.ask(&aor, ShardInput::Register(Box::new(ask))).is_err() {
            let reply = self.overloaded();
            self.reply(now, server, &request, origin, reply);
            return None;
        }
        let work = Work::Register(Box::new(Registering { request, aor, announcements, targets, outbound }));
        let id = self.open_context(server, origin, Method::Register, now, work);
        self.deadlines.set(Timer::HomeOverdue { context: id }, now.mono + HOME_PATIENCE);
        Some(id)
    }

    /// The shard has spoken: the record is durable, or nothing was changed.
    pub(super) fn registered(&mut self, now: Now, id: u64, result: Result<Vec<BindingView>, RegisterError>) {
        self.deadlines.clear(&Timer::HomeOverdue { context: id });
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let (started, origin) = (context.started, context.origin);
        if result == Err(RegisterError::Store(StoreError::Fenced)) {
            return self.moved(now, id); // nothing was written: the owner of now decides
        }
        let Work::Register(registering) = std::mem::replace(&mut context.work, Work::Answered) else { return };
        let Registering { request, aor, announcements, targets, outbound } = *registering;
        let reply = match result {
            Ok(bindings) => {
                self.shared.metrics.registered((now.mono - started).as_secs_f64());
                let reply = self.registered_ok(now, &request, &bindings, &announcements, &targets, outbound);
                self.bind(now, &origin, &aor, &request, &bindings, reply)
            }
            Err(error) => {
                tracing::debug!(aor = %aor.redacted(), %error, "registration refused");
                match error.status() {
                    503 => self.overloaded(),
                    status => Reply::new(status),
                }
            }
        };
        self.answer(now, id, &request, reply);
    }

    fn registered_ok(
        &self,
        now: Now,
        request: &Message,
        bindings: &[BindingView],
        announcements: &[Announcement],
        targets: &[Provider],
        outbound: bool,
    ) -> Reply {
        let mut reply = Reply::new(200);
        for binding in bindings {
            // P-049: its own push parameters go back to the phone that sent them, and to no other.
            let (uri, params) = if binding.updated_now {
                (binding.contact.as_str().into(), binding.params.as_str().into())
            } else {
                (target::strip(&binding.contact), target::strip_params(&binding.params))
            };
            let q = if binding.q == 1000 { String::new() } else { format!(";q={}", decimal(binding.q)) };
            reply = reply.with(HeaderId::Contact, format!("<{uri}>{params}{q};expires={}", binding.expires_in));
        }
        if bindings.iter().any(|b| b.updated_now) {
            // A target that the home did not take on (P-156) must not be announced; what was only asked about is.
            let promised = |provider| bindings.iter().any(|b| b.updated_now && b.push == Some(provider));
            for announcement in announcements.iter().filter(|a| !targets.contains(&a.provider) || promised(a.provider))
            {
                reply = reply.with(HeaderId::FeatureCaps, announcement.to_string()); // P-031: repeated on every refresh
            }
        }
        if request.lists_option(HeaderId::Supported, "path") {
            for path in request.lines(HeaderId::Path) {
                reply = reply.with(HeaderId::Path, path); // S-117
            }
        }
        if outbound {
            reply = reply
                .with(HeaderId::Require, "outbound")
                .with(HeaderId::FlowTimer, self.shared.settings.registration.flow_timer.to_string()); // S-121, S-122
        }
        let date = httpdate::fmt_http_date(
            UNIX_EPOCH.checked_add(Duration::from_secs(now.unix)).unwrap_or(SystemTime::UNIX_EPOCH),
        );
        reply.with(HeaderId::Supported, SUPPORTED).with(HeaderId::Date, date)
    }

    /// The shard did not answer in time: the phone is asked to come back.
    pub(super) fn register_overdue(&mut self, now: Now, id: u64) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let Work::Register(registering) = std::mem::replace(&mut context.work, Work::Answered) else { return };
        tracing::error!("a shard did not answer a REGISTER within {HOME_PATIENCE:?}; the phone was sent 503");
        let reply = self.overloaded();
        self.answer(now, id, &registering.request, reply);
    }
}

/// Whether this is where the phone's connection comes from. A phone on a node's own host may have a port that the node uses for
/// another transport. A datagram's source proves nothing: it could be forged to make us talk to ourselves.
fn is_own_connection(uri: &Uri<'_>, request: &Message, origin: &Origin) -> bool {
    let source = match origin.purpose {
        Purpose::Cluster => phone_behind_edge(request),
        Purpose::Public | Purpose::Peer => origin.transport.is_reliable().then_some(origin.remote),
    };
    source.is_some_and(|source| {
        uri.port() == Some(source.port()) && uri.host().trim_matches(['[', ']']).parse() == Ok(source.ip())
    })
}

/// Where a node of ours has a phone's connection from, as it wrote into the phone's Via (RFC 3581).
fn phone_behind_edge(request: &Message) -> Option<SocketAddr> {
    let via = request.vias().nth(1)?.ok()?;
    let port = via.rport().flatten()?;
    (!via.transport.eq_ignore_ascii_case("UDP")).then_some(SocketAddr::new(via.received_ip()?, port))
}

pub(super) fn too_brief(least: u32) -> Reply {
    Reply::new(423).with(HeaderId::MinExpires, least.to_string())
}

/// A q value of thousandths in the notation of RFC 3261 §25.1.
fn decimal(q: u16) -> String {
    let text = format!("{}.{:03}", q / 1000, q % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
