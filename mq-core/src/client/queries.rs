//! Questions about what is stored and how far groups are, and pulls outside any group's balance.
//! Not here: consuming (`consumer.rs`, `pull_consumer.rs`), telling offsets (`offsets.rs`).
//!
//! Invariant: what a broker finds by the hash of a key is compared with the key itself.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::{Client, offsets, refused};
use crate::error::Error;
use crate::message::Delivery;
use crate::names::MessageQueue;
use crate::protocol::body::SubscriptionData;
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::header::{
    PullRequest, PullResponse, QueryConsumerOffsetRequest, QueryMessageRequest, QueueRequest,
    SearchOffsetRequest, ViewMessageRequest,
};
use crate::protocol::record::{Record, Verify, parse_offset_msg_id};

const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// What a broker answers at most for a key.
const QUERY_MAX: i32 = 64;
/// How brokers say that there is nothing at a place of their log: the code alone does not.
const NOT_FOUND: &str = "can not find message";

/// How far a group is in one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueProgress {
    /// The queue.
    pub queue: MessageQueue,
    /// Its first message that is still there.
    pub min_offset: i64,
    /// The offset of the next message to be stored.
    pub max_offset: i64,
    /// Where the group goes on; nothing when it has not told any progress.
    pub committed: Option<i64>,
}

impl QueueProgress {
    /// How many messages the group has before it.
    #[must_use]
    pub fn lag(&self) -> i64 {
        self.max_offset - self.committed.unwrap_or(0).max(self.min_offset)
    }
}

/// What one pull found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullResult {
    /// Where to pull next.
    pub next: i64,
    /// The queue's first message that is still there.
    pub min: i64,
    /// The offset of the queue's next message to be stored.
    pub max: i64,
    /// The messages, in the queue's order. Empty at the queue's end, and where the offset is not in
    /// the queue: then `next` is the nearest that is.
    pub messages: Vec<Delivery>,
}

/// A pull as a broker is asked for it.
#[derive(Debug)]
pub(super) struct Pull<'a> {
    pub(super) group: &'a str,
    pub(super) queue: &'a MessageQueue,
    pub(super) offset: i64,
    pub(super) max: i32,
    /// The broker id to ask.
    pub(super) reader: i64,
    pub(super) wanted: &'a SubscriptionData,
    /// How long the broker may hold a pull that finds nothing.
    pub(super) hold: Duration,
}

/// A pull's answer.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) code: ResponseCode,
    pub(super) header: PullResponse,
    pub(super) records: Bytes,
}

const FLAG_SUSPEND: i32 = 2;
const FLAG_SUBSCRIPTION: i32 = 4;
const FLAG_LITE: i32 = 16;

impl Client {
    /// The queues of a topic that give messages, as a name server knows them now.
    ///
    /// # Errors
    /// [`Error::NoRoute`] for a topic that is nowhere; what went wrong with the name servers.
    pub async fn read_queues(&self, topic: &str) -> Result<Vec<MessageQueue>, Error> {
        self.refresh(topic).await?;
        let known = self.0.topics.get(topic).map(|known| known.route.to_read.clone());
        known
            .filter(|queues| !queues.is_empty())
            .ok_or_else(|| Error::NoRoute { topic: topic.to_owned() })
    }

    /// The offset of the first message of a queue that is still there.
    ///
    /// # Errors
    /// As [`Self::read_queues`]; [`Error::Refused`] by the broker.
    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<i64, Error> {
        let header = QueueRequest { topic: &queue.topic, queue_id: queue.queue_id };
        self.locate(queue).await?;
        Ok(offsets::ask(self, queue, RequestCode::GetMinOffset, &header).await?.unwrap_or(0))
    }

    /// The offset that the next message of a queue will have.
    ///
    /// # Errors
    /// As [`Self::min_offset`].
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<i64, Error> {
        let header = QueueRequest { topic: &queue.topic, queue_id: queue.queue_id };
        self.locate(queue).await?;
        Ok(offsets::ask(self, queue, RequestCode::GetMaxOffset, &header).await?.unwrap_or(0))
    }

