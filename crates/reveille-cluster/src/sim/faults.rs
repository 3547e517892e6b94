//! What goes wrong in a history, and when.

use super::{random::Random, store::Micros};

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The process stands still.
    Pause(usize, Micros),
    /// The process dies, and starts again after that time unless it is too long.
    Crash(usize, Option<Micros>),
    /// The node cannot reach the store, nor the store it.
    Cut(usize, Micros),
    /// The store is away.
    Outage(Micros),
    /// The store goes on as it was so long ago.
    Failover(Micros),
    Drain(usize),
    Join,
    /// The node is started again elsewhere, under its own tag, while the old process goes on.
    Twin(usize),
    Weight(usize, u16),
    /// The node is cut off again and again, each time about as long as a lease, and back for moments between.
    Flap(usize),
    /// A time in which messages are slow, lost and doubled far more often.
    Storm(Micros),
}

/// Draws the faults of a history on `homes` nodes that lasts `length`.
pub(super) fn plan(random: &mut Random, homes: usize, length: Micros) -> Vec<(Micros, Fault)> {
    let count = random.range(1, 8);
    (0..count)
        .map(|_| {
            let at = random.range(800_000, length);
            let node = random.index(homes);
            let short = random.range(20_000, 700_000);
            let long = random.range(500_000, 3_500_000);
            let time = if random.one_in(3) { short } else { long };
            let fault = match random.range(0, 18) {
                0..=3 => Fault::Pause(node, time),
                4..=5 => Fault::Crash(node, (!random.one_in(4)).then_some(time)),
                6..=7 => Fault::Cut(node, time),
                8..=9 => Fault::Outage(time),
                10 => Fault::Failover(random.range(10_000, 900_000)),
                11 => Fault::Drain(node),
                12 => Fault::Join,
                13 => Fault::Twin(node),
                14 => Fault::Weight(node, u16::try_from(random.range(0, 300)).unwrap_or(1)),
                15 => Fault::Storm(time),
                _ => Fault::Flap(node),
            };
            (at, fault)
        })
        .collect()
}
