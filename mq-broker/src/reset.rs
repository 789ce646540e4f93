//! 222: moves a group to other offsets, whether it consumes or not. Not here: what is committed
//! (`offsets.rs`), asking members (`forward.rs`).
//!
//! A reset changes the committed offset at once and stays pending until a member has jumped:
//! meanwhile what members commit from before is ignored. A member hears of it in one of two ways,
//! never in both, or it would jump twice and handle messages in between twice:
//!
//! - Clients of 5.x, and whoever is not connected as a member, are answered 21 by their next pull,
//!   as Apache's broker of 5.x does it. That answer is as old as the protocol. A group that has no
//!   member now begins at the new offset by itself.
//! - Members of earlier releases are sent 220, as Apache's broker of 4.x does it: it reaches those,
//!   too, that do not pull because they have enough to handle. They have [`JUMP_MAX_MS`] to come
//!   back at the new offset (Java takes 10 s); who has not by then did not understand and is
//!   answered 21.
//!
//! A pull at the new offset ends the reset. So does a second pull elsewhere after a 21: it comes
//! from a client that chooses its offsets itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mq_core::clock::Clock;
use mq_core::names::MessageQueue;
use mq_core::protocol::body::{
    QueueMap, QueueOffsetForC, ResetOffsetBody, ResetOffsetForC, to_json,
};
use mq_core::protocol::code::{Language, RequestCode, ResponseCode};
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{PullRequest, ResetOffsetRequest};
use tracing::info;

use crate::broker::Broker;
use crate::catalog::topic_unknown;
use crate::clients::Online;
use crate::dispatch::{Answer, Handled};
use crate::refusal::Refusal;

/// The number of release 5.0: clients from here on jump when a pull is answered 21.
const VERSION_5: i32 = 412;
/// How long members that were sent 220 may take.
const JUMP_MAX_MS: i64 = 15_000;
/// Queues that may have a pending reset.
const PENDING_MAX: usize = 100_000;
/// The time that stands for the end of a queue.
const END: i64 = -1;

/// Resets that members have not followed yet.
#[derive(Debug, Default)]
pub(crate) struct Resets {
    pending: Mutex<HashMap<Place, Pending>>,
    /// How many there are, so that pulls and commits need not look while there are none.
    count: AtomicUsize,
}

/// A group on a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    group: String,
    topic: String,
    queue_id: i32,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    target: i64,
    /// Until then members of before 5.0 may be on their way.
    told_until_ms: i64,
    /// A pull was answered 21.
    answered: bool,
    /// No member was there who could hold messages from before.
    nobody: bool,
}

impl Place {
    fn new(group: &str, topic: &str, queue_id: i32) -> Self {
        Self { group: group.to_owned(), topic: topic.to_owned(), queue_id }
    }
}

impl Resets {
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, place: Place, pending: Pending) -> Result<(), Refusal> {
        let mut table = self.lock();
        if table.len() >= PENDING_MAX && !table.contains_key(&place) {
            let remark = format!("{PENDING_MAX} queues wait for consumers to follow a reset");
            return Err(Refusal::new(ResponseCode::SystemBusy, remark));
        }
        table.insert(place, pending);
        self.count.store(table.len(), Ordering::Release);
        Ok(())
    }

    /// May a group's offset be set to this, or does it come from before a reset?
    pub(crate) fn allow(&self, group: &str, topic: &str, queue_id: i32, offset: i64) -> bool {
        if self.is_empty() {
            return true;
        }
        let table = self.lock();
        let pending = table.get(&Place::new(group, topic, queue_id));
        pending.is_none_or(|pending| pending.target == offset)
    }

    /// The group follows resets of this queue by itself.
    pub(crate) fn forget(&self, group: &str, topic: &str, queue_id: i32) {
        if !self.is_empty() {
            self.remove(&mut self.lock(), &Place::new(group, topic, queue_id));
        }
    }

    fn remove(&self, table: &mut HashMap<Place, Pending>, place: &Place) {
        table.remove(place);
        self.count.store(table.len(), Ordering::Release);
    }

    /// Where a pull has to jump to.
    pub(crate) fn jump(&self, pull: &PullRequest<'_>, version: i32, clock: &Clock) -> Option<i64> {
        if self.is_empty() {
            return None;
        }
        let place = Place::new(pull.consumer_group, pull.topic, pull.queue_id);
        let mut table = self.lock();
        let pending = table.get_mut(&place)?;
        let target = pending.target;
        let on_its_way = version < VERSION_5 && clock.now_ms() < pending.told_until_ms;
        let has_jumped = pull.queue_offset == target && (on_its_way || pending.nobody);
        if has_jumped || pending.answered {
            self.remove(&mut table, &place);
            return None;
        }
        if on_its_way {
            return None;
        }
        pending.answered = true;
        Some(target)
    }
}

