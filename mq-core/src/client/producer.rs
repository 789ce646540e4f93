//! `Producer`: sends messages and says where they were stored. Not here: routes, connections,
//! transactions.
//!
//! Invariants: a message that is sent again keeps its unique key, so that receivers can tell; an
//! attempt that cannot have reached a broker (no connection) costs no retry; an attempt that may
//! have (time-out) says so in its error; all attempts together end within the send time-out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::id::UniqueKey;
use super::links::Link;
use super::route;
use super::topics::Topic;
use super::{Client, refused};
use crate::error::Error;
use crate::message::{Outgoing, SendReceipt, SendStatus};
use crate::names::{DEFAULT_TOPIC, MessageQueue, is_closed_to_senders};
use crate::properties::{Properties, key};
use crate::protocol::HeaderError;
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::compression;
use crate::protocol::header::{
    RecallMessageRequest, RecallMessageResponse, SendRequest, SendRequestV2, SendResponse,
};
use crate::protocol::recall::RecallHandle;
use crate::protocol::record::{BatchItem, encode_batch_item, sys_flag};
use crate::protocol::trace::Published;
use crate::remote::Remote;

/// A batch is sent in pieces of at most this; small enough for one to pass while others wait.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// What a batch item takes besides body and properties.
const ITEM_BYTES: usize = 22;
/// The rest before a broker that cannot be reached is dialled again.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Sends for one producer group. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Producer {
    pub(super) client: Client,
    pub(super) group: Arc<str>,
}

/// A message that was checked and named.
#[derive(Debug)]
struct Ready {
    code: RequestCode,
    topic: String,
    body: Bytes,
    properties: Properties,
    flag: i32,
    sys_flag: i32,
    /// Of a message on its way to a retry topic: how often it was handled, and the limit.
    reconsumed: Option<(i32, Option<i32>)>,
}

impl Ready {
    fn worth_another_try(&self, error: &Error) -> bool {
        let once = match error {
            // A half message that may be stored already would be stored twice, and committed twice
            // when its producer is asked.
            Error::Closed(_) => self.sys_flag & sys_flag::TRANSACTION_MASK != 0,
            // The client that asked did not take the reply.
            _ => self.code == RequestCode::SendReplyMessageV2,
        };
        !once && worth_another_try(error)
    }
}

