//! What administrators do with consumer groups and their progress: 200, 201, 207, 208, 225, 303,
//! 308, 314, 317, 343, 345, 352 and 353. Not here: the table of groups (`catalog.rs`), the progress
//! itself (`offsets.rs`), who is connected (`clients.rs`).
//!
//! Rules: protocol section 2.15.

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_core::names;
use mq_core::protocol::body::{
    ConsumeStats, ConsumeStatsList, ConsumeTimeSpans, CorrectionOffsets, GroupForbidden,
    OffsetWrapper, QueueTimeSpan, SubscriptionByConsumer, SubscriptionGroupConfig,
    SubscriptionGroupList, TopicList, from_json, to_json,
};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{
    AllSubscriptionGroupResponse, BrokerConsumeStatsRequest, CloneGroupOffsetRequest,
    ConsumeStatsRequest, ConsumeTimeSpanRequest, CorrectionOffsetRequest,
    DeleteSubscriptionGroupRequest, GroupForbiddenRequest, GroupRequest,
    SubscriptionByConsumerRequest,
};

use crate::admin_topics::{check_attributes, message_queue};
use crate::broker::Broker;
use crate::catalog::{QUEUES_MAX, illegal, topic_unknown};
use crate::dispatch::{Answer, Handled};
use crate::offsets::check_names;
use crate::refusal::Refusal;
use crate::stats::Kind;

/// Groups in one request.
const LIST_MAX: usize = 1_000;

/// 200: makes or changes a group.
pub(crate) fn create(broker: &Arc<Broker>, request: &Command) -> Handled {
    let group: SubscriptionGroupConfig = from_json(&request.body)?;
    check(&group)?;
    put(broker, group)?;
    Ok(Answer::Now(Command::success(request)))
}

/// 225: makes or changes groups. All are checked before the first is made.
pub(crate) fn create_all(broker: &Arc<Broker>, request: &Command) -> Handled {
    let list: SubscriptionGroupList = from_json(&request.body)?;
    if list.group_config_list.len() > LIST_MAX {
        return Err(illegal(format!("at most {LIST_MAX} groups in one request")));
    }
    list.group_config_list.iter().try_for_each(check)?;
    for group in list.group_config_list {
        put(broker, group)?;
    }
    Ok(Answer::Now(Command::success(request)))
}

/// With its retry topic: tools look a group up by that topic's route.
fn put(broker: &Broker, group: SubscriptionGroupConfig) -> Result<(), Refusal> {
    let group = broker.catalog.put_group(group)?;
    broker.catalog.group_with_retry_topic(&group.group_name)
}

fn check(group: &SubscriptionGroupConfig) -> Result<(), Refusal> {
    names::check_group(&group.group_name).map_err(illegal)?;
    refuse_own(&group.group_name)?;
    names::check_topic(&names::retry_topic(&group.group_name)).map_err(illegal)?;
    if !(0..=QUEUES_MAX).contains(&group.retry_queue_nums) {
        return Err(illegal(format!("a group has 0 to {QUEUES_MAX} retry queues")));
    }
    check_attributes(&group.attributes)
}

/// The broker keeps progress of its own under such a name.
fn refuse_own(group: &str) -> Result<(), Refusal> {
    match names::is_system_group(group) {
        true => Err(illegal(format!("the group[{group}] is RocketMQ's own: it stays as it is"))),
        false => Ok(()),
    }
}

/// 201: all groups, in one answer even for those that page.
pub(crate) fn all(broker: &Arc<Broker>, request: &Command) -> Handled {
    let groups = broker.catalog.groups();
    let total = i32::try_from(groups.subscription_group_table.len()).unwrap_or(i32::MAX);
    let answer = Command::success(request).body(to_json(&groups));
    Ok(Answer::Now(answer.header(&AllSubscriptionGroupResponse { total_group_num: total })))
}

/// 352: one group.
pub(crate) fn one(broker: &Arc<Broker>, request: &Command) -> Handled {
    let GroupRequest { group } = request.decode_header()?;
    let group = known(broker, group)?;
    Ok(Answer::Now(Command::success(request).body(to_json(&*group))))
}

fn known(broker: &Broker, group: &str) -> Result<Arc<SubscriptionGroupConfig>, Refusal> {
    broker.catalog.known_group(group).ok_or_else(|| {
        let remark = format!("subscription group not exist, {group}");
        Refusal::new(ResponseCode::SubscriptionGroupNotExist, remark)
    })
}

