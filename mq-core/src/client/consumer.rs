//! `Consumer`: a member of a group. It joins, finds out which queues are its own, commits how far
//! they are, and leaves in order. Not here: one queue's pulls (`worker.rs`), handlers
//! (`handling.rs`), who gets which queue (`rebalance.rs`), locks (`ordered.rs`).
//!
//! Invariants: brokers know the member before it asks who else there is; a queue is worked by at
//! most one worker; what is committed was handled or given back. A member that is dropped without
//! [`Consumer::shutdown`] commits no more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::answers::Asked;
use super::handling::{self, Callee, Ready};
use super::local_offsets::LocalOffsets;
use super::offsets::First;
use super::ordered::{self, Order};
use super::rebalance::Dealt;
use super::window::Load;
use super::worker::{self, Progress};
use super::{Client, Producer, caught_up, offsets, rebalance, refused};
use crate::clock::Clock;
use crate::error::Error;
use crate::message::Delivery;
use crate::names::{self, INNER_PRODUCER_GROUP, MessageQueue};
use crate::protocol::body::{
    CheckClientRequest, ConsumeFromWhere, ConsumerData, MessageModel, ResetOffsetBody,
    SubscriptionData, from_json, to_json,
};
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::header::ResetOffsetRequest;
use crate::protocol::record::Record;

const REBALANCE_INTERVAL: Duration = Duration::from_secs(20);
/// The rest before members are asked for again when a broker did not know.
const REBALANCE_RETRY: Duration = Duration::from_secs(1);
/// After a crash a group handles again what it had handled in this time.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Offsets said by brokers that may wait to be followed.
const RESETS_MAX: usize = 65_536;
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// A released queue's running handlers may take this long for their results to be committed by this
/// member.
const FAREWELL_MAX: Duration = Duration::from_secs(30);

/// What a consumer wants of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The topic.
    pub topic: String,
    /// Which of its messages, as `expression_type` says.
    pub expression: String,
    /// How `expression` is to be read.
    pub expression_type: ExpressionType,
}

/// How a subscription selects messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpressionType {
    /// By tags, separated by `||`; `*` is all messages.
    #[default]
    Tag,
    /// By an SQL92 condition on the messages' properties, which the broker evaluates.
    Sql92,
}

impl Subscription {
    /// Messages of `topic` that have one of the tags of `expression`.
    pub fn new(topic: impl Into<String>, expression: impl Into<String>) -> Self {
        let (topic, expression) = (topic.into(), expression.into());
        Self { topic, expression, expression_type: ExpressionType::Tag }
    }

    /// Messages of `topic` whose properties fulfil an SQL92 condition.
    pub fn sql(topic: impl Into<String>, condition: impl Into<String>) -> Self {
        let (topic, expression) = (topic.into(), condition.into());
        Self { topic, expression, expression_type: ExpressionType::Sql92 }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let checked = match self.expression_type {
            ExpressionType::Tag => mq_filter::tags(&self.expression).map(drop),
            ExpressionType::Sql92 => mq_filter::Sql::check(&self.expression).map(drop),
        };
        checked.map_err(|error| format!("the expression for topic `{}`: {error}", self.topic))
    }

    pub(super) fn data(&self, version_ms: i64) -> SubscriptionData {
        let by = match self.expression_type {
            ExpressionType::Tag => SubscriptionData::by_tags,
            ExpressionType::Sql92 => SubscriptionData::by_sql,
        };
        by(&self.topic, &self.expression, version_ms)
    }
}

/// Where a group begins in a queue that it has no progress in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeFrom {
    /// With messages stored from now on. On a young queue RocketMQ begins with its first message
    /// even so.
    #[default]
    Last,
    /// With the oldest message there is.
    First,
    /// With messages stored at or after this time, in milliseconds since the epoch. Some that are
    /// older may come: those of the millisecond before, and with a 4.x broker one of each queue.
    Timestamp(i64),
}

/// In which order messages are handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeMode {
    /// In any order, many of one queue at once.
    #[default]
    Concurrently,
    /// Those of one queue one after another, in their order, by the one member that has the queue's
    /// lock. A message that fails is handled again in its place, and only its queue waits for it.
    ///
    /// A handler is dropped, and its message handled again, when the member loses the lock. One
    /// that blocks its thread cannot be dropped; if it blocks for more than 5 s after that, it may
    /// run beside the queue's new owner, and should guard its work by the queue offset, which only
    /// grows.
    Orderly,
}

