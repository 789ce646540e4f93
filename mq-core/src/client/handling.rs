//! From a pulled message to its end: the jobs that wait for a handler, the runners that call it,
//! and what its outcome makes of the message. Not here: pulling (`worker.rs`), which queues are
//! ours (`consumer.rs`), whose turn it is in a queue (`ordered.rs`).
//!
//! Invariants: a message ends by being handled, or by the broker's word that it has it again (retry
//! or dead letter); nothing else completes it in its window, but for broadcasting, where a failed
//! message ends with a line in the log. A handler that panics or takes too long has failed, no
//! more. As many handlers run at once as there are runners.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore};

use super::consumer::{BatchHandler, Group, Handler, Outcome};
use super::ordered::Order;
use super::refused;
use super::trace::Traced;
use super::window::Load;
use super::worker::Progress;
use crate::error::Error;
use crate::message::{Delivery, Outgoing};
use crate::names::MessageQueue;
use crate::properties::{self, Properties, key};
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::compression::CompressionError;
use crate::protocol::header::ConsumerSendMsgBackRequest;
use crate::protocol::record::{Record, Verify};

const SEND_BACK_TIMEOUT: Duration = Duration::from_secs(5);
/// The rest before a message that could not be given back is offered again.
const SEND_BACK_PAUSE: Duration = Duration::from_secs(1);
/// RocketMQ's mark for "to the dead letters".
const LEVEL_DEAD: i32 = -1;
/// The level of the first retry, where the broker is left to decide.
const LEVEL_FIRST: i32 = 3;

/// What is called with messages.
pub(super) enum Callee {
    One(Arc<dyn Handler>),
    Batch { handler: Arc<dyn BatchHandler>, most: usize },
}

impl Callee {
    /// How many messages one call may take.
    fn most(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Batch { most, .. } => *most,
        }
    }
}

/// A pulled message.
#[derive(Debug)]
pub(super) struct Message {
    delivery: Result<Delivery, CompressionError>,
    pub(super) kept: Kept,
}

/// What stays of a message while its handler has it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) epoch: u32,
    pub(super) offset: i64,
    /// How often it was handled here in vain, without having been given back.
    attempts: i32,
    /// The whole record, should it have to go back.
    record: Bytes,
}

impl Message {
    pub(super) fn new(
        record: &Record<'_>,
        source: &Bytes,
        queue: &MessageQueue,
        epoch: u32,
    ) -> Self {
        let kept = Kept { epoch, offset: record.queue_offset, attempts: 0, record: source.clone() };
        Self { delivery: Delivery::from_record(record, source, queue), kept }
    }

    #[cfg(test)]
    pub(super) fn unread(epoch: u32, offset: i64, record: Bytes) -> Self {
        let kept = Kept { epoch, offset, attempts: 0, record };
        Self { delivery: Err(CompressionError::TooLong { kind: "test", limit: 0 }), kept }
    }
}

impl Kept {
    /// The message once more. Nothing if its record cannot be read, which it could a moment ago.
    fn again(self, queue: &MessageQueue) -> Option<Message> {
        let (record, _) = Record::decode(&self.record, Verify::None).ok()?;
        let mut message = Message::new(&record, &self.record, queue, self.epoch);
        message.kept.attempts = self.attempts;
        if let Ok(delivery) = &mut message.delivery {
            delivery.reconsume_times = delivery.reconsume_times.saturating_add(self.attempts);
        }
        Some(message)
    }
}

/// A message on its way to a handler.
#[derive(Debug)]
struct Job {
    progress: Arc<Progress>,
    message: Message,
}

impl Job {
    fn is_of(&self, progress: &Arc<Progress>, epoch: u32) -> bool {
        Arc::ptr_eq(&self.progress, progress) && self.message.kept.epoch == epoch
    }
}

/// Jobs that wait for a runner, in the order they came, and the load of all that was pulled.
#[derive(Debug)]
pub(super) struct Ready {
    jobs: Mutex<VecDeque<Job>>,
    /// At least one permit a job.
    count: Semaphore,
    messages: AtomicUsize,
    bytes: AtomicUsize,
    /// No queue is pulled while this much is under way.
    most: Load,
    room: Notify,
}

