//! What a member of a group does at a moment, for the application and for brokers that ask; pausing
//! it. Not here: how questions come (`answers.rs`), consuming (`consumer.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::answers::{Asked, Manner};
use super::consumer::{ConsumeMode, Consumer, Group, Outcome};
use super::handling;
use super::worker::Progress;
use crate::clock::millis;
use crate::error::Error;
use crate::message::Delivery;
use crate::names::MessageQueue;
use crate::protocol::body::{
    ConsumeMessageDirectlyResult, ConsumerRunningInfo, ProcessQueueInfo, QueueMap,
};

const MIB: usize = 1024 * 1024;

/// What a consumer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerStatus {
    /// [`Consumer::pause`] was called, and [`Consumer::resume`] was not.
    pub paused: bool,
    /// Handlers that run.
    pub running: usize,
    /// The queues it has.
    pub queues: Vec<QueueStatus>,
}

/// How a consumer is with one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// The queue.
    pub queue: MessageQueue,
    /// No handler begins with its messages.
    pub paused: bool,
    /// In orderly consumption: its lock is held.
    pub locked: bool,
    /// The offset to pull next, once it is known.
    pub pull_offset: Option<i64>,
    /// All before this offset is done.
    pub commit_offset: Option<i64>,
    /// Messages that were pulled and are not done.
    pub cached_messages: usize,
    /// Bytes of these messages.
    pub cached_bytes: usize,
    /// When it was pulled last, in milliseconds since the epoch.
    pub last_pull_ms: Option<i64>,
    /// When a handler began with one of its messages last.
    pub last_consume_ms: Option<i64>,
}

impl Consumer {
    /// What the consumer does now.
    #[must_use]
    pub fn status(&self) -> ConsumerStatus {
        let progresses = self.group.progresses();
        ConsumerStatus {
            paused: self.group.paused.load(Ordering::Acquire),
            running: self.group.running_handlers(),
            queues: progresses.iter().map(|progress| status_of(progress)).collect(),
        }
    }

    /// No handler begins from now on; those that run come to their end. The consumer stays a member
    /// of its group and keeps its queues.
    pub fn pause(&self) {
        self.group.paused.store(true, Ordering::Release);
        self.group.progresses().iter().for_each(|progress| self.set_paused(progress, true));
    }

    /// All queues go on.
    pub fn resume(&self) {
        self.group.paused.store(false, Ordering::Release);
        self.group.progresses().iter().for_each(|progress| self.set_paused(progress, false));
    }

    /// No handler begins with messages of these queues, until they are resumed or dealt anew.
    ///
    /// # Errors
    /// [`Error::Config`] for a queue that this member does not have.
    pub fn pause_queues(&self, queues: &[MessageQueue]) -> Result<(), Error> {
        self.set_queues_paused(queues, true)
    }

    /// The opposite of [`Self::pause_queues`].
    ///
    /// # Errors
    /// As [`Self::pause_queues`].
    pub fn resume_queues(&self, queues: &[MessageQueue]) -> Result<(), Error> {
        self.set_queues_paused(queues, false)
    }

    fn set_queues_paused(&self, queues: &[MessageQueue], on: bool) -> Result<(), Error> {
        let progresses = self.group.progresses();
        for queue in queues {
            let progress = progresses.iter().find(|progress| progress.queue == *queue);
            let progress = progress.ok_or_else(|| {
                let group = self.group.name();
                Error::Config(format!("{queue} is not with this member of `{group}`: see status"))
            })?;
            self.set_paused(progress, on);
        }
        Ok(())
    }

    fn set_paused(&self, progress: &Arc<Progress>, on: bool) {
        let kept = progress.set_paused(on);
        if !kept.is_empty() {
            self.group.ready.push(progress, kept);
        }
    }
}

fn status_of(progress: &Progress) -> QueueStatus {
    let snapshot = progress.snapshot();
    QueueStatus {
        queue: progress.queue.clone(),
        paused: snapshot.paused,
        locked: is_locked(progress),
        pull_offset: Some(snapshot.next).filter(|offset| *offset >= 0),
        commit_offset: snapshot.committable,
        cached_messages: snapshot.load.messages,
        cached_bytes: snapshot.load.bytes,
        last_pull_ms: time(&progress.pulled_ms),
        last_consume_ms: time(&progress.handled_ms),
    }
}

fn is_locked(progress: &Progress) -> bool {
    progress.order.as_ref().is_some_and(|order| order.lease.is_valid())
}

fn time(at_ms: &AtomicI64) -> Option<i64> {
    Some(at_ms.load(Ordering::Relaxed)).filter(|at_ms| *at_ms > 0)
}

impl Asked for Group {
    fn offsets(&self) -> QueueMap<i64> {
        let progresses = self.progresses();
        let known = progresses
            .iter()
            .filter_map(|progress| Some((progress.queue.clone(), progress.committable()?)));
        known.collect()
    }

    fn running_info(&self) -> ConsumerRunningInfo {
        let manner = Manner {
            consume_type: "CONSUME_PASSIVELY",
            concurrency: self.options.concurrency,
            orderly: self.options.mode == ConsumeMode::Orderly,
            started_ms: self.version_ms,
        };
        let progresses = self.progresses();
        let queues = progresses.iter().map(|progress| (progress.queue.clone(), info_of(progress)));
        ConsumerRunningInfo {
            properties: self.client.running_properties(&manner),
            subscription_set: self.membership.data.subscription_data_set.clone(),
            mq_table: queues.collect(),
            ..ConsumerRunningInfo::default()
        }
    }

    fn handle(
        self: Arc<Self>,
        delivery: Delivery,
    ) -> Option<BoxFuture<'static, ConsumeMessageDirectlyResult>> {
        Some(Box::pin(async move {
            let started = Instant::now();
            let outcome = handling::call_one(&self, delivery).await;
            let (consume_result, remark) = match outcome {
                Ok(Outcome::Ack) => ("CR_SUCCESS", None),
                Ok(Outcome::Retry { cause, .. } | Outcome::DeadLetter { cause }) => {
                    ("CR_LATER", Some(cause))
                }
                Err(cause) => ("CR_THROW_EXCEPTION", Some(cause)),
            };
            ConsumeMessageDirectlyResult {
                order: self.options.mode == ConsumeMode::Orderly,
                auto_commit: true,
                consume_result: consume_result.to_owned(),
                remark,
                spent_time_mills: millis(started.elapsed()),
            }
        }))
    }
}

fn info_of(progress: &Progress) -> ProcessQueueInfo {
    let snapshot = progress.snapshot();
    let cached = snapshot.load.messages > 0;
    let of_cached = |offset: i64| if cached { offset } else { 0 };
    ProcessQueueInfo {
        commit_offset: snapshot.committable.unwrap_or(-1),
        cached_msg_min_offset: of_cached(snapshot.committable.unwrap_or(0)),
        cached_msg_max_offset: of_cached(snapshot.next - 1),
        cached_msg_count: i32::try_from(snapshot.load.messages).unwrap_or(i32::MAX),
        cached_msg_size_in_mi_b: i32::try_from(snapshot.load.bytes / MIB).unwrap_or(i32::MAX),
        locked: is_locked(progress),
        droped: snapshot.released,
        last_pull_timestamp: progress.pulled_ms.load(Ordering::Relaxed),
        last_consume_timestamp: progress.handled_ms.load(Ordering::Relaxed),
        ..ProcessQueueInfo::default()
    }
}
