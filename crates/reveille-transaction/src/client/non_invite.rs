//! The client machine of every method but INVITE and ACK (RFC 3261 §17.1.2).
//!
//! ```text
//! Trying --1xx--> Proceeding --final--> Completed --K--> Terminated
//!    \--final: as from Proceeding;  F, transport: Terminated
//! ```

use std::time::Instant;

use super::{Fired, Heard};
use crate::timer::{Resend, TimerConfig, earliest};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

/// One request, not an INVITE, that we sent.
#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    reliable: bool,
    /// Timer E.
    resend: Option<Resend>,
    /// Timer F or K.
    end: Instant,
}

impl Machine {
    pub(crate) fn start(now: Instant, timers: &TimerConfig, reliable: bool) -> Self {
        Self {
            state: State::Trying,
            reliable,
            resend: (!reliable).then(|| Resend::start(now, timers.t1)),
            end: now + timers.transaction(),
        }
    }

    pub(crate) fn response(&mut self, now: Instant, timers: &TimerConfig, status: u16) -> Heard {
        match (self.state, status) {
            (State::Trying | State::Proceeding, 100..=199) => {
                self.state = State::Proceeding;
                Heard::Deliver
            }
            (State::Trying | State::Proceeding, _) => {
                self.resend = None;
                self.end = now + timers.t4;
                self.state = if self.reliable { State::Terminated } else { State::Completed };
                Heard::Deliver
            }
            (State::Completed | State::Terminated, _) => Heard::Absorbed,
        }
    }

    pub(crate) fn timeout(&mut self, now: Instant, timers: &TimerConfig) -> Fired {
        if self.is_done() {
            return Fired::Nothing;
        }
        if self.end <= now {
            let fired = if self.is_pending() { Fired::TimedOut } else { Fired::Done };
            self.state = State::Terminated;
            return fired;
        }
        match &mut self.resend {
            Some(resend) if resend.at <= now => {
                if self.state == State::Proceeding {
                    *resend = Resend::start(now, timers.t2);
                } else {
                    resend.back_off(now, timers.t2);
                }
                Fired::Resend
            }
            _ => Fired::Nothing,
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        earliest([self.resend.map(|resend| resend.at), Some(self.end)])
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

    fn trying(reliable: bool) -> (TimerConfig, Machine) {
        let timers = TimerConfig::default();
        let machine = Machine::start(start(), &timers, reliable);
        (timers, machine)
    }

    #[test]
    fn timer_e_doubles_to_t2_and_timer_f_ends() {
        let (timers, mut machine) = trying(false);
        for ms in [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500] {
            assert_eq!(machine.next(), Some(at(ms)));
            assert_eq!(machine.timeout(at(ms), &timers), Fired::Resend);
        }
        assert_eq!(machine.timeout(at(32000), &timers), Fired::TimedOut);
        assert!(machine.is_done());
    }

    #[test]
    fn provisional_makes_timer_e_constant_and_keeps_timer_f() {
        let (timers, mut machine) = trying(false);
        assert_eq!(machine.response(at(100), &timers, 100), Heard::Deliver);
        for ms in [500, 4500, 8500, 12500, 16500, 20500, 24500, 28500] {
            assert_eq!(machine.next(), Some(at(ms)));
            assert_eq!(machine.timeout(at(ms), &timers), Fired::Resend);
        }
        assert_eq!(machine.timeout(at(32000), &timers), Fired::TimedOut);
    }

    #[test]
    fn reliable_transport_never_resends() {
        let (timers, mut machine) = trying(true);
        assert_eq!(machine.next(), Some(at(32000)));
        assert_eq!(machine.timeout(at(31999), &timers), Fired::Nothing);
    }

    #[test]
    fn timer_k_absorbs_for_t4_unless_reliable() {
        let (timers, mut machine) = trying(false);
        assert_eq!(machine.response(at(0), &timers, 404), Heard::Deliver);
        assert_eq!(machine.response(at(1), &timers, 404), Heard::Absorbed);
        assert_eq!(machine.next(), Some(at(5000)));
        assert_eq!(machine.timeout(at(5000), &timers), Fired::Done);
        let (timers, mut machine) = trying(true);
        assert_eq!(machine.response(at(0), &timers, 200), Heard::Deliver);
        assert!(machine.is_done());
    }
}
