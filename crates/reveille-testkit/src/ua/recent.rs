//! A bounded memory for transactions and dialogs.

use std::collections::{HashMap, VecDeque};

/// Entries remembered.
const MEMORY: usize = 512;

/// A map that forgets the oldest entry when it is full.
pub(super) struct Recent<T> {
    map: HashMap<String, T>,
    order: VecDeque<String>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Recent<T> {
    pub(super) fn insert(&mut self, key: String, value: T) {
        if self.order.len() == MEMORY
            && let Some(oldest) = self.order.pop_front()
        {
            self.map.remove(&oldest);
        }
        if self.map.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&T> {
        self.map.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut T> {
        self.map.get_mut(key)
    }
}
