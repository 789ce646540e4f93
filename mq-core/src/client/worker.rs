//! One assigned queue: where to begin, the pulls, and how far its messages are. Not here: calling
//! handlers (`handling.rs`), which queues are ours (`consumer.rs`), locks (`ordered.rs`).
//!
//! Invariants: nothing is committed before the first offset is known; a queue that was released or
//! repositioned takes no messages of before; a record that cannot be read costs at most itself, and
//! is told.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::consumer::Group;
use super::handling::Message;
use super::offsets::First;
use super::ordered::{self, Order};
use super::refused;
use super::window::{Load, Window};
use crate::error::Error;
use crate::names::MessageQueue;
use crate::properties::{self, key};
use crate::protocol::body::SubscriptionData;
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::header::{PullRequest, PullResponse};
use crate::protocol::record::{Record, Verify};
use crate::watermark::Watermark;

/// How long the broker may hold a pull that finds nothing.
const SUSPEND: Duration = Duration::from_secs(15);
const PULL_TIMEOUT: Duration = Duration::from_secs(30);
/// The rest after a pull that was refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// The rest after a pull that got no answer.
const LOST_PAUSE: Duration = Duration::from_millis(100);
/// Other members may own the queue until now; in this time they finish and commit, so that little
/// is handled twice.
const HANDOVER_PAUSE: Duration = Duration::from_millis(300);
const UNKNOWN: i64 = -1;

const FLAG_SUSPEND: i32 = 2;

/// How far the messages of one assigned queue are.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) queue: MessageQueue,
    /// In orderly consumption.
    pub(super) order: Option<Order>,
    window: Mutex<Window>,
    /// What may be pulled and unfinished.
    most: Load,
    /// A message was finished, or the queue was repositioned.
    changed: Notify,
    released: AtomicBool,
    paused: AtomicBool,
    pause: Mutex<Pause>,
    /// When it was pulled and when a handler began, last.
    pub(super) pulled_ms: AtomicI64,
    pub(super) handled_ms: AtomicI64,
    /// Handlers that have a message of this queue.
    running: AtomicUsize,
    idle: Notify,
    /// The offset told to the broker last.
    committed: AtomicI64,
    /// At 1 nothing of a released queue is left to do.
    pub(super) left: Watermark,
}

/// What a paused queue keeps from handlers.
#[derive(Debug, Default)]
struct Pause {
    on: bool,
    kept: Vec<Message>,
}

/// How a queue stands at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    pub(super) paused: bool,
    pub(super) released: bool,
    /// The offset to pull next.
    pub(super) next: i64,
    pub(super) committable: Option<i64>,
    /// Messages that were pulled and are not done.
    pub(super) load: Load,
}