/// How much may be pulled and not yet handled. What a pull brings may go beyond it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullThreshold {
    /// Messages of one queue.
    pub queue_messages: usize,
    /// Bytes of one queue.
    pub queue_bytes: usize,
    /// Messages of all queues of the consumer.
    pub messages: usize,
    /// Bytes of all queues of the consumer.
    pub bytes: usize,
}

impl Default for PullThreshold {
    fn default() -> Self {
        const BYTES: usize = 100 * 1024 * 1024;
        Self { queue_messages: 1_000, queue_bytes: BYTES, messages: 50_000, bytes: BYTES }
    }
}

impl ConsumeFrom {
    pub(super) fn on_the_wire(self) -> ConsumeFromWhere {
        match self {
            Self::Last => ConsumeFromWhere::LastOffset,
            Self::First => ConsumeFromWhere::FirstOffset,
            Self::Timestamp(_) => ConsumeFromWhere::Timestamp,
        }
    }
}

/// How a consumer consumes.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// The group: its members share the messages of its subscriptions among them, and must all
    /// subscribe alike.
    pub group: String,
    /// The topics; the group's retry topic is added.
    pub subscriptions: Vec<Subscription>,
    /// Whether the members share the messages out, or each gets all of them. A broadcasting group
    /// has no retries: what fails is dropped, with a line in the log.
    pub model: MessageModel,
    /// The order of handling.
    pub mode: ConsumeMode,
    /// How many handlers run at once.
    pub concurrency: usize,
    /// Where to begin without progress.
    pub from: ConsumeFrom,
    /// How often a failed message is given out again before it becomes a dead letter. `None`: what
    /// the broker keeps for the group (16 by default); in orderly consumption, without end.
    pub max_attempts: Option<i32>,
    /// How long a queue rests after a failure in orderly consumption.
    pub suspend: Duration,
    /// A handler that takes longer is dropped, and its message has failed.
    pub consume_timeout: Duration,
    /// How many messages one pull asks for.
    pub pull_batch: i32,
    /// When pulling waits for handlers.
    pub threshold: PullThreshold,
    /// The folder for the progress of broadcasting consumers; `.rocketmq_offsets` in the home
    /// folder by default. Progress is kept under the client's id, so it is kept only for clients
    /// with a chosen `instance`; others begin where [`Self::from`] says.
    pub offsets_folder: Option<PathBuf>,
}

impl ConsumerOptions {
    /// A member of `group` that has no subscriptions yet.
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            subscriptions: Vec::new(),
            model: MessageModel::Clustering,
            mode: ConsumeMode::Concurrently,
            concurrency: 20,
            from: ConsumeFrom::Last,
            max_attempts: None,
            suspend: Duration::from_secs(1),
            consume_timeout: Duration::from_secs(15 * 60),
            pull_batch: 32,
            threshold: PullThreshold::default(),
            offsets_folder: None,
        }
    }

    /// Subscribes to a topic, too.
    #[must_use]
    pub fn subscribe(mut self, topic: &str, expression: &str) -> Self {
        self.subscriptions.push(Subscription::new(topic, expression));
        self
    }

    /// Subscribes to what fulfils a condition on the properties, too.
    #[must_use]
    pub fn subscribe_sql(mut self, topic: &str, condition: &str) -> Self {
        self.subscriptions.push(Subscription::sql(topic, condition));
        self
    }
}

/// What handles messages.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles one message. Dropped when it takes longer than the consume time-out.
    async fn handle(&self, delivery: Delivery) -> Outcome;
}

