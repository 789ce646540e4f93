//! `Lane`: one queue of a pull consumer, pulled ahead of its polls, and how far it is. Not here:
//! which queues there are, when offsets are told (`pull_consumer.rs`).
//!
//! Invariants: messages of before a seek are never given out; what waits is limited by count and
//! bytes, which one pull may exceed once; a record that cannot be read costs itself and is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::pull_consumer::Shared;
use super::queries::{Pull, Pulled};
use super::{offsets, worker};
use crate::error::Error;
use crate::message::Delivery;
use crate::names::MessageQueue;
use crate::protocol::body::{ProcessQueueInfo, SubscriptionData};
use crate::protocol::code::ResponseCode;
use crate::protocol::record::{Record, Verify};

/// How long the broker may hold a pull that finds nothing.
const HOLD: Duration = Duration::from_secs(20);
/// The rest after a pull that was refused, or a first offset that is not known.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// The rest after a pull that got no answer.
const LOST_PAUSE: Duration = Duration::from_millis(100);
/// Another member may own the queue until now; in this time it tells how far it is.
const HANDOVER_PAUSE: Duration = Duration::from_millis(300);
const UNKNOWN: i64 = -1;

/// One queue.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) queue: MessageQueue,
    wanted: SubscriptionData,
    held: Mutex<Held>,
    /// There is room again, or the place has changed.
    changed: Notify,
}

#[derive(Debug)]
struct Held {
    /// Grows with every seek.
    epoch: u32,
    /// The offset to pull next.
    next: i64,
    /// The offset that may be told.
    passed: i64,
    /// The offset told last.
    told: i64,
    paused: bool,
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    offset: i64,
    bytes: usize,
    delivery: Delivery,
}

