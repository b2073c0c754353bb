//! Places in an array of fixed size, and lists that are kept once however often they are used.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Free ranges, first fit.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Length by start; never adjacent, never empty.
    free: BTreeMap<u32, u32>,
}

/// Lists in one array: equal ones share their place.
#[derive(Debug, Clone)]
pub(crate) struct Pool<T> {
    places: Places,
    lists: HashMap<Arc<[T]>, Held>,
    /// Written in this commit.
    fresh: Vec<(u32, Arc<[T]>)>,
    /// Some list had lost its last user since the last sweep.
    idle: bool,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    start: u32,
    users: usize,
}

// === impl Places ===

impl Places {
    pub(crate) fn new(size: u32) -> Self {
        let mut free = BTreeMap::new();
        if size > 0 {
            free.insert(0, size);
        }
        Self { free }
    }

    pub(crate) fn take(&mut self, length: u32) -> Option<u32> {
        let (&start, &room) = self.free.iter().find(|(_, room)| **room >= length)?;
        self.free.remove(&start);
        if room > length {
            self.free.insert(start + length, room - length);
        }
        Some(start)
    }

    /// Takes one particular range, as far as it is free.
    pub(crate) fn reserve(&mut self, start: u32, length: u32) {
        let end = start.saturating_add(length);
        let overlapping: Vec<(u32, u32)> = self
            .free
            .range(..end)
            .filter(|(from, room)| **from + **room > start)
            .map(|(from, room)| (*from, *from + *room))
            .collect();
        for (from, to) in overlapping {
            self.free.remove(&from);
            if from < start {
                self.free.insert(from, start - from);
            }
            if to > end {
                self.free.insert(end, to - end);
            }
        }
    }

    pub(crate) fn give_back(&mut self, start: u32, length: u32) {
        if length == 0 {
            return;
        }
        let (mut start, mut length) = (start, length);
        if let Some((&before, &room)) = self.free.range(..start).next_back()
            && before + room == start
        {
            self.free.remove(&before);
            (start, length) = (before, length + room);
        }
        if let Some(room) = self.free.remove(&(start + length)) {
            length += room;
        }
        self.free.insert(start, length);
    }
}

// === impl Pool ===

impl<T: Copy + Eq + Hash> Pool<T> {
    pub(crate) fn new(size: u32) -> Self {
        Self { places: Places::new(size), lists: HashMap::new(), fresh: Vec::new(), idle: false }
    }

    /// Place of a list, and the list to give back; None where there is no room.
    pub(crate) fn acquire(&mut self, list: &[T]) -> Option<(u32, Arc<[T]>)> {
        if let Some((known, _)) = self.lists.get_key_value(list) {
            let known = Arc::clone(known);
            let held = self.lists.get_mut(list)?;
            held.users += 1;
            return Some((held.start, known));
        }
        let start = self.places.take(u32::try_from(list.len()).ok()?)?;
        let list: Arc<[T]> = list.into();
        self.lists.insert(Arc::clone(&list), Held { start, users: 1 });
        self.fresh.push((start, Arc::clone(&list)));
        Some((start, list))
    }

    pub(crate) fn release(&mut self, list: &[T]) {
        if let Some(held) = self.lists.get_mut(list) {
            held.users = held.users.saturating_sub(1);
            self.idle |= held.users == 0;
        }
    }

    /// What is to be written.
    pub(crate) fn fresh(&mut self) -> Vec<(u32, Arc<[T]>)> {
        std::mem::take(&mut self.fresh)
    }

    /// Gives back the places of lists without users, after the grace period; tells which.
    pub(crate) fn sweep(&mut self) -> Vec<Arc<[T]>> {
        if !std::mem::take(&mut self.idle) {
            return Vec::new();
        }
        let mut gone = Vec::new();
        self.lists.retain(|list, held| {
            if held.users == 0 {
                self.places.give_back(held.start, list.len() as u32);
                gone.push(Arc::clone(list));
            }
            held.users > 0
        });
        gone
    }

    pub(crate) fn places(&mut self) -> &mut Places {
        &mut self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_whole() {
        let mut places = Places::new(10);
        assert_eq!((places.take(4), places.take(4), places.take(4)), (Some(0), Some(4), None));
        places.give_back(0, 4);
        assert_eq!(places.take(5), None);
        places.give_back(4, 4);
        assert_eq!(places.take(10), Some(0));
        places.give_back(0, 10);
        places.reserve(3, 2);
        assert_eq!((places.take(4), places.take(3)), (Some(5), Some(0)));
    }

    #[test]
    fn equal_lists_share_a_place() {
        let mut pool = Pool::new(8);
        let (a, _) = pool.acquire(&[1, 2, 3]).unwrap();
        let (b, list) = pool.acquire(&[1, 2, 3]).unwrap();
        assert_eq!((a, b, pool.fresh().len()), (0, 0, 1));
        pool.release(&list);
        pool.release(&list);
        assert_eq!(pool.acquire(&[4, 5, 6, 7, 8, 9]), None);
        assert_eq!(pool.sweep().len(), 1);
        assert_eq!(pool.acquire(&[4, 5, 6, 7, 8, 9]).unwrap().0, 0);
    }
}