/// What handles several messages at once.
#[async_trait]
pub trait BatchHandler: Send + Sync + 'static {
    /// Handles messages of one queue, in the queue's order, and says what becomes of each: the
    /// first outcome is the first message's. A message without an outcome has failed. So a handler
    /// that got through a part of them answers with that many [`Outcome::Ack`].
    ///
    /// In orderly consumption the first message that failed and all behind it are handled again.
    async fn handle(&self, deliveries: Vec<Delivery>) -> Vec<Outcome>;
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Ack,
    /// It comes again later.
    Retry {
        /// One of the broker's delay levels; 0 leaves it to the broker, which waits longer every
        /// time. In orderly consumption the queue rests for [`ConsumerOptions::suspend`] instead.
        delay_level: i32,
        /// For the log, and for the dead letter if it was the last attempt.
        cause: String,
    },
    /// It goes to the group's dead letters.
    DeadLetter {
        /// For the log and the dead letter.
        cause: String,
    },
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Handlers that were running and came to their end.
    pub finished: usize,
    /// Handlers that were cut off by the deadline; their messages come again.
    pub cut_off: usize,
    /// Messages that had been pulled and were not begun; they come again.
    pub given_back: usize,
    /// Queues whose offset no broker took; messages that were handled since the last commit come
    /// again.
    pub uncommitted: usize,
}

/// What the client knows of a member of a group: enough for heartbeats and the broker's notices.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) group: String,
    pub(super) data: ConsumerData,
    pub(super) topics: Vec<String>,
    /// The queues are to be dealt anew, or repositioned.
    pub(super) wake: Notify,
    resets: Mutex<Vec<(MessageQueue, i64)>>,
    /// Who answers what brokers ask of the member.
    pub(super) asked: OnceLock<Weak<dyn Asked>>,
}

impl Membership {
    /// A member that wants what `data` says.
    pub(super) fn new(data: ConsumerData) -> Self {
        Self {
            group: data.group_name.clone(),
            topics: data.subscription_data_set.iter().map(|wanted| wanted.topic.clone()).collect(),
            data,
            wake: Notify::new(),
            resets: Mutex::default(),
            asked: OnceLock::new(),
        }
    }

    /// From now on `asked` answers what brokers ask.
    pub(super) fn answered_by(&self, asked: &Arc<dyn Asked>) {
        // A membership has one owner, which says this once.
        let _first = self.asked.set(Arc::downgrade(asked));
    }