impl Ready {
    pub(super) fn new(most: Load) -> Self {
        Self {
            jobs: Mutex::default(),
            count: Semaphore::new(0),
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            most,
            room: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, progress: &Arc<Progress>, messages: Vec<Message>) {
        let count = messages.len();
        let job = |message| Job { progress: progress.clone(), message };
        self.lock().extend(messages.into_iter().map(job));
        self.count.add_permits(count);
    }

    /// Gives out the message of a queue whose turn it is, if there is one.
    pub(super) fn push_one(&self, progress: &Arc<Progress>, message: Option<Message>) {
        if let Some(message) = message {
            self.lock().push_back(Job { progress: progress.clone(), message });
            self.count.add_permits(1);
        }
    }

    /// The next job; `None` once [`Self::close`] was called.
    async fn next(&self) -> Option<Job> {
        loop {
            self.count.acquire().await.ok()?.forget();
            if let Some(job) = self.lock().pop_front() {
                return Some(job);
            }
        }
    }

    /// Takes up to `most` messages off the front, as long as they are of this queue and epoch.
    /// Their permits wake runners for nothing, once each.
    fn more(&self, progress: &Arc<Progress>, epoch: u32, most: usize) -> Vec<Message> {
        let mut jobs = self.lock();
        let fitting = jobs.iter().take(most).take_while(|job| job.is_of(progress, epoch)).count();
        jobs.drain(..fitting).map(|job| job.message).collect()
    }

    /// Gives out no more; returns how many jobs were waiting.
    pub(super) fn close(&self) -> usize {
        self.count.close();
        std::mem::take(&mut *self.lock()).len()
    }

    /// Forgets the jobs that nobody wants any more, so that they hold no memory. The one job of an
    /// orderly queue stays: its lane goes on when it comes to its end.
    pub(super) fn sweep(&self) {
        self.lock().retain(|job| {
            job.progress.order.is_some() || job.progress.wants(job.message.kept.epoch)
        });
    }

    /// Counts what was pulled.
    pub(super) fn take(&self, load: Load) {
        self.messages.fetch_add(load.messages, Ordering::Relaxed);
        self.bytes.fetch_add(load.bytes, Ordering::Relaxed);
    }

    /// Counts what is through.
    pub(super) fn give(&self, load: Load) {
        let messages = self.messages.fetch_sub(load.messages, Ordering::Relaxed);
        let bytes = self.bytes.fetch_sub(load.bytes, Ordering::Relaxed);
        if messages >= self.most.messages || bytes >= self.most.bytes {
            self.room.notify_waiters();
        }
    }

    /// Returns once less than the limit is under way.
    pub(super) async fn has_room(&self) {
        loop {
            let given = self.room.notified();
            if self.messages.load(Ordering::Relaxed) < self.most.messages
                && self.bytes.load(Ordering::Relaxed) < self.most.bytes
            {
                return;
            }
            given.await;
        }
    }
}

/// Handles job after job, until the queue of jobs is closed.
pub(super) async fn run(group: Arc<Group>) {
    while let Some(Job { progress, message }) = group.ready.next().await {
        let Some(message) = progress.keep(message) else { continue };
        let epoch = message.kept.epoch;
        if progress.start(epoch) {
            let _ending = Ending(&progress);
            let _running = group.running();
            progress.handled_ms.store(group.clock().now_ms(), Ordering::Relaxed);
            let more = group.callee.most() - 1;
            match &progress.order {
                None if more == 0 => handle_one(&group, &progress, message).await,
                None => {
                    let mut messages = group.ready.more(&progress, epoch, more);
                    messages.insert(0, message);
                    handle_batch(&group, &progress, messages).await;
                }
                Some(order) => {
                    let mut messages = order.more(epoch, more);
                    messages.insert(0, message);
                    handle_in_order(&group, &progress, order, messages).await;
                }
            }
        } else if let Some(order) = &progress.order {
            group.ready.push_one(&progress, order.next());
        }
    }
}

/// Says that a handler is through, also when it is cut off.
struct Ending<'a>(&'a Progress);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn handle_one(group: &Group, progress: &Progress, message: Message) {
    let Message { delivery, kept } = message;
    let outcome = call(group, delivery).await;
    settle(group, progress, &kept, outcome).await;
}

async fn handle_batch(group: &Group, progress: &Progress, messages: Vec<Message>) {
    let (deliveries, kept) = messages.into_iter().map(|m| (m.delivery, m.kept)).unzip();
    let kept: Vec<Kept> = kept;
    let outcomes = call_batch(group, deliveries).await;
    for (kept, outcome) in kept.iter().zip(outcomes) {
        settle(group, progress, kept, outcome).await;
    }
}

