use super::*;
use crate::testing::{at, node};

const TTL: u64 = 5000;
const DEADLINE: u64 = 4500;

fn lease(tag: u32, incarnation: Incarnation, ms: u64) -> Lease {
    let remaining = Duration::from_millis(ms);
    Lease { tag: NodeTag(tag), incarnation, remaining, description: node(tag).encode() }
}

/// A lease machine that was asked for its outputs up to here.
struct Scene {
    own: OwnLease,
    said: Vec<MemberOutput>,
}

impl Scene {
    fn new() -> Self {
        Self { own: OwnLease::new(at(0), MemberConfig::default(), node(1), 7), said: Vec::new() }
    }

    /// Outputs since the last call, and the number of the last renewal among them.
    fn outputs(&mut self) -> (Vec<MemberOutput>, Option<(u64, Incarnation)>) {
        self.said.clear();
        self.said.extend(std::iter::from_fn(|| self.own.poll_output()));
        let renewal = self.said.iter().rev().find_map(|output| match output {
            MemberOutput::Renew { attempt, incarnation, .. } => Some((*attempt, *incarnation)),
            _ => None,
        });
        (self.said.clone(), renewal)
    }

    fn renewal(&mut self) -> (u64, Incarnation) {
        self.outputs().1.expect("a renewal")
    }

    /// The renewal asked for last is answered, and these others are alive.
    fn answer(&mut self, ms: u64, others: &[(u32, u64)]) {
        let (attempt, incarnation) = self.renewal();
        self.answer_to(ms, attempt, incarnation, others);
    }

    fn answer_to(&mut self, ms: u64, attempt: u64, incarnation: Incarnation, others: &[(u32, u64)]) {
        let mut leases = vec![lease(1, incarnation, TTL)];
        leases.extend(others.iter().map(|&(tag, ms)| lease(tag, Incarnation::first(1), ms)));
        self.own.renewed(at(ms), attempt, leases);
    }
}

#[test]
fn joins_and_renews_after_a_third() {
    let mut scene = Scene::new();
    assert!(!scene.own.may_write(at(0)));
    scene.answer(10, &[]);
    let (outputs, _) = scene.outputs();
    let until = at(DEADLINE);
    let incarnation = Incarnation::first(7);
    let expected = [
        MemberOutput::RosterChanged,
        MemberOutput::Leased { sent: at(0), until, incarnation },
        MemberOutput::AnnounceMembers,
    ];
    assert_eq!(outputs, expected);
    assert_eq!(scene.own.poll_timeout(), Some(at(0) + Duration::from_millis(TTL) / 3));
    scene.own.handle_timeout(at(1700));
    scene.answer(1710, &[]);
    let (outputs, _) = scene.outputs();
    assert_eq!(
        outputs,
        [MemberOutput::Leased { sent: at(1700), until: at(1700 + DEADLINE), incarnation }],
        "nothing else is news"
    );
}

/// The deadline counts from when the renewal was sent: a slow answer buys no time.
#[test]
fn deadline_counts_from_sending_and_falls_without_any_event() {
    let mut scene = Scene::new();
    scene.answer(650, &[]);
    assert!(scene.own.may_write(at(DEADLINE - 1)));
    assert!(!scene.own.may_write(at(DEADLINE)), "even before a timeout was handled");
    scene.outputs();
    scene.own.handle_timeout(at(DEADLINE));
    assert_eq!(scene.own.standing(), Standing::Degraded(Degraded::LeaseRanOut));
    assert!(scene.outputs().0.contains(&MemberOutput::Lapsed(Degraded::LeaseRanOut)));
}

/// The process stood still between the store's answer and reading it.
#[test]
fn an_answer_read_after_its_lease_gives_nothing() {
    let mut scene = Scene::new();
    let (attempt, incarnation) = scene.renewal();
    scene.answer_to(DEADLINE, attempt, incarnation, &[(2, 100)]);
    assert_eq!(scene.own.standing(), Standing::Joining);
    assert!(!scene.own.may_write(at(DEADLINE)));
    assert!(scene.own.roster().members().is_empty(), "so old a roster says nothing");
    scene.answer(DEADLINE + 5, &[]);
    assert!(scene.own.may_write(at(DEADLINE + 6)));
}

