//! Queue locks of orderly consumers: which client alone handles a queue's messages. Verbs 41 and
//! 42. Not here: who is connected (`clients`), how far a group is (`offsets`).
//!
//! Invariants (protocol section 2.10): the owner is a client id; a lock lives 60 s from its last
//! refresh; only its owner refreshes or releases it. Locks are in memory: a broker that starts
//! knows none, and members lock again with their next renewal.
//!
//! A lock whose owner has no connection any more lives 35 s from its last refresh. It is not
//! released at once, as the owner may be cut off rather than dead: it believes in its lock for 30 s
//! from the refresh, and a handler of it may be running. The rest is for the time a refresh takes
//! on its way back. So a crashed member blocks its queues for at most 35 s instead of 60.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mq_core::clock::Clock;
use mq_core::names::{self, MessageQueue};
use mq_core::protocol::body::{LockBatchRequest, LockBatchResponse, from_json, to_json};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use tracing::{info, warn};

use crate::broker::Broker;
use crate::dispatch::{Answer, Handled};
use crate::refusal::Refusal;

const LIFE_MS: i64 = 60_000;
/// Of a lock whose owner is not connected.
const ORPHAN_LIFE_MS: i64 = 35_000;
/// Locks in all: peers choose the names.
const LOCKS_MAX: usize = 100_000;
const CLIENT_ID_BYTES_MAX: usize = 255;

/// All locks. One mutex: a member asks every 20 s.
#[derive(Debug)]
pub(crate) struct Locks {
    table: Mutex<Table>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Table {
    groups: HashMap<String, HashMap<MessageQueue, Lock>>,
    count: usize,
}

#[derive(Debug)]
struct Lock {
    owner: String,
    refreshed_ms: i64,
}

impl Lock {
    fn has_ended(&self, now_ms: i64, life_ms: i64) -> bool {
        now_ms.saturating_sub(self.refreshed_ms) > life_ms
    }
}

impl Locks {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { table: Mutex::default(), clock }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `client` those of the queues that are free or its own; returns them.
    fn lock(
        &self,
        group: &str,
        client: &str,
        queues: Vec<MessageQueue>,
        is_connected: impl Fn(&str) -> bool,
    ) -> Vec<MessageQueue> {
        let now_ms = self.clock.now_ms();
        let life_ms = |owner: &str| if is_connected(owner) { LIFE_MS } else { ORPHAN_LIFE_MS };
        let mut table = self.table();
        let Table { groups, count } = &mut *table;
        let locks = groups.entry(group.to_owned()).or_default();
        let mut locked = Vec::with_capacity(queues.len());
        for queue in queues {
            if let Some(lock) = locks.get_mut(&queue) {
                if lock.owner != client {
                    if !lock.has_ended(now_ms, life_ms(&lock.owner)) {
                        continue;
                    }
                    warn!(group, %queue, was = lock.owner, is = client, "an ended lock is taken");
                    client.clone_into(&mut lock.owner);
                }
                lock.refreshed_ms = now_ms;
            } else if *count < LOCKS_MAX && names::check_topic(&queue.topic).is_ok() {
                *count += 1;
                let lock = Lock { owner: client.to_owned(), refreshed_ms: now_ms };
                locks.insert(queue.clone(), lock);
            } else {
                warn!(group, %queue, "no lock: the name is illegal, or there are {LOCKS_MAX}");
                continue;
            }
            locked.push(queue);
        }
        if locks.is_empty() {
            groups.remove(group);
        }
        locked
    }

    /// Releases those of the queues that are the client's.
    fn unlock(&self, group: &str, client: &str, queues: &[MessageQueue]) {
        let mut table = self.table();
        let Table { groups, count } = &mut *table;
        let Some(locks) = groups.get_mut(group) else { return };
        for queue in queues {
            if locks.get(queue).is_some_and(|lock| lock.owner == client) {
                locks.remove(queue);
                *count = count.saturating_sub(1);
            }
        }
        if locks.is_empty() {
            groups.remove(group);
        }
    }

