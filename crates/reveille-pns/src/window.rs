//! How many pushes a dispatcher keeps in the air: additive growth while the push service accepts, halved when it pushes back.

use std::time::{Duration, Instant};

/// The congestion window of one dispatcher.
#[derive(Debug)]
pub(crate) struct Window {
    size: usize,
    most: usize,
    accepted: usize,
    shrunk: Option<Instant>,
}

impl Window {
    /// Starts wide open: a push service that is well never sees the window.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { size: most, most, accepted: 0, shrunk: None }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// A push was taken.
    pub(crate) fn grow(&mut self) {
        self.accepted += 1;
        // Doubles every couple of windows: recovery is to be quick, the push service says soon enough if it is too quick.
        if self.accepted * 2 >= self.size {
            self.accepted = 0;
            self.size = (self.size + self.size.div_ceil(4)).min(self.most);
        }
    }

    /// The push service throttled or failed. Answers to one batch come together, so at most one step per `PAUSE`.
    pub(crate) fn shrink(&mut self, now: Instant) {
        if self.shrunk.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return;
        }
        self.shrunk = Some(now);
        self.accepted = 0;
        self.size = (self.size / 2).max(1);
    }
}

const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_halves_once_per_pause_and_grows_back() {
        let t = reveille_runtime::clock::now();
        let mut window = Window::new(100);
        for _ in 0..50 {
            window.shrink(t);
        }
        assert_eq!(window.size(), 50);
        window.shrink(t + PAUSE);
        assert_eq!(window.size(), 25);
        for n in 2..20 {
            window.shrink(t + PAUSE * n);
        }
        assert_eq!(window.size(), 1);
        for _ in 0..1000 {
            window.grow();
        }
        assert_eq!(window.size(), 100);
    }
}