    /// The first message of a queue stored at or after a time, in milliseconds since the epoch; the
    /// queue's end when all are older. Apache RocketMQ 4 gives the message nearest to the time.
    ///
    /// # Errors
    /// As [`Self::min_offset`].
    pub async fn offset_at(&self, queue: &MessageQueue, time_ms: i64) -> Result<i64, Error> {
        let header = SearchOffsetRequest {
            topic: &queue.topic,
            queue_id: queue.queue_id,
            timestamp: time_ms,
            boundary_type: None,
        };
        self.locate(queue).await?;
        let code = RequestCode::SearchOffsetByTimestamp;
        Ok(offsets::ask(self, queue, code, &header).await?.unwrap_or(0))
    }

    /// Where a group goes on in a queue; nothing when it has not told any progress. Apache RocketMQ
    /// 4 says 0 of a group without progress in a queue that is young.
    ///
    /// # Errors
    /// As [`Self::min_offset`].
    pub async fn committed(&self, group: &str, queue: &MessageQueue) -> Result<Option<i64>, Error> {
        let header = QueryConsumerOffsetRequest {
            consumer_group: group,
            topic: &queue.topic,
            queue_id: queue.queue_id,
            set_zero_if_not_found: Some(false),
        };
        self.locate(queue).await?;
        offsets::ask(self, queue, RequestCode::QueryConsumerOffset, &header).await
    }

    /// How far a group is in every queue of a topic.
    ///
    /// # Errors
    /// As [`Self::min_offset`].
    pub async fn progress(&self, group: &str, topic: &str) -> Result<Vec<QueueProgress>, Error> {
        let queues = self.read_queues(topic).await?;
        try_join_all(queues.into_iter().map(async |queue| {
            Ok(QueueProgress {
                // Asked before the end is, so that no lag is negative.
                committed: self.committed(group, &queue).await?,
                min_offset: self.min_offset(&queue).await?,
                max_offset: self.max_offset(&queue).await?,
                queue,
            })
        }))
        .await
    }

    /// The message that lies where an offset id says, at the broker whose address is in it.
    ///
    /// # Errors
    /// [`Error::Message`] for what is no offset id; [`Error::Connect`], [`Error::Refused`].
    pub async fn message_by_offset_id(&self, id: &str) -> Result<Option<Delivery>, Error> {
        let (address, offset) = parse_offset_msg_id(id)
            .ok_or_else(|| Error::Message(format!("`{id}` is not the id of a place in a log")))?;
        let link = self.0.links.link(&address.to_string());
        let remote = self.remote(&link).await?;
        let header = ViewMessageRequest { topic: None, offset };
        let request = self.form(Command::with(RequestCode::ViewMessageById, &header));
        let answer = remote.call(request, QUERY_TIMEOUT).await?;
        let remark = answer.remark.as_deref().unwrap_or_default();
        if answer.response_code() != ResponseCode::Success && remark.contains(NOT_FOUND) {
            return Ok(None);
        }
        let answer = succeeded(answer)?;
        let broker = self.0.topics.broker_at(&address.to_string()).unwrap_or_default();
        Ok(deliveries(&answer.body, &broker)?.pop())
    }

    /// The message of a topic that was sent with this id ([`Delivery::msg_id`]).
    ///
    /// # Errors
    /// As [`Self::min_offset`].
    pub async fn message_by_unique_key(
        &self,
        topic: &str,
        key: &str,
    ) -> Result<Option<Delivery>, Error> {
        let mut found = self.query(topic, key, true).await?;
        found.retain(|message| message.properties.unique_key() == Some(key));
        Ok(found.into_iter().next())
    }

    /// The newest messages of a topic that have a key, the newest first.
    ///
    /// # Errors
    /// As [`Self::min_offset`].
    pub async fn messages_by_key(&self, topic: &str, key: &str) -> Result<Vec<Delivery>, Error> {
        let mut found = self.query(topic, key, false).await?;
        found.retain(|message| message.keys().any(|of_message| of_message == key));
        Ok(found)
    }

    /// Reads a queue at an offset, for a group, but outside the group's balance: nobody's progress
    /// changes, and nothing waits for messages to come.
    ///
    /// # Errors
    /// As [`Self::min_offset`].
    pub async fn pull(
        &self,
        group: &str,
        queue: &MessageQueue,
        offset: i64,
        max: i32,
    ) -> Result<PullResult, Error> {
        self.locate(queue).await?;
        let wanted = &SubscriptionData::by_tags(&queue.topic, SubscriptionData::ALL, 0);
        let hold = Duration::ZERO;
        let pull = Pull { group, queue, offset, max, reader: 0, wanted, hold };
        let Pulled { header, records, .. } = self.pull_once(&pull).await?;
        Ok(PullResult {
            next: header.next_begin_offset,
            min: header.min_offset,
            max: header.max_offset,
            messages: deliveries(&records, &queue.broker_name)?,
        })
    }

