use std::time::Duration;

use reveille_registrar::flow::NodeTag;

use super::*;
use crate::{
    roster::{Lease, NodeInfo},
    testing::{at, node},
};

const ME: NodeTag = NodeTag(1);
const SHARDS: u16 = 64;
const LIFE: Incarnation = Incarnation(7 << 16);

fn config() -> OwnershipConfig {
    OwnershipConfig { rebalance_at_once: 4, ..OwnershipConfig::new(SHARDS, ME) }
}

fn roster(nodes: &[NodeInfo]) -> Roster {
    let lease = |info: &NodeInfo| Lease {
        tag: info.tag,
        incarnation: LIFE,
        remaining: Duration::from_secs(5),
        description: info.encode(),
    };
    let mut roster = Roster::default();
    roster.update(at(0), nodes.iter().map(lease).collect());
    roster
}

fn live(tags: &[u32]) -> Roster {
    roster(&tags.iter().map(|&tag| node(tag)).collect::<Vec<_>>())
}

fn fence(owner: u32, count: u64) -> Fence {
    Fence { owner: (owner > 0).then_some(NodeTag(owner)), epoch: Epoch(count << Epoch::SALT_BITS) }
}

fn outputs(ownership: &mut Ownership) -> Vec<Output> {
    std::iter::from_fn(|| ownership.poll_output()).collect()
}

fn hand_overs(ownership: &mut Ownership) -> Vec<(u16, Epoch)> {
    let hand_over = |output| match output {
        Output::HandOver { shard, epoch } => Some((shard, epoch)),
        _ => None,
    };
    outputs(ownership).into_iter().filter_map(hand_over).collect()
}

fn claims(ownership: &mut Ownership) -> Vec<(u16, Epoch, Epoch)> {
    let claim = |output| match output {
        Output::Claim { shard, expected, epoch } => Some((shard, expected, epoch)),
        _ => None,
    };
    outputs(ownership).into_iter().filter_map(claim).collect()
}

/// A home with a lease until second 100 that knows these nodes and these fences, at second 10.
fn home(nodes: &[u32], fences: impl Fn(u16) -> Fence) -> Ownership {
    let mut ownership = Ownership::new(config());
    ownership.roster_changed(at(0), &live(nodes));
    ownership.leased(at(0), at(0), at(100_000), LIFE);
    ownership.map_read(at(2), at(1), (0..SHARDS).map(|shard| (shard, fences(shard))));
    ownership
}

fn settled(nodes: &[u32], fences: impl Fn(u16) -> Fence) -> Ownership {
    let mut ownership = home(nodes, fences);
    ownership.leased(at(9_010), at(9_000), at(100_000), LIFE);
    ownership.handle_timeout(at(10_000));
    ownership
}

/// The same home, every claim granted and started.
fn owner(nodes: &[u32]) -> (Ownership, Vec<(u16, Epoch)>) {
    let mut ownership = settled(nodes, |_| Fence::default());
    let mut owned = Vec::new();
    for (shard, _, epoch) in claims(&mut ownership) {
        ownership.claimed(at(10_010), at(10_000), shard, epoch, Ok(()));
        assert_eq!(ownership.may_write(at(10_011), shard), Some(epoch));
        owned.push((shard, epoch));
    }
    outputs(&mut ownership);
    (ownership, owned)
}

fn belonging_to(tag: u32, nodes: &[u32]) -> Vec<u16> {
    let placement = Placement::new(SHARDS, live(nodes).candidates());
    (0..SHARDS).filter(|&shard| placement.of(shard).owner == Some(NodeTag(tag))).collect()
}

#[test]
fn nothing_is_claimed_before_the_map_is_read_and_the_others_had_time_to_show() {
    let mut ownership = Ownership::new(config());
    ownership.roster_changed(at(0), &live(&[1]));
    ownership.leased(at(0), at(0), at(100_000), LIFE);
    assert_eq!(outputs(&mut ownership), [Output::ReadMap]);
    ownership.handle_timeout(at(500));
    assert_eq!(outputs(&mut ownership), [Output::ReadMap], "asked again, as nothing goes without it");
    ownership.map_read(at(510), at(500), (0..SHARDS).map(|shard| (shard, Fence::default())));
    assert_eq!(claims(&mut ownership), []);
    ownership.handle_timeout(at(2510));
    assert_eq!(claims(&mut ownership).len(), usize::from(SHARDS));
}