/// 222.
pub(crate) fn handle(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ResetOffsetRequest<'_> = request.decode_header()?;
    if broker.catalog.known_group(header.group).is_none() {
        let remark = format!("Group {} does not exist", header.group);
        return Err(Refusal::new(ResponseCode::SubscriptionGroupNotExist, remark));
    }
    let targets = targets(broker, &header)?;
    let offset_table = apply(broker, &header, &targets)?;
    info!(group = header.group, topic = header.topic, ?targets, "offsets were reset");
    let body = to_json(&ResetOffsetBody { offset_table });
    Ok(Answer::Now(Command::success(request).body(body)))
}

/// The offset of each queue that is meant.
fn targets(broker: &Broker, header: &ResetOffsetRequest<'_>) -> Result<Vec<(i32, i64)>, Refusal> {
    let topic = broker.catalog.topic(header.topic).ok_or_else(|| topic_unknown(header.topic))?;
    let one = header.queue_id.filter(|queue_id| *queue_id >= 0);
    let Some(queue_id) = one else {
        let all = 0..topic.read_queue_nums;
        return all.map(|queue_id| Ok((queue_id, by_time(broker, header, queue_id)?))).collect();
    };
    if queue_id >= topic.read_queue_nums {
        let remark = format!(
            "topic {} has no queue {queue_id}: it has {}",
            header.topic, topic.read_queue_nums
        );
        return Err(Refusal::new(ResponseCode::SystemError, remark));
    }
    let Some(offset) = header.offset.filter(|offset| *offset >= 0) else {
        return Ok(vec![(queue_id, by_time(broker, header, queue_id)?)]);
    };
    let queue = broker.store.queues.queue(header.topic, queue_id);
    let (min, max) = queue.map_or((0, 0), |queue| (queue.min_offset(), queue.max_offset()));
    if !(min..=max).contains(&offset) {
        let remark = format!("offset {offset} is not in queue {queue_id}, which has {min}..{max}");
        return Err(Refusal::new(ResponseCode::SystemError, remark));
    }
    Ok(vec![(queue_id, offset)])
}

/// The offset of a time. Without force a group only goes back.
fn by_time(
    broker: &Broker,
    header: &ResetOffsetRequest<'_>,
    queue_id: i32,
) -> Result<i64, Refusal> {
    let target = match broker.store.queues.queue(header.topic, queue_id) {
        None => 0,
        Some(queue) if header.timestamp == END => queue.max_offset(),
        Some(queue) => queue.search_time(&broker.store.log, header.timestamp)?,
    };
    let committed = broker.offsets.committed(header.group, header.topic, queue_id);
    let ahead = committed.filter(|committed| !header.is_force && *committed < target);
    Ok(ahead.unwrap_or(target))
}

