//! `Window`: the messages of one queue that were pulled and are not finished, and the offset that
//! may be committed. Not here: clocks, tasks, who handles the messages.
//!
//! Invariants: entries stand in ascending offsets; the first one is unfinished; every offset below
//! [`Window::committable`] is finished or was never meant for this group; what is held is limited
//! in number even when the oldest message never finishes.

use std::collections::VecDeque;
use std::ops::AddAssign;

/// Finished messages behind an unfinished one are held too: so many for each that may be
/// unfinished.
const HELD_FACTOR: usize = 2;

/// Messages, and the bytes of their records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Load {
    /// One message of so many bytes.
    pub(super) fn of(bytes: usize) -> Self {
        Self { messages: 1, bytes }
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, more: Self) {
        self.messages += more.messages;
        self.bytes += more.bytes;
    }
}

/// Which messages of a queue are under way.
#[derive(Debug)]
pub(super) struct Window {
    /// Grows when the queue is repositioned; completions of an older epoch are void.
    epoch: u32,
    /// The offset to pull next.
    next: i64,
    entries: VecDeque<Entry>,
    unfinished: usize,
    /// What the unfinished messages hold.
    load: Load,
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    load: Load,
    done: bool,
}

impl Window {
    pub(super) fn starting_at(offset: i64) -> Self {
        Self {
            epoch: 0,
            next: offset,
            entries: VecDeque::new(),
            unfinished: 0,
            load: Load::default(),
        }
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// Counts the unfinished messages no longer; returns what they held.
    pub(super) fn write_off(&mut self) -> Load {
        self.entries.iter_mut().for_each(|entry| entry.load = Load::default());
        std::mem::take(&mut self.load)
    }

    /// What the unfinished messages hold.
    pub(super) fn load(&self) -> Load {
        self.load
    }

    /// May more be pulled, when at most `most` is to be unfinished?
    pub(super) fn has_room(&self, most: Load) -> bool {
        self.unfinished < most.messages
            && self.load.bytes < most.bytes
            && self.entries.len() < most.messages.saturating_mul(HELD_FACTOR)
    }

    /// Takes a pulled message in. False: its offset was passed before, it must not be handled
    /// again.
    pub(super) fn enter(&mut self, offset: i64, bytes: usize) -> bool {
        if offset < self.next {
            return false;
        }
        self.next = offset.saturating_add(1);
        let load = Load::of(bytes);
        self.entries.push_back(Entry { offset, load, done: false });
        self.unfinished += 1;
        self.load += load;
        true
    }

    /// All below `next` has been looked at in this epoch; what did not enter was filtered out.
    /// Never goes back.
    pub(super) fn advance(&mut self, epoch: u32, next: i64) {
        if epoch == self.epoch {
            self.next = self.next.max(next);
        }
    }

    /// Marks a message as finished; returns what it held, or nothing when it is not under way in
    /// this epoch.
    pub(super) fn complete(&mut self, epoch: u32, offset: i64) -> Option<Load> {
        if epoch != self.epoch {
            return None;
        }
        let at = self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        let entry = self.entries.get_mut(at).filter(|entry| !entry.done)?;
        entry.done = true;
        let load = entry.load;
        self.unfinished -= 1;
        self.load.messages -= load.messages;
        self.load.bytes -= load.bytes;
        while self.entries.front().is_some_and(|entry| entry.done) {
            self.entries.pop_front();
        }
        Some(load)
    }

    /// The offset to commit: the lowest unfinished one, or the next to pull.
    pub(super) fn committable(&self) -> i64 {
        self.entries.front().map_or(self.next, |entry| entry.offset)
    }

    /// Forgets everything and goes on at `offset`; returns what was under way.
    pub(super) fn reset(&mut self, offset: i64) -> Load {
        let load = self.load;
        *self = Self { epoch: self.epoch.wrapping_add(1), ..Self::starting_at(offset) };
        load
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
        assert_eq!(window.complete(0, 11), Some(Load::of(5)));
        assert_eq!(window.complete(0, 11), None, "finished once");
        assert_eq!(window.complete(0, 12), None, "never entered");
        assert_eq!(window.committable(), 10);
        assert_eq!(window.complete(0, 10), Some(Load::of(5)));
        assert_eq!(window.committable(), 14);
        assert_eq!(window.complete(0, 14), Some(Load::of(5)));
        assert_eq!((window.committable(), window.load), (20, Load::default()));
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
        assert_eq!(window.reset(100), Load::of(7));
        assert_eq!(window.complete(0, 0), None);
        assert!(window.enter(100, 1));
        assert_eq!(window.complete(window.epoch(), 100), Some(Load::of(1)));
        assert_eq!(window.committable(), 101);
    }

    #[test]
    fn what_was_written_off_is_not_given_back_twice() {
        let mut window = Window::starting_at(0);
        window.enter(0, 7);
        assert_eq!(window.write_off(), Load::of(7));
        assert_eq!(window.complete(0, 0), Some(Load::default()));
        assert_eq!(window.committable(), 1);
    }

    #[test]
    fn a_stuck_message_does_not_hold_without_limit() {
        let most = Load { messages: 1_000, bytes: usize::MAX };
        let mut window = Window::starting_at(0);
        let mut offset = 0;
        while window.has_room(most) {
            window.enter(offset, 1);
            if offset > 0 {
                window.complete(0, offset);
            }
            offset += 1;
        }
        assert_eq!(offset, 2_000);
        assert_eq!(window.committable(), 0);
    }

    #[test]
    fn a_queue_is_full_by_count_or_by_bytes() {
        let mut window = Window::starting_at(0);
        window.enter(0, 60);
        assert!(window.has_room(Load { messages: 2, bytes: 61 }));
        assert!(!window.has_room(Load { messages: 1, bytes: 61 }));
        assert!(!window.has_room(Load { messages: 2, bytes: 60 }));
        window.complete(0, 0);
        assert!(window.has_room(Load { messages: 1, bytes: 1 }));
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
                let load = Load { messages: open.len(), bytes: open.len() * 3 };
                prop_assert_eq!(window.load, load);
            }
        }
    }
}