#[test]
fn shards_of_the_dead_are_taken_at_once_and_of_the_living_never() {
    let mut ownership = settled(&[1, 2, 3], |_| fence(3, 4));
    assert_eq!(claims(&mut ownership), [], "3 lives");
    ownership.roster_changed(at(11_000), &live(&[1, 2]));
    let claims = claims(&mut ownership);
    assert_eq!(claims.iter().map(|claim| claim.0).collect::<Vec<_>>(), belonging_to(1, &[1, 2]), "all of ours at once");
    assert!(claims.iter().all(|&(_, expected, epoch)| expected == fence(3, 4).epoch && epoch > expected));
}

/// A node that was gone may be back, with a claim that we heard of sooner than of its lease.
#[test]
fn a_fence_newer_than_the_roster_is_not_judged_by_it() {
    let mut ownership = settled(&[1, 2], |_| fence(2, 4));
    ownership.roster_changed(at(20_000), &live(&[1]));
    let (shard, _, asked) = claims(&mut ownership)[0];
    ownership.claimed(at(20_010), at(20_000), shard, asked, Err(fence(2, 5)));
    assert_eq!(outputs(&mut ownership), [Output::Look]);
    ownership.leased(at(20_030), at(20_005), at(100_000), LIFE);
    assert_eq!(outputs(&mut ownership), [Output::Look], "asked for before");
    ownership.leased(at(20_040), at(20_020), at(100_000), LIFE);
    assert_eq!(claims(&mut ownership)[0].1, fence(2, 5).epoch, "gone after all");
}

#[test]
fn a_granted_claim_starts_the_shard_and_is_told() {
    let mut ownership = settled(&[1], |_| Fence::default());
    let (shard, _, epoch) = claims(&mut ownership)[0];
    assert_eq!(ownership.may_write(at(10_001), shard), None);
    ownership.claimed(at(10_010), at(10_000), shard, epoch, Ok(()));
    let fence = Fence { owner: Some(ME), epoch };
    assert_eq!(outputs(&mut ownership), [Output::Start { shard, epoch }, Output::Announce { shard, fence }]);
    assert_eq!(ownership.map().owner(shard), Some(ME));
}

/// The answer to a claim was lost, the claim was not.
#[test]
fn a_repeated_claim_knows_its_own_success() {
    let mut ownership = settled(&[1], |_| Fence::default());
    let (shard, expected, epoch) = claims(&mut ownership)[0];
    ownership.handle_timeout(at(10_500));
    assert!(claims(&mut ownership).contains(&(shard, expected, epoch)), "the same claim by the same number");
    ownership.claimed(at(10_510), at(10_500), shard, epoch, Err(Fence { owner: Some(ME), epoch }));
    assert!(outputs(&mut ownership).contains(&Output::Start { shard, epoch }));
}

#[test]
fn a_claim_lost_to_another_is_let_go() {
    let mut ownership = settled(&[1, 2], |_| Fence::default());
    let (shard, _, epoch) = claims(&mut ownership)[0];
    ownership.claimed(at(10_010), at(10_000), shard, epoch, Err(fence(2, 9)));
    assert_eq!(outputs(&mut ownership), []);
    assert_eq!(ownership.map().owner(shard), Some(NodeTag(2)));
}

/// The lease lapses by the clock alone; a shard comes back only by a claim from the epoch it was held under.
#[test]
fn a_lapse_suspends_and_a_claim_from_the_same_epoch_resumes() {
    let (mut ownership, owned) = owner(&[1]);
    let (shard, epoch) = owned[0];
    assert_eq!(ownership.may_write(at(100_000), shard), None, "before any event");
    ownership.handle_timeout(at(100_000));
    assert!(outputs(&mut ownership).contains(&Output::Suspend { shard }));
    assert!(ownership.serves(shard));
    ownership.leased(at(110_000), at(110_000), at(200_000), LIFE.next());
    assert_eq!(ownership.may_write(at(110_001), shard), None, "not under the old epoch");
    let claims = claims(&mut ownership);
    assert_eq!(claims.len(), owned.len());
    let &(_, expected, new) = claims.iter().find(|claim| claim.0 == shard).unwrap();
    assert!(expected == epoch && new > epoch);
    ownership.claimed(at(110_010), at(110_000), shard, new, Ok(()));
    assert!(outputs(&mut ownership).contains(&Output::Resume { shard, epoch: new }));
    assert_eq!(ownership.may_write(at(110_011), shard), Some(new));
}

