//! The INVITE server machine (RFC 3261 §17.2.1 with RFC 6026 §7.1).
//!
//! ```text
//! Proceeding --2xx--> Accepted --L--> Terminated
//!      \--300+--> Completed --ACK--> Confirmed --I--> Terminated
//!                      \--H--> Terminated
//! ```

use std::time::Instant;

use bytes::Bytes;

use super::Fired;
use crate::timer::{Resend, TimerConfig, earliest};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Proceeding,
    Completed,
    Confirmed,
    Accepted,
    Terminated,
}

/// What becomes of an ACK that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckUse {
    /// It ended here.
    Absorbed,
    /// It is for a 2xx: routed like a request (RFC 6026 §7.1).
    Deliver,
}

/// One INVITE we received.
#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    reliable: bool,
    last: Option<Bytes>,
    /// Timer G.
    resend: Option<Resend>,
    /// Timer H, I or L.
    end: Option<Instant>,
}

impl Machine {
    pub(crate) fn start(reliable: bool) -> Self {
        Self { state: State::Proceeding, reliable, last: None, resend: None, end: None }
    }

    pub(crate) fn retransmission(&self) -> Option<Bytes> {
        match self.state {
            State::Proceeding | State::Completed => self.last.clone(),
            // A 2xx is repeated by whoever made it, end to end (RFC 6026 §7.1).
            State::Confirmed | State::Accepted | State::Terminated => None,
        }
    }

    pub(crate) fn ack(&mut self, now: Instant, timers: &TimerConfig) -> AckUse {
        match self.state {
            State::Completed => {
                self.last = None;
                self.resend = None;
                self.end = Some(now + timers.t4);
                self.state = if self.reliable { State::Terminated } else { State::Confirmed };
                AckUse::Absorbed
            }
            State::Accepted => AckUse::Deliver,
            State::Proceeding | State::Confirmed | State::Terminated => AckUse::Absorbed,
        }
    }

    /// The To tag an ACK to our final response must carry is read from here (legacy matching).
    pub(crate) fn final_response(&self) -> Option<&Bytes> {
        if self.state == State::Completed { self.last.as_ref() } else { None }
    }

    pub(crate) fn respond(&mut self, now: Instant, timers: &TimerConfig, status: u16, bytes: Bytes) -> Option<Bytes> {
        match (self.state, status) {
            (State::Proceeding, 100..=199) => {
                self.last = Some(bytes.clone());
                Some(bytes)
            }
            (State::Proceeding, 200..=299) => {
                self.last = None;
                self.end = Some(now + timers.transaction());
                self.state = State::Accepted;
                Some(bytes)
            }
            (State::Proceeding, _) => {
                self.last = Some(bytes.clone());
                self.resend = (!self.reliable).then(|| Resend::start(now, timers.t1));
                self.end = Some(now + timers.transaction());
                self.state = State::Completed;
                Some(bytes)
            }
            (State::Accepted, 200..=299) => Some(bytes),
            _ => None,
        }
    }

    pub(crate) fn timeout(&mut self, now: Instant, timers: &TimerConfig) -> Fired {
        if self.is_done() {
            return Fired::Nothing;
        }
        if self.end.is_some_and(|end| end <= now) {
            let fired = if self.state == State::Completed { Fired::TimedOut } else { Fired::Done };
            self.state = State::Terminated;
            return fired;
        }
        match (&mut self.resend, &self.last) {
            (Some(resend), Some(last)) if resend.at <= now => {
                resend.back_off(now, timers.t2);
                Fired::Resend(last.clone())
            }
            _ => Fired::Nothing,
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        earliest([self.resend.map(|resend| resend.at), self.end])
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.state == State::Proceeding
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Terminated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    const TRYING: Bytes = Bytes::from_static(b"100");
    const BUSY: Bytes = Bytes::from_static(b"486");
    const OK: Bytes = Bytes::from_static(b"200");

    #[test]
    fn retransmission_repeats_the_last_provisional_s042() {
        let timers = TimerConfig::default();
        let mut machine = Machine::start(false);
        assert_eq!(machine.retransmission(), None);
        assert_eq!(machine.respond(at(0), &timers, 100, TRYING), Some(TRYING));
        assert_eq!(machine.retransmission(), Some(TRYING));
        assert_eq!(machine.next(), None);
    }

    #[test]
    fn final_is_repeated_by_timer_g_until_timer_h_s046() {
        let timers = TimerConfig::default();
        let mut machine = Machine::start(false);
        machine.respond(at(0), &timers, 486, BUSY);
        for ms in [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500] {
            assert_eq!(machine.next(), Some(at(ms)));
            assert_eq!(machine.timeout(at(ms), &timers), Fired::Resend(BUSY));
        }
        assert_eq!(machine.retransmission(), Some(BUSY));
        assert_eq!(machine.timeout(at(32000), &timers), Fired::TimedOut);
        assert!(machine.is_done());
    }

    #[test]
    fn reliable_transport_has_timer_h_but_not_g_s046() {
        let timers = TimerConfig::default();
        let mut machine = Machine::start(true);
        machine.respond(at(0), &timers, 486, BUSY);
        assert_eq!(machine.next(), Some(at(32000)));
    }

    #[test]
    fn ack_stops_timer_g_and_timer_i_absorbs_for_t4_s046() {
        let timers = TimerConfig::default();
        let mut machine = Machine::start(false);
        machine.respond(at(0), &timers, 486, BUSY);
        assert_eq!(machine.ack(at(700), &timers), AckUse::Absorbed);
        assert_eq!(machine.next(), Some(at(5700)));
        assert_eq!(machine.ack(at(800), &timers), AckUse::Absorbed);
        assert_eq!(machine.retransmission(), None);
        assert_eq!(machine.timeout(at(5700), &timers), Fired::Done);
        let mut machine = Machine::start(true);
        machine.respond(at(0), &timers, 486, BUSY);
        assert_eq!(machine.ack(at(700), &timers), AckUse::Absorbed);
        assert!(machine.is_done());
    }

    #[test]
    fn accepted_swallows_the_invite_and_lets_2xx_and_ack_pass_until_timer_l_s047() {
        let timers = TimerConfig::default();
        for reliable in [true, false] {
            let mut machine = Machine::start(reliable);
            assert_eq!(machine.respond(at(0), &timers, 200, OK), Some(OK));
            assert_eq!(machine.retransmission(), None);
            assert_eq!(machine.respond(at(9), &timers, 200, OK), Some(OK));
            assert_eq!(machine.respond(at(9), &timers, 486, BUSY), None);
            assert_eq!(machine.respond(at(9), &timers, 180, TRYING), None);
            assert_eq!(machine.ack(at(10), &timers), AckUse::Deliver);
            assert_eq!(machine.next(), Some(at(32000)));
            assert_eq!(machine.timeout(at(32000), &timers), Fired::Done);
        }
    }

    #[test]
    fn nothing_goes_out_after_a_final_of_300_and_above() {
        let timers = TimerConfig::default();
        let mut machine = Machine::start(false);
        machine.respond(at(0), &timers, 486, BUSY);
        for status in [180, 200, 487, 603] {
            assert_eq!(machine.respond(at(1), &timers, status, OK), None);
        }
        assert_eq!(machine.retransmission(), Some(BUSY));
    }

    #[test]
    fn early_ack_changes_nothing() {
        let timers = TimerConfig::default();
        let mut machine = Machine::start(false);
        assert_eq!(machine.ack(at(0), &timers), AckUse::Absorbed);
        assert!(machine.is_pending());
    }
}
