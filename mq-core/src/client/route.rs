//! What a route says and how a queue is chosen: pure. Not here: asking name servers, connections.
//!
//! Invariants: queues are sorted, so that two answers with one meaning are equal and every member
//! of a group sees one order; a route announces at most [`QUEUES_MAX`] queues to us, whatever a
//! name server says.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::names::MessageQueue;
use crate::properties::java_hash;
use crate::protocol::body::TopicRouteData;

/// More queues of one topic than this are ignored.
const QUEUES_MAX: usize = 65_536;
/// The broker id of a master.
const MASTER_ID: i64 = 0;
const PERM_READ: i32 = 4;
const PERM_WRITE: i32 = 2;

/// Addresses of one broker by id: 0 is the master, others are slaves.
pub(super) type Addresses = BTreeMap<i64, String>;

/// Where a topic is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// Queues that take messages; their brokers have a master.
    pub(super) to_write: Vec<MessageQueue>,
    /// Queues that give messages.
    pub(super) to_read: Vec<MessageQueue>,
    pub(super) brokers: BTreeMap<Arc<str>, Addresses>,
}

impl Route {
    /// The route of `topic` as a name server told it.
    pub(super) fn new(topic: &str, data: &TopicRouteData) -> Self {
        Self::limited(topic, data, i32::MAX)
    }

    /// A guess at the route of a topic that sending will create: the default topic's, with at most
    /// `queues_max` queues a broker. Nothing can be read from it yet.
    pub(super) fn borrowed(topic: &str, data: &TopicRouteData, queues_max: i32) -> Self {
        Self { to_read: Vec::new(), ..Self::limited(topic, data, queues_max) }
    }

    fn limited(topic: &str, data: &TopicRouteData, queues_max: i32) -> Self {
        let brokers: BTreeMap<Arc<str>, Addresses> = data
            .broker_datas
            .iter()
            .map(|broker| (broker.broker_name.as_str().into(), broker.broker_addrs.clone()))
            .collect();
        let topic: Arc<str> = topic.into();
        let mut route = Self { brokers, ..Self::default() };
        for queues in &data.queue_datas {
            let Some((name, addresses)) = route.brokers.get_key_value(queues.broker_name.as_str())
            else {
                continue;
            };
            let queue = |queue_id| MessageQueue {
                topic: topic.clone(),
                broker_name: name.clone(),
                queue_id,
            };
            if queues.perm & PERM_WRITE != 0 && addresses.contains_key(&MASTER_ID) {
                let ids = 0..queues.write_queue_nums.min(queues_max);
                route.to_write.extend(ids.map(queue).take(QUEUES_MAX));
            }
            if queues.perm & PERM_READ != 0 {
                let ids = 0..queues.read_queue_nums.min(queues_max);
                route.to_read.extend(ids.map(queue).take(QUEUES_MAX));
            }
        }
        for queues in [&mut route.to_write, &mut route.to_read] {
            queues.sort();
            queues.dedup();
            queues.truncate(QUEUES_MAX);
        }
        route
    }
}

/// The address of a broker's master.
pub(super) fn master(addresses: &Addresses) -> Option<&str> {
    addresses.get(&MASTER_ID).map(String::as_str)
}

/// The address to pull from: the suggested broker id's, else the master's, else any slave's.
pub(super) fn reader(addresses: &Addresses, suggested: i64) -> Option<&str> {
    let suggested = addresses.get(&suggested).map(String::as_str);
    suggested
        .or_else(|| master(addresses))
        .or_else(|| addresses.values().next().map(String::as_str))
}

/// Of `count` queues the one whose turn it is, or the next that is not to be avoided; when all are,
/// the one in turn.
pub(super) fn choose(count: usize, turn: usize, avoid: impl Fn(usize) -> bool) -> Option<usize> {
    let first = turn.checked_rem(count)?;
    let mut in_turn = (first..count).chain(0..first);
    Some(in_turn.find(|index| !avoid(*index)).unwrap_or(first))
}

/// The queue of a key among `count`, as RocketMQ's selector by hash has it.
pub(super) fn by_key(count: usize, key: &str) -> Option<usize> {
    let count = i32::try_from(count).ok()?;
    let rest = java_hash(key).checked_rem(count)?;
    usize::try_from(rest.unsigned_abs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::{BrokerData, QueueData};

    fn data(queues: &[(&str, i32, i32, i32)], brokers: &[(&str, &[i64])]) -> TopicRouteData {
        let mut data = TopicRouteData::default();
        for (name, read, write, perm) in queues {
            data.queue_datas.push(QueueData {
                broker_name: (*name).to_owned(),
                read_queue_nums: *read,
                write_queue_nums: *write,
                perm: *perm,
                ..QueueData::default()
            });
        }
        for (name, ids) in brokers {
            data.broker_datas.push(BrokerData {
                broker_name: (*name).to_owned(),
                broker_addrs: ids.iter().map(|id| (*id, format!("{name}:{id}"))).collect(),
                ..BrokerData::default()
            });
        }
        data
    }

    #[test]
    fn permissions_and_masters_decide() {
        let data = data(
            &[("b", 2, 1, 6), ("a", 1, 1, 4), ("slave", 1, 1, 6), ("gone", 9, 9, 6)],
            &[("a", &[0]), ("b", &[0, 1]), ("slave", &[1])],
        );
        let route = Route::new("T", &data);
        let names = |queues: &[MessageQueue]| -> Vec<String> {
            queues.iter().map(|queue| format!("{}{}", queue.broker_name, queue.queue_id)).collect()
        };
        assert_eq!(names(&route.to_write), ["b0"]);
        assert_eq!(names(&route.to_read), ["a0", "b0", "b1", "slave0"]);
    }

    #[test]
    fn the_order_of_an_answer_does_not_matter() {
        let one = data(&[("a", 4, 4, 6), ("b", 4, 4, 6)], &[("a", &[0]), ("b", &[0])]);
        let other = data(&[("b", 4, 4, 6), ("a", 4, 4, 6)], &[("b", &[0]), ("a", &[0])]);
        assert_eq!(Route::new("T", &one), Route::new("T", &other));
    }

    #[test]
    fn a_borrowed_route_has_few_queues_and_none_to_read() {
        let route = Route::borrowed("T", &data(&[("a", 8, 8, 7)], &[("a", &[0])]), 4);
        assert_eq!(route.to_write.len(), 4);
        assert!(route.to_read.is_empty());
    }

    #[test]
    fn absurd_counts_are_cut() {
        let huge =
            data(&[("a", i32::MAX, -1, 6), ("b", i32::MAX, 1, 6)], &[("a", &[0]), ("b", &[0])]);
        let route = Route::new("T", &huge);
        assert_eq!(route.to_read.len(), QUEUES_MAX);
        assert_eq!(route.to_write.len(), 1);
    }

    #[test]
    fn turns_skip_what_is_avoided() {
        assert_eq!(choose(3, 4, |_| false), Some(1));
        assert_eq!(choose(3, 4, |index| index == 1), Some(2));
        assert_eq!(choose(3, 2, |index| index != 1), Some(1));
        assert_eq!(choose(3, 5, |_| true), Some(2));
        assert_eq!(choose(0, 5, |_| true), None);
    }

    #[test]
    fn one_key_has_one_queue_and_it_is_javas() {
        // "order_created".hashCode() = 848461559; "TopicTest#...".hashCode() is negative.
        assert_eq!(by_key(4, "order_created"), Some(3));
        assert_eq!(by_key(4, "TopicTest#7F00000100002A139F5512345678ABCD"), Some(2));
        assert_eq!(by_key(0, "x"), None);
    }
}