impl Progress {
    pub(super) fn new(queue: MessageQueue, most: Load, order: Option<Order>) -> Self {
        Self {
            queue,
            order,
            most,
            left: Watermark::new(0),
            window: Mutex::new(Window::starting_at(UNKNOWN)),
            changed: Notify::new(),
            released: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            pause: Mutex::default(),
            pulled_ms: AtomicI64::new(0),
            handled_ms: AtomicI64::new(0),
            running: AtomicUsize::new(0),
            idle: Notify::new(),
            committed: AtomicI64::new(UNKNOWN),
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is a message of this epoch still to be handled here?
    pub(super) fn wants(&self, epoch: u32) -> bool {
        !self.released.load(Ordering::Acquire) && self.window().epoch() == epoch
    }

    /// Begins handling a message, unless it is not wanted any more. Must be followed by
    /// [`Self::end`].
    pub(super) fn start(&self, epoch: u32) -> bool {
        // Counted first: who releases the queue then either sees the handler or is seen by it.
        self.running.fetch_add(1, Ordering::AcqRel);
        let wanted = self.wants(epoch);
        if !wanted {
            self.end();
        }
        wanted
    }

    pub(super) fn end(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Pauses the queue or lets it go on; returns the messages that were kept meanwhile.
    pub(super) fn set_paused(&self, on: bool) -> Vec<Message> {
        let mut pause = self.pause();
        pause.on = on;
        self.paused.store(on, Ordering::Release);
        let kept = if on { Vec::new() } else { std::mem::take(&mut pause.kept) };
        drop(pause);
        self.changed.notify_one();
        kept
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Keeps a message from handlers, or gives it back when the queue is not paused.
    pub(super) fn keep(&self, message: Message) -> Option<Message> {
        if !self.is_paused() {
            return Some(message);
        }
        let mut pause = self.pause();
        if !pause.on {
            return Some(message);
        }
        pause.kept.push(message);
        None
    }

    /// How many messages are kept.
    pub(super) fn kept(&self) -> usize {
        self.pause().kept.len()
    }

    fn pause(&self) -> MutexGuard<'_, Pause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is kept. The one message that is out of an orderly queue stays: its lane goes
    /// on when it comes to its end.
    fn forget_kept(&self) {
        if self.order.is_none() {
            self.pause().kept.clear();
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let window = self.window();
        Snapshot {
            paused: self.is_paused(),
            released: self.released.load(Ordering::Acquire),
            next: window.next(),
            committable: Some(window.committable()).filter(|offset| *offset >= 0),
            load: window.load(),
        }
    }

    /// Finishes a message; returns what it held.
    pub(super) fn complete(&self, epoch: u32, offset: i64) -> Load {
        let (load, had_room) = {
            let mut window = self.window();
            let had_room = window.has_room(self.most);
            (window.complete(epoch, offset), had_room)
        };
        if !had_room {
            self.changed.notify_one();
        }
        load.unwrap_or_default()
    }

    /// The offset to commit, once one is known.
    pub(super) fn committable(&self) -> Option<i64> {
        Some(self.window().committable()).filter(|offset| *offset >= 0)
    }

    /// The offset to commit, if it is another than the last one.
    pub(super) fn uncommitted(&self) -> Option<i64> {
        let offset = self.committable()?;
        (self.committed.load(Ordering::Relaxed) != offset).then_some(offset)
    }

    /// The broker has heard this offset.
    pub(super) fn told(&self, offset: i64) {
        self.committed.store(offset, Ordering::Relaxed);
    }

    /// Goes on at `offset`; returns what the messages held that are dropped.
    pub(super) fn reposition(&self, offset: i64) -> Load {
        let load = self.window().reset(offset);
        self.forget_kept();
        if let Some(order) = &self.order {
            order.clear();
        }
        self.changed.notify_one();
        load
    }

    /// The queue is no longer ours. Returns what the messages held that are dropped.
    pub(super) fn release(&self) -> Load {
        self.released.store(true, Ordering::Release);
        self.forget_kept();
        if let Some(order) = &self.order {
            order.clear();
        }
        self.window().write_off()
    }

    /// Returns once no handler has a message of this queue.
    pub(super) async fn until_idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.running.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// What a pull came to.
struct Pulled {
    code: ResponseCode,
    next: i64,
    suggested: i64,
    records: Bytes,
}

/// Works one queue until it is aborted.
pub(super) async fn work(group: Arc<Group>, progress: Arc<Progress>, shared: bool) {
    match &progress.order {
        Some(order) if !group.is_broadcasting() => work_locked(&group, &progress, order).await,
        Some(order) => {
            let resuming = order.resume(&group, &progress);
            tokio::join!(pull_on(&group, &progress), resuming);
        }
        None => {
            if shared {
                tokio::time::sleep(HANDOVER_PAUSE).await;
            }
            pull_on(&group, &progress).await;
        }
    }
}

/// Works a queue whenever its lock is ours. After each time without it the queue begins anew, as
/// another member may have gone on meanwhile.
async fn work_locked(group: &Arc<Group>, progress: &Arc<Progress>, order: &Order) {
    group.after_earlier(progress).await;
    loop {
        ordered::acquire(group, progress, order).await;
        tokio::select! {
            () = order.lease.lost() => {}
            () = pull_on(group, progress) => {}
            () = order.resume(group, progress) => {}
        }
        tracing::warn!(queue = %progress.queue, group = group.name(), "the queue's lock was lost");
        group.ready.give(progress.reposition(UNKNOWN));
    }
}

/// Pulls a queue from its first offset on.
async fn pull_on(group: &Arc<Group>, progress: &Arc<Progress>) {
    begin(group, progress).await;
    let mut worker = Worker { group, progress, suggested: 0, batch: None, failing: false };
    loop {
        worker.step().await;
    }
}

/// Finds the first offset, however long that takes, unless a reset says it meanwhile.
async fn begin(group: &Group, progress: &Progress) {
    while progress.window().next() == UNKNOWN {
        let queue = &progress.queue;
        match group.first(queue).await {
            Ok(First { offset, kept }) => {
                if progress.window().next() != UNKNOWN {
                    return;
                }
                if kept {
                    progress.committed.store(offset, Ordering::Relaxed);
                }
                group.ready.give(progress.reposition(offset));
            }
            Err(failed) => {
                tracing::warn!(%failed, %queue, group = group.name(), "no first offset yet");
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
    }
}

struct Worker<'a> {
    group: &'a Arc<Group>,
    progress: &'a Arc<Progress>,
    /// The broker id to pull from, as the broker suggests it.
    suggested: i64,
    /// A smaller batch than usual, after a record that could not be read.
    batch: Option<i32>,
    /// The last pull failed.
    failing: bool,
}

impl Worker<'_> {
    async fn step(&mut self) {
        self.group.ready.has_room().await;
        let (epoch, offset) = self.room().await;
        let pulled = tokio::select! {
            // A repositioned queue does not wait for the pull at the old place.
            () = self.moved(epoch) => return,
            pulled = self.pull(offset) => pulled,
        };
        match pulled {
            Ok(pulled) => self.take(epoch, offset, pulled).await,
            Err(failed) => self.rest_after(&failed).await,
        }
    }

    /// Waits until the window takes more; the epoch and the offset to pull.
    async fn room(&self) -> (u32, i64) {
        loop {
            let changed = self.progress.changed.notified();
            {
                let window = self.progress.window();
                if window.has_room(self.progress.most) && !self.progress.is_paused() {
                    return (window.epoch(), window.next());
                }
            }
            changed.await;
        }
    }

    async fn moved(&self, epoch: u32) {
        loop {
            let changed = self.progress.changed.notified();
            if self.progress.window().epoch() != epoch {
                return;
            }
            changed.await;
        }
    }

    async fn pull(&self, offset: i64) -> Result<Pulled, Error> {
        self.progress.pulled_ms.store(self.group.clock().now_ms(), Ordering::Relaxed);
        let queue = &self.progress.queue;
        let header = PullRequest {
            consumer_group: self.group.name(),
            topic: &queue.topic,
            queue_id: queue.queue_id,
            queue_offset: offset,
            max_msg_nums: self.batch.unwrap_or(self.group.options.pull_batch),
            sys_flag: FLAG_SUSPEND,
            commit_offset: 0,
            suspend_timeout_millis: crate::clock::millis(SUSPEND),
            subscription: None,
            sub_version: self.group.version_ms,
            expression_type: Some(self.expression_type()),
            max_msg_bytes: None,
        };
        let client = &self.group.client;
        let request = client.form(Command::with(RequestCode::PullMessage, &header));
        let remote = client.reader(&queue.broker_name, self.suggested).await?;
        let answer = remote.call(request, PULL_TIMEOUT).await?;
        let code = answer.response_code();
        match code {
            ResponseCode::Success
            | ResponseCode::PullNotFound
            | ResponseCode::PullRetryImmediately
            | ResponseCode::PullOffsetMoved => {
                let header: PullResponse = answer.decode_header().map_err(|error| {
                    Error::Refused { code: answer.code, remark: error.to_string() }
                })?;
                Ok(Pulled {
                    code,
                    next: header.next_begin_offset,
                    suggested: header.suggest_which_broker_id,
                    records: answer.body,
                })
            }
            ResponseCode::SubscriptionNotExist
            | ResponseCode::SubscriptionNotLatest
            | ResponseCode::SubscriptionGroupNotExist => {
                // The broker has forgotten us, or not yet met us.
                client.greet(&remote).await;
                Err(refused(&answer))
            }
            _ => Err(refused(&answer)),
        }
    }

    fn expression_type(&self) -> &str {
        let subscription = self.group.subscription(&self.progress.queue.topic);
        subscription.map_or(SubscriptionData::TAG, |wanted| &wanted.expression_type)
    }

    /// A broker that is away fails many pulls; only the first of a row is worth a warning.
    async fn rest_after(&mut self, failed: &Error) {
        let (queue, group) = (&self.progress.queue, self.group.name());
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(%failed, %queue, group, "a pull failed again");
        } else {
            tracing::warn!(%failed, %queue, group, "a pull failed and is tried again");
        }
        let pause = match failed {
            Error::Refused { .. } => REFUSED_PAUSE,
            _ => {
                self.group.relock.notify_one();
                LOST_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }

    async fn take(&mut self, epoch: u32, offset: i64, pulled: Pulled) {
        self.suggested = pulled.suggested;
        self.failing = false;
        match pulled.code {
            ResponseCode::Success => {
                let next = self.enter(epoch, offset, &pulled);
                self.progress.window().advance(epoch, next);
            }
            ResponseCode::PullOffsetMoved => self.move_to(epoch, offset, pulled.next).await,
            _ => self.progress.window().advance(epoch, pulled.next),
        }
    }

    /// The broker has nothing at this offset any more, or not yet.
    async fn move_to(&self, epoch: u32, from: i64, to: i64) {
        let queue = &self.progress.queue;
        tracing::warn!(%queue, group = self.group.name(), from, to, "the offset was moved");
        if self.progress.window().epoch() == epoch {
            self.group.ready.give(self.progress.reposition(to));
        }
        // Told even before anything is consumed there: the old place is gone.
        self.group.commit(self.progress).await;
        // Were the next pull to be moved again, this must not spin.
        tokio::time::sleep(LOST_PAUSE).await;
    }

    /// Makes jobs of the records that the group wants; returns where to pull next.
    fn enter(&mut self, epoch: u32, asked: i64, pulled: &Pulled) -> i64 {
        let mut messages = Vec::new();
        let mut at = 0;
        let mut expected = asked;
        let mut bad = None;
        while at < pulled.records.len() {
            let rest = pulled.records.get(at..).unwrap_or_default();
            match Record::decode(rest, Verify::None) {
                Ok((record, size)) => {
                    expected = record.queue_offset.saturating_add(1);
                    if self.group.wants(&self.progress.queue.topic, &record) {
                        let source = pulled.records.slice(at..at + size);
                        messages.extend(self.message(epoch, &record, &source));
                    }
                    at += size;
                }
                Err(error) => {
                    bad = Some(error);
                    break;
                }
            }
        }
        self.hand_out(epoch, messages);
        match bad {
            None => {
                self.batch = None;
                pulled.next.max(expected)
            }
            Some(error) => self.after_bad(expected, at == 0, &error),
        }
    }

    fn message(&self, epoch: u32, record: &Record<'_>, source: &Bytes) -> Option<Message> {
        let mut window = self.progress.window();
        if window.epoch() != epoch || !window.enter(record.queue_offset, source.len()) {
            return None;
        }
        drop(window);
        self.group.ready.take(Load::of(source.len()));
        Some(Message::new(record, source, &self.progress.queue, epoch))
    }

    fn hand_out(&self, epoch: u32, messages: Vec<Message>) {
        let progress = self.progress;
        if messages.is_empty() || !progress.wants(epoch) {
            return;
        }
        match &progress.order {
            Some(order) => self.group.ready.push_one(progress, order.enter(messages)),
            None => self.group.ready.push(progress, messages),
        }
    }

    /// A record that cannot be read hides those behind it: it is pulled again alone, and passed
    /// over when it is really the one.
    fn after_bad(&mut self, offset: i64, alone: bool, error: &dyn std::error::Error) -> i64 {
        let queue = &self.progress.queue;
        if alone && self.batch == Some(1) {
            self.batch = None;
            tracing::error!(
                %error, %queue, offset, group = self.group.name(),
                "a message cannot be read and is passed over; it stays in the broker's log"
            );
            return offset.saturating_add(1);
        }
        self.batch = Some(1);
        offset
    }
}

/// The tag of a record, without making a message of it.
pub(super) fn tag<'a>(record: &Record<'a>) -> Option<&'a str> {
    properties::find(record.properties, key::TAGS)
}
