//! Who takes part in a history: processes that start, die and suffer, and clients.

use std::sync::Arc;

use reveille_registrar::flow::NodeTag;

use super::{Event, QUIET, Slot, World, epoch};
use crate::{
    roster::{NodeInfo, Roles},
    sim::{
        SHARDS, TTL_MICROS,
        check::Broken,
        faults::Fault,
        node::{Clock, Node, Register},
        store::Micros,
    },
};

impl World {
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Broken> {
        let now = self.now;
        match fault {
            Fault::Pause(slot, time) => self.slots[slot].paused_until = (now + time).min(QUIET),
            Fault::Cut(slot, time) => self.slots[slot].cut_until = (now + time).min(QUIET),
            Fault::Flap(slot) => {
                let mut at = now;
                for _ in 0..4 {
                    let time = self.random.range(TTL_MICROS * 4 / 5, TTL_MICROS * 13 / 10);
                    self.push(at.min(QUIET), Event::Fault(Fault::Cut(slot, time)));
                    at += time + self.random.range(3_000, 200_000);
                }
            }
            Fault::Outage(time) => self.store_away_until = (now + time).min(QUIET),
            Fault::Storm(time) => self.storm_until = (now + time).min(QUIET),
            Fault::Crash(slot, again) => {
                self.kill(slot);
                if let Some(time) = again {
                    self.push((now + time).min(QUIET), Event::Start { slot });
                }
            }
            Fault::Failover(lag) => {
                if self.replica.is_none() {
                    self.replica = Some(self.store.clone());
                    self.push((now + lag).min(QUIET), Event::FailoverDone);
                }
            }
            Fault::Drain(slot) => return self.turn(slot, Node::drain),
            Fault::Weight(slot, weight) => return self.turn(slot, |node, now| node.weigh(now, weight)),
            Fault::Join => {
                let tag = u32::try_from(50 + self.slots.len()).unwrap_or(50);
                let slot = self.slot(tag);
                self.start(slot);
            }
            Fault::Twin(slot) => {
                let twin = self.slot(self.slots[slot].tag);
                self.start(twin);
            }
        }
        Ok(())
    }

    pub(super) fn slot(&mut self, tag: u32) -> usize {
        let slot = Slot { tag, node: None, start: 0, paused_until: 0, cut_until: 0, wake_at: Micros::MAX };
        self.slots.push(slot);
        self.slots.len() - 1
    }

    pub(super) fn start(&mut self, slot: usize) {
        let random = &mut self.random;
        let drift = i64::try_from(random.range(0, 40_000)).unwrap_or(0) - 20_000;
        let clock = Clock { base: epoch(), offset: random.range(0, 1 << 40), drift, wall: random.range(0, 200_000) };
        let boot = random.range(1, 1 << 40);
        let tag = self.slots[slot].tag;
        let info = NodeInfo {
            tag: NodeTag(tag),
            id: format!("home-{tag}"),
            roles: Roles { edge: false, home: true },
            address: ([127, 0, 0, 1], 5003).into(),
            weight: 100,
            version: "0.1.0".into(),
            draining: false,
        };
        let at = &mut self.slots[slot];
        at.start += 1;
        at.wake_at = Micros::MAX;
        at.node = Some(Node::new(self.now, clock, info, boot, SHARDS, self.rules));
        // What it says at once goes out with its first turn.
        self.push(self.now, Event::Wake { slot, start: self.slots[slot].start });
    }

    pub(super) fn kill(&mut self, slot: usize) {
        let by = (slot, self.slots[slot].start);
        if let Some(node) = self.slots[slot].node.take() {
            for promise in node.promises() {
                self.checker.forgive(by, promise);
            }
        }
        self.slots[slot].paused_until = 0;
    }

    pub(super) fn client(&mut self, number: u16) {
        if self.now > self.clients[usize::from(number)].until {
            return;
        }
        let again = self.now + self.random.range(60_000, 500_000);
        let shard = number % SHARDS;
        let edge = self.random.index(self.edges.len());
        let Some(owner) = self.edges[edge].owner(shard) else { return self.push(again, Event::Client(number)) };
        let homes: Vec<usize> = (0..self.slots.len()).filter(|&slot| self.slots[slot].tag == owner.0).collect();
        let slot = homes[self.random.index(homes.len())];
        let starts_anew = self.random.one_in(12);
        let moves = self.random.one_in(10);
        let client = &mut self.clients[usize::from(number)];
        client.seq += 1;
        client.cseq += 1;
        client.contact += u32::from(moves);
        if std::mem::replace(&mut client.anew, starts_anew) {
            client.call = call(number, client.seq);
            client.cseq = 1;
        }
        let register = Register {
            shard,
            aor: number,
            seq: client.seq,
            call: client.call.clone(),
            cseq: client.cseq,
            contact: client.contact,
            sent: self.now,
        };
        self.stats.registers += 1;
        let start = self.slots[slot].start;
        let at = self.now + self.random.range(200, 5_000);
        self.push(at, Event::ToHome { slot, start, register });
        // A phone that starts anew takes its time: longer than a REGISTER lives, and than clocks differ.
        self.push(if starts_anew { again + 900_000 } else { again }, Event::Client(number));
    }

    pub(super) fn homes(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|&slot| self.slots[slot].node.is_some()).collect()
    }
}

pub(super) fn call(client: u16, seq: u64) -> Arc<str> {
    format!("{client}-{seq}").into()
}
