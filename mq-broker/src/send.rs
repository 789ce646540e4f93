//! 10, 310, 320: checks messages, diverts the delayed and the given-up, appends a whole burst at
//! once, and answers by the flush policy. Not here: disk, waiting for a delay.
//!
//! Invariants: all messages of a burst are stored with one append; under `SYNC_FLUSH` an answer
//! leaves only after the sync that covers its message, unless the message says WAIT=false; a
//! refused message stores nothing and leaves the others alone. Rules: protocol sections 2.6, 2.11,
//! 5.1.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mq_core::names;
use mq_core::properties::{self, Properties, key};
use mq_core::protocol::code::{RequestCode, ResponseCode};
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{SendRequest, SendResponse};
use mq_core::protocol::record::{self, NewRecord, RecordError, offset_msg_id, sys_flag};
use mq_core::server::{Peer, Replies};
use tokio::time::timeout;

use crate::broker::Broker;
use crate::catalog::perm;
use crate::config::FlushDiskType;
use crate::delay::{self, Wish};
use crate::dispatch::{Answer, reply};
use crate::recall;
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::store::commit_log::Appended;
use crate::transaction;

/// Messages in one batch.
const BATCH_MAX: usize = 1_024;

/// A message that passed the checks, as it will be stored.
struct Draft<'a> {
    request: &'a Command,
    header: SendRequest<'a>,
    topic: Cow<'a, str>,
    queue_id: i32,
    reconsume_times: i32,
    unique_key: Option<String>,
    /// By which the sender can take it back.
    recall_handle: Option<String>,
    waits: bool,
    messages: Messages<'a>,
}