    /// One pull by subscription text, whether the group is registered or not.
    pub(super) async fn pull_once(&self, pull: &Pull<'_>) -> Result<Pulled, Error> {
        let suspend = if pull.hold.is_zero() { 0 } else { FLAG_SUSPEND | FLAG_LITE };
        let header = PullRequest {
            consumer_group: pull.group,
            topic: &pull.queue.topic,
            queue_id: pull.queue.queue_id,
            queue_offset: pull.offset,
            max_msg_nums: pull.max,
            sys_flag: FLAG_SUBSCRIPTION | suspend,
            commit_offset: 0,
            suspend_timeout_millis: crate::clock::millis(pull.hold),
            subscription: Some(&pull.wanted.sub_string),
            sub_version: 0,
            expression_type: Some(&pull.wanted.expression_type),
            max_msg_bytes: None,
        };
        let request = self.form(Command::with(RequestCode::PullMessage, &header));
        let remote = self.reader(&pull.queue.broker_name, pull.reader).await?;
        let answer = remote.call(request, QUERY_TIMEOUT + pull.hold).await?;
        let code = answer.response_code();
        let told = [
            ResponseCode::Success,
            ResponseCode::PullNotFound,
            ResponseCode::PullRetryImmediately,
            ResponseCode::PullOffsetMoved,
        ];
        if !told.contains(&code) {
            return Err(refused(&answer));
        }
        let header = answer.decode_header().map_err(unreadable)?;
        Ok(Pulled { code, header, records: answer.body })
    }

    /// Makes sure that the way to a queue's broker is known.
    async fn locate(&self, queue: &MessageQueue) -> Result<(), Error> {
        if self.0.topics.reader_of(&queue.broker_name, 0).is_none() {
            self.refresh(&queue.topic).await?;
        }
        Ok(())
    }

    /// What the brokers of a topic find by the hash of a key, the newest first.
    async fn query(&self, topic: &str, key: &str, unique: bool) -> Result<Vec<Delivery>, Error> {
        let queues = self.read_queues(topic).await?;
        let mut brokers: Vec<_> = queues.into_iter().map(|queue| queue.broker_name).collect();
        brokers.dedup();
        let asked = brokers.iter().map(async |broker| {
            let header = QueryMessageRequest {
                topic,
                key,
                max_num: QUERY_MAX,
                begin_timestamp: 0,
                end_timestamp: i64::MAX,
                unique_key: unique.then_some(true),
            };
            let request = self.form(Command::with(RequestCode::QueryMessage, &header));
            let remote = self.reader(broker, 0).await?;
            let answer = remote.call(request, QUERY_TIMEOUT).await?;
            match answer.response_code() {
                ResponseCode::QueryNotFound => Ok(Vec::new()),
                _ => deliveries(&succeeded(answer)?.body, broker),
            }
        });
        let mut found: Vec<Delivery> = try_join_all(asked).await?.into_iter().flatten().collect();
        found.sort_by_key(|message| std::cmp::Reverse(message.store_timestamp_ms));
        Ok(found)
    }
}

fn succeeded(answer: Command) -> Result<Command, Error> {
    match answer.response_code() {
        ResponseCode::Success => Ok(answer),
        _ => Err(refused(&answer)),
    }
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    let remark = format!("the broker's answer cannot be read: {error}");
    Error::Refused { code: ResponseCode::Success.code(), remark }
}

/// The messages of records that lie one behind the other.
fn deliveries(records: &Bytes, broker: &str) -> Result<Vec<Delivery>, Error> {
    let mut messages = Vec::new();
    let mut rest = records.clone();
    while !rest.is_empty() {
        let (record, size) = Record::decode(&rest, Verify::None).map_err(unreadable)?;
        let queue = MessageQueue::new(record.topic, broker, record.queue_id);
        messages.push(Delivery::from_record(&record, &rest, &queue).map_err(unreadable)?);
        rest = rest.slice(size..);
    }
    Ok(messages)
}
