//! Which of several failures the caller is told (RFC 3261 §16.7 step 6).

use reveille_sip::message::Message;

use super::BranchId;

/// How a branch ended, other than by a 2xx.
#[derive(Debug)]
pub(super) struct Candidate {
    branch: BranchId,
    status: u16,
    /// The response; none where the branch ended without one.
    msg: Option<Box<Message>>,
    rank: u8,
}

/// What to tell the caller.
#[derive(Debug)]
pub(super) enum Verdict {
    Forward(BranchId, Message),
    Respond(u16),
}

impl Candidate {
    /// A branch answered.
    pub(super) fn answer(branch: BranchId, status: u16, msg: &Message, cancelled: bool) -> Self {
        Self { branch, status, msg: Some(Box::new(msg.clone())), rank: rank(status, true, cancelled) }
    }

    /// A branch failed without an answer.
    pub(super) fn failure(branch: BranchId, status: u16) -> Self {
        Self { branch, status, msg: None, rank: rank(status, false, false) }
    }

    /// Among equals the first stays.
    pub(super) fn is_better_than(&self, other: &Self) -> bool {
        self.rank < other.rank
    }

    /// Whether it may be told to a caller who cancelled: a 6xx, or a 487 that CANCEL brought.
    pub(super) fn outranks_cancel(&self) -> bool {
        self.rank <= rank(487, true, true)
    }

    /// What the caller gets if this is the best there is.
    pub(super) fn verdict(self, invite: bool, fallback: u16) -> Verdict {
        match (self.status, self.msg) {
            // Our next hop's overload, or its absence, is not ours (§16.7 step 6; S-082).
            (503, _) => Verdict::Respond(500),
            // 430 speaks of a flow, to the proxy that chose it (RFC 5626 §11.5).
            (430, _) => Verdict::Respond(fallback),
            // RFC 4320 §4.2: never to a non-INVITE.
            (408, _) if !invite => Verdict::Respond(fallback),
            (480, None) => Verdict::Respond(fallback),
            (_, Some(msg)) => Verdict::Forward(self.branch, *msg),
            (status, None) => Verdict::Respond(status),
        }
    }
}

/// Lower is better: 6xx, then the lowest class, in 4xx first what the caller can act on. A timeout is told only where nobody answered
/// (S-081), and 503 only where nothing else is left but those.
fn rank(status: u16, answered: bool, cancelled: bool) -> u8 {
    match status {
        600.. => 0,
        487 if cancelled => 1,
        430 => 72,
        408 if answered => 70,
        408 => 71,
        _ if status < 400 => 10,
        401 | 407 => 20,
        415 => 21,
        420 => 22,
        484 => 23,
        487 => 35,
        400..=499 if answered => 30,
        400..=499 => 40,
        503 if answered => 60,
        _ if answered => 50,
        _ => 80,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_preference_s081() {
        // Each group is preferred to all groups after it; `false` means that the branch ended without an answer.
        let groups: &[&[(u16, bool)]] = &[
            &[(600, true), (603, true), (606, true)],
            &[(300, true), (302, true)],
            &[(401, true), (407, true)],
            &[(415, true)],
            &[(420, true)],
            &[(484, true)],
            &[(400, true), (403, true), (404, true), (480, true), (486, true)],
            &[(487, true)],
            &[(480, false), (404, false)],
            &[(500, true), (502, true), (504, true), (580, true)],
            &[(503, true)],
            &[(408, true)],
            &[(408, false)],
            &[(430, true), (430, false)],
            &[(503, false), (500, false)],
        ];
        for (index, group) in groups.iter().enumerate() {
            for &(better, answered) in *group {
                for &(same, same_answered) in *group {
                    assert_eq!(rank(better, answered, false), rank(same, same_answered, false), "{better} {same}");
                }
                for &(worse, worse_answered) in groups.iter().skip(index + 1).copied().flatten() {
                    assert!(
                        rank(better, answered, false) < rank(worse, worse_answered, false),
                        "{better} before {worse}"
                    );
                }
            }
        }
    }

    #[test]
    fn after_a_cancel_487_yields_to_6xx_alone() {
        assert!(rank(603, true, true) < rank(487, true, true));
        assert!(rank(487, true, true) < rank(302, true, true));
        assert!(!Candidate::failure(BranchId(1), 408).outranks_cancel());
    }
}
