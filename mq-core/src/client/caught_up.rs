//! Is a group done with everything its topics hold? For tests and drains, which must not guess by
//! sleeping. Not here: how far a member is (`worker.rs`).
//!
//! Invariant: "yes" is never said while a message waits, whatever the subscription's filter: each
//! queue's broker is asked for the next message from where the member stands.

use std::sync::Arc;
use std::time::Duration;

use super::consumer::{ExpressionType, Group, Subscription};
use super::worker::Progress;
use super::{Client, offsets, refused};
use crate::error::Error;
use crate::names::MessageQueue;
use crate::protocol::body::SubscriptionData;
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::header::{PullRequest, PullResponse};

const TIMEOUT: Duration = Duration::from_secs(5);
/// The pull carries its subscription, and does not wait.
const WITH_SUBSCRIPTION: i32 = 4;
const ANY_ID: i64 = 0;

/// Whether this member, the only one of its group, has finished what there is by now.
pub(super) async fn check(group: &Group, held: &[Arc<Progress>]) -> Result<bool, Error> {
    let retries = Subscription::new(&*group.retry_topic, "*");
    for subscription in group.options.subscriptions.iter().chain([&retries]) {
        for queue in queues(&group.client, &subscription.topic).await? {
            let known = held.iter().find(|progress| progress.queue == queue);
            let position = match known.and_then(|progress| progress.committable()) {
                Some(offset) => offset,
                None => {
                    let from = group.options.from;
                    offsets::first(&group.client, group.name(), &queue, from).await?.offset
                }
            };
            if has_more(group, subscription, &queue, position).await? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The queues that can be read; none of a topic that does not exist.
async fn queues(client: &Client, topic: &str) -> Result<Vec<MessageQueue>, Error> {
    let known = client.0.topics.get(topic);
    if let Some(known) = known.filter(|known| !known.route.to_read.is_empty()) {
        return Ok(known.route.to_read.clone());
    }
    match client.refresh(topic).await {
        Ok(()) => {
            let known = client.0.topics.get(topic);
            Ok(known.map_or_else(Vec::new, |known| known.route.to_read.clone()))
        }
        Err(Error::NoRoute { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Is there a message that the subscription wants, at or behind `offset`?
async fn has_more(
    group: &Group,
    subscription: &Subscription,
    queue: &MessageQueue,
    mut offset: i64,
) -> Result<bool, Error> {
    let kind = match subscription.expression_type {
        ExpressionType::Tag => SubscriptionData::TAG,
        ExpressionType::Sql92 => SubscriptionData::SQL92,
    };
    loop {
        let header = PullRequest {
            consumer_group: group.name(),
            topic: &queue.topic,
            queue_id: queue.queue_id,
            queue_offset: offset,
            max_msg_nums: 1,
            sys_flag: WITH_SUBSCRIPTION,
            commit_offset: 0,
            suspend_timeout_millis: 0,
            subscription: Some(&subscription.expression),
            sub_version: 0,
            expression_type: Some(kind),
            max_msg_bytes: None,
        };
        let remote = group.client.reader(&queue.broker_name, ANY_ID).await?;
        let request = group.client.form(Command::with(RequestCode::PullMessage, &header));
        let answer = remote.call(request, TIMEOUT).await?;
        match answer.response_code() {
            ResponseCode::Success | ResponseCode::PullOffsetMoved => return Ok(true),
            ResponseCode::PullNotFound => return Ok(false),
            // Nothing that was looked at is wanted; what lies behind it was not looked at.
            ResponseCode::PullRetryImmediately => {
                let header: PullResponse = answer.decode_header().map_err(|error| {
                    Error::Refused { code: answer.code, remark: error.to_string() }
                })?;
                offset = header.next_begin_offset.max(offset.saturating_add(1));
            }
            _ => return Err(refused(&answer)),
        }
    }
}