    /// The offsets that a broker has said to go on at, since the last call.
    pub(super) fn take_resets(&self) -> Vec<(MessageQueue, i64)> {
        std::mem::take(&mut *self.resets.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the tasks of a member share.
pub(super) struct Group {
    pub(super) client: Client,
    pub(super) options: ConsumerOptions,
    pub(super) callee: Callee,
    /// For messages that cannot be given back the usual way.
    pub(super) inner: Producer,
    pub(super) retry_topic: Arc<str>,
    /// When the subscriptions were made; brokers compare it.
    pub(super) version_ms: i64,
    pub(super) ready: Ready,
    /// A broker was away; its locks are to be looked after.
    pub(super) relock: Notify,
    pub(super) membership: Arc<Membership>,
    /// Queues that are taken over from now on are paused.
    pub(super) paused: AtomicBool,
    assigned: Mutex<BTreeMap<MessageQueue, Assigned>>,
    /// Orderly queues that were released and whose last handler may still run, the oldest first.
    leaving: Mutex<Vec<Arc<Progress>>>,
    /// The progress of a broadcasting member.
    local: Option<LocalOffsets>,
    /// Held while an offset is told; see [`offsets::commit`].
    committing: tokio::sync::Mutex<()>,
    running: AtomicUsize,
}

#[derive(Debug)]
struct Assigned {
    progress: Arc<Progress>,
    worker: AbortHandle,
}

impl Group {
    pub(super) fn name(&self) -> &str {
        &self.options.group
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.client.0.options.clock
    }

    pub(super) fn is_broadcasting(&self) -> bool {
        self.local.is_some()
    }

    /// Does the group want this record? Brokers filter by hash codes, which different tags may
    /// share.
    pub(super) fn wants(&self, topic: &str, record: &Record<'_>) -> bool {
        self.subscription(topic).is_some_and(|wanted| {
            wanted.tags_set.is_empty()
                || worker::tag(record).is_some_and(|tag| wanted.tags_set.contains(tag))
        })
    }

    /// What brokers are told of a topic.
    pub(super) fn subscription(&self, topic: &str) -> Option<&SubscriptionData> {
        let subscriptions = &self.membership.data.subscription_data_set;
        subscriptions.iter().find(|wanted| wanted.topic == topic)
    }

    /// Counts a handler from its begin to its end, however it ends.
    pub(super) fn running(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(&self.running)
    }

    fn assigned(&self) -> MutexGuard<'_, BTreeMap<MessageQueue, Assigned>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Arc<Progress>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progresses(&self) -> Vec<Arc<Progress>> {
        self.assigned().values().map(|assigned| assigned.progress.clone()).collect()
    }

    /// The queues that handlers of this member may be at.
    pub(super) fn worked(&self) -> Vec<Arc<Progress>> {
        let mut worked = self.leaving().clone();
        worked.extend(self.progresses());
        worked
    }

    /// Returns once the queue was left as often as it was released before `progress` was.
    pub(super) async fn after_earlier(&self, progress: &Arc<Progress>) {
        loop {
            let earlier = {
                let leaving = self.leaving();
                let mut before = leaving.iter().take_while(|other| !Arc::ptr_eq(other, progress));
                before.find(|other| other.queue == progress.queue).cloned()
            };
            let Some(earlier) = earlier else { return };
            // The mark is never closed.
            let _left = earlier.left.reached(1).await;
        }
    }

    /// Where to begin with a queue.
    pub(super) async fn first(&self, queue: &MessageQueue) -> Result<First, Error> {
        let from = self.options.from;
        let Some(local) = &self.local else {
            return offsets::first(&self.client, self.name(), queue, from).await;
        };
        match local.at(queue) {
            Some(offset) => Ok(First { offset, kept: true }),
            None => {
                let offset = offsets::start(&self.client, queue, from).await?;
                Ok(First { offset, kept: false })
            }
        }
    }

    /// Tells a queue's offset, if it is news. One that was not heard is told again with the next
    /// round.
    pub(super) async fn commit(&self, progress: &Progress) {
        let _one_at_a_time = self.committing.lock().await;
        // Only now: whoever was before may have told it, or an older one.
        let Some(offset) = progress.uncommitted() else { return };
        let queue = &progress.queue;
        if let Some(local) = &self.local {
            local.put(queue, offset);
            return progress.told(offset);
        }
        if progress.order.as_ref().is_some_and(|order| !order.lease.is_valid()) {
            // Another member may be further.
            return;
        }
        match offsets::commit(&self.client, self.name(), queue, offset).await {
            Ok(()) => progress.told(offset),
            Err(failed) => tracing::debug!(%failed, %queue, "an offset was not told"),
        }
    }
}

/// See [`Group::running`].
pub(super) struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A running member of a consumer group.
pub struct Consumer {
    pub(super) group: Arc<Group>,
    tasks: tokio::sync::Mutex<Option<Tasks>>,
}

struct Tasks {
    /// Dealing queues (which owns the workers) and committing.
    loops: JoinSet<()>,
    runners: JoinSet<()>,
    /// Keeping locks, until no handler runs any more.
    renewals: JoinSet<()>,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("group", &self.group.name()).finish_non_exhaustive()
    }
}

impl Consumer {
    pub(super) async fn start(
        client: Client,
        options: ConsumerOptions,
        callee: Callee,
    ) -> Result<Self, Error> {
        check(&options).map_err(Error::Config)?;
        let local = match options.model {
            MessageModel::Broadcasting => {
                Some(LocalOffsets::open(offsets_file(&client, &options)?).await?)
            }
            _ => None,
        };
        let version_ms = client.0.options.clock.now_ms();
        let membership = Arc::new(membership(&options, version_ms));
        if !client.join(&membership) {
            let group = &options.group;
            return Err(Error::Config(format!(
                "group `{group}` has a consumer in this client: give all its subscriptions to one"
            )));
        }
        let group = Arc::new(Group {
            inner: Producer::new(client.clone(), INNER_PRODUCER_GROUP),
            retry_topic: names::retry_topic(&options.group).into(),
            version_ms,
            ready: Ready::new(Load {
                messages: options.threshold.messages,
                bytes: options.threshold.bytes,
            }),
            relock: Notify::new(),
            paused: AtomicBool::new(false),
            assigned: Mutex::default(),
            leaving: Mutex::default(),
            local,
            committing: tokio::sync::Mutex::default(),
            running: AtomicUsize::new(0),
            membership,
            callee,
            options,
            client,
        });
        let asked: Arc<dyn Asked> = group.clone();
        group.membership.answered_by(&asked);
        // From here on the member leaves again when this future is dropped.
        let consumer = Self { group, tasks: tokio::sync::Mutex::default() };
        if let Err(refused) = consumer.group.introduce().await {
            consumer.group.client.leave(consumer.group.name());
            consumer.group.client.unregister_consumer(consumer.group.name()).await;
            return Err(refused);
        }
        *consumer.tasks.lock().await = Some(consumer.group.clone().tasks());
        Ok(consumer)
    }

