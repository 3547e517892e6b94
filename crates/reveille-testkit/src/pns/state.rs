//! What the lab push service knows: devices, verdicts, issued tokens, counters and the request log.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::device::{DeviceId, Provider, Service, Verdict, Wake};

/// One request as the lab saw it. `Debug` leaves out the path and the body, which name the device.
#[derive(Clone)]
pub struct LabRequest {
    /// When its answer was decided.
    pub at: Instant,
    /// The service it was for, by its path.
    pub provider: Provider,
    /// Path and query.
    pub path: String,
    /// Status answered.
    pub status: u16,
    /// Reason answered (APNs reason, FCM error code, or a word of ours for Web Push); empty on success.
    pub reason: &'static str,
    /// Request headers but for the credential; names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Of an APNs provider token, its `iat`, in Unix seconds.
    pub issued: Option<u64>,
    /// The body.
    pub body: bytes::Bytes,
}

impl std::fmt::Debug for LabRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LabRequest")
            .field("provider", &self.provider)
            .field("status", &self.status)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// Counts of one provider. Token requests to the OAuth 2 endpoint are not pushes and count only where noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Push requests, whatever their answer.
    pub requests: u64,
    /// Push requests answered with success.
    pub accepted: u64,
    /// Requests (token requests too) without a credential or with a wrong one (P-122).
    pub unauthenticated: u64,
    /// Requests refused because their credential had been revoked by the test or had outlived its time.
    pub expired: u64,
    /// Requests with a good credential but against the provider's rules: a bug of the sender.
    pub malformed: u64,
    /// Access tokens issued (FCM only).
    pub tokens_issued: u64,
}

/// What became of a push whose credential and form were in order.
pub(super) enum Delivery {
    /// Nobody is registered under that token.
    Unknown,
    /// A device is, and this is its verdict.
    Verdict(Verdict),
}

struct Entry {
    verdict: Verdict,
    accepted: u64,
    pushed: u64,
    wakes: mpsc::Sender<Wake>,
}

/// The shared state; every method is short and takes the lock once.
#[derive(Default)]
pub(super) struct State {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    devices: HashMap<DeviceId, Entry>,
    /// PRID as the phone sends it in SIP, decoded.
    by_prid: HashMap<Box<str>, DeviceId>,
    /// Token as the provider sees it: APNs hex, FCM token, Web Push path.
    by_token: HashMap<(Provider, Box<str>), (DeviceId, Service)>,
    counts: [Counts; Provider::ALL.len()],
    wakes_lost: u64,
    log: VecDeque<LabRequest>,
    access_tokens: HashMap<[u8; 32], Instant>,
    seen: [HashSet<[u8; 32]>; Provider::ALL.len()],
    /// What befalls the next so many pushes of a provider, whatever their device's verdict.
    next: HashMap<Provider, (Verdict, u32)>,
    /// The VAPID key that each Web Push subscription was made under, by path.
    subscriptions: HashMap<Box<str>, Box<str>>,
    revoked: HashSet<[u8; 32]>,
}

/// The log keeps this many requests, the newest.
const LOG_LENGTH: usize = 8192;
/// Wake-ups a device may leave unread; more are dropped and counted.
const WAKES: usize = 256;
/// Access tokens and credentials remembered; far more than a sender that caches them ever needs.
const TOKENS: usize = 4096;

impl State {
    pub(super) fn add_device(
        &self,
        id: DeviceId,
        provider: Provider,
        prid: &str,
        tokens: &[(Service, String)],
    ) -> mpsc::Receiver<Wake> {
        let (wakes, receiver) = mpsc::channel(WAKES);
        let mut inner = self.inner.lock();
        inner.devices.insert(id, Entry { verdict: Verdict::Accept, accepted: 0, pushed: 0, wakes });
        inner.by_prid.insert(prid.into(), id);
        for (service, token) in tokens {
            inner.by_token.insert((provider, token.as_str().into()), (id, *service));
        }
        receiver
    }

    pub(super) fn set_verdict(&self, prid: &str, verdict: Verdict) -> bool {
        let mut inner = self.inner.lock();
        let Some(id) = inner.by_prid.get(prid).copied() else { return false };
        let Some(entry) = inner.devices.get_mut(&id) else { return false };
        entry.verdict = verdict;
        true
    }

    pub(super) fn device_counts(&self, prid: &str) -> (u64, u64) {
        let inner = self.inner.lock();
        let entry = inner.by_prid.get(prid).and_then(|id| inner.devices.get(id));
        entry.map_or((0, 0), |entry| (entry.pushed, entry.accepted))
    }

    /// The service a token was registered for, where it is known.
    pub(super) fn service_of(&self, provider: Provider, token: &str) -> Option<Service> {
        self.inner.lock().by_token.get(&(provider, token.into())).map(|(_, service)| *service)
    }

