//! Deleted topics: their queues are gone, and the log still has their records. Here: which records
//! those are, kept in the side file `deleted-topics.json` as `{topic: position}`, and the steps of
//! a deletion. Not here: who may delete, what else hangs on a topic.
//!
//! A record of the topic that lies before the position gets no queue entry and is not found by key,
//! now or when queues are built again. So a topic of the same name starts at offset 0.
//!
//! Invariants:
//! - A position is on disk before an offset is given anew, and the log is synced up to it before
//!   that: no crash leaves a position behind the log's end, where new records would be hidden.
//! - The indexer stands still from then until the files are gone, durably. What a crash leaves of
//!   them begins with an entry before the position; a start removes it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::disk::Disk;
use super::{Store, StoreError, check_topic, flush, table_file};

/// Deleted topics whose records are still there.
const DELETIONS_MAX: usize = 100_000;
/// How often a deletion begins anew because a message has come.
const TRIES: usize = 16;

/// Up to where the records of which topics are dead.
#[derive(Clone, Debug, Default)]
pub(super) struct Deletions {
    topics: HashMap<String, u64>,
    /// The greatest position: behind it nothing is looked up.
    newest: u64,
}

impl Deletions {
    pub(super) fn load(disk: &dyn Disk, path: &Path) -> Result<Self, StoreError> {
        let topics: Option<HashMap<String, u64>> = table_file::load(disk, path)?;
        Ok(Self::of(topics.unwrap_or_default()))
    }

    fn of(topics: HashMap<String, u64>) -> Self {
        let newest = topics.values().copied().max().unwrap_or(0);
        Self { topics, newest }
    }

    /// Whether a record at `at` was there when its topic was deleted.
    pub(super) fn covers(&self, topic: &str, at: u64) -> bool {
        at < self.newest && self.topics.get(topic).is_some_and(|end| at < *end)
    }

    /// Up to where a topic's records are dead; 0 when none are.
    pub(super) fn end_of(&self, topic: &str) -> u64 {
        self.topics.get(topic).copied().unwrap_or(0)
    }

    /// With a topic's records up to `end`, and without those that `log_start` has left behind.
    fn with(&self, topic: &str, end: u64, log_start: u64) -> Result<Self, StoreError> {
        let mut topics = self.topics.clone();
        topics.insert(topic.to_owned(), end);
        topics.retain(|_, end| *end > log_start);
        match topics.len() > DELETIONS_MAX {
            true => Err(StoreError::Illegal(format!(
                "{DELETIONS_MAX} topics were deleted whose messages are still there: more cannot be"
            ))),
            false => Ok(Self::of(topics)),
        }
    }

    /// With no position behind the log's end; `None` when there is none.
    pub(super) fn cut(&self, log_end: u64) -> Option<Self> {
        let cut = |(topic, end): (&String, &u64)| (topic.clone(), log_end.min(*end));
        (self.newest > log_end).then(|| Self::of(self.topics.iter().map(cut).collect()))
    }

    pub(super) fn save(&self, disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
        let sorted: BTreeMap<_, _> = self.topics.iter().collect();
        table_file::save(disk, path, &sorted)
    }
}

impl Store {
    /// Removes a topic's queues for good. Nobody may append to it meanwhile, save what was on its
    /// way; a topic without queues is a success.
    pub fn delete_topic(&self, topic: &str) -> Result<(), StoreError> {
        check_topic(topic)?;
        // No checkpoint syncs directories that are being removed, no entry is added to them.
        let mut saved = self.saved();
        let mut indexer = self.indexer();
        self.log.check_poison()?;
        if self.queues.total(topic).is_none() && self.log.offsets_of(topic).1.is_empty() {
            return Ok(());
        }
        self.bury(topic)?;
        indexer.forget_queues();
        let removed = self.queues.remove_topic(topic);
        indexer.count(&self.queues);
        drop(indexer);
        self.poisoning(removed)?;
        // Or a crash would find other queues than the last checkpoint has seen, and build all anew.
        let wrote = self.checkpoint(&mut saved, true);
        self.poisoning(wrote).map(drop)
    }

    /// Whether a record was there when its topic was deleted.
    pub fn is_deleted(&self, topic: &str, at: u64) -> bool {
        self.deletions().covers(topic, at)
    }

    /// Declares all records of the topic dead; the next gets offset 0.
    fn bury(&self, topic: &str) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let (end, offsets) = self.log.offsets_of(topic);
            flush::reach(&self.log, end)?;
            let buried = self.deletions().with(topic, end, self.log.min_offset())?;
            buried.save(&*self.disk, &self.layout.deletions())?;
            *self.deletions_mut() = buried;
            if self.log.forget_offsets(topic, &offsets) {
                return Ok(());
            }
        }
        let what = format!("the topic {topic} cannot be deleted while messages for it arrive");
        Err(StoreError::Illegal(what))
    }
}