/// The messages of a request: one, or the items of a batch.
enum Messages<'a> {
    One(Item<'a>),
    Batch(Vec<Item<'a>>),
}

struct Item<'a> {
    flag: i32,
    body: &'a [u8],
    /// As they will be stored.
    properties: String,
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
        match Draft::check(broker, peer, request) {
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

fn append(broker: &Broker, peer: &Peer, drafts: &[Draft<'_>]) -> Result<Vec<Appended>, StoreError> {
    let host = broker.store_host(peer);
    let records: Vec<_> = drafts.iter().flat_map(|draft| draft.records(peer, host)).collect();
    let appended = broker.store.log.append(&records)?;
    broker.stats.put.add(appended.len(), appended.iter().map(|one| one.size as usize).sum());
    Ok(appended)
}

impl<'a> Draft<'a> {
    fn check(broker: &Broker, peer: &Peer, request: &'a Command) -> Result<Self, Refusal> {
        let header = match request.request_code() {
            RequestCode::SendMessage => request.decode_header::<SendRequest<'_>>()?,
            _ => SendRequest::read_v2(&request.fields)?,
        };
        check_size(broker, request)?;
        let mut draft = Self::new(broker, request, header)?;
        draft.queue_id = queue_for_send(broker, &draft.header)?;
        if draft.topic.starts_with(names::RETRY_PREFIX) {
            draft.give_up_if_spent(broker)?;
        }
        draft.read_properties(broker)?;
        // Here and not in the append: one illegal message must not take its burst with it.
        for record in draft.records(peer, peer.local) {
            let illegal = |error: RecordError| error.to_string();
            record.check().map_err(|e| Refusal::new(ResponseCode::MessageIllegal, illegal(e)))?;
        }
        Ok(draft)
    }

    fn new(
        broker: &Broker,
        request: &'a Command,
        header: SendRequest<'a>,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            topic: Cow::Borrowed(header.topic),
            queue_id: header.queue_id,
            reconsume_times: header.reconsume_times.unwrap_or(0),
            unique_key: None,
            recall_handle: None,
            waits: true,
            messages: Messages::of(broker, request, &header)?,
            request,
            header,
        })
    }

    /// A client that could not send back (36) puts a retry into the group's retry topic itself.
    /// After the last attempt it goes to the dead letter topic (protocol section 2.11).
    fn give_up_if_spent(&mut self, broker: &Broker) -> Result<(), Refusal> {
        let group = self.header.topic.trim_start_matches(names::RETRY_PREFIX);
        let settings = broker.catalog.group(group)?;
        let attempts_max = self.header.max_reconsume_times.unwrap_or(settings.retry_max_times);
        if self.reconsume_times >= attempts_max {
            let topic = names::dlq_topic(group);
            broker.catalog.ensure_topic(&topic, 1)?;
            self.topic = Cow::Owned(topic);
            self.queue_id = 0;
            self.messages.edit(|properties| properties.remove(key::DELAY));
        }
        Ok(())
    }

    /// One pass over the properties: what they ask of the broker. A batch can only ask not to wait.
    fn read_properties(&mut self, broker: &Broker) -> Result<(), Refusal> {
        let mut wish = Wish::default();
        let mut is_half = self.header.sys_flag & sys_flag::TRANSACTION_MASK != 0;
        for (name, value) in properties::pairs(self.header.properties.unwrap_or_default()) {
            match name {
                key::UNIQ_KEY => self.unique_key = Some(value.to_owned()),
                key::WAIT => self.waits = value != "false",
                key::TRAN_MSG => is_half |= value == "true",
                _ => wish.note(name, value),
            }
        }
        if let Messages::Batch(_) = self.messages {
            return self.check_batch();
        }
        if self.unique_key.is_none() {
            let made = broker.unique_key();
            self.messages.edit(|properties| properties.set(key::UNIQ_KEY, &made));
            self.unique_key = Some(made);
        }
        // A retry that a client sends by itself still says that it came from a transaction.
        if is_half && !(self.reconsume_times > 0 && wish.level > 0) {
            return self.become_half(broker, &wish);
        }
        self.header.sys_flag &= !sys_flag::TRANSACTION_MASK;
        let spent = self.topic.starts_with(names::DLQ_PREFIX);
        if wish.is_there() && !spent { self.divert(broker, &wish) } else { Ok(()) }
    }

    /// Sends the message where it waits, if it asks for that.
    fn divert(&mut self, broker: &Broker, wish: &Wish<'_>) -> Result<(), Refusal> {
        let place = (&*self.topic, self.queue_id);
        let mut detour = Ok(None);
        self.messages.edit(|properties| detour = delay::divert(broker, wish, properties, place));
        let Some(detour) = detour? else { return Ok(()) };
        if let (Some(due_ms), Some(unique_key)) = (detour.due_ms, &self.unique_key) {
            self.recall_handle = recall::handle_for(broker, &self.topic, due_ms, unique_key);
        }
        self.topic = Cow::Borrowed(detour.topic);
        self.queue_id = detour.queue_id;
        Ok(())
    }

    fn check_batch(&self) -> Result<(), Refusal> {
        if self.header.sys_flag & sys_flag::TRANSACTION_MASK == 0 {
            return Ok(());
        }
        let remark = "a batch cannot be a part of a transaction: send its messages one by one";
        Err(Refusal::new(ResponseCode::MessageIllegal, remark))
    }

    /// Puts the message among the half messages, until its transaction ends.
    fn become_half(&mut self, broker: &Broker, wish: &Wish<'_>) -> Result<(), Refusal> {
        if broker.config.reject_transaction_message.now() {
            let remark = "this broker does not take messages of transactions: \
                rejectTransactionMessage is true";
            return Err(Refusal::new(ResponseCode::NoPermission, remark));
        }
        // What it wants is done with its commit; what cannot be is refused now.
        wish.check(broker)?;
        let (topic, queue_id, group) = (&self.topic, self.queue_id, self.header.producer_group);
        self.messages.edit(|properties| transaction::halve(properties, topic, queue_id, group));
        self.header.sys_flag &= !sys_flag::TRANSACTION_MASK;
        self.topic = Cow::Borrowed(names::HALF_TOPIC);
        self.queue_id = transaction::QUEUE;
        Ok(())
    }

    /// The records that this request stores.
    fn records(&self, peer: &Peer, store_host: SocketAddr) -> impl Iterator<Item = NewRecord<'_>> {
        let born_host = peer.remote;
        self.messages.items().iter().map(move |item| NewRecord {
            topic: &self.topic,
            queue_id: self.queue_id,
            flag: item.flag,
            sys_flag: self.header.sys_flag,
            born_timestamp_ms: self.header.born_timestamp,
            born_host,
            store_host,
            reconsume_times: self.reconsume_times,
            prepared_transaction_offset: 0,
            body: item.body,
            properties: &item.properties,
        })
    }

    fn answer(&self, broker: &Broker, host: SocketAddr, appended: &[Appended]) -> Command {
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
            recall_handle: self.recall_handle.as_deref(),
            region: Some(&broker.config.region_id),
            trace_on: Some(broker.config.trace_on.now()),
            ..SendResponse::default()
        })
    }
}