/// 207: removes a group, and its progress when asked.
pub(crate) fn delete(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: DeleteSubscriptionGroupRequest<'_> = request.decode_header()?;
    refuse_own(header.group_name)?;
    broker.catalog.remove_group(header.group_name)?;
    if header.clean_offset == Some(true) || header.remove_offset == Some(true) {
        broker.offsets.remove_group(header.group_name);
        broker.persist_offsets()?;
    }
    broker.stats.forget_group(header.group_name);
    Ok(Answer::Now(Command::success(request)))
}

/// 208: how far a group is, in one topic or in all.
pub(crate) fn consume_stats(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ConsumeStatsRequest<'_> = request.decode_header()?;
    let topics = topics(broker, header.consumer_group, header.topic);
    let mut stats = ConsumeStats::default();
    for topic in topics {
        let of_topic = progress(broker, header.consumer_group, &topic)?;
        stats.offset_table.0.extend(of_topic.offset_table.0);
        stats.consume_tps += of_topic.consume_tps;
    }
    Ok(Answer::Now(Command::success(request).body(to_json(&stats))))
}

/// The topic that was asked for, or all in which the group has progress; save those that are gone
/// or that its members have left.
fn topics(broker: &Broker, group: &str, asked: Option<&str>) -> Vec<String> {
    let mut topics = match asked {
        Some(topic) => vec![topic.to_owned()],
        None => broker.offsets.topics_of(group),
    };
    topics.sort_unstable();
    topics.retain(|topic| {
        broker.catalog.topic(topic).is_some() && !broker.clients.has_left(group, topic)
    });
    topics
}

fn progress(broker: &Broker, group: &str, topic: &str) -> Result<ConsumeStats, Refusal> {
    let key = format!("{topic}@{group}");
    let mut stats =
        ConsumeStats { consume_tps: broker.tps(Kind::GroupGet, &key), ..ConsumeStats::default() };
    let queues = broker.catalog.topic(topic).map_or(0, |topic| topic.read_queue_nums);
    for queue_id in 0..queues {
        let consumer_offset = broker.offsets.committed(group, topic, queue_id).unwrap_or(0);
        let queue = broker.store.queues.queue(topic, queue_id);
        let mut wrapper =
            OffsetWrapper { consumer_offset, pull_offset: consumer_offset, ..Default::default() };
        if let Some(queue) = queue {
            wrapper.broker_offset = queue.max_offset();
            let last = queue.stored_at(&broker.store.log, consumer_offset.saturating_sub(1))?;
            wrapper.last_timestamp = last.unwrap_or(0);
        }
        stats.offset_table.0.insert(message_queue(broker, topic, queue_id), wrapper);
    }
    Ok(stats)
}

/// 317: how far all groups are.
pub(crate) fn broker_consume_stats(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: BrokerConsumeStatsRequest = request.decode_header()?;
    let mut list = ConsumeStatsList { broker_addr: address(broker), ..Default::default() };
    for group in broker.catalog.groups().subscription_group_table.into_keys() {
        let mut of_group = Vec::new();
        for topic in topics(broker, &group, None) {
            let ordered = broker.catalog.topic(&topic).is_some_and(|topic| topic.order);
            if header.is_order && !ordered {
                continue;
            }
            let stats = progress(broker, &group, &topic)?;
            list.total_diff += stats.offset_table.0.values().map(behind).sum::<i64>();
            of_group.push(stats);
        }
        list.consume_stats_list.push(BTreeMap::from([(group, of_group)]));
    }
    Ok(Answer::Now(Command::success(request).body(to_json(&list))))
}

fn behind(wrapper: &OffsetWrapper) -> i64 {
    wrapper.broker_offset.saturating_sub(wrapper.consumer_offset)
}

fn address(broker: &Broker) -> String {
    let port = broker.address.map_or(0, |address| address.port());
    format!("{}:{port}", broker.config.advertised_host())
}

/// 303: from when to when a topic's messages are, and where a group stands in that time.
pub(crate) fn time_span(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ConsumeTimeSpanRequest<'_> = request.decode_header()?;
    let topic = broker.catalog.topic(header.topic).ok_or_else(|| topic_unknown(header.topic))?;
    let mut spans = ConsumeTimeSpans::default();
    for queue_id in 0..topic.write_queue_nums {
        spans.consume_time_span_set.push(span(broker, &header, queue_id)?);
    }
    Ok(Answer::Now(Command::success(request).body(to_json(&spans))))
}