/// Makes of a message what the handler says.
async fn settle(group: &Group, progress: &Progress, kept: &Kept, outcome: Outcome) {
    let settled = match outcome {
        Outcome::Ack => true,
        Outcome::Retry { cause, .. } | Outcome::DeadLetter { cause } if group.is_broadcasting() => {
            drop_failed(group, progress, kept, &cause)
        }
        Outcome::Retry { delay_level, cause } => {
            give_back(group, &Back { progress, kept, level: delay_level, cause: &cause }).await
        }
        Outcome::DeadLetter { cause } => {
            give_back(group, &Back { progress, kept, level: LEVEL_DEAD, cause: &cause }).await
        }
    };
    if settled {
        group.ready.give(progress.complete(kept.epoch, kept.offset));
    }
}

/// Brokers keep no retries for a broadcasting group: the other members have the message, too.
fn drop_failed(group: &Group, progress: &Progress, kept: &Kept, cause: &str) -> bool {
    let (queue, offset) = (&progress.queue, kept.offset);
    tracing::error!(group = group.name(), %queue, offset, cause, "a message failed and is dropped");
    true
}

/// Handles a queue's messages whose turn it is, and lets the queue go on.
async fn handle_in_order(
    group: &Group,
    progress: &Arc<Progress>,
    order: &Order,
    messages: Vec<Message>,
) {
    let failed = tokio::select! {
        biased;
        // The queue's worker begins anew with what the broker has; see `ordered.rs`.
        () = lost(group, order) => Vec::new(),
        failed = attempt(group, progress, messages) => failed,
    };
    if failed.first().is_some_and(|message| progress.wants(message.kept.epoch)) {
        order.suspend(failed);
    } else {
        group.ready.push_one(progress, order.next());
    }
}

/// Returns when a handler must not go on; never for broadcasting, where queues have no owners.
async fn lost(group: &Group, order: &Order) {
    if group.is_broadcasting() {
        std::future::pending::<()>().await;
    }
    order.lease.lost().await;
    tracing::warn!(group = group.name(), "a queue's lock was lost before its handler was through");
}

/// Calls the handler once. Returns the messages that must come again, in their order: the first one
/// that failed and those behind it.
async fn attempt(group: &Group, progress: &Progress, messages: Vec<Message>) -> Vec<Message> {
    let (deliveries, kept) = messages.into_iter().map(|m| (m.delivery, m.kept)).unzip();
    let kept: Vec<Kept> = kept;
    let outcomes = call_batch(group, deliveries).await;
    let mut left = kept.into_iter();
    for outcome in outcomes {
        let Some(mut kept) = left.next() else { break };
        let outcome = match outcome {
            Outcome::Retry { cause, .. } if is_spent(group, &kept) => Outcome::DeadLetter { cause },
            other => other,
        };
        if let Outcome::Retry { cause, .. } = outcome {
            let (queue, offset, times) = (&progress.queue, kept.offset, kept.attempts);
            tracing::warn!(group = group.name(), %queue, offset, times, cause, "a queue rests");
            kept.attempts = kept.attempts.saturating_add(1);
            return std::iter::once(kept)
                .chain(left)
                .filter_map(|k| k.again(&progress.queue))
                .collect();
        }
        settle(group, progress, &kept, outcome).await;
    }
    Vec::new()
}

/// Has a message been handled as often as the options allow?
fn is_spent(group: &Group, kept: &Kept) -> bool {
    let before = Record::decode(&kept.record, Verify::None).map_or(0, |(r, _)| r.reconsume_times);
    group.options.max_attempts.is_some_and(|max| before.saturating_add(kept.attempts) >= max)
}

/// Calls the handler with one message.
async fn call(group: &Group, delivery: Result<Delivery, CompressionError>) -> Outcome {
    let delivery = match delivery {
        Ok(delivery) => delivery,
        Err(error) => return unreadable(&error),
    };
    call_one(group, delivery).await.unwrap_or_else(failed)
}

