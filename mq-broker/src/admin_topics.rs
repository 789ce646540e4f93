//! What administrators do with topics: 17, 18, 21, 202, 215, 300, 305, 316, 321 and 351. Not here:
//! the table (`catalog.rs`), how a topic's queues are removed (`store/deletion.rs`).
//!
//! Rules: protocol section 2.15. A topic that RocketMQ itself needs is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mq_core::names::{self, MessageQueue};
use mq_core::protocol::body::{
    ConsumeQueueData, ConsumeQueueEntries, GroupList, TopicConfig, TopicConfigList,
    TopicFilterType, TopicList, TopicOffset, TopicStatsTable, from_json, to_json,
};
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{
    AllTopicConfigResponse, CreateTopicRequest, QueryConsumeQueueRequest, TopicRequest,
};

use crate::broker::Broker;
use crate::catalog::{QUEUES_MAX, illegal, perm, topic_config, topic_unknown};
use crate::dispatch::{Answer, Handled};
use crate::refusal::Refusal;
use crate::stats::Kind;

/// Topics in one request.
const LIST_MAX: usize = 1_000;
/// Attributes of a topic or group, and bytes of a name or value of one.
const ATTRIBUTES_MAX: usize = 64;
const ATTRIBUTE_BYTES_MAX: usize = 255;
/// Entries of a queue in one answer.
const ENTRIES_MAX: usize = 1_024;

/// 17: makes or changes a topic.
pub(crate) fn create(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: CreateTopicRequest<'_> = request.decode_header()?;
    let mut topic = TopicConfig {
        read_queue_nums: header.read_queue_nums,
        write_queue_nums: header.write_queue_nums,
        topic_sys_flag: header.topic_sys_flag.unwrap_or(0),
        order: header.order,
        ..topic_config(header.topic, header.write_queue_nums, header.perm)
    };
    if header.topic_filter_type == "MULTI_TAG" {
        topic.topic_filter_type = TopicFilterType::MultiTag;
    }
    if let Some(before) = broker.catalog.topic(header.topic) {
        topic.attributes = before.attributes.clone();
    }
    change_attributes(&mut topic.attributes, header.attributes.unwrap_or_default())?;
    put(broker, topic)?;
    Ok(Answer::Now(Command::success(request)))
}

/// 18: makes or changes topics. All are checked before the first is made.
pub(crate) fn create_all(broker: &Arc<Broker>, request: &Command) -> Handled {
    let list: TopicConfigList = from_json(&request.body)?;
    if list.topic_config_list.len() > LIST_MAX {
        return Err(illegal(format!("at most {LIST_MAX} topics in one request")));
    }
    for topic in &list.topic_config_list {
        check(broker, topic)?;
    }
    for topic in list.topic_config_list {
        put(broker, topic)?;
    }
    Ok(Answer::Now(Command::success(request)))
}

fn put(broker: &Broker, mut topic: TopicConfig) -> Result<(), Refusal> {
    check(broker, &topic)?;
    topic.perm &= perm::READ | perm::WRITE | perm::INHERIT;
    broker.catalog.put_topic(topic)?;
    Ok(())
}

fn check(broker: &Broker, topic: &TopicConfig) -> Result<(), Refusal> {
    names::check_topic(&topic.topic_name).map_err(illegal)?;
    refuse_own(broker, &topic.topic_name)?;
    let queues = 1..=QUEUES_MAX;
    if !queues.contains(&topic.read_queue_nums) || !queues.contains(&topic.write_queue_nums) {
        return Err(illegal(format!("a topic has 1 to {QUEUES_MAX} queues")));
    }
    check_attributes(&topic.attributes)
}

pub(crate) fn check_attributes(attributes: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let long =
        |(name, value): (&String, &String)| name.len().max(value.len()) > ATTRIBUTE_BYTES_MAX;
    match attributes.len() > ATTRIBUTES_MAX || attributes.iter().any(long) {
        true => Err(illegal(format!(
            "at most {ATTRIBUTES_MAX} attributes of at most {ATTRIBUTE_BYTES_MAX} bytes are allowed"
        ))),
        false => Ok(()),
    }
}

/// Changes as 5.x tools write them: `+name=value,-name`.
fn change_attributes(
    attributes: &mut BTreeMap<String, String>,
    changes: &str,
) -> Result<(), Refusal> {
    for change in changes.split(',').filter(|change| !change.is_empty()) {
        match (
            change.strip_prefix('+').and_then(|set| set.split_once('=')),
            change.strip_prefix('-'),
        ) {
            (Some((name, value)), _) => drop(attributes.insert(name.to_owned(), value.to_owned())),
            (None, Some(name)) => drop(attributes.remove(name)),
            (None, None) => {
                let shown = change.escape_debug();
                return Err(illegal(format!("`{shown}`: accepts +name=value or -name")));
            }
        }
    }
    Ok(())
}

fn refuse_own(broker: &Broker, topic: &str) -> Result<(), Refusal> {
    match broker.catalog.is_own(topic) {
        true => Err(illegal(format!("the topic[{topic}] is RocketMQ's own: it stays as it is"))),
        false => Ok(()),
    }
}

/// 21: all topics, in one answer even for those that page.
pub(crate) fn all(broker: &Arc<Broker>, request: &Command) -> Handled {
    let topics = broker.catalog.topics();
    let total = i32::try_from(topics.topic_config_table.len()).unwrap_or(i32::MAX);
    let answer = Command::success(request).body(to_json(&topics));
    Ok(Answer::Now(answer.header(&AllTopicConfigResponse { total_topic_num: total })))
}

