//! The response context of a forwarded request (RFC 3261 §16.7, §16.8 with RFC 6026 and RFC 4320): from what the branches bring to
//! the one answer the caller gets.

mod best;
mod output;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use reveille_sip::{header::HeaderId, message::Message, method::Method};
use smallvec::SmallVec;

use self::best::Candidate;
pub use self::output::{BranchId, BranchKind, ForkOutput};

/// The state of one forwarded request. Queues nothing that its inputs do not bound.
#[derive(Debug)]
pub struct ResponseContext {
    invite: bool,
    timer_c: Duration,
    fallback: u16,
    linger: Duration,
    /// When a non-INVITE is answered whatever is still pending (RFC 4320 §4.2).
    deadline: Option<Instant>,
    branches: SmallVec<[Branch; 2]>,
    best: Option<Candidate>,
    challenges: Vec<(BranchId, HeaderId, String)>,
    complete: bool,
    asked_next: bool,
    cancelled: bool,
    declined_globally: bool,
    sent: Sent,
    /// When the last 2xx is old enough for no further one to be expected.
    finish_at: Option<Instant>,
    finished: bool,
    outputs: VecDeque<ForkOutput>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Nothing,
    Success,
    Failure,
}

#[derive(Clone, Copy, Debug)]
struct Branch {
    id: BranchId,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Forwarded { provisional: bool, cancelled: bool, timer_c: Option<Instant> },
    Ended,
}

impl ResponseContext {
    /// A context for a request of this method that arrived now. A non-INVITE is answered after 30 s at the latest; where T1 is not the
    /// default, set that with [`Self::with_deadline`].
    pub fn new(now: Instant, method: Method, timer_c: Duration) -> Self {
        let invite = method == Method::Invite;
        Self {
            invite,
            timer_c,
            fallback: NOBODY,
            linger: LINGER,
            deadline: (!invite).then(|| now + NON_INVITE),
            branches: SmallVec::new(),
            best: None,
            challenges: Vec::new(),
            complete: false,
            asked_next: false,
            cancelled: false,
            declined_globally: false,
            sent: Sent::Nothing,
            finish_at: None,
            finished: false,
            outputs: VecDeque::new(),
        }
    }