    /// Forgets the locks that have ended.
    pub(crate) fn expire(&self) {
        let now_ms = self.clock.now_ms();
        let mut table = self.table();
        table.groups.retain(|_, locks| {
            locks.retain(|_, lock| !lock.has_ended(now_ms, LIFE_MS));
            !locks.is_empty()
        });
        table.count = table.groups.values().map(HashMap::len).sum();
    }
}

fn read(broker: &Broker, request: &Command) -> Result<LockBatchRequest, Refusal> {
    let body: LockBatchRequest = from_json(&request.body)?;
    names::check_group(&body.consumer_group)
        .map_err(|remark| Refusal::new(ResponseCode::SystemError, remark))?;
    if body.client_id.is_empty() || body.client_id.len() > CLIENT_ID_BYTES_MAX {
        let remark = format!(
            "broker {}: the client id of a lock has {} bytes; 1 to {CLIENT_ID_BYTES_MAX} are allowed",
            broker.config.broker_name,
            body.client_id.len()
        );
        return Err(Refusal::new(ResponseCode::SystemError, remark));
    }
    Ok(body)
}

/// 41: locks queues for a client, or refreshes its locks.
pub(crate) fn lock(broker: &Arc<Broker>, request: &Command) -> Handled {
    let LockBatchRequest { consumer_group: group, client_id, mq_set, .. } = read(broker, request)?;
    let is_connected = |owner: &str| broker.clients.is_member(&group, owner);
    let lock_ok_mq_set = broker.locks.lock(&group, &client_id, mq_set, is_connected);
    let body = to_json(&LockBatchResponse { lock_ok_mq_set });
    Ok(Answer::Now(Command::success(request).body(body)))
}

/// 42: releases a client's locks.
pub(crate) fn unlock(broker: &Arc<Broker>, request: &Command) -> Handled {
    let body = read(broker, request)?;
    info!(group = body.consumer_group, client = body.client_id, "queues are unlocked");
    broker.locks.unlock(&body.consumer_group, &body.client_id, &body.mq_set);
    Ok(Answer::Now(Command::success(request)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn queue(id: i32) -> MessageQueue {
        MessageQueue::new("t", "b", id)
    }

    fn ask(locks: &Locks, client: &str, connected: bool) -> bool {
        !locks.lock("g", client, vec![queue(0)], |_| connected).is_empty()
    }

    #[test]
    fn a_lock_lives_60_s_from_its_last_refresh() {
        let (clock, hand) = Clock::manual(1_000_000);
        let locks = Locks::new(clock);
        assert!(ask(&locks, "a", true));
        hand.advance(Duration::from_secs(50));
        assert!(ask(&locks, "a", true), "its owner refreshes it");
        hand.advance(Duration::from_secs(60));
        assert!(!ask(&locks, "b", true));
        hand.advance(Duration::from_millis(1));
        assert!(ask(&locks, "b", true));
        assert!(!ask(&locks, "a", true));
    }

    #[test]
    fn a_lock_of_nobody_lives_35_s() {
        let (clock, hand) = Clock::manual(1_000_000);
        let locks = Locks::new(clock);
        assert!(ask(&locks, "a", false));
        hand.advance(Duration::from_secs(35));
        assert!(!ask(&locks, "b", false), "its owner may be cut off and believe in it");
        hand.advance(Duration::from_millis(1));
        assert!(!ask(&locks, "b", true), "its owner is here");
        assert!(ask(&locks, "b", false));
    }

    #[test]
    fn only_the_owner_unlocks() {
        let locks = Locks::new(Clock::System);
        assert!(ask(&locks, "a", true));
        locks.unlock("g", "b", &[queue(0)]);
        assert!(!ask(&locks, "b", true));
        locks.unlock("g", "a", &[queue(0), queue(1)]);
        assert!(ask(&locks, "b", true));
        assert_eq!(locks.lock("other", "a", vec![queue(0)], |_| true), [queue(0)]);
    }

    #[test]
    fn locks_are_limited_and_ended_ones_are_forgotten() {
        let (clock, hand) = Clock::manual(1_000_000);
        let locks = Locks::new(clock);
        let many: Vec<_> = (0..100_001).map(queue).collect();
        assert_eq!(locks.lock("g", "a", many, |_| true).len(), LOCKS_MAX);
        assert!(locks.lock("g", "a", vec![queue(-1)], |_| true).is_empty());
        hand.advance(Duration::from_secs(61));
        locks.expire();
        assert_eq!(locks.table().count, 0);
        assert_eq!(locks.lock("g", "a", vec![queue(-1)], |_| true).len(), 1);
        let illegal = MessageQueue::new("../..", "b", 0);
        assert!(locks.lock("g", "a", vec![illegal], |_| true).is_empty());
    }
}