/// 351: one topic.
pub(crate) fn one(broker: &Arc<Broker>, request: &Command) -> Handled {
    let TopicRequest { topic } = request.decode_header()?;
    let topic = known(broker, topic)?;
    Ok(Answer::Now(Command::success(request).body(to_json(&*topic))))
}

fn known(broker: &Broker, topic: &str) -> Result<Arc<TopicConfig>, Refusal> {
    broker.catalog.topic(topic).ok_or_else(|| topic_unknown(topic))
}

/// 202: the ends of a topic's queues.
pub(crate) fn stats(broker: &Arc<Broker>, request: &Command) -> Handled {
    let TopicRequest { topic } = request.decode_header()?;
    let config = known(broker, topic)?;
    let mut table = TopicStatsTable {
        topic_put_tps: broker.tps(Kind::TopicPut, topic),
        ..TopicStatsTable::default()
    };
    for queue_id in 0..config.read_queue_nums.max(config.write_queue_nums) {
        let offsets = ends(broker, topic, queue_id)?;
        table.offset_table.0.insert(message_queue(broker, topic, queue_id), offsets);
    }
    Ok(Answer::Now(Command::success(request).body(to_json(&table))))
}

fn ends(broker: &Broker, topic: &str, queue_id: i32) -> Result<TopicOffset, Refusal> {
    let Some(queue) = broker.store.queues.queue(topic, queue_id) else {
        return Ok(TopicOffset::default());
    };
    let (min_offset, max_offset) = (queue.min_offset(), queue.max_offset());
    let last = queue.stored_at(&broker.store.log, max_offset - 1)?;
    Ok(TopicOffset { min_offset, max_offset, last_update_timestamp: last.unwrap_or(0) })
}

/// The queue as its clients name it.
pub(crate) fn message_queue(broker: &Broker, topic: &str, queue_id: i32) -> MessageQueue {
    MessageQueue::new(topic, broker.config.broker_name.as_str(), queue_id)
}

/// 300: the groups that consume a topic or have consumed it.
pub(crate) fn groups_of(broker: &Arc<Broker>, request: &Command) -> Handled {
    let TopicRequest { topic } = request.decode_header()?;
    let mut groups: BTreeSet<String> = broker.clients.groups_of(topic).into_iter().collect();
    groups.extend(broker.offsets.groups_of(topic));
    let body = to_json(&GroupList { group_list: groups.into_iter().collect() });
    Ok(Answer::Now(Command::success(request).body(body)))
}

/// 305: the topics that are RocketMQ's own.
pub(crate) fn own(broker: &Arc<Broker>, request: &Command) -> Handled {
    let topics = broker.catalog.topics().topic_config_table.into_keys();
    let topic_list = topics.filter(|topic| broker.catalog.is_own(topic)).collect();
    let body = to_json(&TopicList { topic_list, ..TopicList::default() });
    Ok(Answer::Now(Command::success(request).body(body)))
}

/// 321: entries of a queue as they are stored.
pub(crate) fn consume_queue(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: QueryConsumeQueueRequest<'_> = request.decode_header()?;
    let (topic, queue_id) = (header.topic, header.queue_id);
    let queue = broker.store.queues.queue(topic, queue_id);
    let queue = queue.ok_or_else(|| illegal(format!("{queue_id}@{topic} is not exist!")))?;
    let (min, max) = (queue.min_offset(), queue.max_offset());
    let mut body = ConsumeQueueEntries {
        max_queue_index: max,
        min_queue_index: min,
        ..ConsumeQueueEntries::default()
    };
    if let Some(group) = header.consumer_group {
        body.subscription_data = broker.clients.subscription_data(group, topic);
        if body.subscription_data.is_none() {
            body.filter_data = Some(format!("{group}@{topic} is not online!"));
        }
    }
    if !(min..max).contains(&header.index) {
        let remark = format!("Index {} of {queue_id}@{topic} is not exist!", header.index);
        return Ok(Answer::Now(Command::success(request).remark(remark)));
    }
    let count = usize::try_from(header.count).unwrap_or(0).min(ENTRIES_MAX);
    let data = |entry: crate::store::Entry| ConsumeQueueData {
        physic_offset: entry.physical_offset,
        physic_size: entry.size,
        tags_code: entry.tags_code,
        ..ConsumeQueueData::default()
    };
    body.queue_data = queue.read(header.index, count)?.into_iter().map(data).collect();
    Ok(Answer::Now(Command::success(request).body(to_json(&body))))
}

/// 215: removes a topic with its queues and the groups' progress in it. The log keeps its
/// messages until their files are removed; nobody can read them by queue.
pub(crate) fn delete(broker: &Arc<Broker>, request: &Command) -> Handled {
    let TopicRequest { topic } = request.decode_header()?;
    names::check_topic(topic).map_err(illegal)?;
    refuse_own(broker, topic)?;
    remove(broker, topic)?;
    Ok(Answer::Now(Command::success(request)))
}

/// Each step may have been done before: whoever was interrupted asks again.
pub(crate) fn remove(broker: &Broker, topic: &str) -> Result<(), Refusal> {
    // First, so that no send finds the topic any more.
    broker.catalog.remove_topic(topic)?;
    broker.store.delete_topic(topic)?;
    broker.offsets.remove_topic(topic);
    broker.persist_offsets()?;
    broker.stats.forget(topic);
    Ok(())
}

/// 316: removes the queues of topics that are not there any more.
pub(crate) fn clean_unused(broker: &Arc<Broker>, request: &Command) -> Handled {
    for topic in broker.store.queues.topics() {
        if broker.catalog.topic(&topic).is_none() && !broker.catalog.is_own(&topic) {
            remove(broker, &topic)?;
        }
    }
    Ok(Answer::Now(Command::success(request)))
}
