//! Who consumes what: the allocation every member of a group computes for itself, and what changes
//! for one member. Not here: starting and stopping work.
//!
//! Invariant: the result is RocketMQ's `AVG`, to the queue; members written in Java, Go and Rust
//! must agree (protocol section 2.5), or queues are consumed twice or by nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::consumer::Membership;
use super::{Client, refused};
use crate::error::Error;
use crate::names::MessageQueue;
use crate::protocol::body::{ConsumerIdList, from_json};
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::header::ConsumerGroupRequest;

const MEMBERS_TIMEOUT: Duration = Duration::from_secs(3);

/// The queues that fall to `me` when all of a topic's `queues` are dealt out to all of the group's
/// `members`.
#[must_use]
pub fn allocate(queues: &[MessageQueue], members: &[String], me: &str) -> BTreeSet<MessageQueue> {
    let queues: BTreeSet<&MessageQueue> = queues.iter().collect();
    let mut members: Vec<&str> = members.iter().map(String::as_str).collect();
    // Java compares UTF-16 units, which is another order than UTF-8's beyond the basic plane.
    members.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
    members.dedup();
    let Some(index) = members.iter().position(|member| *member == me) else {
        return BTreeSet::new();
    };
    let (start, count) = share(queues.len(), members.len(), index);
    queues.into_iter().skip(start).take(count).cloned().collect()
}

/// The first queue and the number of queues of member `index`: the first `queues % members` members
/// get one more.
fn share(queues: usize, members: usize, index: usize) -> (usize, usize) {
    let (each, more) = (queues / members, queues % members);
    let start = index * each + index.min(more);
    (start, each + usize::from(index < more))
}

/// What a member has to do to get from one set of queues to another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) lost: Vec<MessageQueue>,
    pub(super) gained: Vec<MessageQueue>,
}

/// The way from `held` to `wanted`.
pub(super) fn change(held: &BTreeSet<MessageQueue>, wanted: &BTreeSet<MessageQueue>) -> Change {
    Change {
        lost: held.difference(wanted).cloned().collect(),
        gained: wanted.difference(held).cloned().collect(),
    }
}

/// What falls to this client of a topic.
#[derive(Debug)]
pub(super) struct Dealt {
    pub(super) topic: String,
    pub(super) wanted: BTreeSet<MessageQueue>,
    /// The group has other members, too.
    pub(super) shared: bool,
}

/// Deals the queues of all topics of a group whose brokers know the members. False: it has to be
/// done again soon.
pub(super) async fn deal(client: &Client, membership: &Membership) -> (bool, Vec<Dealt>) {
    let (mut settled, mut dealt) = (true, Vec::new());
    let mut known: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
    for topic in &membership.topics {
        let queues = client.0.topics.get(topic).map(|topic| topic.route.to_read.clone());
        let queues = queues.unwrap_or_default();
        let Some(broker) = queues.first().map(|queue| queue.broker_name.clone()) else { continue };
        if !known.contains_key(&broker) {
            match members(client, &membership.group, &broker).await {
                Ok(members) => known.insert(broker.clone(), members),
                Err(failed) => {
                    tracing::debug!(%failed, group = membership.group, "members are not known yet");
                    settled = false;
                    continue;
                }
            };
        }
        let members = known.get(&broker).map(Vec::as_slice).unwrap_or_default();
        if !members.contains(&client.0.id) {
            // The broker has missed our heartbeat; queues fall to us once it knows us.
            settled = false;
            client.heartbeat_all().await;
        }
        let wanted = allocate(&queues, members, &client.0.id);
        dealt.push(Dealt { topic: topic.clone(), wanted, shared: members.len() > 1 });
    }
    (settled, dealt)
}

/// All queues, which every member of a broadcasting group reads.
pub(super) fn all(client: &Client, membership: &Membership) -> Vec<Dealt> {
    let known =
        membership.topics.iter().filter_map(|name| Some((name, client.0.topics.get(name)?)));
    let dealt = known.map(|(name, topic)| Dealt {
        topic: name.clone(),
        wanted: topic.route.to_read.iter().cloned().collect(),
        shared: false,
    });
    dealt.collect()
}