impl Lane {
    pub(super) fn new(queue: MessageQueue, wanted: SubscriptionData) -> Self {
        let held = Held {
            epoch: 0,
            next: UNKNOWN,
            passed: UNKNOWN,
            told: UNKNOWN,
            paused: false,
            waiting: VecDeque::new(),
            bytes: 0,
        };
        Self { queue, wanted, held: Mutex::new(held), changed: Notify::new() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on at `offset`; what was pulled is dropped.
    pub(super) fn seek(&self, offset: i64) {
        self.held().seek(offset);
        self.changed.notify_one();
    }

    pub(super) fn pause(&self, paused: bool) {
        self.held().paused = paused;
        self.changed.notify_one();
    }

    /// Whatever was given out may be told from now on.
    pub(super) fn pass(&self) {
        let mut held = self.held();
        held.passed = held.waiting.front().map_or(held.next, |first| first.offset);
    }

    /// The offset to tell, if it is news.
    pub(super) fn untold(&self) -> Option<i64> {
        let held = self.held();
        Some(held.passed).filter(|passed| *passed >= 0 && *passed != held.told)
    }

    /// The broker has heard this offset.
    pub(super) fn told(&self, offset: i64) {
        self.held().told = offset;
    }

    /// What a poll or a commit has made of it.
    pub(super) fn passed(&self) -> Option<i64> {
        Some(self.held().passed).filter(|passed| *passed >= 0)
    }

    /// What waits for polls, as tools read it.
    pub(super) fn info(&self) -> ProcessQueueInfo {
        let held = self.held();
        let offset = |waiting: Option<&Waiting>| waiting.map_or(0, |waiting| waiting.offset);
        ProcessQueueInfo {
            commit_offset: held.passed,
            cached_msg_min_offset: offset(held.waiting.front()),
            cached_msg_max_offset: offset(held.waiting.back()),
            cached_msg_count: i32::try_from(held.waiting.len()).unwrap_or(i32::MAX),
            cached_msg_size_in_mi_b: i32::try_from(held.bytes >> 20).unwrap_or(i32::MAX),
            ..ProcessQueueInfo::default()
        }
    }

    /// Up to `max` messages, unless the queue is paused.
    pub(super) fn take(&self, max: usize) -> Vec<Delivery> {
        let mut held = self.held();
        if held.paused {
            return Vec::new();
        }
        let count = held.waiting.len().min(max);
        let taken: Vec<Waiting> = held.waiting.drain(..count).collect();
        held.bytes -= taken.iter().map(|waiting| waiting.bytes).sum::<usize>();
        drop(held);
        if count > 0 {
            self.changed.notify_one();
        }
        taken.into_iter().map(|waiting| waiting.delivery).collect()
    }

    /// Waits until there is room; the epoch and the offset to pull.
    async fn room(&self, shared: &Shared) -> (u32, i64) {
        loop {
            let changed = self.changed.notified();
            {
                let held = self.held();
                let room = held.waiting.len() < shared.options.prefetch_messages
                    && held.bytes < shared.options.prefetch_bytes;
                if room && !held.paused {
                    return (held.epoch, held.next);
                }
            }
            changed.await;
        }
    }

    async fn moved(&self, epoch: u32) {
        loop {
            let changed = self.changed.notified();
            if self.held().epoch != epoch {
                return;
            }
            changed.await;
        }
    }
}

impl Held {
    fn seek(&mut self, offset: i64) {
        self.epoch = self.epoch.wrapping_add(1);
        (self.next, self.passed) = (offset, offset);
        self.waiting.clear();
        self.bytes = 0;
    }

    /// Takes a message in, unless its offset was passed before.
    fn enter(&mut self, offset: i64, bytes: usize, delivery: Delivery) {
        if offset >= self.next {
            self.waiting.push_back(Waiting { offset, bytes, delivery });
            self.bytes += bytes;
        }
    }
}

/// Pulls a queue ahead until it is aborted. `shared_out`: another member may have had it until now.
pub(super) async fn fetch(shared: Arc<Shared>, lane: Arc<Lane>, shared_out: bool) {
    if shared_out {
        tokio::time::sleep(HANDOVER_PAUSE).await;
    }
    begin(&shared, &lane).await;
    let mut fetcher =
        Fetcher { shared: &shared, lane: &lane, reader: 0, alone: false, failing: false };
    loop {
        fetcher.step().await;
    }
}

/// Finds the first offset, unless a seek has said it meanwhile.
async fn begin(shared: &Shared, lane: &Lane) {
    let (queue, group) = (&lane.queue, shared.group());
    while lane.held().next == UNKNOWN {
        match offsets::first(&shared.client, group, queue, shared.options.from).await {
            Ok(first) => {
                let mut held = lane.held();
                if held.next == UNKNOWN {
                    held.seek(first.offset);
                    held.told = if first.kept { first.offset } else { UNKNOWN };
                }
            }
            Err(failed) => {
                tracing::warn!(%failed, %queue, group, "no first offset yet");
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
    }
}

struct Fetcher<'a> {
    shared: &'a Shared,
    lane: &'a Lane,
    /// The broker id to pull from, as the broker suggests it.
    reader: i64,
    /// One message is pulled at a time, since a record could not be read.
    alone: bool,
    failing: bool,
}

impl Fetcher<'_> {
    async fn step(&mut self) {
        let (epoch, offset) = self.lane.room(self.shared).await;
        let pull = Pull {
            group: self.shared.group(),
            queue: &self.lane.queue,
            offset,
            max: if self.alone { 1 } else { self.shared.options.pull_batch },
            reader: self.reader,
            wanted: &self.lane.wanted,
            hold: HOLD,
        };
        let pulled = tokio::select! {
            () = self.lane.moved(epoch) => return,
            pulled = self.shared.client.pull_once(&pull) => pulled,
        };
        match pulled {
            Ok(pulled) => self.take(epoch, offset, &pulled).await,
            Err(failed) => self.rest_after(&failed).await,
        }
    }

    async fn take(&mut self, epoch: u32, asked: i64, pulled: &Pulled) {
        self.failing = false;
        self.reader = pulled.header.suggest_which_broker_id;
        let next = pulled.header.next_begin_offset;
        if pulled.code == ResponseCode::PullOffsetMoved {
            return self.move_to(epoch, asked, next).await;
        }
        let mut held = self.lane.held();
        if held.epoch != epoch {
            return;
        }
        let next = match pulled.code {
            ResponseCode::Success => self.enter(&mut held, asked, pulled),
            _ => next,
        };
        held.next = held.next.max(next);
        drop(held);
        self.shared.arrived.notify_one();
    }

    /// The broker has nothing at this offset, or wants the group to go on elsewhere.
    async fn move_to(&self, epoch: u32, from: i64, to: i64) {
        let queue = &self.lane.queue;
        tracing::warn!(%queue, group = self.shared.group(), from, to, "the offset was moved");
        {
            let mut held = self.lane.held();
            if held.epoch == epoch {
                held.seek(to);
            }
        }
        // Told even before anything is given out there: the old place is gone.
        if let Err(failed) = self.shared.tell(self.lane).await {
            tracing::debug!(%failed, %queue, "an offset was not told");
        }
        tokio::time::sleep(LOST_PAUSE).await;
    }

    /// Takes the wanted messages in; returns where to pull next.
    fn enter(&mut self, held: &mut Held, asked: i64, pulled: &Pulled) -> i64 {
        let mut rest = pulled.records.clone();
        let mut expected = asked;
        while !rest.is_empty() {
            match Record::decode(&rest, Verify::None) {
                Ok((record, size)) => {
                    expected = record.queue_offset.saturating_add(1);
                    if self.wants(&record) {
                        self.enter_one(held, &record, &rest.slice(..size));
                    }
                    rest = rest.slice(size..);
                }
                Err(error) => return self.after_bad(expected, &error),
            }
        }
        self.alone = false;
        pulled.header.next_begin_offset.max(expected)
    }

    fn enter_one(&self, held: &mut Held, record: &Record<'_>, source: &Bytes) {
        let (queue, offset) = (&self.lane.queue, record.queue_offset);
        match Delivery::from_record(record, source, queue) {
            Ok(delivery) => held.enter(offset, source.len(), delivery),
            Err(error) => passed_over(queue, offset, self.shared.group(), &error),
        }
    }

    /// Brokers filter by hash codes, which different tags may share.
    fn wants(&self, record: &Record<'_>) -> bool {
        let tags = &self.lane.wanted.tags_set;
        tags.is_empty() || worker::tag(record).is_some_and(|tag| tags.contains(tag))
    }

    /// A record that cannot be read hides those behind it: it is pulled again alone, and passed
    /// over when it is really the one.
    fn after_bad(&mut self, offset: i64, error: &dyn std::error::Error) -> i64 {
        if std::mem::replace(&mut self.alone, true) {
            self.alone = false;
            passed_over(&self.lane.queue, offset, self.shared.group(), error);
            return offset.saturating_add(1);
        }
        offset
    }

    async fn rest_after(&mut self, failed: &Error) {
        let (queue, group) = (&self.lane.queue, self.shared.group());
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(%failed, %queue, group, "a pull failed again");
        } else {
            tracing::warn!(%failed, %queue, group, "a pull failed and is tried again");
        }
        let pause = match failed {
            Error::Refused { .. } => REFUSED_PAUSE,
            _ => LOST_PAUSE,
        };
        tokio::time::sleep(pause).await;
    }
}

fn passed_over(queue: &MessageQueue, offset: i64, group: &str, error: &dyn std::error::Error) {
    tracing::error!(
        %error, %queue, offset, group,
        "a message cannot be read and is passed over; it stays in the broker's log"
    );
}
