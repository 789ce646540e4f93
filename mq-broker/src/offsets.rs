//! Consumer progress: the next offset of each group on each queue. Verbs 14 and 15, and the
//! snapshot consumerOffset.json. Not here: positions in the log.
//!
//! Invariants: a stored offset is never negative (Node commits -1 for "unknown"); the snapshot is
//! written every 5 s and at stop, so that a crash lets a group fall back by at most that, never
//! forward (protocol 2.9, 4.7).

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::broker::Broker;
use crate::catalog::topic_unknown;
use crate::dispatch::{Answer, Handled};
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::store::consume_queue::ConsumeQueue;
use crate::store::disk::Disk;
use crate::store::table_file::TableFile;
use mq_core::protocol::body::ConsumerOffsets;
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{
    OffsetResponse, QueryConsumerOffsetRequest, UpdateConsumerOffsetRequest,
};

/// Queue id to the next offset.
pub(crate) type Queues = BTreeMap<i32, i64>;

/// Entries that offset commits may create: a peer chooses the names.
const ENTRIES_MAX: usize = 1_000_000;

/// The table and its file.
#[derive(Debug)]
pub(crate) struct Offsets {
    /// Group to topic to queues.
    table: RwLock<HashMap<String, HashMap<String, Queues>>>,
    changed: AtomicBool,
    file: TableFile,
}

impl Offsets {
    pub(crate) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, StoreError> {
        let file = TableFile::new(disk, path);
        let snapshot: ConsumerOffsets = file.load()?.unwrap_or_default();
        let mut table: HashMap<String, HashMap<String, Queues>> = HashMap::new();
        for (key, queues) in snapshot.offset_table {
            if let Some((topic, group)) = key.split_once('@') {
                table.entry(group.to_owned()).or_default().insert(topic.to_owned(), queues);
            }
        }
        Ok(Self { table: RwLock::new(table), changed: AtomicBool::new(false), file })
    }

    /// The group's next offset on a queue, if one was committed.
    pub(crate) fn committed(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(group)?.get(topic)?.get(&queue_id).copied()
    }

    /// Stores a group's next offset. A negative one says nothing and changes nothing.
    pub(crate) fn commit(&self, group: &str, topic: &str, queue_id: i32, offset: i64) {
        if offset < 0 {
            return;
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) =
            table.get_mut(group).and_then(|t| t.get_mut(topic)).and_then(|q| q.get_mut(&queue_id))
        {
            if *old != offset {
                *old = offset;
                self.changed.store(true, Ordering::Relaxed);
            }
            return;
        }
        if table.len() < ENTRIES_MAX {
            let topics = table.entry(group.to_owned()).or_default();
            topics.entry(topic.to_owned()).or_default().insert(queue_id, offset);
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    /// The topics in which a group has progress.
    pub(crate) fn topics_of(&self, group: &str) -> Vec<String> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(group).into_iter().flat_map(HashMap::keys).cloned().collect()
    }

    /// The groups that have progress in a topic.
    pub(crate) fn groups_of(&self, topic: &str) -> Vec<String> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let groups = table.iter().filter(|(_, topics)| topics.contains_key(topic));
        groups.map(|(group, _)| group.clone()).collect()
    }

    /// A group's progress in the queues of a topic.
    pub(crate) fn queues_of(&self, group: &str, topic: &str) -> Queues {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(group).and_then(|topics| topics.get(topic)).cloned().unwrap_or_default()
    }

    /// Forgets all progress in a topic.
    pub(crate) fn remove_topic(&self, topic: &str) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.values_mut().for_each(|topics| drop(topics.remove(topic)));
        table.retain(|_, topics| !topics.is_empty());
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Forgets all progress of a group.
    pub(crate) fn remove_group(&self, group: &str) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(group);
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Writes the snapshot if anything changed since the last one.
    pub(crate) fn persist(&self) -> Result<(), StoreError> {
        if !self.changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let snapshot = self.snapshot();
        self.file.save(&snapshot).inspect_err(|_| self.changed.store(true, Ordering::Relaxed))
    }

    /// As consumerOffset.json has it: by `topic@group`.
    fn snapshot(&self) -> ConsumerOffsets {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut offset_table = BTreeMap::new();
        for (group, topics) in table.iter() {
            for (topic, queues) in topics {
                offset_table.insert(format!("{topic}@{group}"), queues.clone());
            }
        }
        ConsumerOffsets { offset_table, ..ConsumerOffsets::default() }
    }
}

/// 14: where a group stands on a queue. "Not found" follows protocol 2.9: a young queue starts at
/// 0, otherwise the client decides by its own rule.
pub(crate) fn query(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: QueryConsumerOffsetRequest<'_> = request.decode_header()?;
    let committed = broker.offsets.committed(header.consumer_group, header.topic, header.queue_id);
    let offset = committed.or_else(|| first_offset(broker, &header));
    let Some(offset) = offset else {
        return Err(Refusal::new(
            ResponseCode::QueryNotFound,
            "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first",
        ));
    };
    Ok(Answer::Now(Command::success(request).header(&OffsetResponse { offset })))
}

fn first_offset(broker: &Broker, header: &QueryConsumerOffsetRequest<'_>) -> Option<i64> {
    if header.set_zero_if_not_found == Some(false) {
        return None;
    }
    let queue = broker.store.queues.queue(header.topic, header.queue_id);
    queue.is_none_or(|queue| is_young(broker, &queue)).then_some(0)
}

/// A queue is young while its first message is near the log's end: as far as memory reaches that
/// RocketMQ would keep of the log.
pub(crate) fn is_young(broker: &Broker, queue: &ConsumeQueue) -> bool {
    if queue.min_offset() > 0 {
        return false;
    }
    let first = queue.read(0, 1).ok().and_then(|entries| entries.first().copied());
    let Some(first) = first else { return true };
    let at = u64::try_from(first.physical_offset).unwrap_or(0);
    broker.store.log.readable().saturating_sub(at) < broker.memory_bytes
}

/// 15: a group tells where it stands.
pub(crate) fn update(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: UpdateConsumerOffsetRequest<'_> = request.decode_header()?;
    let UpdateConsumerOffsetRequest { consumer_group, topic, queue_id, commit_offset } = header;
    check_names(consumer_group, topic)?;
    // Progress in a topic that was deleted would be wrong for the next of its name.
    if broker.catalog.topic(topic).is_none() {
        return Err(topic_unknown(topic));
    }
    commit(broker, (consumer_group, topic, queue_id), commit_offset);
    Ok(Answer::Now(Command::success(request)))
}

/// Takes what a member says about a queue of a group, unless it comes from before a reset.
pub(crate) fn commit(broker: &Broker, place: (&str, &str, i32), offset: i64) {
    let (group, topic, queue_id) = place;
    if broker.resets.allow(group, topic, queue_id, offset) {
        broker.offsets.commit(group, topic, queue_id, offset);
    }
}

/// Names that a peer chooses are checked before they become keys of a table.
pub(crate) fn check_names(group: &str, topic: &str) -> Result<(), Refusal> {
    mq_core::names::check_group(group)
        .and_then(|()| mq_core::names::check_topic(topic))
        .map_err(|remark| Refusal::new(ResponseCode::SystemError, remark))
}