/// Which queue a message goes to.
#[derive(Clone, Copy, Debug)]
enum To<'a> {
    /// The next in turn; another broker when one fails.
    Any,
    /// The one that `hash(key)` names.
    Key(&'a str),
    /// This one.
    Queue(&'a MessageQueue),
}

/// A queue and the way to its broker.
struct Target {
    queue: MessageQueue,
    link: Arc<Link>,
}

impl Producer {
    pub(super) fn new(client: Client, group: &str) -> Self {
        Self { client, group: group.into() }
    }

    /// Sends a message to one of its topic's queues and waits until the broker has stored it.
    ///
    /// # Errors
    /// [`Error::Message`] before anything is sent; [`Error::NoRoute`]; [`Error::Refused`] by the
    /// broker. After [`Error::Timeout`] or [`Error::Closed`] the message may or may not have been
    /// stored.
    pub async fn send(&self, message: Outgoing) -> Result<SendReceipt, Error> {
        self.send_one(message, To::Any).await
    }

    /// Sends a message to a chosen queue, and to no other when that fails.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_to(
        &self,
        message: Outgoing,
        queue: &MessageQueue,
    ) -> Result<SendReceipt, Error> {
        self.send_one(message, To::Queue(queue)).await
    }

    /// Sends a message to the queue of its key: messages of one key are stored in the order they
    /// were sent, as long as the number of queues does not change.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_by_key(&self, message: Outgoing, key: &str) -> Result<SendReceipt, Error> {
        self.send_one(message, To::Key(key)).await
    }

    /// Hands a message to the connection and does not wait for the broker. It may get lost.
    ///
    /// # Errors
    /// [`Error::Message`], [`Error::NoRoute`], [`Error::Connect`].
    pub async fn send_oneway(&self, message: Outgoing) -> Result<(), Error> {
        let (ready, _) = self.single(message)?;
        let deadline = self.deadline();
        let target = self.target(&ready.topic, To::Any, None, deadline).await?;
        let remote = self.reach(&target.link, deadline).await?;
        remote.oneway(self.send_request(&ready, &target.queue)).await
    }

    /// Sends messages of one topic, each stored as a message of its own, in as few requests as
    /// their size allows, all to one queue and in order. When a request fails, the messages of
    /// those before it are stored.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_batch(&self, messages: Vec<Outgoing>) -> Result<Vec<SendReceipt>, Error> {
        let mut receipts = Vec::with_capacity(messages.len());
        let notes: Vec<_> = messages.iter().map(|message| self.note(message)).collect();
        let mut messages = self.batch_ready(messages)?.into_iter().peekable();
        let Some(first) = messages.peek() else { return Ok(receipts) };
        let (topic, deadline) = (first.0.topic.clone(), self.deadline());
        let queue = self.target(&topic, To::Any, None, deadline).await?.queue;
        while let Some((batch, keys)) = next_batch(&topic, &mut messages) {
            let answer = self.deliver(&batch, To::Queue(&queue), self.deadline()).await?;
            let stored = receipts.len();
            split_receipts(&answer, &keys, &mut receipts)?;
            for (note, receipt) in notes.iter().zip(&receipts).skip(stored) {
                self.trace(note.clone(), &answer.0, receipt);
            }
        }
        Ok(receipts)
    }

    /// Takes a message back that waits for its instant, by the handle of its receipt; gives the
    /// message's id. After that it is not delivered.
    ///
    /// # Errors
    /// [`Error::Refused`] with code 604 when it is too late, and with code 16 by a broker that does
    /// not allow it, as Apache RocketMQ by default (`recallMessageEnable`).
    pub async fn recall(&self, handle: &str) -> Result<String, Error> {
        let RecallHandle { topic, broker_name, .. } = RecallHandle::decode(handle)
            .ok_or_else(|| Error::Message(format!("`{handle}` is no recall handle")))?;
        let queue = MessageQueue::new(topic, broker_name, 0);
        let deadline = self.deadline();
        let target = self.target(&queue.topic, To::Queue(&queue), None, deadline).await?;
        let remote = self.reach(&target.link, deadline).await?;
        let header = RecallMessageRequest {
            producer_group: Some(&self.group),
            topic: &queue.topic,
            recall_handle: handle,
        };
        let request = self.client.form(Command::with(RequestCode::RecallMessage, &header));
        let answer = remote.call(request, self.timeout()).await?;
        if answer.response_code() != ResponseCode::Success {
            return Err(refused(&answer));
        }
        let unreadable = |error: HeaderError| {
            let remark = format!("it is taken back, but the answer cannot be read: {error}");
            Error::Refused { code: answer.code, remark }
        };
        let header: RecallMessageResponse<'_> = answer.decode_header().map_err(unreadable)?;
        Ok(header.msg_id.to_owned())
    }

    /// The queues of a topic that take messages.
    ///
    /// # Errors
    /// [`Error::NoRoute`], or name servers that do not answer.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, Error> {
        self.client.queues(topic).await
    }

    /// Stores a message that consumers do not see until its transaction is committed.
    pub(super) async fn send_half(&self, mut message: Outgoing) -> Result<SendReceipt, Error> {
        if message.properties.delay_level() > 0 {
            let remark = "a message of a transaction cannot be delayed";
            return Err(Error::Message(remark.to_owned()));
        }
        message.properties.set(key::TRAN_MSG, "true");
        message.properties.set(key::PGROUP, &self.group);
        let note = self.note(&message);
        let (mut ready, key) = self.single(message)?;
        ready.sys_flag |= sys_flag::TRANSACTION_PREPARED;
        let (answer, queue) = self.deliver(&ready, To::Any, self.deadline()).await?;
        let receipt = receipt(&answer, queue, key)?;
        self.trace(note, &answer, &receipt);
        Ok(receipt)
    }

    /// Sends a reply to the broker of its request.
    pub(super) async fn send_reply(
        &self,
        reply: Outgoing,
        queue: &MessageQueue,
    ) -> Result<SendReceipt, Error> {
        let (mut ready, key) = self.ready(reply)?;
        ready.code = RequestCode::SendReplyMessageV2;
        let (answer, queue) = self.deliver(&ready, To::Queue(queue), self.deadline()).await?;
        receipt(&answer, queue, key)
    }

    /// Sends a stored message to a retry topic as it was stored; `reconsumed` is how often it will
    /// have been handled, and the limit, unless it is the group's.
    pub(super) async fn send_again(
        &self,
        message: Outgoing,
        sys_flag: i32,
        reconsumed: (i32, Option<i32>),
    ) -> Result<SendReceipt, Error> {
        let (mut ready, key) = self.ready(message)?;
        ready.sys_flag = sys_flag & (sys_flag::COMPRESSED | sys_flag::COMPRESSION_MASK);
        ready.reconsumed = Some(reconsumed);
        let answer = self.deliver(&ready, To::Any, self.deadline()).await?;
        receipt(&answer.0, answer.1, key)
    }

    async fn send_one(&self, message: Outgoing, to: To<'_>) -> Result<SendReceipt, Error> {
        let note = self.note(&message);
        let (ready, key) = self.single(message)?;
        let (answer, queue) = self.deliver(&ready, to, self.deadline()).await?;
        let receipt = receipt(&answer, queue, key)?;
        self.trace(note, &answer, &receipt);
        Ok(receipt)
    }

    /// What a trace will say of a message, where one is written.
    fn note(&self, message: &Outgoing) -> Option<Published> {
        let tracer = self.client.0.tracer.as_ref()?;
        tracer.before_send(message, &self.group, self.client.0.options.clock.now_ms())
    }

    fn trace(&self, note: Option<Published>, answer: &Command, receipt: &SendReceipt) {
        if let Some((tracer, note)) = self.client.0.tracer.as_ref().zip(note) {
            tracer.sent(note, answer, receipt, self.client.0.options.clock.now_ms());
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout()
    }

    /// For a send with all its attempts.
    fn timeout(&self) -> Duration {
        self.client.0.options.send_timeout.min(Duration::from_secs(24 * 3_600))
    }

    /// Checks a message and gives it its unique key.
    fn ready(&self, message: Outgoing) -> Result<(Ready, String), Error> {
        message.check()?;
        let Outgoing { topic, body, mut properties, flag } = message;
        if is_closed_to_senders(&topic) {
            return Err(Error::Message(format!("topic `{topic}` is the broker's own")));
        }
        let limit = self.client.0.options.message_bytes;
        if body.len() > limit {
            let length = body.len();
            return Err(Error::Message(format!(
                "its body has {length} bytes, allowed are {limit}"
            )));
        }
        let key = match properties.unique_key() {
            Some(key) => key.to_owned(),
            None => {
                let fresh: UniqueKey = self.client.0.keys.next();
                properties.push(key::UNIQ_KEY, fresh.as_str());
                fresh.as_str().to_owned()
            }
        };
        let code = RequestCode::SendMessageV2;
        Ok((Ready { code, topic, body, properties, flag, sys_flag: 0, reconsumed: None }, key))
    }

    /// Makes a message ready that is sent alone: such a one is compressed when it is long.
    fn single(&self, message: Outgoing) -> Result<(Ready, String), Error> {
        let (mut ready, key) = self.ready(message)?;
        if ready.body.len() >= self.client.0.options.compress_over {
            let compressed = compression::compress(&ready.body);
            if compressed.len() < ready.body.len() {
                ready.body = compressed.into();
                // No type of compression: so every client takes it for zlib.
                ready.sys_flag |= sys_flag::COMPRESSED;
            }
        }
        Ok((ready, key))
    }

    fn batch_ready(&self, messages: Vec<Outgoing>) -> Result<Vec<(Ready, String)>, Error> {
        let topic = messages.first().map(|first| first.topic.clone()).unwrap_or_default();
        let check = |message: Outgoing| {
            let what = match message.is_delayed() {
                _ if message.topic != topic => "messages of several topics",
                false => return self.ready(message),
                true => "a delayed message",
            };
            Err(Error::Message(format!("{what} cannot be sent in one batch")))
        };
        messages.into_iter().map(check).collect()
    }

    /// Tries until a broker answers that it has stored the message, or there is no sense in trying
    /// on.
    async fn deliver(
        &self,
        ready: &Ready,
        to: To<'_>,
        deadline: Instant,
    ) -> Result<(Command, MessageQueue), Error> {
        let mut retries = self.client.0.options.send_retries;
        let mut failed: Option<MessageQueue> = None;
        loop {
            let target = self.target(&ready.topic, to, failed.as_ref(), deadline).await?;
            let began = Instant::now();
            let attempt = self.attempt(ready, &target, deadline).await;
            if self.client.0.options.avoid_slow_brokers {
                target.link.took(began.elapsed(), attempt.as_ref().is_err_and(is_fault));
            }
            let error = match attempt {
                Ok(answer) => return Ok((answer, target.queue)),
                Err(error) => error,
            };
            match error {
                // Nothing has left: try on until the time is over.
                Error::Connect { .. } if Instant::now() + CONNECT_PAUSE < deadline => {
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
                _ if retries > 0
                    && ready.worth_another_try(&error)
                    && Instant::now() < deadline =>
                {
                    retries -= 1;
                }
                _ => return Err(error),
            }
            tracing::debug!(%error, queue = %target.queue, "a send is tried again");
            failed = Some(target.queue);
        }
    }

    async fn attempt(
        &self,
        ready: &Ready,
        target: &Target,
        deadline: Instant,
    ) -> Result<Command, Error> {
        let remote = self.reach(&target.link, deadline).await?;
        let timeout = self.timeout();
        let started = deadline.checked_sub(timeout).unwrap_or(deadline);
        let request = self.send_request(ready, &target.queue);
        let answer =
            remote.call_since(request, started, timeout).await.map_err(|error| match error {
                Error::Timeout { after_ms, .. } => {
                    let doubt = "the message may or may not have been stored";
                    Error::Timeout {
                        what: format!("a send to {} ({doubt})", target.queue),
                        after_ms,
                    }
                }
                other => other,
            })?;
        match status(answer.response_code()) {
            Some(_) => Ok(answer),
            None => Err(refused(&answer)),
        }
    }

    /// The queue for the next attempt.
    async fn target(
        &self,
        topic: &str,
        to: To<'_>,
        failed: Option<&MessageQueue>,
        deadline: Instant,
    ) -> Result<Target, Error> {
        if let To::Queue(queue) = to
            && let Some(address) = self.client.0.topics.master_of(&queue.broker_name)
        {
            return Ok(Target { queue: queue.clone(), link: self.client.0.links.link(&address) });
        }
        let known = match self.client.0.topics.writable(topic) {
            Some(known) => known,
            None => self.find(topic, deadline).await?,
        };
        let index = match to {
            To::Any => in_turn(&known, failed),
            To::Key(key) => route::by_key(known.masters.len(), key),
            To::Queue(queue) => known.route.to_write.iter().position(|known| known == queue),
        };
        let target = |index: usize| {
            let queue = known.route.to_write.get(index)?.clone();
            Some(Target { queue, link: known.masters.get(index)?.clone() })
        };
        index.and_then(target).ok_or_else(|| Error::NoRoute { topic: topic.to_owned() })
    }

    async fn find(&self, topic: &str, deadline: Instant) -> Result<Arc<Topic>, Error> {
        self.client.check_open()?;
        let asking = self.client.0.topics.to_write(&self.client.0.links, topic);
        let found = tokio::time::timeout_at(deadline, asking).await;
        self.client.tell_changed();
        found.unwrap_or_else(|_| {
            let timeout = self.client.0.options.send_timeout;
            Err(Error::Timeout {
                what: format!("the route of topic `{topic}` (nothing was sent)"),
                after_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            })
        })
    }

    async fn reach(&self, link: &Link, deadline: Instant) -> Result<Remote, Error> {
        match link.current() {
            Some(remote) => Ok(remote),
            None => tokio::time::timeout_at(deadline, self.client.remote(link))
                .await
                .unwrap_or_else(|_| {
                    let source = std::io::ErrorKind::TimedOut.into();
                    Err(Error::Connect { address: link.address.clone(), source })
                }),
        }
    }

    fn send_request(&self, ready: &Ready, queue: &MessageQueue) -> Command {
        let options = &self.client.0.options;
        let header = SendRequestV2(SendRequest {
            producer_group: &self.group,
            topic: &ready.topic,
            default_topic: DEFAULT_TOPIC,
            default_topic_queue_nums: options.default_queues,
            queue_id: queue.queue_id,
            sys_flag: ready.sys_flag,
            born_timestamp: options.clock.now_ms(),
            flag: ready.flag,
            properties: Some(ready.properties.as_str()).filter(|text| !text.is_empty()),
            reconsume_times: ready.reconsumed.map(|reconsumed| reconsumed.0),
            unit_mode: Some(false),
            max_reconsume_times: ready.reconsumed.and_then(|reconsumed| reconsumed.1),
            batch: Some(ready.code == RequestCode::SendBatchMessage),
            broker_name: Some(&queue.broker_name),
        });
        self.client.form(Command::with(ready.code, &header)).body(ready.body.clone())
    }
}

/// The next queue in turn that can be reached, of another broker than the one that failed where
/// there is one.
fn in_turn(topic: &Topic, failed: Option<&MessageQueue>) -> Option<usize> {
    let avoid = |index: usize| {
        let failed_there = |failed: &MessageQueue| {
            let queue = topic.route.to_write.get(index);
            queue.is_some_and(|queue| queue.broker_name == failed.broker_name)
        };
        let link = topic.masters.get(index);
        failed.is_some_and(failed_there) || link.is_some_and(|link| link.is_resting())
    };
    let turn = topic.turn.fetch_add(1, Ordering::Relaxed);
    route::choose(topic.masters.len(), turn, avoid)
}

/// Is it the broker that failed, rather than the message?
fn is_fault(error: &Error) -> bool {
    matches!(error, Error::Timeout { .. } | Error::Connect { .. }) || worth_another_try(error)
}

/// Sends that failed with one of these may do better elsewhere. The codes are those of Java's
/// client.
fn worth_another_try(error: &Error) -> bool {
    const CODES: [i32; 6] = [
        ResponseCode::TopicNotExist.code(),
        ResponseCode::ServiceNotAvailable.code(),
        ResponseCode::SystemError.code(),
        ResponseCode::NoPermission.code(),
        ResponseCode::NoBuyerId.code(),
        ResponseCode::NotInCurrentUnit.code(),
    ];
    match error {
        Error::Refused { code, .. } => CODES.contains(code),
        Error::Closed(_) => true,
        _ => false,
    }
}

/// The codes that say a message is stored.
fn status(code: ResponseCode) -> Option<SendStatus> {
    match code {
        ResponseCode::Success => Some(SendStatus::Ok),
        ResponseCode::FlushDiskTimeout => Some(SendStatus::FlushDiskTimeout),
        ResponseCode::FlushSlaveTimeout => Some(SendStatus::FlushSlaveTimeout),
        ResponseCode::SlaveNotAvailable => Some(SendStatus::SlaveNotAvailable),
        _ => None,
    }
}

fn receipt(answer: &Command, queue: MessageQueue, key: String) -> Result<SendReceipt, Error> {
    let header = stored_at(answer)?;
    Ok(SendReceipt {
        status: status(answer.response_code()).unwrap_or(SendStatus::Ok),
        msg_id: key,
        offset_msg_id: header.msg_id.to_owned(),
        queue: MessageQueue { queue_id: header.queue_id, ..queue },
        queue_offset: header.queue_offset,
        recall_handle: header.recall_handle.map(str::to_owned),
    })
}

fn stored_at(answer: &Command) -> Result<SendResponse<'_>, Error> {
    answer.decode_header().map_err(|error| {
        let remark =
            format!("the message is stored, but the broker's answer cannot be read: {error}");
        Error::Refused { code: answer.code, remark }
    })
}