    /// Whether this member has finished every message that its topics hold by now, retries that are
    /// due among them. For tests, and while it is the only member of its group.
    ///
    /// # Errors
    /// A broker or name server that does not answer.
    pub async fn is_caught_up(&self) -> Result<bool, Error> {
        caught_up::check(&self.group, &self.group.progresses()).await
    }

    /// Stops pulling, lets running handlers finish until the deadline, gives the rest back, commits
    /// and leaves the group. A second call does nothing.
    pub async fn shutdown(&self, deadline: Duration) -> DrainReport {
        let Some(mut tasks) = self.tasks.lock().await.take() else { return DrainReport::default() };
        let deadline = Instant::now().checked_add(deadline);
        let group = &self.group;
        // The loops must not be cut off while an offset they told is under way.
        let _committing = group.committing.lock().await;
        tasks.loops.shutdown().await;
        let waiting = |progress: &Arc<Progress>| progress.order.as_ref().map_or(0, Order::waiting);
        let waiting = |progress: &Arc<Progress>| waiting(progress) + progress.kept();
        let given_back = group.ready.close() + group.worked().iter().map(waiting).sum::<usize>();
        let running = group.running.load(Ordering::Relaxed);
        let ended = async { while tasks.runners.join_next().await.is_some() {} };
        match deadline {
            Some(deadline) => {
                // Who has not ended by then is counted and cut off below.
                let _late = tokio::time::timeout_at(deadline, ended).await;
            }
            None => ended.await,
        }
        let cut_off = group.running.load(Ordering::Relaxed);
        tasks.runners.shutdown().await;
        let uncommitted = group.commit_all().await;
        group.unlock_all().await;
        tasks.renewals.shutdown().await;
        group.client.leave(group.name());
        group.client.unregister_consumer(group.name()).await;
        DrainReport { finished: running.saturating_sub(cut_off), cut_off, given_back, uncommitted }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.group.client.leave(self.group.name());
    }
}

impl Group {
    /// Learns where the topics are and tells the brokers who is here, before anything depends on
    /// it.
    async fn introduce(&self) -> Result<(), Error> {
        self.client.meet_brokers().await;
        self.client.refresh_all(self.membership.topics.clone()).await;
        for wanted in &self.membership.data.subscription_data_set {
            if !wanted.is_by_tags() {
                self.check_with_broker(wanted).await?;
            }
        }
        self.client.heartbeat_all().await;
        // Brokers make the retry topic when they hear of the group.
        self.client.refresh_all(vec![self.retry_topic.to_string()]).await;
        Ok(())
    }

    /// Asks a broker of the topic whether it can evaluate a condition. One that cannot be asked
    /// now will say so when it is pulled from.
    async fn check_with_broker(&self, wanted: &SubscriptionData) -> Result<(), Error> {
        let topic = self.client.0.topics.get(&wanted.topic);
        let Some(broker) = topic.and_then(|t| Some(t.route.to_read.first()?.broker_name.clone()))
        else {
            return Ok(());
        };
        let body = CheckClientRequest {
            client_id: self.client.0.id.clone(),
            group: self.name().to_owned(),
            subscription_data: wanted.clone(),
            ..CheckClientRequest::default()
        };
        let request = Command::request(RequestCode::CheckClientConfig).body(to_json(&body));
        let asked = async {
            let remote = self.client.reader(&broker, 0).await?;
            remote.call(self.client.form(request), CHECK_TIMEOUT).await
        };
        match asked.await {
            Ok(answer) if answer.response_code() != ResponseCode::Success => Err(refused(&answer)),
            Ok(_) => Ok(()),
            Err(failed) => {
                tracing::warn!(%failed, topic = wanted.topic, "no broker has checked a condition");
                Ok(())
            }
        }
    }

