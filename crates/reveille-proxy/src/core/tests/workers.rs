//! The shell around cores: what a worker has been told when it says that it is settled.

use std::net::SocketAddr;

use bytes::Bytes;
use reveille_registrar::shard::{HomeEvent, ShardInput};
use reveille_sip::{limits::Limits, message::Message};

use super::bench::{Bench, invite, tls};
use crate::{
    home::HomeAnswer,
    ingress::{Inbound, Ingress as _, Purpose},
    worker::Workers,
};

// A drain closes flows once the workers are settled: by then whoever waited must have its answer. One thread, so nothing
// but the wait itself lets the worker run.
#[tokio::test]
async fn settled_workers_have_sent_what_homes_answered() {
    let bench = Bench::new();
    let (workers, seats) = Workers::new(2, 8);
    let tasks = seats.start(&bench.shared);
    let wire = invite("z9hG4bKx").trim_start().replace('\n', "\r\n");
    let inbound = Inbound {
        message: Message::parse(Bytes::from(wire), &Limits::default()).unwrap(),
        flow: tls(1),
        remote: SocketAddr::from(([192, 0, 2, 77], 40_000)),
        purpose: Purpose::Peer,
        transport: tls(1).transport(),
        received: bench.now.mono,
        hold: None,
    };
    assert!(workers.deliver(inbound).is_ok());
    let waiter = loop {
        if let Some(ShardInput::Resolve(ask)) = bench.asked().first() {
            break ask.waiter;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(bench.statuses(tls(1)), [100]);

    let event = HomeEvent::Resolved { targets: vec![], waiting: vec![], known: false };
    workers.home_answer(HomeAnswer { to: waiter, event });
    assert!(bench.sent().is_empty());
    workers.settle().await;
    assert_eq!(bench.statuses(tls(1)), [404]);

    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for task in tasks {
        assert!(task.await.unwrap_err().is_cancelled());
    }
    workers.settle().await;
}
