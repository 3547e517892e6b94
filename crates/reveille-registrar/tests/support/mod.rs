//! A replica in memory, push services that do as they are told, and flows that are always gone.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)] // shared by tests, benches and examples, each of which uses a part

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reveille_push::{Outcome, Provider, PushJob, PushServices, PushTarget, Secret, Unsupported, caps::Announcement};
use reveille_registrar::{
    Acks, Aor, ContactUpdate, ContactsUpdate, FlowProbe, FlowRef, HomeEvent, HomeEvents, Liveness, NodeTag,
    RegisterRequest, Replica, StoreError, StoreFull, Transport, WorkerRef, Write,
    replica::{Finding, Inherited, Inheriting, Leaving, Promise, Reading, RecordStream},
};

/// Notes of owners, by shard.
pub type Notes = Arc<Mutex<HashMap<u16, Vec<u8>>>>;

/// Keeps values in a map and answers at once.
#[derive(Default)]
pub struct Memory {
    pub values: Mutex<HashMap<(u16, Aor), Bytes>>,
    pub full: AtomicBool,
    pub broken: AtomicBool,
    /// Held by a test that wants shards to be filled slowly.
    pub loading: Mutex<()>,
    /// Verdicts come when [`Memory::answer`] is called, and not at once.
    pub slow: AtomicBool,
    unanswered: Mutex<Vec<(u16, u64)>>,
    /// What a shard is given when it begins, instead of being read.
    pub inheritance: Mutex<HashMap<u16, Inheriting>>,
    /// What was left for the next owner.
    pub handed_in: Mutex<Vec<Promise>>,
    /// The notes of shards' owners, where owners leave any.
    pub notes: Option<Notes>,
    acks: Mutex<Option<Arc<dyn Acks>>>,
}

impl Memory {
    /// Tells what became of the writes that a slow store has taken.
    pub fn answer(&self) {
        self.answer_with(Ok(()));
    }

    /// The same, with this verdict.
    pub fn answer_with(&self, verdict: Result<(), StoreError>) {
        let acks = self.acks.lock().unwrap().clone().expect("attached");
        let unanswered = std::mem::take(&mut *self.unanswered.lock().unwrap());
        unanswered.into_iter().for_each(|(shard, write)| acks.written(shard, write, verdict));
    }
}

impl Replica for Memory {
    fn attach(&self, acks: Arc<dyn Acks>) {
        *self.acks.lock().unwrap() = Some(acks);
    }

    fn write(&self, shard: u16, write: Write) -> Result<(), StoreFull> {
        if self.full.load(Ordering::Relaxed) {
            return Err(StoreFull);
        }
        let mut values = self.values.lock().unwrap();
        match write.value {
            Some(value) => values.insert((shard, write.aor), value),
            None => values.remove(&(shard, write.aor)),
        };
        drop(values);
        self.unanswered.lock().unwrap().push((shard, write.id));
        if !self.slow.load(Ordering::Relaxed) {
            self.answer();
        }
        Ok(())
    }

    fn inherit(&self, shard: u16) -> Option<Inheriting> {
        self.inheritance.lock().unwrap().remove(&shard)
    }

    /// Takes its time, so that a test sees who waits for it.
    fn leave_note(&self, shard: u16, note: Vec<u8>) -> Option<Leaving> {
        let notes = self.notes.clone()?;
        Some(Box::pin(async move {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            notes.lock().unwrap().insert(shard, note);
        }))
    }

    fn find_note(&self, shard: u16) -> Option<Finding> {
        let note = self.notes.as_ref()?.lock().unwrap().get(&shard).cloned();
        Some(Box::pin(std::future::ready(note.map(|note| (note, Duration::ZERO)))))
    }

    fn hand_in(&self, _: u16, _: &Aor, promise: Promise) {
        self.handed_in.lock().unwrap().push(promise);
    }

    fn load(&self, shard: u16) -> Result<RecordStream, StoreError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable);
        }
        drop(self.loading.lock());
        let values = self.values.lock().unwrap();
        let found: Vec<_> = values
            .iter()
            .filter(|((of, _), _)| *of == shard)
            .map(|((_, aor), v)| Ok((aor.clone(), v.clone())))
            .collect();
        Ok(Box::new(found.into_iter()))
    }

    fn read(&self, shard: u16, aor: &Aor) -> Reading {
        let value = self.values.lock().unwrap().get(&(shard, aor.clone())).cloned();
        let read = if self.broken.load(Ordering::Relaxed) { Err(StoreError::Unavailable) } else { Ok(value) };
        Box::pin(std::future::ready(read))
    }
}

