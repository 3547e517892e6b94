//! The INVITE client machine (RFC 3261 §17.1.1 with RFC 6026 §7.2).
//!
//! ```text
//! Calling --1xx--> Proceeding --2xx--> Accepted --M--> Terminated
//!    |                 \--300+--> Completed --D--> Terminated
//!    \--2xx, 300+: as from Proceeding;  B, transport: Terminated
//! ```

use std::time::{Duration, Instant};

use super::{Fired, Heard};
use crate::timer::{Resend, TimerConfig, earliest};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Calling,
    Proceeding,
    Completed,
    Accepted,
    Terminated,
}

/// One INVITE we sent.
#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    reliable: bool,
    /// Timer A.
    resend: Option<Resend>,
    /// Timer B, D or M, or the patience after a CANCEL.
    end: Option<Instant>,
}

impl Machine {
    pub(crate) fn start(now: Instant, timers: &TimerConfig, reliable: bool) -> Self {
        Self {
            state: State::Calling,
            reliable,
            resend: (!reliable).then(|| Resend::start(now, timers.t1)),
            end: Some(now + timers.transaction()),
        }
    }

    pub(crate) fn response(&mut self, now: Instant, timers: &TimerConfig, status: u16) -> Heard {
        match (self.state, status) {
            (State::Calling, 100..=199) => {
                self.resend = None;
                self.end = None;
                self.state = State::Proceeding;
                Heard::Deliver
            }
            (State::Proceeding, 100..=199) => Heard::Deliver,
            (State::Calling | State::Proceeding, 200..=299) => {
                self.resend = None;
                self.end = Some(now + timers.transaction());
                self.state = State::Accepted;
                Heard::Deliver
            }
            (State::Calling | State::Proceeding, _) => {
                self.resend = None;
                self.end = Some(now + timers.timer_d);
                self.state = if self.reliable { State::Terminated } else { State::Completed };
                Heard::DeliverAndAck
            }
            (State::Accepted, 200..=299) => Heard::Deliver,
            (State::Completed, 300..) => Heard::Ack,
            (State::Completed | State::Accepted | State::Terminated, _) => Heard::Absorbed,
        }
    }

    /// A CANCEL went out: a peer that then stays mute is given 64·T1 (RFC 3261 §9.1).
    pub(crate) fn cancelled(&mut self, now: Instant, timers: &TimerConfig) {
        if self.state == State::Proceeding {
            self.end = Some(now + timers.transaction());
        }
    }

    pub(crate) fn timeout(&mut self, now: Instant) -> Fired {
        if self.end.is_some_and(|end| end <= now) {
            let fired = if self.is_pending() { Fired::TimedOut } else { Fired::Done };
            self.state = State::Terminated;
            return fired;
        }
        match &mut self.resend {
            Some(resend) if resend.at <= now => {
                // Timer A doubles without a limit of its own; Timer B ends it.
                resend.back_off(now, Duration::MAX);
                Fired::Resend
            }
            _ => Fired::Nothing,
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        earliest([self.resend.map(|resend| resend.at), self.end])
    }

    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.state, State::Calling | State::Proceeding)
    }

    /// A provisional response arrived and no final one: the only time when a CANCEL may go out (S-051).
    pub(crate) fn is_proceeding(&self) -> bool {
        self.state == State::Proceeding
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Terminated
    }

    pub(crate) fn needs_request(&self) -> bool {
        matches!(self.state, State::Calling | State::Proceeding | State::Completed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, start};

    fn calling(reliable: bool) -> (TimerConfig, Machine) {
        let timers = TimerConfig::default();
        let machine = Machine::start(start(), &timers, reliable);
        (timers, machine)
    }

    #[test]
    fn timer_a_doubles_and_timer_b_ends() {
        let (_, mut machine) = calling(false);
        for ms in [500, 1500, 3500, 7500, 15500, 31500] {
            assert_eq!(machine.next(), Some(at(ms)));
            assert_eq!(machine.timeout(at(ms - 1)), Fired::Nothing);
            assert_eq!(machine.timeout(at(ms)), Fired::Resend);
        }
        assert_eq!(machine.next(), Some(at(32000)));
        assert_eq!(machine.timeout(at(32000)), Fired::TimedOut);
        assert!(machine.is_done());
    }

    #[test]
    fn reliable_transport_has_timer_b_alone() {
        let (_, mut machine) = calling(true);
        assert_eq!(machine.next(), Some(at(32000)));
        assert_eq!(machine.timeout(at(32000)), Fired::TimedOut);
    }

    #[test]
    fn provisional_stops_both_timers() {
        let (timers, mut machine) = calling(false);
        assert_eq!(machine.response(at(100), &timers, 100), Heard::Deliver);
        assert_eq!(machine.next(), None);
        assert_eq!(machine.response(at(200), &timers, 180), Heard::Deliver);
        assert!(machine.is_proceeding());
    }

    #[test]
    fn silence_after_cancel_ends_in_64_t1() {
        let (timers, mut machine) = calling(true);
        machine.response(at(100), &timers, 180);
        machine.cancelled(at(1000), &timers);
        assert_eq!(machine.response(at(1100), &timers, 183), Heard::Deliver);
        assert_eq!(machine.next(), Some(at(33000)));
        assert_eq!(machine.timeout(at(33000)), Fired::TimedOut);
    }

    #[test]
    fn accepted_delivers_every_2xx_until_timer_m_s047() {
        for reliable in [true, false] {
            let (timers, mut machine) = calling(reliable);
            assert_eq!(machine.response(at(0), &timers, 200), Heard::Deliver);
            assert_eq!(machine.response(at(31999), &timers, 200), Heard::Deliver);
            assert_eq!(machine.response(at(31999), &timers, 486), Heard::Absorbed);
            assert_eq!(machine.response(at(31999), &timers, 180), Heard::Absorbed);
            assert!(!machine.needs_request());
            assert_eq!(machine.timeout(at(31999)), Fired::Nothing);
            assert_eq!(machine.timeout(at(32000)), Fired::Done);
            assert_eq!(machine.response(at(32001), &timers, 200), Heard::Absorbed);
        }
    }

    #[test]
    fn completed_repeats_the_ack_until_timer_d_s046() {
        let (timers, mut machine) = calling(false);
        assert_eq!(machine.response(at(0), &timers, 486), Heard::DeliverAndAck);
        assert_eq!(machine.response(at(500), &timers, 486), Heard::Ack);
        assert_eq!(machine.response(at(500), &timers, 200), Heard::Absorbed);
        assert_eq!(machine.response(at(500), &timers, 180), Heard::Absorbed);
        assert_eq!(machine.next(), Some(at(32000)));
        assert_eq!(machine.timeout(at(32000)), Fired::Done);
    }

    #[test]
    fn timer_d_is_zero_on_reliable_transport() {
        let (timers, mut machine) = calling(true);
        assert_eq!(machine.response(at(0), &timers, 486), Heard::DeliverAndAck);
        assert!(machine.is_done());
    }
}
