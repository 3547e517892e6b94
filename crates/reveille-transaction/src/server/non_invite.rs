//! The server machine of every method but INVITE and ACK (RFC 3261 §17.2.2 with RFC 4320).
//!
//! ```text
//! Trying --100--> Proceeding --final--> Completed --J--> Terminated
//!    \--final: as from Proceeding;  64·T1 without a final: Terminated in silence
//! ```

use std::time::Instant;

use bytes::Bytes;

use super::Fired;
use crate::timer::{TimerConfig, earliest};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

/// One request, not an INVITE, that we received.
#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    reliable: bool,
    last: Option<Bytes>,
    /// When a 100 is owed; none once something was sent.
    owed: Option<Instant>,
    /// Timer J; before a final response, the moment from which the client has given up.
    end: Instant,
}

impl Machine {
    pub(crate) fn start(now: Instant, timers: &TimerConfig, reliable: bool) -> Self {
        Self {
            state: State::Trying,
            reliable,
            last: None,
            owed: Some(now + timers.owed_trying()),
            end: now + timers.transaction(),
        }
    }

    pub(crate) fn retransmission(&self) -> Option<Bytes> {
        self.last.clone()
    }

    pub(crate) fn respond(&mut self, now: Instant, timers: &TimerConfig, status: u16, bytes: Bytes) -> Option<Bytes> {
        match (self.state, status) {
            // Over UDP a 100 waits for its time, where the timer sends it (RFC 4320 §4.1).
            (State::Trying | State::Proceeding, 100) if self.reliable || self.owed.is_none_or(|owed| owed <= now) => {
                self.owed = None;
                self.last = Some(bytes.clone());
                self.state = State::Proceeding;
                Some(bytes)
            }
            (_, 100..=199) | (State::Completed | State::Terminated, _) => None,
            (State::Trying | State::Proceeding, _) => {
                self.owed = None;
                self.end = now + timers.transaction();
                self.state = if self.reliable { State::Terminated } else { State::Completed };
                // 408 never goes out: the client has ended by then, or will without being told (RFC 4320 §4.2).
                self.last = (status != 408).then_some(bytes);
                self.last.clone()
            }
        }
    }

    pub(crate) fn timeout(&mut self, now: Instant) -> Fired {
        if self.is_done() {
            return Fired::Nothing;
        }
        if self.end <= now {
            let fired = if self.is_pending() { Fired::TimedOut } else { Fired::Done };
            self.state = State::Terminated;
            return fired;
        }
        if self.owed.is_some_and(|owed| owed <= now) {
            return Fired::OweTrying;
        }
        Fired::Nothing
    }

    /// The 100 that was owed can not be made; it is not asked for again.
    pub(crate) fn forgive(&mut self) {
        self.owed = None;
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        earliest([self.owed, Some(self.end)])
    }

    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Terminated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, start};

    const TRYING: Bytes = Bytes::from_static(b"100");
    const OK: Bytes = Bytes::from_static(b"200");

    fn trying(reliable: bool) -> (TimerConfig, Machine) {
        let timers = TimerConfig::default();
        let machine = Machine::start(start(), &timers, reliable);
        (timers, machine)
    }

    #[test]
    fn trying_is_refused_early_over_udp_and_owed_at_its_time_s054() {
        let (timers, mut machine) = trying(false);
        assert_eq!(machine.respond(at(3499), &timers, 100, TRYING), None);
        assert_eq!(machine.next(), Some(at(3500)));
        assert_eq!(machine.timeout(at(3499)), Fired::Nothing);
        assert_eq!(machine.timeout(at(3500)), Fired::OweTrying);
        assert_eq!(machine.respond(at(3500), &timers, 100, TRYING), Some(TRYING));
        assert_eq!(machine.retransmission(), Some(TRYING));
        assert_eq!(machine.timeout(at(4000)), Fired::Nothing);
    }

    #[test]
    fn trying_is_owed_on_reliable_transport_unless_sent_before_s054() {
        let (timers, mut machine) = trying(true);
        assert_eq!(machine.timeout(at(3500)), Fired::OweTrying);
        let (_, mut other) = trying(true);
        assert_eq!(other.respond(at(10), &timers, 100, TRYING), Some(TRYING));
        assert_eq!(other.timeout(at(3500)), Fired::Nothing);
        machine.forgive();
        assert_eq!(machine.timeout(at(3501)), Fired::Nothing);
    }

    #[test]
    fn no_provisional_but_100_s054() {
        let (timers, mut machine) = trying(true);
        for status in [101, 180, 183, 199] {
            assert_eq!(machine.respond(at(5000), &timers, status, TRYING), None);
        }
    }

    #[test]
    fn never_408_s055() {
        for reliable in [true, false] {
            let (timers, mut machine) = trying(reliable);
            assert_eq!(machine.respond(at(0), &timers, 408, OK), None);
            assert_eq!(machine.retransmission(), None);
            assert_eq!(machine.respond(at(1), &timers, 200, OK), None);
            assert!(!machine.is_pending());
        }
    }

    #[test]
    fn late_final_is_not_sent_s055() {
        let (timers, mut machine) = trying(false);
        assert_eq!(machine.timeout(at(3500)), Fired::OweTrying);
        machine.forgive();
        assert_eq!(machine.timeout(at(32000)), Fired::TimedOut);
        assert_eq!(machine.respond(at(32001), &timers, 200, OK), None);
    }

    #[test]
    fn timer_j_replays_for_64_t1_unless_reliable_s042() {
        let (timers, mut machine) = trying(false);
        assert_eq!(machine.respond(at(100), &timers, 200, OK), Some(OK));
        assert_eq!(machine.respond(at(101), &timers, 404, TRYING), None);
        assert_eq!(machine.retransmission(), Some(OK));
        assert_eq!(machine.next(), Some(at(32100)));
        assert_eq!(machine.timeout(at(32100)), Fired::Done);
        let (timers, mut machine) = trying(true);
        assert_eq!(machine.respond(at(100), &timers, 200, OK), Some(OK));
        assert!(machine.is_done());
    }
}