/// A group's members, as a broker knows them.
async fn members(client: &Client, group: &str, broker: &str) -> Result<Vec<String>, Error> {
    let remote = client.reader(broker, 0).await?;
    let header = ConsumerGroupRequest { consumer_group: group };
    let request = Command::with(RequestCode::GetConsumerListByGroup, &header);
    let answer = remote.call(client.form(request), MEMBERS_TIMEOUT).await?;
    if answer.response_code() != ResponseCode::Success {
        return Err(refused(&answer));
    }
    let list: ConsumerIdList = from_json(&answer.body)
        .map_err(|error| Error::Refused { code: answer.code, remark: error.to_string() })?;
    Ok(list.consumer_id_list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn queues(count: i32) -> Vec<MessageQueue> {
        (0..count).rev().map(|id| MessageQueue::new("T", "b", id)).collect()
    }

    fn members(count: usize) -> Vec<String> {
        (0..count).rev().map(|n| format!("10.0.0.1@{n:03}")).collect()
    }

    fn ids(of: &BTreeSet<MessageQueue>) -> Vec<i32> {
        of.iter().map(|queue| queue.queue_id).collect()
    }

    /// Java's formula, word by word: `AllocateMessageQueueAveragely`.
    fn javas(queues: i32, members: i32, index: i32) -> Vec<i32> {
        let rest = queues % members;
        let size = match queues <= members {
            true => 1,
            false if rest > 0 && index < rest => queues / members + 1,
            false => queues / members,
        };
        let start = if rest > 0 && index < rest { index * size } else { index * size + rest };
        let range = size.min(queues - start);
        (0..range).map(|i| (start + i) % queues).collect()
    }

    #[test]
    fn agrees_with_javas_table() {
        // (queues, members) -> what each member gets, as the Java client prints it.
        let table: &[(i32, usize, &[&[i32]])] = &[
            (4, 1, &[&[0, 1, 2, 3]]),
            (4, 2, &[&[0, 1], &[2, 3]]),
            (4, 3, &[&[0, 1], &[2], &[3]]),
            (8, 3, &[&[0, 1, 2], &[3, 4, 5], &[6, 7]]),
            (3, 5, &[&[0], &[1], &[2], &[], &[]]),
            (7, 4, &[&[0, 1], &[2, 3], &[4, 5], &[6]]),
            (0, 2, &[&[], &[]]),
        ];
        for (count, size, expected) in table {
            let members = members(*size);
            for (index, want) in expected.iter().enumerate() {
                let me = format!("10.0.0.1@{index:03}");
                assert_eq!(ids(&allocate(&queues(*count), &members, &me)), *want, "{me}");
            }
        }
    }

    #[test]
    fn a_stranger_gets_nothing_and_doubled_members_count_once() {
        assert!(allocate(&queues(4), &members(2), "10.0.0.9@1").is_empty());
        let mut doubled = members(2);
        doubled.extend(members(2));
        assert_eq!(ids(&allocate(&queues(4), &doubled, "10.0.0.1@001")), [2, 3]);
    }

    #[test]
    fn brokers_come_before_queue_ids() {
        let mut all = queues(2);
        all.push(MessageQueue::new("T", "a", 1));
        all.push(MessageQueue::new("T", "a", 0));
        let first = allocate(&all, &members(2), "10.0.0.1@000");
        assert!(first.iter().all(|queue| &*queue.broker_name == "a"));
    }

    #[test]
    fn the_change_is_what_differs() {
        let held = queues(3).into_iter().collect();
        let wanted = queues(5).into_iter().filter(|queue| queue.queue_id > 1).collect();
        let change = change(&held, &wanted);
        assert_eq!(change.lost.iter().map(|q| q.queue_id).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(change.gained.iter().map(|q| q.queue_id).collect::<Vec<_>>(), [3, 4]);
    }

    proptest! {
        #[test]
        fn every_queue_has_one_owner_and_java_agrees(count in 1_i32..40, size in 1_usize..20) {
            let members = members(size);
            let mut seen = Vec::new();
            for index in 0..size {
                let me = format!("10.0.0.1@{index:03}");
                let mine = ids(&allocate(&queues(count), &members, &me));
                let index = i32::try_from(index).unwrap();
                prop_assert_eq!(&mine, &javas(count, i32::try_from(size).unwrap(), index));
                seen.extend(mine);
            }
            prop_assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }
}
