//! Where a group stands in a queue, kept by the queue's broker: asked for, told, and chosen when
//! there is none. Not here: when to tell.
//!
//! Invariant: only "not found" means that a group has no progress. Any other refusal is an error,
//! or messages would be skipped because a broker was busy.

use std::time::Duration;

use super::consumer::ConsumeFrom;
use super::{Client, refused};
use crate::error::Error;
use crate::names::{MessageQueue, RETRY_PREFIX};
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::header::{
    Header, OffsetResponse, QueryConsumerOffsetRequest, QueueRequest, SearchOffsetRequest,
    UpdateConsumerOffsetRequest,
};

const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);
const BROKER: i64 = 0;

/// Where a queue begins.
pub(super) struct First {
    pub(super) offset: i64,
    /// It is the group's progress, which the broker keeps.
    pub(super) kept: bool,
}

/// The offset to begin with: the group's progress, else where `from` says.
pub(super) async fn first(
    client: &Client,
    group: &str,
    queue: &MessageQueue,
    from: ConsumeFrom,
) -> Result<First, Error> {
    let (topic, queue_id) = (&*queue.topic, queue.queue_id);
    let progress = QueryConsumerOffsetRequest {
        consumer_group: group,
        topic,
        queue_id,
        set_zero_if_not_found: None,
    };
    let kept = ask(client, queue, RequestCode::QueryConsumerOffset, &progress).await?;
    if let Some(offset) = kept {
        return Ok(First { offset, kept: true });
    }
    Ok(First { offset: start(client, queue, from).await?, kept: false })
}

/// The offset that `from` says. Retries are never skipped.
pub(super) async fn start(
    client: &Client,
    queue: &MessageQueue,
    from: ConsumeFrom,
) -> Result<i64, Error> {
    let (topic, queue_id) = (&*queue.topic, queue.queue_id);
    let begin = if topic.starts_with(RETRY_PREFIX) { ConsumeFrom::First } else { from };
    let of_queue = QueueRequest { topic, queue_id };
    let found = match begin {
        ConsumeFrom::First => ask(client, queue, RequestCode::GetMinOffset, &of_queue).await?,
        ConsumeFrom::Last => ask(client, queue, RequestCode::GetMaxOffset, &of_queue).await?,
        ConsumeFrom::Timestamp(timestamp) => {
            // Of several messages of exactly this time, 4.x finds any. It finds the first one after
            // a time that none has, or one that is older, which does no harm.
            let timestamp = timestamp.saturating_sub(1);
            let header = SearchOffsetRequest { topic, queue_id, timestamp, boundary_type: None };
            ask(client, queue, RequestCode::SearchOffsetByTimestamp, &header).await?
        }
    };
    Ok(found.unwrap_or(0).max(0))
}

/// An offset that the queue's broker knows; `None` when it has found none.
pub(super) async fn ask<'a, H: Header<'a>>(
    client: &Client,
    queue: &MessageQueue,
    code: RequestCode,
    header: &H,
) -> Result<Option<i64>, Error> {
    let remote = client.reader(&queue.broker_name, BROKER).await?;
    let request = client.form(Command::with(code, header));
    let answer = remote.call(request, ASK_TIMEOUT).await?;
    match answer.response_code() {
        ResponseCode::Success => {
            let header: OffsetResponse = answer
                .decode_header()
                .map_err(|error| Error::Refused { code: answer.code, remark: error.to_string() })?;
            Ok(Some(header.offset))
        }
        ResponseCode::QueryNotFound => Ok(None),
        _ => Err(refused(&answer)),
    }
}

fn update(client: &Client, group: &str, queue: &MessageQueue, offset: i64) -> Command {
    let header = UpdateConsumerOffsetRequest {
        consumer_group: group,
        topic: &queue.topic,
        queue_id: queue.queue_id,
        commit_offset: offset,
    };
    client.form(Command::with(RequestCode::UpdateConsumerOffset, &header))
}

/// Tells the broker where the group stands, and waits until it has heard.
///
/// Only one of a group's commits may be under way: Apache's broker takes them in several threads,
/// and of the first that it gets of a topic and group it forgets all but one, although it has
/// acknowledged them (`ConsumerOffsetManager.commitOffset`, 4.9.7 and 5.x). Pulls tell no offset,
/// because they would be taken beside a commit, too.
pub(super) async fn commit(
    client: &Client,
    group: &str,
    queue: &MessageQueue,
    offset: i64,
) -> Result<(), Error> {
    let remote = client.master(&queue.broker_name).await?;
    let answer = remote.call(update(client, group, queue, offset), COMMIT_TIMEOUT).await?;
    match answer.response_code() {
        ResponseCode::Success => Ok(()),
        _ => Err(refused(&answer)),
    }
}