/// What was followed of a shard: all of it, but whatever is `lost` has to be read after all.
pub struct Followed {
    pub values: HashMap<Aor, Bytes>,
    pub lost: bool,
}

impl Inherited for Followed {
    fn get(&self, aor: &Aor) -> Result<Option<Bytes>, StoreError> {
        if self.lost { Err(StoreError::Unavailable) } else { Ok(self.values.get(aor).cloned()) }
    }

    fn records(self: Arc<Self>) -> RecordStream {
        if self.lost {
            return Box::new(std::iter::once(Err(StoreError::Unavailable)));
        }
        let values: Vec<_> = self.values.iter().map(|(aor, value)| Ok((aor.clone(), value.clone()))).collect();
        Box::new(values.into_iter())
    }
}

/// What becomes of a push.
#[derive(Clone, Copy)]
pub enum Fate {
    Answered(Outcome),
    QueueFull,
    Forgotten,
}

pub struct Services(pub Fate);

impl PushServices for Services {
    fn check(&self, _: &PushTarget) -> Result<(), Unsupported> {
        Ok(())
    }
    fn announce(&self, _: Provider) -> Option<Announcement> {
        None
    }
    fn announced(&self) -> Vec<Announcement> {
        Vec::new()
    }
    fn submit(&self, job: PushJob) -> Result<(), PushJob> {
        match self.0 {
            Fate::Answered(outcome) => job.answer(outcome),
            Fate::QueueFull => return Err(job),
            Fate::Forgotten => drop(job),
        }
        Ok(())
    }
}

/// Every connection is gone; or the probe falls over, once, as a shard's own fault would.
#[derive(Default)]
pub struct Gone {
    pub fails: AtomicBool,
}

impl FlowProbe for Gone {
    fn liveness(&self, _: &FlowRef) -> Liveness {
        assert!(!self.fails.swap(false, Ordering::Relaxed), "the probe falls over");
        Liveness::Gone
    }
}

pub struct Events(pub tokio::sync::mpsc::UnboundedSender<(WorkerRef, HomeEvent)>);

impl HomeEvents for Events {
    fn deliver(&self, to: WorkerRef, event: HomeEvent) {
        let _ = self.0.send((to, event));
    }
}

pub fn aor(n: u32) -> Aor {
    Aor::from_canonical(format!("user{n:07}@example.com"))
}

/// The REGISTER of an APNs phone, with what phones send: instance-id, reg-id, a UUID for a Call-ID, a TLS connection.
pub fn register(n: u32, cseq: u32) -> RegisterRequest {
    let prid = format!("{n:08x}").repeat(8);
    let param = "ABCDE12345.org.example.phone.voip";
    let uri = format!(
        "sip:user{n:07}@10.{}.{}.7:51234;transport=tls;pn-provider=apns;pn-param={param};pn-prid={prid}",
        n >> 8 & 255,
        n & 255
    );
    let instance = format!("\"<urn:uuid:{n:08x}-7dec-41d0-a765-00a0{n:08x}>\"");
    let contact = ContactUpdate {
        uri,
        params: format!("+sip.instance={instance};reg-id=1"),
        q: 1000,
        expires: 3600 + n % 600,
        instance: Some(instance),
        reg_id: Some(1),
        push: Some(PushTarget { provider: Provider::Apns, param: param.into(), prid: Secret::from(prid) }),
        pnsreg: false,
    };
    RegisterRequest {
        aor: aor(n),
        call_id: format!("{n:08x}-1111-4222-8333-00a0{n:08x}"),
        cseq,
        contacts: ContactsUpdate::Update(vec![contact]),
        path: Vec::new(),
        flow: Some(FlowRef::Stream {
            node: NodeTag(0),
            epoch: 1_700_000_000,
            connection: n.into(),
            transport: Transport::Tls,
        }),
        outbound: true,
        sent_on: false,
        reply: WorkerRef { worker: 0, context: n.into() },
    }
}