    fn tasks(self: Arc<Self>) -> Tasks {
        let mut tasks =
            Tasks { loops: JoinSet::new(), runners: JoinSet::new(), renewals: JoinSet::new() };
        for _ in 0..self.options.concurrency {
            tasks.runners.spawn(handling::run(self.clone()));
        }
        if self.takes_locks() {
            tasks.renewals.spawn(ordered::keep_locked(self.clone()));
        }
        tasks.loops.spawn(keep_balanced(self.clone()));
        tasks.loops.spawn(keep_committed(self));
        tasks
    }

    pub(super) fn running_handlers(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    fn takes_locks(&self) -> bool {
        self.options.mode == ConsumeMode::Orderly && !self.is_broadcasting()
    }

    /// Deals all topics' queues. False: it has to be done again soon.
    async fn rebalance(self: &Arc<Self>, workers: &mut JoinSet<()>) -> bool {
        let (settled, dealt) = match self.is_broadcasting() {
            true => (true, rebalance::all(&self.client, &self.membership)),
            false => rebalance::deal(&self.client, &self.membership).await,
        };
        for Dealt { topic, wanted, shared } in dealt {
            self.change(&topic, &wanted, shared, workers).await;
        }
        settled
    }

    /// Starts and stops workers of a topic until the queues worked are those wanted.
    async fn change(
        self: &Arc<Self>,
        topic: &str,
        wanted: &BTreeSet<MessageQueue>,
        shared: bool,
        workers: &mut JoinSet<()>,
    ) {
        let held = self.assigned().keys().filter(|queue| &*queue.topic == topic).cloned().collect();
        let change = rebalance::change(&held, wanted);
        if change.lost.is_empty() && change.gained.is_empty() {
            return;
        }
        let (lost, gained) = (change.lost.len(), change.gained.len());
        tracing::info!(group = self.name(), topic, lost, gained, "queues changed hands");
        for queue in &change.lost {
            let Some(assigned) = self.assigned().remove(queue) else { continue };
            self.release(assigned, workers).await;
        }
        for queue in change.gained {
            let progress = Arc::new(self.progress(&queue));
            let worker = workers.spawn(worker::work(self.clone(), progress.clone(), shared));
            self.assigned().insert(queue, Assigned { progress, worker });
        }
    }

    fn progress(&self, queue: &MessageQueue) -> Progress {
        let PullThreshold { queue_messages: messages, queue_bytes: bytes, .. } =
            self.options.threshold;
        let order = match self.options.mode {
            ConsumeMode::Orderly => Some(Order::new(self.clock().clone())),
            ConsumeMode::Concurrently => None,
        };
        let progress = Progress::new(queue.clone(), Load { messages, bytes }, order);
        if self.paused.load(Ordering::Acquire) {
            // Nothing can be kept yet.
            let _none = progress.set_paused(true);
        }
        progress
    }

    /// Stops working a queue: nothing of it is begun any more, and what is running is still
    /// committed when it ends.
    async fn release(self: &Arc<Self>, assigned: Assigned, workers: &mut JoinSet<()>) {
        let Assigned { progress, worker } = assigned;
        worker.abort();
        self.ready.give(progress.release());
        self.ready.sweep();
        if progress.order.is_some() {
            self.leaving().push(progress.clone());
        }
        self.commit(&progress).await;
        workers.spawn(self.clone().say_farewell(progress));
    }

    async fn say_farewell(self: Arc<Self>, progress: Arc<Progress>) {
        // Handlers that take longer are handled again by the queue's new owner.
        let idle = tokio::time::timeout(FAREWELL_MAX, progress.until_idle()).await.is_ok();
        if idle {
            self.commit(&progress).await;
        }
        let Some(order) = &progress.order else { return };
        // From here on a handler that still runs is dropped.
        order.lease.lapse();
        progress.until_idle().await;
        if self.takes_locks() {
            self.after_earlier(&progress).await;
            let queue = progress.queue.clone();
            ordered::unlock(&self, &progress.queue.broker_name, vec![queue]).await;
        }
        self.leaving().retain(|other| !Arc::ptr_eq(other, &progress));
        progress.left.advance(1);
    }

    /// Releases all locks, so that others go on at once. No handler runs any more.
    async fn unlock_all(&self) {
        let mut brokers: BTreeMap<Arc<str>, Vec<MessageQueue>> = BTreeMap::new();
        if self.takes_locks() {
            for progress in self.worked() {
                let queue = progress.queue.clone();
                brokers.entry(queue.broker_name.clone()).or_default().push(queue);
            }
        }
        for (broker, queues) in brokers {
            ordered::unlock(self, &broker, queues).await;
        }
    }

    /// Writes the local progress, if there is one. False: it could not be written.
    async fn save(&self) -> bool {
        let Some(local) = &self.local else { return true };
        let saved = local.save().await;
        if let Err(error) = &saved {
            tracing::warn!(%error, group = self.name(), "the local progress was not written");
        }
        saved.is_ok()
    }

    /// Tells all offsets; how many were not heard. A broker that does not answer is not told more.
    /// For whoever holds `committing`.
    async fn commit_all(&self) -> usize {
        let (mut unheard, mut silent) = (0, BTreeSet::new());
        for progress in self.worked() {
            let Some(offset) = progress.committable() else { continue };
            let queue = &progress.queue;
            if let Some(local) = &self.local {
                local.put(queue, offset);
                continue;
            }
            if progress.order.as_ref().is_some_and(|order| !order.lease.is_valid()) {
                continue;
            }
            if silent.contains(&queue.broker_name) {
                unheard += 1;
                continue;
            }
            match offsets::commit(&self.client, self.name(), queue, offset).await {
                Ok(()) => progress.told(offset),
                Err(failed) => {
                    tracing::warn!(%failed, %queue, "an offset was not told");
                    silent.insert(queue.broker_name.clone());
                    unheard += 1;
                }
            }
        }
        if self.save().await { unheard } else { self.progresses().len() }
    }

    async fn reposition(&self) {
        for (queue, offset) in self.membership.take_resets() {
            let progress = self.assigned().get(&queue).map(|assigned| assigned.progress.clone());
            let Some(progress) = progress else { continue };
            tracing::info!(%queue, offset, group = self.name(), "the offset was reset");
            self.ready.give(progress.reposition(offset));
            self.ready.sweep();
            self.commit(&progress).await;
        }
    }
}

/// Deals queues: now, when the broker or a route says that something changed, and every 20 s.
async fn keep_balanced(group: Arc<Group>) {
    let mut workers = JoinSet::new();
    loop {
        group.reposition().await;
        let settled = group.rebalance(&mut workers).await;
        // Ended farewells.
        while workers.try_join_next().is_some() {}
        tokio::select! {
            () = group.membership.wake.notified() => {}
            () = tokio::time::sleep(REBALANCE_RETRY), if !settled => {}
            () = group.clock().sleep(REBALANCE_INTERVAL) => {}
        }
    }
}

async fn keep_committed(group: Arc<Group>) {
    loop {
        group.clock().sleep(COMMIT_INTERVAL).await;
        for progress in group.progresses() {
            group.commit(&progress).await;
        }
        group.save().await;
    }
}

/// The file for a broadcasting consumer's progress, if it is to be kept.
fn offsets_file(client: &Client, options: &ConsumerOptions) -> Result<Option<PathBuf>, Error> {
    let Some(instance) = &client.0.options.instance else { return Ok(None) };
    if instance.contains(['/', '\\']) {
        return Err(Error::Config(format!(
            "instance `{instance}` names the folder of a broadcasting consumer's progress: leave out slashes"
        )));
    }
    let home = || std::env::home_dir().map(|home| home.join(".rocketmq_offsets"));
    let Some(folder) = options.offsets_folder.clone().or_else(home) else {
        let mend =
            "there is no home folder for a broadcasting consumer's progress: set offsets_folder";
        return Err(Error::Config(mend.to_owned()));
    };
    Ok(Some(folder.join(&client.0.id).join(&options.group).join("offsets.json")))
}

/// Everything that is wrong with the options, in one text.
fn check(options: &ConsumerOptions) -> Result<(), String> {
    let mut found = Vec::new();
    found.extend(names::check_group(&options.group).err());
    let mut topics = BTreeSet::new();
    for subscription in &options.subscriptions {
        let topic = &subscription.topic;
        found.extend(names::check_topic(topic).err());
        found.extend(subscription.check().err());
        if !topics.insert(topic) {
            found.push(format!("topic `{topic}` is subscribed twice: join the expressions by ||"));
        }
    }
    if options.subscriptions.is_empty() {
        found.push(format!("group `{}` subscribes to nothing: name a topic", options.group));
    }
    if options.concurrency == 0 {
        found.push(format!("group `{}` has concurrency 0: at least 1", options.group));
    }
    if options.pull_batch < 1 {
        found.push(format!("group `{}` pulls less than 1 message: at least 1", options.group));
    }
    let PullThreshold { queue_messages, queue_bytes, messages, bytes } = options.threshold;
    if [queue_messages, queue_bytes, messages, bytes].contains(&0) {
        found
            .push(format!("group `{}` may pull nothing: thresholds are at least 1", options.group));
    }
    let concurrently = options.mode == ConsumeMode::Concurrently;
    if options.model == MessageModel::Broadcasting && concurrently && options.max_attempts.is_some()
    {
        found.push(format!(
            "group `{}` is broadcasting and drops what fails: leave max_attempts out, or consume \
             orderly",
            options.group
        ));
    }
    if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
}

fn membership(options: &ConsumerOptions, version_ms: i64) -> Membership {
    let retry = Subscription::new(names::retry_topic(&options.group), SubscriptionData::ALL);
    let retry = Some(&retry).filter(|_| options.model != MessageModel::Broadcasting);
    let subscriptions: Vec<SubscriptionData> = retry
        .into_iter()
        .chain(&options.subscriptions)
        .map(|subscription| subscription.data(version_ms))
        .collect();
    Membership::new(ConsumerData {
        group_name: options.group.clone(),
        consume_from_where: options.from.on_the_wire(),
        message_model: options.model,
        subscription_data_set: subscriptions,
        ..ConsumerData::default()
    })
}

/// A broker asks a group's member to go on at other offsets.
pub(super) fn reset(client: &Client, request: &Command) {
    let Ok(header) = request.decode_header::<ResetOffsetRequest<'_>>() else { return };
    let body: ResetOffsetBody = match from_json(&request.body) {
        Ok(body) => body,
        Err(error) => return tracing::warn!(%error, "a reset of offsets cannot be read"),
    };
    if let Some(membership) = client.groups().consumers.get(header.group) {
        let mut resets = membership.resets.lock().unwrap_or_else(PoisonError::into_inner);
        let room = RESETS_MAX.saturating_sub(resets.len());
        resets.extend(body.offset_table.0.into_iter().take(room));
        drop(resets);
        membership.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_all_at_once() {
        let good = ConsumerOptions::new("g").subscribe("t", "*");
        assert_eq!(check(&good), Ok(()));
        let mut bad = ConsumerOptions::new("a b").subscribe("t", "*").subscribe("t", "x");
        bad.concurrency = 0;
        let found = check(&bad).unwrap_err();
        for part in ["`a b`", "subscribed twice", "concurrency 0"] {
            assert!(found.contains(part), "{found}");
        }
        assert!(check(&ConsumerOptions::new("g")).unwrap_err().contains("subscribes to nothing"));
        let bad = ConsumerOptions::new("g").subscribe_sql("t", "a = 1 AND");
        let found = check(&bad).unwrap_err();
        assert!(found.contains("topic `t`: character 10: the end"), "{found}");
    }

    #[test]
    fn the_retry_topic_is_subscribed() {
        let options = ConsumerOptions::new("g").subscribe("t", "a || b");
        let membership = membership(&options, 7);
        assert_eq!(membership.topics, ["%RETRY%g", "t"]);
        let wanted = &membership.data.subscription_data_set;
        assert!(wanted[0].tags_set.is_empty());
        assert_eq!(wanted[1].tags_set.len(), 2);
    }

    #[test]
    fn a_broadcasting_group_has_no_retries() {
        let mut options = ConsumerOptions::new("g").subscribe("t", "*");
        options.model = MessageModel::Broadcasting;
        let membership = membership(&options, 7);
        assert_eq!(membership.topics, ["t"]);
        assert_eq!(membership.data.message_model, MessageModel::Broadcasting);
        options.max_attempts = Some(3);
        assert!(check(&options).unwrap_err().contains("drops what fails"));
        options.mode = ConsumeMode::Orderly;
        assert_eq!(check(&options), Ok(()));
    }
}
