//! `Window`: the messages of one queue that were pulled and are not finished, and the offset that
//! may be committed. Not here: clocks, tasks, who handles the messages.
//!
//! Invariants: entries stand in ascending offsets; the first one is unfinished; every offset below
//! [`Window::committable`] is finished or was never meant for this group; what is held is limited
//! in number even when the oldest message never finishes.

use std::collections::VecDeque;

/// A queue is not pulled while this many of its messages are unfinished.
pub(super) const UNFINISHED_MAX: usize = 1_000;
/// Finished messages behind an unfinished one are held too, up to this many in all.
pub(super) const HELD_MAX: usize = 2_000;

/// Which messages of a queue are under way.
#[derive(Debug)]
pub(super) struct Window {
    /// Grows when the queue is repositioned; completions of an older epoch are void.
    epoch: u32,
    /// The offset to pull next.
    next: i64,
    entries: VecDeque<Entry>,
    unfinished: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    bytes: usize,
    done: bool,
}

impl Window {
    pub(super) fn starting_at(offset: i64) -> Self {
        Self { epoch: 0, next: offset, entries: VecDeque::new(), unfinished: 0, bytes: 0 }
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// Counts the bytes of the unfinished messages no longer; returns them.
    pub(super) fn write_off(&mut self) -> usize {
        self.entries.iter_mut().for_each(|entry| entry.bytes = 0);
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn has_room(&self) -> bool {
        self.unfinished < UNFINISHED_MAX && self.entries.len() < HELD_MAX
    }

    /// Takes a pulled message in. False: its offset was passed before, it must not be handled
    /// again.
    pub(super) fn enter(&mut self, offset: i64, bytes: usize) -> bool {
        if offset < self.next {
            return false;
        }
        self.next = offset.saturating_add(1);
        self.entries.push_back(Entry { offset, bytes, done: false });
        self.unfinished += 1;
        self.bytes += bytes;
        true
    }

    /// All below `next` has been looked at in this epoch; what did not enter was filtered out.
    /// Never goes back.
    pub(super) fn advance(&mut self, epoch: u32, next: i64) {
        if epoch == self.epoch {
            self.next = self.next.max(next);
        }
    }

    /// Marks a message as finished; returns its bytes, or nothing when it is not under way in this
    /// epoch.
    pub(super) fn complete(&mut self, epoch: u32, offset: i64) -> Option<usize> {
        if epoch != self.epoch {
            return None;
        }
        let at = self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        let entry = self.entries.get_mut(at).filter(|entry| !entry.done)?;
        entry.done = true;
        let bytes = entry.bytes;
        self.unfinished -= 1;
        self.bytes -= bytes;
        while self.entries.front().is_some_and(|entry| entry.done) {
            self.entries.pop_front();
        }
        Some(bytes)
    }

    /// The offset to commit: the lowest unfinished one, or the next to pull.
    pub(super) fn committable(&self) -> i64 {
        self.entries.front().map_or(self.next, |entry| entry.offset)
    }

    /// Forgets everything and goes on at `offset`; returns the bytes that were under way.
    pub(super) fn reset(&mut self, offset: i64) -> usize {
        let bytes = self.bytes;
        *self = Self { epoch: self.epoch.wrapping_add(1), ..Self::starting_at(offset) };
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn commits_the_lowest_unfinished() {
        let mut window = Window::starting_at(10);
        for offset in [10, 11, 14] {
            assert!(window.enter(offset, 5));
        }
        window.advance(0, 20);
        assert_eq!(window.committable(), 10);
        assert_eq!(window.complete(0, 11), Some(5));
        assert_eq!(window.complete(0, 11), None, "finished once");
        assert_eq!(window.complete(0, 12), None, "never entered");
        assert_eq!(window.committable(), 10);
        assert_eq!(window.complete(0, 10), Some(5));
        assert_eq!(window.committable(), 14);
        assert_eq!(window.complete(0, 14), Some(5));
        assert_eq!((window.committable(), window.bytes), (20, 0));
    }

    #[test]
    fn an_offset_is_entered_once() {
        let mut window = Window::starting_at(5);
        assert!(!window.enter(4, 1));
        assert!(window.enter(5, 1));
        assert!(!window.enter(5, 1));
        window.advance(0, 3);
        assert_eq!(window.next(), 6);
    }

    #[test]
    fn a_reset_voids_what_was_under_way() {
        let mut window = Window::starting_at(0);
        window.enter(0, 7);
        assert_eq!(window.reset(100), 7);
        assert_eq!(window.complete(0, 0), None);
        assert!(window.enter(100, 1));
        assert_eq!(window.complete(window.epoch(), 100), Some(1));
        assert_eq!(window.committable(), 101);
    }

    #[test]
    fn bytes_written_off_are_not_given_back_twice() {
        let mut window = Window::starting_at(0);
        window.enter(0, 7);
        assert_eq!(window.write_off(), 7);
        assert_eq!(window.complete(0, 0), Some(0));
        assert_eq!(window.committable(), 1);
    }

    #[test]
    fn a_stuck_message_does_not_hold_without_limit() {
        let mut window = Window::starting_at(0);
        let mut offset = 0;
        while window.has_room() {
            window.enter(offset, 1);
            if offset > 0 {
                window.complete(0, offset);
            }
            offset += 1;
        }
        assert_eq!(offset, i64::try_from(HELD_MAX).unwrap());
        assert_eq!(window.committable(), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(steps in prop::collection::vec((0_u8..4, 0_i64..60), 1..200)) {
            let mut window = Window::starting_at(0);
            let mut open = BTreeSet::new();
            let mut next = 0;
            for (kind, value) in steps {
                match kind {
                    0 | 1 => {
                        let entered = window.enter(value, 3);
                        prop_assert_eq!(entered, value >= next);
                        if entered {
                            open.insert(value);
                            next = value + 1;
                        }
                    }
                    2 => {
                        window.advance(0, value);
                        next = next.max(value);
                    }
                    _ => {
                        let finished = window.complete(0, value).is_some();
                        prop_assert_eq!(finished, open.remove(&value));
                    }
                }
                prop_assert_eq!(window.next(), next);
                prop_assert_eq!(window.committable(), open.first().copied().unwrap_or(next));
                prop_assert_eq!(window.bytes, open.len() * 3);
            }
        }
    }
}