/// Calls the handler with one message; the error is a panic or its time-out.
pub(super) async fn call_one(group: &Group, delivery: Delivery) -> Result<Outcome, String> {
    let begun = begin(group, &delivery);
    let outcome = match &group.callee {
        Callee::One(handler) => guarded(group, handler.handle(delivery)).await,
        Callee::Batch { handler, .. } => {
            let outcomes = guarded(group, handler.handle(vec![delivery])).await;
            outcomes.map(|mut outcomes| outcomes.drain(..).next().unwrap_or_else(untold))
        }
    };
    end(group, begun, outcome == Ok(Outcome::Ack));
    outcome
}

/// Notes that a message's handling begins, where traces are written.
fn begin<'a>(group: &'a Group, delivery: &Delivery) -> Option<Traced<'a>> {
    let tracer = group.client.0.tracer.as_ref()?;
    let request = group.client.0.keys.next();
    tracer.begin(delivery, group.name(), request.as_str(), group.clock().now_ms())
}

fn end(group: &Group, begun: Option<Traced<'_>>, success: bool) {
    if let Some(begun) = begun {
        begun.end(success, group.clock().now_ms());
    }
}

/// Calls the handler with messages of one queue; returns an outcome for each.
async fn call_batch(
    group: &Group,
    mut deliveries: Vec<Result<Delivery, CompressionError>>,
) -> Vec<Outcome> {
    let handler = match &group.callee {
        Callee::Batch { handler, .. } if deliveries.len() > 1 => handler,
        _ => {
            let mut outcomes = Vec::with_capacity(1);
            for delivery in deliveries.drain(..) {
                outcomes.push(call(group, delivery).await);
            }
            return outcomes;
        }
    };
    let errors: Vec<Option<Outcome>> =
        deliveries.iter().map(|delivery| delivery.as_ref().err().map(unreadable)).collect();
    let readable: Vec<Delivery> = deliveries.into_iter().filter_map(Result::ok).collect();
    let begun: Vec<_> = readable.iter().map(|delivery| begin(group, delivery)).collect();
    let told = guarded(group, handler.handle(readable)).await;
    let (told, cause) = match told {
        Ok(told) => (told, None),
        Err(cause) => (Vec::new(), Some(cause)),
    };
    for (begun, index) in begun.into_iter().zip(0..) {
        end(group, begun, told.get(index) == Some(&Outcome::Ack));
    }
    let mut told = told.into_iter();
    let missing = || cause.clone().map_or_else(untold, failed);
    errors.into_iter().map(|e| e.or_else(|| told.next()).unwrap_or_else(missing)).collect()
}

/// A panic and a handler without end are failures like any other.
async fn guarded<T>(group: &Group, handling: impl Future<Output = T>) -> Result<T, String> {
    let timeout = group.options.consume_timeout;
    tokio::select! {
        biased;
        handled = AssertUnwindSafe(handling).catch_unwind() => {
            handled.map_err(|panic| panic_text(&*panic))
        }
        () = group.clock().sleep(timeout) => Err(format!("not handled within {timeout:?}")),
    }
}

fn failed(cause: String) -> Outcome {
    Outcome::Retry { delay_level: 0, cause }
}

fn untold() -> Outcome {
    failed("the handler gave no outcome for this message".to_owned())
}

fn unreadable(error: &CompressionError) -> Outcome {
    Outcome::DeadLetter { cause: format!("its body cannot be read: {error}") }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("without a text"))
}

/// A message that is to come again later, or to be given up.
struct Back<'a> {
    progress: &'a Progress,
    kept: &'a Kept,
    level: i32,
    cause: &'a str,
}

/// Gives a message back to the broker, however long that takes. False: the queue is no longer ours,
/// so that its new owner gets the message anyway.
async fn give_back(group: &Group, back: &Back<'_>) -> bool {
    let (queue, cause) = (&back.progress.queue, back.cause);
    let record = match Record::decode(&back.kept.record, Verify::None) {
        Ok((record, _)) => record,
        Err(error) => {
            // It could be decoded a moment ago.
            tracing::error!(%error, %queue, "a message that failed cannot be read again");
            return false;
        }
    };
    let (offset, times) = (record.queue_offset, record.reconsume_times);
    let fate = if back.level == LEVEL_DEAD { "dead letter" } else { "retry" };
    tracing::warn!(group = group.name(), %queue, offset, times, cause, fate, "a message failed");
    while back.progress.wants(back.kept.epoch) {
        let refused = match send_back(group, back, &record).await {
            Ok(()) => return true,
            Err(refused) => refused,
        };
        let failed = match send_again(group, back, &record).await {
            Ok(()) => return true,
            Err(failed) => failed,
        };
        tracing::warn!(%refused, %failed, %queue, offset, "a message could not be given back yet");
        tokio::time::sleep(SEND_BACK_PAUSE).await;
    }
    false
}

