//! 370: a sender takes back a message that waits for its instant. Making and reading the handle,
//! the checks, and the record that takes it back. Not here: who is waiting (`timer`).
//!
//! Invariants: after success the message is not delivered, whatever happens to the broker; when it
//! was, or may be by now, the answer is 604. Apache RocketMQ has this switched off by default; here
//! it is on: a handle is told to the sender alone, and nothing is kept for messages that nobody
//! takes back.

use std::sync::Arc;

use mq_core::names;
use mq_core::properties::{Properties, key};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{RecallMessageRequest, RecallMessageResponse};
use mq_core::protocol::recall::RecallHandle;
use mq_core::protocol::record::NewRecord;
use mq_core::server::Peer;

use crate::broker::Broker;
use crate::catalog::topic_unknown;
use crate::dispatch::Handled;
use crate::refusal::Refusal;
use crate::retry::answer_when_stored;
use crate::store::StoreError;
use crate::timer;

/// What Apache RocketMQ puts into the record; nobody reads it.
const BODY: &[u8] = b"0";
const TAG: &str = "_RECALL_TAG_";
/// A handle's time is so much behind the instant, so that a broker that rounds it down to seconds
/// finds the same second.
const BEHIND_MS: i64 = 1;

/// The handle that a send's answer carries; none for messages that consumers sent.
pub(crate) fn handle_for(
    broker: &Broker,
    topic: &str,
    due_ms: i64,
    unique_key: &str,
) -> Option<String> {
    if topic.starts_with(names::RETRY_PREFIX) {
        return None;
    }
    let handle = RecallHandle {
        topic: topic.to_owned(),
        broker_name: broker.config.broker_name.clone(),
        timestamp_ms: due_ms.saturating_add(BEHIND_MS),
        unique_key: unique_key.to_owned(),
    };
    Some(handle.encode())
}

pub(crate) fn handle(broker: &Arc<Broker>, peer: &Peer, request: &Command) -> Handled {
    let header: RecallMessageRequest<'_> = request.decode_header()?;
    if !broker.config.recall_message_enable {
        let remark = "recall failed, operation is forbidden: set recallMessageEnable=true";
        return Err(Refusal::new(ResponseCode::NoPermission, remark));
    }
    broker.catalog.topic(header.topic).ok_or_else(|| topic_unknown(header.topic))?;
    let handle = RecallHandle::decode(header.recall_handle)
        .ok_or_else(|| illegal("recall handle is invalid"))?;
    if handle.topic != header.topic {
        return Err(illegal("recall failed, topic not match"));
    }
    if handle.broker_name != broker.config.broker_name {
        return Err(illegal("recall failed, the message is not with this broker"));
    }
    let due_ms = handle.timestamp_ms.saturating_sub(BEHIND_MS);
    let target = timer::Target::of(&handle.topic, &handle.unique_key);
    let is_new = broker.timers.take_back(&broker.clock, &target, due_ms)?;
    let end = match store(broker, peer, &header, &handle, &target) {
        Ok(end) => end,
        Err(error) => {
            if is_new {
                broker.timers.give_again(&target);
            }
            return Err(error.into());
        }
    };
    let answer = Command::success(request).header(&RecallMessageResponse {
        msg_id: &handle.unique_key,
        region: Some(&broker.config.region_id),
    });
    answer_when_stored(broker, answer, end)
}

fn illegal(remark: &str) -> Refusal {
    Refusal::new(ResponseCode::IllegalOperation, remark)
}

/// Appends the record that keeps the message from being delivered; gives its end.
fn store(
    broker: &Broker,
    peer: &Peer,
    header: &RecallMessageRequest<'_>,
    handle: &RecallHandle,
    target: &timer::Target,
) -> Result<u64, StoreError> {
    let (now_ms, due_ms) = (broker.clock.now_ms(), handle.timestamp_ms.to_string());
    let mut properties = Properties::from_wire(broker.stamp.clone());
    properties.push(key::TAGS, TAG);
    properties.push(key::TIMER_DEL_UNIQKEY, &target.0);
    properties.push(key::UNIQ_KEY, &handle.unique_key);
    properties.push(key::TIMER_DELIVER_MS, &due_ms);
    properties.push(key::TIMER_OUT_MS, &due_ms);
    properties.push(key::REAL_TOPIC, &handle.topic);
    properties.push(key::REAL_QID, "0");
    if let Some(group) = header.producer_group.filter(|group| names::check_group(group).is_ok()) {
        properties.push(key::PGROUP, group);
    }
    let record = NewRecord {
        topic: names::TIMER_TOPIC,
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: now_ms,
        born_host: peer.remote,
        store_host: broker.store_host(peer),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: BODY,
        properties: properties.as_str(),
    };
    let appended = broker.store.log.append(&[record])?;
    Ok(appended.last().map_or(0, |one| one.end()))
}