#[test]
fn a_suspended_shard_that_another_took_is_dropped() {
    let (mut ownership, owned) = owner(&[1, 2]);
    ownership.handle_timeout(at(100_000));
    ownership.leased(at(110_000), at(110_000), at(200_000), LIFE);
    outputs(&mut ownership);
    let (shard, _) = owned[0];
    let State::Claiming { asked, .. } = ownership.state(shard) else { panic!("claiming") };
    ownership.claimed(at(110_010), at(110_000), shard, asked, Err(fence(2, 9)));
    assert_eq!(outputs(&mut ownership), [Output::Drop { shard }]);
    assert!(!ownership.serves(shard));
}

/// Lapsed twice, and the claim in between took effect unheard: it is known by its number.
#[test]
fn a_claim_granted_unheard_before_a_second_lapse_is_still_ours() {
    let (mut ownership, owned) = owner(&[1]);
    let (shard, epoch) = owned[0];
    ownership.handle_timeout(at(100_000));
    ownership.leased(at(110_000), at(110_000), at(120_000), LIFE);
    let State::Claiming { asked, .. } = ownership.state(shard) else { panic!("claiming") };
    ownership.handle_timeout(at(120_000));
    outputs(&mut ownership);
    ownership.map_event(at(120_001), shard, Fence { owner: Some(ME), epoch: asked });
    ownership.fenced(at(120_002), at(99_000), shard, epoch, Fence { owner: Some(ME), epoch: asked });
    assert!(ownership.serves(shard));
    ownership.leased(at(130_000), at(130_000), at(200_000), LIFE.next());
    assert!(claims(&mut ownership).contains(&(shard, epoch, asked)), "was it?");
    ownership.claimed(at(130_010), at(130_000), shard, asked, Err(Fence { owner: Some(ME), epoch: asked }));
    assert_eq!(ownership.may_write(at(130_011), shard), None, "it was claimed under a lease that is over");
    let (_, expected, new) = claims(&mut ownership)[0];
    assert!(expected == asked && new > asked);
    ownership.claimed(at(130_020), at(130_010), shard, new, Ok(()));
    assert!(outputs(&mut ownership).contains(&Output::Resume { shard, epoch: new }));
}

#[test]
fn a_fenced_write_drops_the_shard_and_an_older_ones_refusal_does_not() {
    let (mut ownership, owned) = owner(&[1, 2]);
    let (shard, epoch) = owned[0];
    ownership.fenced(at(10_020), at(10_019), shard, Epoch(5), fence(2, 0));
    assert!(ownership.serves(shard));
    ownership.fenced(at(10_030), at(10_020), shard, epoch, fence(2, 9));
    assert_eq!(outputs(&mut ownership), [Output::Drop { shard }]);
    assert_eq!(ownership.map().owner(shard), Some(NodeTag(2)));
}

/// An unclean failover lost our claim: the shard is read anew and claimed above the epoch that was lost.
#[test]
fn a_store_that_went_back_is_claimed_above_what_it_forgot() {
    let (mut ownership, owned) = owner(&[1]);
    let (shard, epoch) = owned[0];
    ownership.fenced(at(10_030), at(10_020), shard, epoch, Fence::default());
    let outputs = outputs(&mut ownership);
    assert_eq!(outputs[0], Output::Drop { shard });
    let Output::Claim { expected, epoch: asked, .. } = outputs[1] else { panic!("{outputs:?}") };
    assert_eq!(expected, Epoch::default());
    assert!(asked > epoch);
}

/// The same, noticed by nothing but the periodic reading.
#[test]
fn a_reading_that_denies_an_idle_shard_drops_it() {
    let (mut ownership, owned) = owner(&[1]);
    let (shard, _) = owned[0];
    ownership.map_read(at(20_010), at(20_000), [(shard, Fence::default())]);
    assert_eq!(outputs(&mut ownership)[0], Output::Drop { shard });
    let (mut ownership, owned) = owner(&[1]);
    let (shard, _) = owned[0];
    ownership.map_read(at(10_020), at(10_005), [(shard, Fence::default())]);
    assert_eq!(outputs(&mut ownership), [], "asked for before the shard was ours");
}