/// Takes as many messages as fit into one request. One that is left alone is no batch: the longest
/// message that may be sent would not be let through as the only item of one.
fn next_batch(
    topic: &str,
    messages: &mut std::iter::Peekable<impl Iterator<Item = (Ready, String)>>,
) -> Option<(Ready, Vec<String>)> {
    let size = |item: &Ready| item.body.len() + item.properties.as_str().len() + ITEM_BYTES;
    let (first, first_key) = messages.next()?;
    let fits = |bytes: usize, next: &Ready| bytes + size(next) <= BATCH_BYTES_MAX;
    if !messages.peek().is_some_and(|(next, _)| fits(size(&first), next)) {
        return Some((first, vec![first_key]));
    }
    let mut body = BytesMut::new();
    let mut keys = vec![first_key];
    let add = |message: &Ready, body: &mut BytesMut| {
        let properties = message.properties.as_str();
        encode_batch_item(body, &BatchItem { flag: message.flag, body: &message.body, properties });
    };
    add(&first, &mut body);
    while let Some((message, key)) = messages.next_if(|(next, _)| fits(body.len(), next)) {
        add(&message, &mut body);
        keys.push(key);
    }
    let batch = Ready {
        code: RequestCode::SendBatchMessage,
        topic: topic.to_owned(),
        body: body.freeze(),
        properties: Properties::default(),
        flag: 0,
        sys_flag: 0,
        reconsumed: None,
    };
    Some((batch, keys))
}

/// One receipt a message: ids stand in the answer joined by commas, offsets follow each other.
fn split_receipts(
    (answer, queue): &(Command, MessageQueue),
    keys: &[String],
    receipts: &mut Vec<SendReceipt>,
) -> Result<(), Error> {
    let header = stored_at(answer)?;
    let mut ids = header.msg_id.split(',');
    for (key, offset) in keys.iter().zip(header.queue_offset..) {
        receipts.push(SendReceipt {
            status: status(answer.response_code()).unwrap_or(SendStatus::Ok),
            msg_id: key.clone(),
            offset_msg_id: ids.next().unwrap_or_default().to_owned(),
            queue: MessageQueue { queue_id: header.queue_id, ..queue.clone() },
            queue_offset: offset,
            recall_handle: None,
        });
    }
    Ok(())
}
