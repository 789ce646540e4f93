//! 10, 310, 320: checks messages, diverts the delayed and the given-up, appends a whole burst at once, and answers by the
//! flush policy. Not here: disk, waiting for a delay.
//!
//! Invariants: all messages of a burst are stored with one append; under `SYNC_FLUSH` an answer leaves only after the sync
//! that covers its message, unless the message says WAIT=false; a refused message stores nothing and leaves the others alone.
//! Rules: protocol sections 2.6, 2.11, 5.1.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use mq_core::names;
use mq_core::properties::{self, Properties, key};
use mq_core::protocol::code::{RequestCode, ResponseCode};
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{SendRequest, SendResponse};
use mq_core::protocol::record::{self, NewRecord, offset_msg_id};
use mq_core::server::{Peer, Replies};
use tokio::time::timeout;

use crate::broker::Broker;
use crate::config::FlushDiskType;
use crate::delay;
use crate::dispatch::{Answer, reply};
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::store::commit_log::Appended;

/// Messages in one batch.
const BATCH_MAX: usize = 1_024;

/// Bits of a message's sysFlag.
mod flag {
    pub(super) const TRANSACTION: i32 = 12;
    /// Set by Java clients with an IPv6 address; this store keeps IPv4 hosts (protocol 3.1).
    pub(super) const IPV6_HOSTS: i32 = 16 | 32;
}

/// A message that passed the checks, as it will be stored.
struct Draft<'a> {
    request: &'a Command,
    header: SendRequest<'a>,
    topic: Cow<'a, str>,
    queue_id: i32,
    reconsume_times: i32,
    /// The message's own properties. Of a batch: empty, its items have theirs.
    properties: Cow<'a, str>,
    /// What is stored behind the properties of every message of this request.
    tail: Cow<'a, str>,
    unique_key: Option<String>,
    waits: bool,
    bodies: Bodies<'a>,
}