fn apply(
    broker: &Arc<Broker>,
    header: &ResetOffsetRequest<'_>,
    targets: &[(i32, i64)],
) -> Result<QueueMap<i64>, Refusal> {
    let members = broker.clients.online(header.group);
    let told: Vec<&Online> = members.iter().filter(|member| member.version < VERSION_5).collect();
    let told_until_ms = match told.is_empty() {
        true => 0,
        false => broker.clock.now_ms().saturating_add(JUMP_MAX_MS),
    };
    for (queue_id, target) in targets {
        let nobody = members.is_empty();
        let pending = Pending { target: *target, told_until_ms, answered: false, nobody };
        broker.resets.put(Place::new(header.group, header.topic, *queue_id), pending)?;
        broker.offsets.commit(header.group, header.topic, *queue_id, *target);
    }
    let queue = |id| MessageQueue::new(header.topic, &*broker.config.broker_name, id);
    let table: QueueMap<i64> = targets.iter().map(|(id, target)| (queue(*id), *target)).collect();
    for member in told {
        member.peer.notify(notice(header, member, &table));
    }
    broker.recall_pulls();
    Ok(table)
}

/// 220, in the form that the member's language reads.
fn notice(header: &ResetOffsetRequest<'_>, member: &Online, table: &QueueMap<i64>) -> Command {
    let header = ResetOffsetRequest {
        group: header.group,
        topic: header.topic,
        timestamp: header.timestamp,
        is_force: header.is_force,
        queue_id: None,
        offset: None,
    };
    let body = match member.language {
        Language::Cpp => to_json(&for_c(table)),
        _ => to_json(&ResetOffsetBody { offset_table: table.clone() }),
    };
    Command::with(RequestCode::ResetConsumerClientOffset, &header).body(body)
}

fn for_c(table: &QueueMap<i64>) -> ResetOffsetForC {
    let one = |(queue, offset): (&MessageQueue, &i64)| QueueOffsetForC {
        topic: queue.topic.to_string(),
        broker_name: queue.broker_name.to_string(),
        queue_id: queue.queue_id,
        offset: *offset,
    };
    ResetOffsetForC { offset_table: table.0.iter().map(one).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(queue_offset: i64) -> PullRequest<'static> {
        PullRequest { consumer_group: "g", topic: "t", queue_offset, ..PullRequest::default() }
    }

    fn at(now_ms: u64) -> Clock {
        Clock::manual(now_ms).0
    }

    fn reset(told_until_ms: i64) -> Resets {
        let resets = Resets::default();
        let pending = Pending { target: 10, told_until_ms, answered: false, nobody: false };
        resets.put(Place::new("g", "t", 0), pending).unwrap();
        resets
    }

    #[test]
    fn a_client_of_5_jumps_by_the_answer_of_one_pull() {
        let resets = reset(0);
        assert!(!resets.allow("g", "t", 0, 40) && resets.allow("g", "t", 1, 40));
        assert_eq!(resets.jump(&pull(40), VERSION_5, &at(0)), Some(10));
        assert!(!resets.allow("g", "t", 0, 40), "until it has jumped");
        assert!(resets.allow("g", "t", 0, 10));
        assert_eq!(resets.jump(&pull(10), VERSION_5, &at(0)), None);
        assert!(resets.is_empty() && resets.allow("g", "t", 0, 40));
    }

    #[test]
    fn even_who_stands_there_is_told_to_jump() {
        let resets = reset(0);
        assert_eq!(resets.jump(&pull(10), VERSION_5, &at(0)), Some(10), "what it holds is to go");
        assert_eq!(resets.jump(&pull(10), VERSION_5, &at(0)), None);
        assert!(resets.is_empty());
    }

    #[test]
    fn an_earlier_client_that_was_told_is_not_told_twice() {
        let resets = reset(100);
        assert_eq!(resets.jump(&pull(40), VERSION_5 - 1, &at(99)), None);
        assert!(!resets.allow("g", "t", 0, 40));
        assert_eq!(resets.jump(&pull(10), VERSION_5 - 1, &at(99)), None);
        assert!(resets.is_empty());
    }

    #[test]
    fn an_earlier_client_that_did_not_understand_gets_the_answer() {
        let resets = reset(100);
        assert_eq!(resets.jump(&pull(40), VERSION_5 - 1, &at(100)), Some(10));
        assert_eq!(resets.jump(&pull(41), VERSION_5 - 1, &at(101)), None, "it goes its own way");
        assert!(resets.is_empty());
    }
}
