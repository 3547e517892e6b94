//! Which transactions a destination carries, so that a dying flow is noticed by them alone (S-056).

use std::{collections::HashMap, hash::Hash};

use smallvec::SmallVec;

/// Members by destination. A member keeps its position, which makes leaving as cheap as joining however many share the flow.
#[derive(Debug)]
pub(crate) struct Reach<D, M> {
    members: HashMap<D, SmallVec<[M; 2]>>,
}

impl<D: Clone + Eq + Hash, M: Copy> Reach<D, M> {
    pub(crate) fn new() -> Self {
        Self { members: HashMap::new() }
    }

    /// Adds `member`; returns the position it has to keep.
    pub(crate) fn join(&mut self, to: &D, member: M) -> usize {
        let list = self.members.entry(to.clone()).or_default();
        list.push(member);
        list.len() - 1
    }

    /// Removes the member at `position`; returns the member that now has that position, which has to be told.
    pub(crate) fn leave(&mut self, to: &D, position: usize) -> Option<M> {
        let list = self.members.get_mut(to)?;
        if position >= list.len() {
            return None;
        }
        list.swap_remove(position);
        let moved = list.get(position).copied();
        if list.is_empty() {
            self.members.remove(to);
        }
        moved
    }

    /// Everyone on `to`.
    pub(crate) fn on(&self, to: &D) -> SmallVec<[M; 2]> {
        self.members.get(to).cloned().unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_member_takes_the_place_of_the_one_that_leaves() {
        let mut reach = Reach::new();
        assert_eq!([reach.join(&'x', 1), reach.join(&'x', 2), reach.join(&'x', 3), reach.join(&'y', 4)], [0, 1, 2, 0]);
        assert_eq!(reach.leave(&'x', 0), Some(3));
        assert_eq!(reach.on(&'x').as_slice(), [3, 2]);
        assert_eq!(reach.leave(&'x', 1), None);
        assert_eq!(reach.leave(&'x', 7), None);
        assert_eq!(reach.leave(&'x', 0), None);
        assert_eq!(reach.leave(&'y', 0), None);
        assert!(reach.is_empty());
    }
}