/// Asks the message's broker to store it again.
async fn send_back(group: &Group, back: &Back<'_>, record: &Record<'_>) -> Result<(), Error> {
    let (msg_id, cause) = (record.offset_msg_id(), properties::one_line(back.cause));
    let header = ConsumerSendMsgBackRequest {
        offset: record.physical_offset,
        group: group.name(),
        delay_level: back.level,
        origin_msg_id: Some(&msg_id),
        origin_topic: Some(record.topic),
        unit_mode: Some(false),
        max_reconsume_times: group.options.max_attempts,
        cause: Some(&cause),
    };
    let request = group.client.form(Command::with(RequestCode::ConsumerSendMsgBack, &header));
    let remote = group.client.master(&back.progress.queue.broker_name).await?;
    let answer = remote.call(request, SEND_BACK_TIMEOUT).await?;
    match answer.response_code() {
        ResponseCode::Success => Ok(()),
        _ => Err(refused(&answer)),
    }
}

/// The other way: sends the message to the group's retry topic as a new one. The broker moves it on
/// to the dead letters when it has been handled too often.
async fn send_again(group: &Group, back: &Back<'_>, record: &Record<'_>) -> Result<(), Error> {
    let times = record.reconsume_times.saturating_add(1);
    let mut properties = again(record, back.level);
    let reconsumed = match (back.level, group.options.max_attempts) {
        // More often than was allowed.
        (LEVEL_DEAD, _) => (times, Some(times.saturating_sub(1))),
        (_, max) => (times, max),
    };
    if reconsumed.1.is_some_and(|max| times >= max) {
        properties.set_cause(back.cause);
    }
    let message = Outgoing {
        topic: group.retry_topic.to_string(),
        body: back.kept.record.slice_ref(record.body),
        properties,
        flag: record.flag,
    };
    group.inner.send_again(message, record.sys_flag, reconsumed).await.map(drop)
}

/// The properties of a message that is sent again: its own, where it came from, and when it is due.
fn again(record: &Record<'_>, level: i32) -> Properties {
    let mut properties = Properties::from_wire(record.properties.to_owned());
    for gone in
        [key::CRC32, key::TRAN_MSG, key::DELAY, key::REAL_TOPIC, key::REAL_QID, key::DLQ_CAUSE]
    {
        properties.remove(gone);
    }
    if properties.get(key::RETRY_TOPIC).is_none() {
        properties.push(key::RETRY_TOPIC, record.topic);
    }
    if properties.get(key::ORIGIN_MESSAGE_ID).is_none() {
        properties.push(key::ORIGIN_MESSAGE_ID, &record.offset_msg_id());
    }
    let level = if level > 0 { level } else { LEVEL_FIRST.saturating_add(record.reconsume_times) };
    properties.push(key::DELAY, &level.to_string());
    properties
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::{NewRecord, Position};

    #[test]
    fn what_is_sent_again_says_where_it_came_from() {
        let host = "10.0.0.1:10911".parse().unwrap();
        let record = NewRecord {
            topic: "T",
            queue_id: 1,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: host,
            store_host: host,
            reconsume_times: 2,
            prepared_transaction_offset: 0,
            body: b"x",
            properties: "UNIQ_KEY\u{1}U\u{2}DELAY\u{1}4\u{2}",
        };
        let mut bytes = Vec::new();
        let position = Position { physical_offset: 7, queue_offset: 3, store_timestamp_ms: 9 };
        record.encode(&mut bytes, position);
        let (record, _) = Record::decode(&bytes, Verify::Whole).unwrap();
        let properties = again(&record, 0);
        assert_eq!(properties.unique_key(), Some("U"));
        assert_eq!(properties.get(key::RETRY_TOPIC), Some("T"));
        assert_eq!(properties.delay_level(), 5);
        let origin = properties.get(key::ORIGIN_MESSAGE_ID).unwrap();
        assert_eq!(origin, record.offset_msg_id());
        assert_eq!(properties.get(key::CRC32), None);
        assert_eq!(again(&record, 7).delay_level(), 7);
    }
}
