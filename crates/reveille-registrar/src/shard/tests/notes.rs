//! Notes of spent push budgets, from one owner of a shard to the next (P-116).

use std::time::Duration;

use reveille_push::Outcome;

use super::stage::{Stage, phone};
use crate::shard::{ShardConfig, ShardInput};

const SECOND: Duration = Duration::from_secs(1);

fn stage() -> Stage {
    let mut stage = Stage::with(ShardConfig { defers: true, ..ShardConfig::default() });
    stage.registers(phone("192.0.2.1", 1));
    stage
}

/// Calls in one second until no push is sent any more; each is given up at once, so that the next is pushed for anew.
fn pushes(stage: &mut Stage, most: usize) -> usize {
    (0..most)
        .take_while(|_| {
            let before = stage.pushes.len();
            let (waiter, _) = stage.call();
            let pushed = stage.pushes.len() > before;
            if pushed {
                stage.push_answered(before, Outcome::Refused);
            }
            let order = stage.pushes.last().map(|order| order.aor.clone());
            if let Some(aor) = order {
                stage.tell(ShardInput::Leave { aor, waiter });
            }
            pushed
        })
        .count()
}

/// The owner died: the store has what had arrived there.
fn taken_over(from: &mut Stage, age: Duration) -> Stage {
    let mut next = stage();
    if let Some(note) = from.notes.last() {
        next.give(ShardInput::NoteFound { note: note.clone(), age });
    }
    next
}

/// P-116: whatever an owner had spent when it died, it and the next spend less than one and a half budgets.
#[test]
fn p116_a_takeover_costs_at_most_half_a_budget_more() {
    for spent in 0..=30 {
        let mut first = stage();
        assert_eq!(pushes(&mut first, spent), spent);
        let more = pushes(&mut taken_over(&mut first, Duration::ZERO), 100);
        assert!(spent + more <= 45, "{spent} and {more} of 30");
        assert!(more >= 30 - spent, "{spent} and {more}: nobody is denied what is his");
        assert!(first.notes.len() <= 3, "a note is not left for each push");
    }
}

/// P-116: an owner that hands over says all.
#[test]
fn p116_a_handover_costs_nothing() {
    for spent in [0, 1, 7, 14, 15, 22, 30] {
        let mut first = stage();
        assert_eq!(pushes(&mut first, spent), spent);
        first.shard.note_everything(first.now);
        first.give(ShardInput::NoteLeft);
        let more = pushes(&mut taken_over(&mut first, Duration::ZERO), 100);
        assert_eq!(spent + more, 30);
    }
}

/// What was spent comes back with time, by whatever clock that passed; and a note read late, or twice, takes nothing twice.
#[test]
fn p116_budgets_fill_up_again_and_notes_are_not_added_up() {
    let mut first = stage();
    pushes(&mut first, 30);
    // Thirty in a minute: after 20 seconds there are ten again.
    assert_eq!(pushes(&mut taken_over(&mut first, 20 * SECOND), 100), 10);
    assert_eq!(pushes(&mut taken_over(&mut first, 60 * SECOND), 100), 30);
    let mut next = taken_over(&mut first, 20 * SECOND);
    assert_eq!(pushes(&mut next, 4), 4);
    let note = first.notes.last().unwrap().clone();
    next.give(ShardInput::NoteFound { note, age: 20 * SECOND });
    assert_eq!(pushes(&mut next, 100), 6);
}

/// One note at a time: what comes to pass meanwhile is in the next.
#[test]
fn notes_do_not_overtake_one_another() {
    let mut first = stage();
    first.holds_notes = true;
    pushes(&mut first, 30);
    assert_eq!(first.notes.len(), 1);
    assert!(first.shard.leaves_note());
    first.give(ShardInput::NoteLeft);
    assert_eq!(first.notes.len(), 2);
    assert_eq!(pushes(&mut taken_over(&mut first, Duration::ZERO), 100), 0);
    first.give(ShardInput::NoteLeft);
    assert!(!first.shard.leaves_note());
}

#[test]
fn nonsense_is_no_note_and_who_is_alone_leaves_none() {
    let mut other = stage();
    other.give(ShardInput::NoteFound { note: vec![0xff; 5 * 14 + 3], age: SECOND });
    assert_eq!(pushes(&mut other, 100), 30);
    let mut alone = Stage::new();
    alone.registers(phone("192.0.2.1", 1));
    assert_eq!(pushes(&mut alone, 100), 30);
    alone.shard.note_everything(alone.now);
    assert!(alone.notes.is_empty() && !alone.shard.leaves_note());
}