    /// Sets when a non-INVITE is answered whatever is pending: [`crate::TimerConfig::non_invite_deadline`] (S-055). No effect on INVITE.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        if !self.invite {
            self.deadline = Some(deadline);
        }
        self
    }

    /// Sets the status for "no branch brought an answer", 480 otherwise; a request inside a dialog needs one that spares the dialog.
    pub fn with_fallback(mut self, status: u16) -> Self {
        self.fallback = status;
        self
    }

    /// Sets how long after the last 2xx further ones are awaited (64·T1; 32 s otherwise).
    pub fn with_linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Whether a target may still be added: no final response was sent, nobody cancelled, no 6xx came (S-080, S-098).
    pub fn can_add(&self) -> bool {
        self.sent == Sent::Nothing && !self.cancelled && !self.declined_globally
    }

    /// Whether the caller has its final response.
    pub fn is_final_sent(&self) -> bool {
        self.sent != Sent::Nothing
    }

    /// Whether the caller's CANCEL was taken.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Adds a branch. Where none may be added any more ([`Self::can_add`]) the branch is told to end at once, and false is returned.
    pub fn add_branch(&mut self, now: Instant, id: BranchId, kind: BranchKind) -> bool {
        if self.branches.iter().any(|branch| branch.id == id) {
            return false;
        }
        if !self.can_add() {
            self.outputs.push_back(ForkOutput::CancelBranch { branch: id, reason: self.closed_because() });
            return false;
        }
        self.asked_next = false;
        self.outputs.retain(|output| !matches!(output, ForkOutput::NextGroup));
        let state = match kind {
            BranchKind::Waiting => State::Waiting,
            BranchKind::Forwarded => self.forwarded_state(now),
        };
        self.branches.push(Branch { id, state });
        true
    }

    /// The target of a waiting branch woke, and the request was forwarded to it. False, with nothing changed, if the branch has ended
    /// meanwhile: the request must not leave then (S-053).
    pub fn forwarded(&mut self, now: Instant, id: BranchId) -> bool {
        let state = self.forwarded_state(now);
        match self.branch(id) {
            Some(branch) if branch.state == State::Waiting => {
                branch.state = state;
                true
            }
            _ => false,
        }
    }

    /// Forgets a branch as if it had never been, its response excepted if one has come: it is replaced, or its transaction is gone.
    pub fn remove_branch(&mut self, id: BranchId) {
        self.branches.retain(|branch| branch.id != id);
        self.settle();
    }

    /// No further targets will come. Say it after the last was added, or in answer to [`ForkOutput::NextGroup`].
    pub fn all_added(&mut self) {
        self.complete = true;
        self.settle();
    }

    /// A response arrived on a branch.
    pub fn response(&mut self, now: Instant, id: BranchId, msg: &Message) {
        let Some(status) = msg.status() else { return };
        let Some(branch) = self.branch(id) else { return };
        let was_pending = branch.state != State::Ended;
        match status {
            100..=199 => self.provisional(now, id, status, msg),
            200..=299 => {
                if was_pending {
                    self.end(id);
                }
                self.success(now, id, msg);
            }
            _ if was_pending => {
                self.end(id);
                self.keep_challenges(id, status, msg);
                self.offer(Candidate::answer(id, status, msg, self.cancelled));
                if status >= 600 && self.sent == Sent::Nothing {
                    self.declined_globally = true;
                    self.cancel_pending(global_reason(status));
                }
            }
            _ => {}
        }
        self.settle();
    }

    /// A branch ended without a response: 408 for a timeout, 503 for a dead flow, 430 for a flow that is gone, 480 for a wake-up that
    /// failed.
    pub fn failed(&mut self, _now: Instant, id: BranchId, status: u16) {
        if self.branch(id).is_some_and(|branch| branch.state != State::Ended) {
            self.end(id);
            self.offer(Candidate::failure(id, status));
            self.settle();
        }
    }

    /// The caller cancelled (§16.10): pending branches are cancelled, waiting ones end at once, and the answer is 487 unless a 2xx
    /// wins the race.
    pub fn cancel(&mut self, _now: Instant) {
        if self.invite && self.sent == Sent::Nothing && !self.cancelled {
            self.cancelled = true;
            self.cancel_pending("");
            self.settle();
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<ForkOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.finished {
            return None;
        }
        let timers_c = self.branches.iter().filter_map(|branch| match branch.state {
            State::Forwarded { timer_c, .. } => timer_c,
            _ => None,
        });
        let deadline = self.deadline.filter(|_| self.sent == Sent::Nothing);
        timers_c.chain(deadline).chain(self.finish_at).min()
    }

    /// Timer C (§16.8), the deadline of a non-INVITE, and the end of the wait for further 2xx.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.finished {
            return;
        }
        for index in 0..self.branches.len() {
            let Some(branch) = self.branches.get_mut(index) else { break };
            let State::Forwarded { provisional, cancelled, timer_c: Some(expiry) } = branch.state else { continue };
            if expiry > now {
                continue;
            }
            let id = branch.id;
            if provisional {
                branch.state = State::Forwarded { provisional, cancelled: true, timer_c: None };
            } else {
                branch.state = State::Ended;
                self.offer(Candidate::failure(id, 408));
            }
            if !cancelled {
                self.outputs.push_back(ForkOutput::CancelBranch { branch: id, reason: REASON_TIMER_C });
            }
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) && self.sent == Sent::Nothing {
            self.deadline = None;
            self.complete = true;
            self.cancel_pending(REASON_TIMER_C);
            for branch in &mut self.branches {
                branch.state = State::Ended;
            }
        }
        if self.finish_at.is_some_and(|at| at <= now) {
            self.finish_at = None;
        }
        self.settle();
    }

    fn provisional(&mut self, now: Instant, id: BranchId, status: u16, msg: &Message) {
        // Only 100 exists for a non-INVITE, and a 100 goes no further than a hop (RFC 4320 §4.1, RFC 3261 §16.7 step 5).
        let restart = now + self.timer_c;
        let open = self.invite && self.sent == Sent::Nothing;
        let Some(branch) = self.branch(id) else { return };
        let State::Forwarded { provisional, timer_c, cancelled } = &mut branch.state else { return };
        *provisional = true;
        if status > 100 && !*cancelled && timer_c.is_some() {
            *timer_c = Some(restart);
        }
        if status > 100 && open {
            self.outputs.push_back(ForkOutput::Forward { branch: id, msg: msg.clone(), challenges: Vec::new() });
        }
    }

    fn success(&mut self, now: Instant, id: BranchId, msg: &Message) {
        // For an INVITE each 2xx goes up, unless the caller's transaction ended with something else (§16.7 step 5, RFC 6026 §7.1).
        let first = self.sent == Sent::Nothing;
        if !(first || self.invite && self.sent == Sent::Success) {
            return;
        }
        self.sent = Sent::Success;
        self.best = None;
        self.challenges.clear();
        self.outputs.push_back(ForkOutput::Forward { branch: id, msg: msg.clone(), challenges: Vec::new() });
        if self.invite {
            self.finish_at = Some(now + self.linger);
        }
        if first {
            self.cancel_pending(REASON_ELSEWHERE);
        }
    }

    /// Cancels what is pending. A waiting branch ends with that; a forwarded one when its final response comes. A non-INVITE that was
    /// forwarded can not be cancelled (§9.1).
    fn cancel_pending(&mut self, reason: &'static str) {
        for branch in &mut self.branches {
            match &mut branch.state {
                State::Waiting => branch.state = State::Ended,
                State::Forwarded { cancelled, .. } if self.invite && !*cancelled => *cancelled = true,
                _ => continue,
            }
            self.outputs.push_back(ForkOutput::CancelBranch { branch: branch.id, reason });
        }
    }

    /// Sees what follows from the state reached.
    fn settle(&mut self) {
        if self.finished {
            return;
        }
        let pending = self.branches.iter().any(|branch| branch.state != State::Ended);
        if self.sent == Sent::Nothing && !pending {
            if self.complete || !self.can_add() {
                self.send_best();
            } else if !self.asked_next {
                self.asked_next = true;
                self.outputs.push_back(ForkOutput::NextGroup);
            }
        }
        let over = match self.sent {
            Sent::Nothing => false,
            Sent::Failure => true,
            Sent::Success => !self.invite || self.branches.is_empty() || !pending && self.finish_at.is_none(),
        };
        if over {
            self.finished = true;
            self.outputs.push_back(ForkOutput::Finished);
        }
    }

    /// §16.7 steps 6 and 7.
    fn send_best(&mut self) {
        self.sent = Sent::Failure;
        self.outputs.retain(|output| !matches!(output, ForkOutput::NextGroup));
        let Some(best) = self.best.take() else {
            let status = if self.cancelled { CANCELLED } else { self.fallback };
            return self.outputs.push_back(ForkOutput::Respond { status });
        };
        if self.cancelled && !best.outranks_cancel() {
            return self.outputs.push_back(ForkOutput::Respond { status: CANCELLED });
        }
        let output = match best.verdict(self.invite, self.fallback) {
            best::Verdict::Respond(status) => ForkOutput::Respond { status },
            best::Verdict::Forward(branch, msg) => {
                let wanted = matches!(msg.status(), Some(401 | 407));
                let others = self.challenges.drain(..).filter(|(from, ..)| wanted && *from != branch);
                let challenges = others.map(|(_, header, line)| (header, line)).collect();
                ForkOutput::Forward { branch, msg, challenges }
            }
        };
        self.outputs.push_back(output);
    }

    fn offer(&mut self, candidate: Candidate) {
        if self.sent == Sent::Nothing && self.best.as_ref().is_none_or(|best| candidate.is_better_than(best)) {
            self.best = Some(candidate);
        }
    }

    fn keep_challenges(&mut self, id: BranchId, status: u16, msg: &Message) {
        if !matches!(status, 401 | 407) || self.sent != Sent::Nothing {
            return;
        }
        for header in [HeaderId::WwwAuthenticate, HeaderId::ProxyAuthenticate] {
            for line in msg.lines(header) {
                if self.challenges.len() < MAX_CHALLENGES {
                    self.challenges.push((id, header, line.to_owned()));
                }
            }
        }
    }

    fn branch(&mut self, id: BranchId) -> Option<&mut Branch> {
        self.branches.iter_mut().find(|branch| branch.id == id)
    }

    fn end(&mut self, id: BranchId) {
        if let Some(branch) = self.branch(id) {
            branch.state = State::Ended;
        }
    }

    fn forwarded_state(&self, now: Instant) -> State {
        let timer_c = self.invite.then(|| now + self.timer_c);
        State::Forwarded { provisional: false, cancelled: false, timer_c }
    }

    fn closed_because(&self) -> &'static str {
        match self.sent {
            Sent::Success => REASON_ELSEWHERE,
            _ => "",
        }
    }
}

/// The Reason of a CANCEL to a branch after a 6xx on another (RFC 3326 §2).
fn global_reason(status: u16) -> &'static str {
    match status {
        603 => "SIP;cause=603;text=\"Decline\"",
        604 => "SIP;cause=604;text=\"Does Not Exist Anywhere\"",
        606 => "SIP;cause=606;text=\"Not Acceptable\"",
        607 => "SIP;cause=607;text=\"Unwanted\"",
        608 => "SIP;cause=608;text=\"Rejected\"",
        _ => "SIP;cause=600;text=\"Busy Everywhere\"",
    }
}

const REASON_ELSEWHERE: &str = "SIP;cause=200;text=\"Call completed elsewhere\"";
const REASON_TIMER_C: &str = "SIP;cause=408;text=\"Request Timeout\"";
const CANCELLED: u16 = 487;
const NOBODY: u16 = 480;
const LINGER: Duration = Duration::from_secs(32);
const NON_INVITE: Duration = Duration::from_secs(30);
/// More challenges than this help nobody.
const MAX_CHALLENGES: usize = 32;