    /// Looks a token up and counts a push for it.
    pub(super) fn judge(&self, provider: Provider, token: &str) -> Delivery {
        let mut inner = self.inner.lock();
        let Some((id, _)) = inner.by_token.get(&(provider, token.into())).copied() else { return Delivery::Unknown };
        let Some(entry) = inner.devices.get_mut(&id) else { return Delivery::Unknown };
        entry.pushed += 1;
        let verdict = entry.verdict.clone();
        let Some((next, left)) = inner.next.get_mut(&provider).filter(|(_, left)| *left > 0) else {
            return Delivery::Verdict(verdict);
        };
        *left -= 1;
        Delivery::Verdict(next.clone())
    }

    /// The next `times` pushes of `provider` meet with `verdict`.
    pub(super) fn set_next(&self, provider: Provider, verdict: Verdict, times: u32) {
        self.inner.lock().next.insert(provider, (verdict, times));
    }

    /// Remembers the VAPID key a subscription was made under.
    pub(super) fn subscribe(&self, path: &str, key: String) {
        self.inner.lock().subscriptions.insert(path.into(), key.into());
    }

    pub(super) fn subscribed_under(&self, path: &str) -> Option<String> {
        self.inner.lock().subscriptions.get(path).map(|key| key.to_string())
    }

    /// Counts an accepted push and hands the wake-up over, at once or after `delay`; `None` keeps it forever.
    pub(super) fn deliver(self: &Arc<Self>, provider: Provider, token: &str, wake: Wake, delay: Option<Duration>) {
        let sender = {
            let mut inner = self.inner.lock();
            let Some((id, _)) = inner.by_token.get(&(provider, token.into())).copied() else { return };
            let Some(entry) = inner.devices.get_mut(&id) else { return };
            entry.accepted += 1;
            entry.wakes.clone()
        };
        match delay {
            None => {}
            Some(Duration::ZERO) => self.hand_over(&sender, wake),
            Some(delay) => {
                let state = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    state.hand_over(&sender, Wake { at: Instant::now(), ..wake });
                });
            }
        }
    }

    fn hand_over(&self, sender: &mpsc::Sender<Wake>, wake: Wake) {
        if sender.try_send(wake).is_err() {
            self.inner.lock().wakes_lost += 1;
        }
    }

    pub(super) fn wakes_lost(&self) -> u64 {
        self.inner.lock().wakes_lost
    }

    pub(super) fn count(&self, provider: Provider, add: impl FnOnce(&mut Counts)) {
        if let Some(counts) = self.inner.lock().counts.get_mut(provider.index()) {
            add(counts);
        }
    }

    pub(super) fn counts(&self, provider: Provider) -> Counts {
        self.inner.lock().counts.get(provider.index()).copied().unwrap_or_default()
    }

    pub(super) fn record(&self, request: LabRequest) {
        let mut inner = self.inner.lock();
        if inner.log.len() == LOG_LENGTH {
            inner.log.pop_front();
        }
        inner.log.push_back(request);
    }

    pub(super) fn log(&self) -> Vec<LabRequest> {
        self.inner.lock().log.iter().cloned().collect()
    }

    /// Remembers a credential that proved good and says whether it may still be used.
    pub(super) fn admit_credential(&self, provider: Provider, credential: &str) -> bool {
        let hash = digest(credential);
        let mut inner = self.inner.lock();
        if inner.revoked.contains(&hash) {
            return false;
        }
        if let Some(seen) = inner.seen.get_mut(provider.index())
            && seen.len() < TOKENS
        {
            seen.insert(hash);
        }
        true
    }

    /// From now on, refuses every credential of `provider` seen or issued so far.
    pub(super) fn revoke(&self, provider: Provider) {
        let mut inner = self.inner.lock();
        let mut gone: Vec<[u8; 32]> =
            inner.seen.get_mut(provider.index()).map(|seen| seen.drain().collect()).unwrap_or_default();
        if provider == Provider::Fcm {
            gone.extend(inner.access_tokens.keys().copied());
        }
        inner.revoked.extend(gone);
    }

    pub(super) fn issue_access_token(&self, token: &str, life: Duration) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        if inner.access_tokens.len() >= TOKENS {
            inner.access_tokens.retain(|_, end| *end > now);
        }
        inner.access_tokens.insert(digest(token), now + life);
    }

    /// `None`: never issued. `Some(false)`: issued, but its time is over.
    pub(super) fn access_token_is_fresh(&self, token: &str) -> Option<bool> {
        self.inner.lock().access_tokens.get(&digest(token)).map(|end| *end > Instant::now())
    }
}

/// Credentials are kept as hashes: a core dump or a careless print of the state shows none.
fn digest(credential: &str) -> [u8; 32] {
    Sha256::digest(credential.as_bytes()).into()
}

/// Wall time in whole seconds since 1970, for the times in JWTs.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