/// A node that restarted finds its tag in fences that it does not hold.
#[test]
fn fences_of_an_earlier_life_are_claimed_or_cleared() {
    let mut ownership = home(&[1, 2], |_| fence(1, 4));
    let mine = belonging_to(1, &[1, 2]);
    let (mut claimed, mut cleared) = (Vec::new(), Vec::new());
    for output in outputs(&mut ownership) {
        match output {
            Output::Claim { shard, .. } => claimed.push(shard),
            Output::Release { shard, epoch } => {
                assert_eq!(epoch, fence(1, 4).epoch);
                cleared.push(shard);
            }
            _ => {}
        }
    }
    assert_eq!(claimed, mine, "without waiting: they name us");
    assert_eq!(cleared.len() + claimed.len(), usize::from(SHARDS));
    let shard = cleared[0];
    ownership.released(at(20), at(10), shard, fence(1, 4).epoch, Ok(()));
    assert_eq!(outputs(&mut ownership), [Output::Announce { shard, fence: fence(0, 4) }]);
}

#[test]
fn balance_waits_for_quiet_and_moves_a_few_at_a_time() {
    let (mut ownership, _) = owner(&[1]);
    ownership.roster_changed(at(20_000), &live(&[1, 2]));
    assert_eq!(outputs(&mut ownership), []);
    ownership.handle_timeout(at(22_000));
    let moves = hand_overs(&mut ownership);
    assert_eq!(moves.len(), 4, "{moves:?}");
    let (shard, epoch) = moves[0];
    assert_eq!(ownership.may_write(at(22_001), shard), Some(epoch), "what is in hand is still written");
    ownership.flushed(at(22_010), shard, epoch);
    assert_eq!(outputs(&mut ownership), [Output::Release { shard, epoch }]);
    assert_eq!(ownership.may_write(at(22_011), shard), None);
    ownership.released(at(22_020), at(22_010), shard, epoch, Ok(()));
    let outputs = outputs(&mut ownership);
    assert_eq!(outputs[0], Output::Drop { shard });
    assert_eq!(outputs[1], Output::Announce { shard, fence: Fence { owner: None, epoch } });
    assert!(matches!(outputs[2], Output::HandOver { .. }), "the next goes");
}

#[test]
fn a_released_shard_is_claimed_by_whom_it_belongs_to() {
    let mut ownership = settled(&[1, 2], |_| fence(2, 4));
    let shard = belonging_to(1, &[1, 2])[0];
    ownership.map_event(at(20_000), shard, fence(0, 4));
    assert_eq!(claims(&mut ownership).len(), 1);
    let shard = belonging_to(2, &[1, 2])[0];
    ownership.map_event(at(20_000), shard, fence(0, 4));
    assert_eq!(claims(&mut ownership), []);
}

#[test]
fn an_unanswered_release_is_repeated_and_its_refusal_is_an_end_too() {
    let (mut ownership, _) = owner(&[1]);
    ownership.roster_changed(at(20_000), &live(&[1, 2]));
    ownership.handle_timeout(at(22_000));
    let (shard, epoch) = hand_overs(&mut ownership)[0];
    ownership.flushed(at(22_010), shard, epoch);
    outputs(&mut ownership);
    ownership.handle_timeout(at(22_510));
    assert_eq!(outputs(&mut ownership), [Output::Release { shard, epoch }]);
    ownership.released(at(22_520), at(22_510), shard, epoch, Err(Fence { owner: None, epoch }));
    assert_eq!(outputs(&mut ownership)[0], Output::Drop { shard });
}

#[test]
fn a_drain_gives_everything_away_once_others_know() {
    let (mut ownership, owned) = owner(&[1, 2]);
    ownership.drain(at(20_000));
    assert_eq!(outputs(&mut ownership), [], "the others do not know yet that they are to take the shards");
    ownership.roster_changed(at(20_010), &roster(&[NodeInfo { draining: true, ..node(1) }, node(2)]));
    assert_eq!(hand_overs(&mut ownership), owned);
    for (shard, epoch) in owned {
        assert!(!ownership.is_drained());
        ownership.flushed(at(20_020), shard, epoch);
        ownership.released(at(20_030), at(20_020), shard, epoch, Ok(()));
    }
    assert!(ownership.is_drained());
    ownership.roster_changed(at(30_000), &live(&[1]));
    assert_eq!(claims(&mut ownership), [], "a draining node takes nothing back");
}

#[test]
fn a_later_owner_in_the_map_is_believed() {
    let (mut ownership, owned) = owner(&[1, 2]);
    let (shard, epoch) = owned[0];
    let later = Fence { owner: Some(NodeTag(2)), epoch: epoch.next(NodeTag(2), LIFE) };
    ownership.map_event(at(10_020), shard, later);
    assert_eq!(outputs(&mut ownership), [Output::Drop { shard }]);
}