enum Bodies<'a> {
    One(&'a [u8]),
    Batch(Vec<record::BatchItem<'a>>),
}

/// Stores all messages of a burst and answers them.
pub(crate) fn handle(
    broker: &Arc<Broker>,
    peer: &Arc<Peer>,
    requests: &[Command],
    replies: &mut Replies,
) {
    let mut drafts = Vec::with_capacity(requests.len());
    for request in requests {
        match Draft::check(broker, request) {
            Ok(draft) => drafts.push(draft),
            Err(refusal) => reply(request, Err(refusal), replies),
        }
    }
    if drafts.is_empty() {
        return;
    }
    match append(broker, peer, &drafts) {
        Ok(appended) => answer(broker, peer, &drafts, &appended, replies),
        Err(error) => {
            let refusal = Refusal::from(error);
            for draft in &drafts {
                let refusal = Refusal::new(refusal.code, refusal.remark.clone());
                reply(draft.request, Err(refusal), replies);
            }
        }
    }
}

fn append(
    broker: &Broker,
    peer: &Peer,
    drafts: &[Draft<'_>],
) -> Result<Vec<Appended>, StoreError> {
    let mut records = Vec::with_capacity(drafts.len());
    for draft in drafts {
        draft.records(broker, peer, &mut records);
    }
    broker.store.log.append(&records)
}

impl<'a> Draft<'a> {
    fn check(broker: &'a Broker, request: &'a Command) -> Result<Self, Refusal> {
        let header = match request.request_code() {
            RequestCode::SendMessage => SendRequest::read_v1(&request.fields)?,
            _ => SendRequest::read_v2(&request.fields)?,
        };
        check_size(broker, request)?;
        let mut draft = Self::new(broker, request, header)?;
        draft.place(broker)?;
        if draft.topic.starts_with(names::RETRY_PREFIX) {
            draft.give_up_if_spent(broker)?;
        }
        draft.read_properties(broker);
        Ok(draft)
    }

    fn new(
        broker: &'a Broker,
        request: &'a Command,
        header: SendRequest<'a>,
    ) -> Result<Self, Refusal> {
        let own = header.properties.unwrap_or_default();
        let is_batch = header.batch == Some(true)
            || request.request_code() == RequestCode::SendBatchMessage;
        let (properties, tail, bodies) = if is_batch {
            let tail = properties::join(own, &broker.stamp);
            ("", Cow::Owned(tail), Bodies::Batch(items(&header, request)?))
        } else {
            (own, Cow::Borrowed(broker.stamp.as_str()), Bodies::One(&request.body))
        };
        Ok(Self {
            topic: Cow::Borrowed(header.topic),
            queue_id: header.queue_id,
            reconsume_times: header.reconsume_times.unwrap_or(0),
            properties: Cow::Borrowed(properties),
            tail,
            unique_key: None,
            waits: true,
            bodies,
            request,
            header,
        })
    }

    /// Finds or makes the topic, and a queue of it.
    fn place(&mut self, broker: &Broker) -> Result<(), Refusal> {
        let header = &self.header;
        if names::is_closed_to_senders(header.topic) {
            let remark = format!("the topic[{}] is closed to senders", header.topic);
            return Err(Refusal::new(ResponseCode::NoPermission, remark));
        }
        if header.sys_flag & flag::TRANSACTION != 0 {
            let remark = "this broker does not take transactional messages";
            return Err(Refusal::new(ResponseCode::NoPermission, remark));
        }
        let topic = broker.catalog.topic_for_send(
            header.topic,
            header.default_topic,
            header.default_topic_queue_nums,
        )?;
        if self.queue_id < 0 {
            self.queue_id = any_queue(topic.write_queue_nums);
        }
        if self.queue_id >= topic.write_queue_nums.max(topic.read_queue_nums) {
            let remark = format!(
                "request queueId[{}] is illegal, topic[{}] has {} queues",
                self.queue_id, header.topic, topic.write_queue_nums
            );
            return Err(Refusal::new(ResponseCode::SystemError, remark));
        }
        Ok(())
    }

    /// A client that could not send back (36) puts a retry into the group's retry topic itself. After the last attempt it
    /// goes to the dead letter topic (protocol section 2.11).
    fn give_up_if_spent(&mut self, broker: &Broker) -> Result<(), Refusal> {
        let group = self.header.topic.trim_start_matches(names::RETRY_PREFIX);
        let settings = broker.catalog.group(group)?;
        let attempts_max = self.header.max_reconsume_times.unwrap_or(settings.retry_max_times);
        if self.reconsume_times >= attempts_max {
            let topic = names::dlq_topic(group);
            broker.catalog.ensure_topic(&topic, 1)?;
            self.topic = Cow::Owned(topic);
            self.queue_id = 0;
            self.edit(|properties| properties.remove(key::DELAY));
        }
        Ok(())
    }

    /// One pass over the properties: what they ask of the broker.
    fn read_properties(&mut self, broker: &Broker) {
        let (mut delay_level, mut unique_key, mut waits) = (0, None, true);
        let text = if self.properties.is_empty() { &self.tail } else { &self.properties };
        for (name, value) in properties::pairs(text) {
            match name {
                key::UNIQ_KEY => unique_key = Some(value.to_owned()),
                key::WAIT => waits = value != "false",
                key::DELAY => delay_level = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        self.waits = waits;
        self.unique_key = unique_key;
        let Bodies::One(_) = self.bodies else { return };
        if self.unique_key.is_none() {
            let made = broker.unique_key();
            self.edit(|properties| properties.set(key::UNIQ_KEY, &made));
            self.unique_key = Some(made);
        }
        if delay_level > 0 {
            let level = broker.delay.level(delay_level);
            let (topic, queue_id) = (self.topic.to_string(), self.queue_id);
            self.edit(|properties| delay::divert(properties, &topic, queue_id));
            self.topic = Cow::Borrowed(names::SCHEDULE_TOPIC);
            self.queue_id = level - 1;
        }
    }

    fn edit(&mut self, change: impl FnOnce(&mut Properties)) {
        let mut properties = Properties::from_wire(self.properties.to_string());
        change(&mut properties);
        self.properties = Cow::Owned(properties.as_str().to_owned());
    }

    /// The records that this request stores.
    fn records<'s>(&'s self, broker: &Broker, peer: &Peer, out: &mut Vec<NewRecord<'s>>) {
        let store_host = broker.store_host(peer);
        let one = |flag, properties, body| NewRecord {
            topic: &self.topic,
            queue_id: self.queue_id,
            flag,
            sys_flag: self.header.sys_flag & !flag::IPV6_HOSTS,
            born_timestamp_ms: self.header.born_timestamp,
            born_host: peer.remote,
            store_host,
            reconsume_times: self.reconsume_times,
            prepared_transaction_offset: 0,
            body,
            properties,
            properties_tail: &self.tail,
        };
        match &self.bodies {
            Bodies::One(body) => out.push(one(self.header.flag, &self.properties, body)),
            Bodies::Batch(items) => {
                out.extend(items.iter().map(|item| one(item.flag, item.properties, item.body)));
            }
        }
    }

    fn record_count(&self) -> usize {
        match &self.bodies {
            Bodies::One(_) => 1,
            Bodies::Batch(items) => items.len(),
        }
    }

    fn answer(&self, broker: &Broker, peer: &Peer, appended: &[Appended]) -> Command {
        let host = broker.store_host(peer);
        let mut ids = String::with_capacity(33 * appended.len());
        for one in appended {
            if !ids.is_empty() {
                ids.push(',');
            }
            ids.push_str(&offset_msg_id(host, one.physical_offset));
        }
        Command::success(self.request).header(&SendResponse {
            msg_id: &ids,
            // Of a delayed message too: the queue it was sent to (protocol section 5.1).
            queue_id: if self.header.queue_id < 0 { self.queue_id } else { self.header.queue_id },
            queue_offset: appended.first().map_or(0, |one| one.queue_offset),
            transaction_id: self.unique_key.as_deref(),
            region: Some(&broker.config.region_id),
            trace_on: Some(broker.config.trace_on),
        })
    }
}

fn check_size(broker: &Broker, request: &Command) -> Result<(), Refusal> {
    let (size, max) = (request.body.len() as u64, broker.config.max_message_size);
    if size > max {
        let remark = format!(
            "the message is illegal: its body has {size} bytes, maxMessageSize of this broker is {max}"
        );
        return Err(Refusal::new(ResponseCode::MessageIllegal, remark));
    }
    Ok(())
}

fn items<'a>(
    header: &SendRequest<'_>,
    request: &'a Command,
) -> Result<Vec<record::BatchItem<'a>>, Refusal> {
    let illegal = |remark: String| Refusal::new(ResponseCode::MessageIllegal, remark);
    if header.topic.starts_with(names::RETRY_PREFIX) {
        return Err(illegal("a batch cannot go to a retry topic".to_owned()));
    }
    let items = record::batch_items(&request.body).map_err(|error| illegal(error.to_string()))?;
    if items.is_empty() || items.len() > BATCH_MAX {
        return Err(illegal(format!(
            "a batch has 1 to {BATCH_MAX} messages, this one has {}",
            items.len()
        )));
    }
    Ok(items)
}

/// A queue for a sender that leaves the choice to the broker. A fresh hasher's state is random.
fn any_queue(queues: i32) -> i32 {
    let random = RandomState::new().hash_one(0_u8);
    let queues = u64::try_from(queues.max(1)).unwrap_or(1);
    i32::try_from(random % queues).unwrap_or(0)
}

/// Answers every message of the burst: at once, or all that wait for the sync together.
fn answer(
    broker: &Arc<Broker>,
    peer: &Peer,
    drafts: &[Draft<'_>],
    appended: &[Appended],
    replies: &mut Replies,
) {
    let mut waiting = Vec::new();
    let mut end = 0;
    let mut rest = appended;
    for draft in drafts {
        let Some((own, after)) = rest.split_at_checked(draft.record_count()) else { break };
        rest = after;
        if draft.request.is_oneway() {
            continue;
        }
        let answer = draft.answer(broker, peer, own);
        if draft.waits && broker.config.flush_disk_type == FlushDiskType::Sync {
            end = own.last().map_or(end, Appended::end);
            waiting.push(answer);
        } else {
            reply(draft.request, Ok(Answer::Now(answer)), replies);
        }
    }
    if !waiting.is_empty() {
        replies.later(when_synced(Arc::clone(broker), end, waiting));
    }
}

/// The answers, once the log is synced up to `end`; or what became of that.
async fn when_synced(broker: Arc<Broker>, end: u64, mut answers: Vec<Command>) -> Vec<Command> {
    let limit = Duration::from_millis(broker.config.sync_flush_timeout_ms);
    let synced = timeout(limit, broker.store.log.flushed.reached(end)).await;
    let (code, remark) = match synced {
        Ok(Ok(_)) => return answers,
        Ok(Err(closed)) => (ResponseCode::ServiceNotAvailable, closed.to_string()),
        Err(_) => (
            ResponseCode::FlushDiskTimeout,
            format!("stored, but not synced within {} ms", limit.as_millis()),
        ),
    };
    for answer in &mut answers {
        answer.code = code.code();
        answer.remark = Some(remark.as_str().into());
    }
    answers
}