#[test]
fn an_unanswered_renewal_is_repeated_and_its_late_answer_still_counts() {
    let mut scene = Scene::new();
    let (first, incarnation) = scene.renewal();
    scene.own.handle_timeout(at(700));
    let (second, _) = scene.renewal();
    assert_ne!(first, second);
    scene.answer_to(800, first, incarnation, &[]);
    assert!(scene.own.may_write(at(DEADLINE - 1)) && !scene.own.may_write(at(DEADLINE)), "as of the first");
    scene.answer_to(900, second, incarnation, &[]);
    assert!(scene.own.may_write(at(700 + DEADLINE - 1)));
    scene.answer_to(950, first, incarnation, &[(3, 10)]);
    assert!(!scene.own.roster().is_live(NodeTag(3)), "answered before");
}

#[test]
fn looks_again_when_anothers_lease_ends() {
    let mut scene = Scene::new();
    scene.answer(10, &[(2, 400), (3, 5000)]);
    scene.outputs();
    assert_eq!(scene.own.poll_timeout(), Some(at(412)), "after 400 ms of arrival, and the store's rounding");
    scene.own.handle_timeout(at(412));
    scene.answer(415, &[(3, 4600)]);
    assert!(scene.outputs().0.contains(&MemberOutput::RosterChanged));
    assert!(!scene.own.roster().is_live(NodeTag(2)));
}

#[test]
fn a_failed_attempt_waits_a_little() {
    let mut scene = Scene::new();
    let (attempt, _) = scene.renewal();
    scene.own.failed(at(5), attempt);
    assert_eq!(scene.own.poll_timeout(), Some(at(305)));
    scene.own.failed(at(5), attempt);
    scene.own.handle_timeout(at(304));
    assert_eq!(scene.outputs().1, None);
    scene.own.handle_timeout(at(305));
    assert!(scene.outputs().1.is_some());
}

/// A lease that ran out on our own clock is renewed as another life; should the old one run on after all, that will do.
#[test]
fn a_lost_lease_is_another_life_unless_the_store_still_knows_the_old_one() {
    let mut scene = Scene::new();
    scene.answer(10, &[]);
    scene.own.handle_timeout(at(1700));
    let (lost, old) = scene.renewal();
    scene.own.failed(at(1800), lost);
    scene.own.handle_timeout(at(TTL + 10));
    let (attempt, new) = scene.renewal();
    assert!(new != old && new.same_process(old));
    scene.own.refused(at(TTL + 20), attempt, old);
    let (attempt, again) = scene.renewal();
    assert_eq!(again, old);
    scene.answer_to(TTL + 30, attempt, again, &[]);
    assert_eq!(scene.own.standing(), Standing::Live);
}

#[test]
fn another_process_with_our_tag_stops_us_at_once() {
    let mut scene = Scene::new();
    scene.answer(10, &[]);
    scene.own.handle_timeout(at(1700));
    let (attempt, _) = scene.renewal();
    scene.own.refused(at(1710), attempt, Incarnation::first(8));
    assert!(!scene.own.may_write(at(1711)));
    assert_eq!(scene.outputs().0, [MemberOutput::Lapsed(Degraded::TagTaken)]);
    scene.own.handle_timeout(at(2010));
    scene.answer(2020, &[]);
    assert_eq!(scene.own.standing(), Standing::Live);
}

#[test]
fn news_of_the_roster_is_fetched_even_if_a_look_is_on_its_way() {
    let mut scene = Scene::new();
    let (attempt, incarnation) = scene.renewal();
    scene.own.members_changed(at(5));
    assert_eq!(scene.outputs().1, None, "one at a time");
    scene.answer_to(10, attempt, incarnation, &[]);
    assert!(scene.outputs().1.is_some(), "that answer may have been from before");
}

#[test]
fn a_changed_description_is_published_at_once_and_told() {
    let mut scene = Scene::new();
    scene.answer(10, &[]);
    scene.outputs();
    scene.own.describe(at(100), |info| info.draining = true);
    scene.answer(110, &[]);
    assert!(scene.outputs().0.contains(&MemberOutput::AnnounceMembers));
}

#[test]
fn a_node_that_left_asks_for_nothing_more() {
    let mut scene = Scene::new();
    let (attempt, incarnation) = scene.renewal();
    scene.answer_to(10, attempt, incarnation, &[]);
    scene.outputs();
    scene.own.leave(at(20));
    assert_eq!(scene.outputs().0, [MemberOutput::Leave { incarnation }, MemberOutput::AnnounceMembers]);
    assert!(!scene.own.may_write(at(21)));
    assert_eq!(scene.own.poll_timeout(), None);
    scene.answer_to(30, attempt, incarnation, &[]);
    assert!(!scene.own.may_write(at(31)));
}