fn span(
    broker: &Broker,
    header: &ConsumeTimeSpanRequest<'_>,
    queue_id: i32,
) -> Result<QueueTimeSpan, Refusal> {
    let mut span = QueueTimeSpan {
        message_queue: message_queue(broker, header.topic, queue_id),
        min_time_stamp: -1,
        max_time_stamp: -1,
        consume_time_stamp: -1,
        delay_time: 0,
    };
    let Some(queue) = broker.store.queues.queue(header.topic, queue_id) else { return Ok(span) };
    let log = &broker.store.log;
    let stored = |offset: i64| queue.stored_at(log, offset);
    let consumed = broker.offsets.committed(header.group, header.topic, queue_id).unwrap_or(0);
    span.min_time_stamp = queue.earliest_time(log)?.unwrap_or(-1);
    span.max_time_stamp = stored(queue.max_offset() - 1)?.unwrap_or(-1);
    span.consume_time_stamp = match consumed {
        0 => span.min_time_stamp,
        _ => stored(consumed - 1)?.unwrap_or(-1),
    };
    if let Some(next) = stored(consumed)? {
        span.delay_time = broker.clock.now_ms() - next;
    }
    Ok(span)
}

/// 308: the lowest offset of all groups on each queue, save those named; where a group of one's own
/// is behind it, "none".
pub(crate) fn correction(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: CorrectionOffsetRequest<'_> = request.decode_header()?;
    let left_out: Vec<&str> = header.filter_groups.unwrap_or_default().split(',').collect();
    let mut lowest: BTreeMap<i32, i64> = BTreeMap::new();
    for group in broker.offsets.groups_of(header.topic) {
        if left_out.contains(&group.as_str()) {
            continue;
        }
        for (queue_id, offset) in broker.offsets.queues_of(&group, header.topic) {
            let queue = broker.store.queues.queue(header.topic, queue_id);
            if offset >= queue.map_or(0, |queue| queue.min_offset()) {
                let known = lowest.entry(queue_id).or_insert(offset);
                *known = offset.min(*known);
            }
        }
    }
    for (queue_id, offset) in broker.offsets.queues_of(header.compare_group, header.topic) {
        if let Some(known) = lowest.get_mut(&queue_id).filter(|known| **known > offset) {
            *known = i64::MAX;
        }
    }
    let body = to_json(&CorrectionOffsets { correction_offsets: lowest });
    Ok(Answer::Now(Command::success(request).body(body)))
}

/// 314: gives a group the progress of another.
pub(crate) fn clone_progress(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: CloneGroupOffsetRequest<'_> = request.decode_header()?;
    refuse_own(header.dest_group)?;
    let mut topics = match header.topic {
        Some(topic) => vec![topic.to_owned()],
        None => broker.offsets.topics_of(header.src_group),
    };
    topics.retain(|topic| broker.catalog.topic(topic).is_some());
    if header.offline != Some(true) {
        topics.retain(|topic| !broker.clients.has_left(header.src_group, topic));
    }
    for topic in topics {
        check_names(header.dest_group, &topic)?;
        for (queue_id, offset) in broker.offsets.queues_of(header.src_group, &topic) {
            broker.offsets.commit(header.dest_group, &topic, queue_id, offset);
        }
    }
    Ok(Answer::Now(Command::success(request)))
}

/// 343: the topics in which a group has progress.
pub(crate) fn topics_of(broker: &Arc<Broker>, request: &Command) -> Handled {
    let GroupRequest { group } = request.decode_header()?;
    let topic_list = broker.offsets.topics_of(group);
    let body = to_json(&TopicList { topic_list, ..TopicList::default() });
    Ok(Answer::Now(Command::success(request).body(body)))
}

/// 345: what a group wants of a topic.
pub(crate) fn subscription(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: SubscriptionByConsumerRequest<'_> = request.decode_header()?;
    let topic = header.topic.unwrap_or_default();
    let body = to_json(&SubscriptionByConsumer {
        subscription_data: broker.clients.subscription_data(header.group, topic),
        group: header.group.to_owned(),
        topic: topic.to_owned(),
    });
    Ok(Answer::Now(Command::success(request).body(body)))
}

/// 353: says that a group may read a topic, as all may. To forbid it is refused: nothing here would
/// keep to it.
pub(crate) fn forbidden(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: GroupForbiddenRequest<'_> = request.decode_header()?;
    known(broker, header.group)?;
    if header.readable == Some(false) {
        return Err(Refusal::new(
            ResponseCode::NoPermission,
            "a group cannot be kept from a single topic: set its consumeEnable to false",
        ));
    }
    let body = to_json(&GroupForbidden {
        group: header.group.to_owned(),
        topic: header.topic.to_owned(),
        readable: true,
    });
    Ok(Answer::Now(Command::success(request).body(body)))
}
