//! What refresh pushes cost a node with a million bindings of an hour each: processor time and memory of the registrar, its actors
//! and timers included, over one hour.
//!
//! `cargo run --release -p reveille-registrar --example refresh [BINDINGS] [push | self | lost]`; Linux only. The hour is virtual:
//! the runtime's clock is paused and jumps to the next deadline as soon as nobody has anything to do, so that the processor does the
//! work of an hour and waits for none of it. The store and the push services answer at once and cost nothing: what a push costs in
//! HTTP/2 and TLS is not in these figures. `push`: each phone comes two seconds after its push. `self`: no pushes, the phones come
//! by themselves as often, for the difference. `lost`: every tenth phone does not come, and is registered anew when its binding has ended.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a measurement fails loudly

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use prometheus::Registry;
use reveille_push::{Outcome, Provider, PushClass, PushJob, PushServices, PushTarget, Unsupported, caps::Announcement};
use reveille_registrar::{
    Acks, Aor, ContactsUpdate, HomeEvent, HomeEvents, RegisterRequest, Registrar, RegistrarConfig, Replica, ShardInput,
    StoreError, StoreFull, WorkerRef, Write,
    metrics::Metrics,
    replica::{Promise, Reading, RecordStream},
    shard::RefreshRules,
};
use reveille_runtime::{Fatal, RuntimeMetrics};
use support::{Gone, aor, register};
use tokio::time::Instant;

const HOUR: u32 = 3600;
/// From the push to the REGISTER.
const COMING: Duration = Duration::from_secs(2);

/// Keeps nothing and says yes.
#[derive(Default)]
struct Yes(Mutex<Option<Arc<dyn Acks>>>);

impl Replica for Yes {
    fn attach(&self, acks: Arc<dyn Acks>) {
        *self.0.lock().unwrap() = Some(acks);
    }
    fn write(&self, shard: u16, write: Write) -> Result<(), StoreFull> {
        let acks = self.0.lock().unwrap().clone().unwrap();
        acks.written(shard, write.id, Ok(()));
        Ok(())
    }
    fn hand_in(&self, _: u16, _: &Aor, _: Promise) {}
    fn load(&self, _: u16) -> Result<RecordStream, StoreError> {
        Ok(Box::new(std::iter::empty()))
    }
    fn read(&self, _: u16, _: &Aor) -> Reading {
        Box::pin(std::future::ready(Ok(None)))
    }
}

struct Deaf;

impl HomeEvents for Deaf {
    fn deliver(&self, _: WorkerRef, _: HomeEvent) {}
}

/// Notes who was pushed.
struct Pushes(tokio::sync::mpsc::UnboundedSender<u32>);

impl PushServices for Pushes {
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
        assert_eq!(job.class, PushClass::Refresh);
        self.0.send(u32::from_str_radix(&job.target.prid.expose()[..8], 16).unwrap()).unwrap();
        job.answer(Outcome::Accepted);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let mut args = std::env::args().skip(1);
    let bindings: u32 = args.next().map_or(1_000_000, |text| text.parse().unwrap());
    let mode = args.next().unwrap_or_else(|| "push".to_owned());
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).unwrap();
    let mut config = RegistrarConfig::new(metrics.clone(), RuntimeMetrics::new(&registry).unwrap(), Fatal::new().0);
    config.shard.refresh = RefreshRules { enabled: mode != "self", ..RefreshRules::default() };
    let (sender, mut pushed) = tokio::sync::mpsc::unbounded_channel();
    let (services, flows) = (Arc::new(Pushes(sender)), Arc::new(Gone::default()));
    let registrar = Registrar::spawn(config, Arc::<Yes>::default(), services, flows, Arc::new(Deaf)).await.unwrap();

    let before = resident();
    let start = Instant::now();
    // Who comes in which second.
    let mut coming: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for n in 0..bindings {
        let second = u32::try_from(u64::from(n) * u64::from(HOUR) / u64::from(bindings)).unwrap();
        coming.entry(second).or_default().push(n);
    }
    let (mut registers, mut most) = (0_u32, 0);
    // The first hour fills the registrar, the second is as every later one, the third is measured.
    let mut at_start = (0.0, 0, 0);
    for second in 0..3 * HOUR {
        tokio::time::sleep_until(start + Duration::from_secs(second.into())).await;
        if second == 2 * HOUR {
            at_start = (busy(), registers, sum(&metrics, &["first", "second"]));
        }
        while let Ok(n) = pushed.try_recv() {
            if mode != "lost" || n % 10 != 0 {
                coming.entry(second + u32::try_from(COMING.as_secs()).unwrap()).or_default().push(n);
            } else {
                coming.entry(second + 480).or_default().push(n);
            }
        }
        for n in coming.remove(&second).unwrap_or_default() {
            registers += 1;
            send(&registrar, n, registers);
            if mode == "self" {
                // As long as a push would let it sleep: a lead of 360 s and half of the jitter.
                coming.entry(second + HOUR - 396 + 2).or_default().push(n);
            }
        }
        most = most.max(metrics.refreshing.get());
    }
    let took = busy() - at_start.0;
    println!("{mode}: {bindings} bindings of {HOUR} s, {} of them there at the end", metrics.bindings.get());
    println!(
        "{} REGISTERs and {} pushes in the hour",
        registers - at_start.1,
        sum(&metrics, &["first", "second"]) - at_start.2
    );
    println!("{:.2} s of processor time in the hour, {:.3} % of one core", took, took / 36.0);
    println!("pushed and not come at a time, at most: {most}");
    println!("resident: {} bytes per binding", (resident() - before) / u64::from(bindings));
}

fn send(registrar: &Registrar, n: u32, cseq: u32) {
    let mut request: RegisterRequest = register(n, cseq);
    if let ContactsUpdate::Update(contacts) = &mut request.contacts {
        let contact = &mut contacts[0];
        let token = contact.push.as_ref().unwrap().prid.expose().to_owned();
        let (param, prid) = ("ABCDE12345.org.example.phone.voip&remote", format!("{token}:voip&{token}:remote"));
        contact.uri = contact.uri.replace(&token, &prid).replace("phone.voip", "phone.voip&remote");
        contact.push = PushTarget::new(Provider::Apns, Some(param), &prid).ok();
        contact.expires = HOUR;
    }
    assert!(registrar.send(&aor(n), ShardInput::Register(Box::new(request))).is_ok());
}

fn sum(metrics: &Metrics, events: &[&str]) -> u64 {
    events.iter().map(|event| metrics.refreshes.with_label_values(&[event]).get()).sum()
}

/// Processor time of this process so far, in seconds.
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