pub(crate) fn check_size(broker: &Broker, request: &Command) -> Result<(), Refusal> {
    let (size, max) = (request.body.len() as u64, broker.config.max_message_size.now());
    if size > max {
        let remark = format!(
            "the message is illegal: its body has {size} bytes, maxMessageSize of this broker is {max}"
        );
        return Err(Refusal::new(ResponseCode::MessageIllegal, remark));
    }
    Ok(())
}

impl<'a> Messages<'a> {
    fn of(
        broker: &Broker,
        request: &'a Command,
        header: &SendRequest<'a>,
    ) -> Result<Self, Refusal> {
        let shared = header.properties.unwrap_or_default();
        let is_batch =
            header.batch == Some(true) || request.request_code() == RequestCode::SendBatchMessage;
        if !is_batch {
            let properties = properties::join(shared, &broker.stamp);
            let body = &request.body;
            return Ok(Self::One(Item { flag: header.flag, body, properties }));
        }
        // Java clients of 5.x give a batch a key of its own, which is none of its messages'.
        let shared = properties::without(shared, key::UNIQ_KEY);
        let shared = properties::join(&shared, &broker.stamp);
        let items = batch_items(header.topic, &request.body)?;
        let items = items.into_iter().map(|item| Item {
            flag: item.flag,
            body: item.body,
            properties: properties::join(item.properties, &shared),
        });
        Ok(Self::Batch(items.collect()))
    }

    fn items(&self) -> &[Item<'a>] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Batch(items) => items,
        }
    }

    /// Changes the properties of a single message.
    fn edit(&mut self, change: impl FnOnce(&mut Properties)) {
        if let Self::One(item) = self {
            let mut properties = Properties::from_wire(std::mem::take(&mut item.properties));
            change(&mut properties);
            item.properties = properties.into_wire();
        }
    }
}

fn batch_items<'a>(topic: &str, body: &'a [u8]) -> Result<Vec<record::BatchItem<'a>>, Refusal> {
    let illegal = |remark: String| Refusal::new(ResponseCode::MessageIllegal, remark);
    if topic.starts_with(names::RETRY_PREFIX) {
        return Err(illegal("a batch cannot go to a retry topic".to_owned()));
    }
    let items = record::batch_items(body).map_err(|error| illegal(error.to_string()))?;
    match items.len() {
        1..=BATCH_MAX => Ok(items),
        count => {
            Err(illegal(format!("a batch has 1 to {BATCH_MAX} messages, this one has {count}")))
        }
    }
}

/// Finds or makes the topic of a send or of a reply; gives the queue it goes to.
pub(crate) fn queue_for_send(broker: &Broker, header: &SendRequest<'_>) -> Result<i32, Refusal> {
    let forbidden = |remark: String| Refusal::new(ResponseCode::NoPermission, remark);
    if names::is_closed_to_senders(header.topic) {
        return Err(forbidden(format!("the topic[{}] is closed to senders", header.topic)));
    }
    let topic = broker.catalog.topic_for_send(
        header.topic,
        header.default_topic,
        header.default_topic_queue_nums,
    )?;
    let writable = broker.config.broker_permission.now() & u64::from(perm::WRITE.cast_unsigned());
    if writable == 0 && topic.order {
        let name = &broker.config.broker_name;
        return Err(forbidden(format!("the broker[{name}] sending message is forbidden")));
    }
    let queue_id = match header.queue_id {
        ..0 => any_queue(topic.write_queue_nums),
        chosen => chosen,
    };
    if queue_id >= topic.write_queue_nums.max(topic.read_queue_nums) {
        let remark = format!(
            "request queueId[{queue_id}] is illegal, topic[{}] has {} queues",
            header.topic, topic.write_queue_nums
        );
        return Err(Refusal::new(ResponseCode::SystemError, remark));
    }
    Ok(queue_id)
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
    let host = broker.store_host(peer);
    let (mut waiting, mut end) = (Vec::new(), 0);
    let mut rest = appended;
    for draft in drafts {
        let Some((own, after)) = rest.split_at_checked(draft.messages.items().len()) else { break };
        rest = after;
        if draft.request.is_oneway() {
            continue;
        }
        let answer = draft.answer(broker, host, own);
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
    let limit = Duration::from_millis(broker.config.sync_flush_timeout_ms.now());
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
