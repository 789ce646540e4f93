//! From a pulled message to its end: the jobs that wait for a handler, the runners that call it,
//! and what its outcome makes of the message. Not here: pulling (`worker.rs`), which queues are
//! ours (`consumer.rs`).
//!
//! Invariants: a message ends by being handled, or by the broker's word that it has it again (retry
//! or dead letter); nothing else completes it in its window. A handler that panics or takes too
//! long has failed, no more. As many messages are handled at once as there are runners.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore};

use super::consumer::{Group, Outcome};
use super::refused;
use super::worker::Progress;
use crate::error::Error;
use crate::message::{Delivery, Outgoing};
use crate::properties::{Properties, key};
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::compression::CompressionError;
use crate::protocol::header::ConsumerSendMsgBackRequest;
use crate::protocol::record::{Record, Verify};

/// Pulled bytes that may wait in one consumer, over all its queues.
const WAITING_BYTES_MAX: usize = 100 * 1024 * 1024;
const SEND_BACK_TIMEOUT: Duration = Duration::from_secs(5);
/// The rest before a message that could not be given back is offered again.
const SEND_BACK_PAUSE: Duration = Duration::from_secs(1);
/// RocketMQ's mark for "to the dead letters".
const LEVEL_DEAD: i32 = -1;
/// The level of the first retry, where the broker is left to decide.
const LEVEL_FIRST: i32 = 3;

/// A message on its way to a handler.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) progress: Arc<Progress>,
    pub(super) epoch: u32,
    pub(super) offset: i64,
    pub(super) delivery: Result<Delivery, CompressionError>,
    /// The whole record, should it have to go back.
    pub(super) record: Bytes,
}

/// Jobs that wait for a runner, in the order they came.
#[derive(Debug)]
pub(super) struct Ready {
    jobs: Mutex<VecDeque<Job>>,
    /// One permit a job.
    count: Semaphore,
    bytes: AtomicUsize,
    room: Notify,
}

impl Ready {
    pub(super) fn new() -> Self {
        Self {
            jobs: Mutex::default(),
            count: Semaphore::new(0),
            bytes: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, jobs: Vec<Job>) {
        let count = jobs.len();
        self.lock().extend(jobs);
        self.count.add_permits(count);
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

    /// Gives out no more; returns how many jobs were waiting.
    pub(super) fn close(&self) -> usize {
        self.count.close();
        std::mem::take(&mut *self.lock()).len()
    }

    /// Forgets the jobs that nobody wants any more, so that they hold no memory.
    pub(super) fn sweep(&self) {
        self.lock().retain(|job| job.progress.wants(job.epoch));
    }

    /// Counts bytes that were pulled.
    pub(super) fn take(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that are through.
    pub(super) fn give(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if before >= WAITING_BYTES_MAX {
            self.room.notify_waiters();
        }
    }

    /// Returns once less than the limit is waiting.
    pub(super) async fn has_room(&self) {
        loop {
            let given = self.room.notified();
            if self.bytes.load(Ordering::Relaxed) < WAITING_BYTES_MAX {
                return;
            }
            given.await;
        }
    }
}

/// Handles job after job, until the queue of jobs is closed.
pub(super) async fn run(group: Arc<Group>) {
    while let Some(job) = group.ready.next().await {
        if !job.progress.start(job.epoch) {
            continue;
        }
        let progress = job.progress.clone();
        let _ending = Ending(&progress);
        let _running = group.running();
        handle(&group, job).await;
    }
}

/// Says that a handler is through, also when it is cut off.
struct Ending<'a>(&'a Progress);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn handle(group: &Group, job: Job) {
    let Job { progress, epoch, offset, delivery, record } = job;
    let outcome = match delivery {
        Ok(delivery) => call(group, delivery).await,
        Err(error) => Outcome::DeadLetter { cause: format!("its body cannot be read: {error}") },
    };
    let given = match outcome {
        Outcome::Ack => true,
        Outcome::Retry { delay_level, cause } => {
            let back = Back { progress: &progress, epoch, record: &record, level: delay_level };
            give_back(group, &back, &cause).await
        }
        Outcome::DeadLetter { cause } => {
            let back = Back { progress: &progress, epoch, record: &record, level: LEVEL_DEAD };
            give_back(group, &back, &cause).await
        }
    };
    if given {
        group.ready.give(progress.complete(epoch, offset));
    }
}

/// Calls the handler; a panic and a handler without end are failures like any other.
async fn call(group: &Group, delivery: Delivery) -> Outcome {
    let handled = AssertUnwindSafe(group.handler.handle(delivery)).catch_unwind();
    let timeout = group.options.consume_timeout;
    tokio::select! {
        biased;
        outcome = handled => outcome.unwrap_or_else(|panic| failed(panic_text(&*panic))),
        () = group.clock().sleep(timeout) => failed(format!("not handled within {timeout:?}")),
    }
}

fn failed(cause: String) -> Outcome {
    Outcome::Retry { delay_level: 0, cause }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("without a text"))
}

/// A message that is to come again later, or to be given up.
struct Back<'a> {
    progress: &'a Progress,
    epoch: u32,
    record: &'a Bytes,
    level: i32,
}

/// Gives a message back to the broker, however long that takes. False: the queue is no longer ours,
/// so that its new owner gets the message anyway.
async fn give_back(group: &Group, back: &Back<'_>, cause: &str) -> bool {
    let queue = &back.progress.queue;
    let record = match Record::decode(back.record, Verify::None) {
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
    while back.progress.wants(back.epoch) {
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
    let msg_id = record.offset_msg_id();
    let header = ConsumerSendMsgBackRequest {
        offset: record.physical_offset,
        group: group.name(),
        delay_level: back.level,
        origin_msg_id: Some(&msg_id),
        origin_topic: Some(record.topic),
        unit_mode: Some(false),
        max_reconsume_times: Some(group.options.max_attempts),
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
    let max = group.options.max_attempts;
    let times = record.reconsume_times.saturating_add(1);
    let times = if back.level == LEVEL_DEAD { times.max(max.saturating_add(1)) } else { times };
    let message = Outgoing {
        topic: group.retry_topic.to_string(),
        body: back.record.slice_ref(record.body),
        properties: again(record, back.level),
        flag: record.flag,
    };
    group.inner.send_again(message, record.sys_flag, (times, max)).await.map(drop)
}

/// The properties of a message that is sent again: its own, where it came from, and when it is due.
fn again(record: &Record<'_>, level: i32) -> Properties {
    let mut properties = Properties::from_wire(record.properties.to_owned());
    for gone in [key::CRC32, key::TRAN_MSG, key::DELAY, key::REAL_TOPIC, key::REAL_QID] {
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
