//! `PullConsumer`: messages when the application asks for them, from the queues that fall to this
//! member of a group or from queues that the application chose. Not here: one queue (`lane.rs`),
//! who gets which queue (`rebalance.rs`), handlers (`consumer.rs`).
//!
//! Invariants: a message is told as consumed only after the poll that gave it out was followed by
//! another one or by a commit: at least once. A message that a seek or another owner of its queue
//! takes away is not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::answers::{Asked, Manner};
use super::consumer::{ConsumeFrom, Membership, Subscription};
use super::lane::{self, Lane};
use super::{Client, offsets, rebalance};
use crate::error::Error;
use crate::message::Delivery;
use crate::names::{self, MessageQueue};
use crate::protocol::body::{
    ConsumeMessageDirectlyResult, ConsumeType, ConsumerData, ConsumerRunningInfo, QueueMap,
    SubscriptionData,
};

const REBALANCE_INTERVAL: Duration = Duration::from_secs(20);
/// The rest before members are asked for again when a broker did not know.
const REBALANCE_RETRY: Duration = Duration::from_secs(1);

/// How a pull consumer consumes.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// The group, whose progress brokers keep.
    pub group: String,
    /// Topics whose queues the members of the group share among them. Without any, the consumer
    /// reads the queues it is given by [`PullConsumer::assign`]; a group must do the one or the
    /// other.
    pub subscriptions: Vec<Subscription>,
    /// Where to begin without progress.
    pub from: ConsumeFrom,
    /// How often progress is told by itself; `None` leaves it to [`PullConsumer::commit`].
    pub auto_commit: Option<Duration>,
    /// How many messages one poll gives out at most.
    pub poll_batch: usize,
    /// How many messages one pull asks for.
    pub pull_batch: i32,
    /// A queue is not pulled while this many of its messages wait for polls.
    pub prefetch_messages: usize,
    /// A queue is not pulled while this many bytes of it wait for polls.
    pub prefetch_bytes: usize,
}

impl PullOptions {
    /// A member of `group` without subscriptions.
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            subscriptions: Vec::new(),
            from: ConsumeFrom::Last,
            auto_commit: Some(Duration::from_secs(5)),
            poll_batch: 32,
            pull_batch: 32,
            prefetch_messages: 1_000,
            prefetch_bytes: 16 * 1024 * 1024,
        }
    }

    /// Subscribes to a topic, too.
    #[must_use]
    pub fn subscribe(mut self, topic: &str, expression: &str) -> Self {
        self.subscriptions.push(Subscription::new(topic, expression));
        self
    }

    fn check(&self) -> Result<(), Error> {
        let mut found: Vec<String> = names::check_group(&self.group).err().into_iter().collect();
        found.extend(self.subscriptions.iter().filter_map(|s| names::check_topic(&s.topic).err()));
        found.extend(self.subscriptions.iter().filter_map(|s| s.check().err()));
        let counts = [
            (self.poll_batch == 0, "poll_batch"),
            (self.pull_batch < 1, "pull_batch"),
            (self.prefetch_messages == 0, "prefetch_messages"),
            (self.prefetch_bytes == 0, "prefetch_bytes"),
        ];
        let none = counts.into_iter().filter(|(is_none, _)| *is_none);
        found.extend(none.map(|(_, name)| format!("{name} of group `{}` is 0", self.group)));
        if found.is_empty() { Ok(()) } else { Err(Error::Config(found.join("; "))) }
    }

    fn membership(&self, version_ms: i64) -> Membership {
        let wanted = self.subscriptions.iter();
        Membership::new(ConsumerData {
            group_name: self.group.clone(),
            consume_type: ConsumeType::Actively,
            consume_from_where: self.from.on_the_wire(),
            subscription_data_set: wanted.map(|wanted| wanted.data(version_ms)).collect(),
            ..ConsumerData::default()
        })
    }
}

/// What the tasks of a pull consumer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) options: PullOptions,
    /// A queue may have something for a poll.
    pub(super) arrived: Notify,
    membership: Arc<Membership>,
    started_ms: i64,
    lanes: Mutex<Lanes>,
    /// Held while queues are taken over and given up.
    changing: tokio::sync::Mutex<()>,
    /// Held while an offset is told; see [`offsets::commit`].
    committing: tokio::sync::Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug, Default)]
struct Lanes {
    by_queue: BTreeMap<MessageQueue, (Arc<Lane>, AbortHandle)>,
    /// Polls begin with another queue each time.
    turn: usize,
}

/// A running pull consumer.
#[derive(Debug)]
pub struct PullConsumer(Arc<Shared>);

impl PullConsumer {
    pub(super) async fn start(client: Client, options: PullOptions) -> Result<Self, Error> {
        options.check()?;
        let started_ms = client.0.options.clock.now_ms();
        let membership = Arc::new(options.membership(started_ms));
        if !client.join(&membership) {
            let group = &options.group;
            return Err(Error::Config(format!("group `{group}` has a consumer in this client")));
        }
        // From here on the member leaves again when this future is dropped.
        let consumer = Self(Arc::new(Shared {
            client,
            options,
            arrived: Notify::new(),
            membership,
            started_ms,
            lanes: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            committing: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
        }));
        let shared = &consumer.0;
        let asked: Arc<dyn Asked> = shared.clone();
        shared.membership.answered_by(&asked);
        // Brokers know the member before it asks who else there is.
        shared.client.meet_brokers().await;
        shared.client.refresh_all(shared.membership.topics.clone()).await;
        shared.client.heartbeat_all().await;
        shared.tasks().spawn(keep_balanced(shared.clone()));
        if let Some(interval) = shared.options.auto_commit {
            shared.tasks().spawn(keep_committed(shared.clone(), interval));
        }
        Ok(consumer)
    }

    /// The next messages, as soon as there are any; none when none came within `timeout`. Messages
    /// of one queue come in its order. Those of the poll before are done now. For one task at a
    /// time.
    pub async fn poll(&self, timeout: Duration) -> Vec<Delivery> {
        self.0.pass();
        let waited = tokio::time::timeout(timeout, async {
            loop {
                let arrived = self.0.arrived.notified();
                let taken = self.0.take();
                if !taken.is_empty() {
                    return taken;
                }
                arrived.await;
            }
        });
        waited.await.unwrap_or_default()
    }

    /// Reads exactly these queues from now on. Those that are new begin where the group stands.
    ///
    /// # Errors
    /// [`Error::Config`] for a consumer with subscriptions; what went wrong with name servers.
    pub async fn assign(
        &self,
        queues: impl IntoIterator<Item = MessageQueue>,
    ) -> Result<(), Error> {
        let shared = &self.0;
        if !shared.options.subscriptions.is_empty() {
            let group = shared.group();
            return Err(Error::Config(format!(
                "group `{group}` subscribes, so its queues are dealt: assign without subscriptions"
            )));
        }
        let wanted: BTreeSet<MessageQueue> = queues.into_iter().collect();
        let topics: BTreeSet<&str> = wanted.iter().map(|queue| &*queue.topic).collect();
        for topic in topics {
            shared.client.read_queues(topic).await?;
        }
        shared.client.heartbeat_all().await;
        let _alone = shared.changing.lock().await;
        shared.change(&wanted, |_| true, false).await;
        Ok(())
    }

    /// The queues that are read now.
    #[must_use]
    pub fn assignment(&self) -> BTreeSet<MessageQueue> {
        self.0.lanes().by_queue.keys().cloned().collect()
    }

    /// Goes on at another offset of a queue; messages that were pulled ahead are dropped.
    ///
    /// # Errors
    /// [`Error::Config`] for a queue that is not read here.
    pub fn seek(&self, queue: &MessageQueue, offset: i64) -> Result<(), Error> {
        self.0.lane(queue)?.seek(offset.max(0));
        Ok(())
    }

    /// Goes on at the first message of a queue that is still there.
    ///
    /// # Errors
    /// As [`Self::seek`] and [`Client::min_offset`].
    pub async fn seek_to_begin(&self, queue: &MessageQueue) -> Result<(), Error> {
        self.seek(queue, self.0.client.min_offset(queue).await?)
    }

    /// Goes on behind the last message of a queue.
    ///
    /// # Errors
    /// As [`Self::seek`] and [`Client::max_offset`].
    pub async fn seek_to_end(&self, queue: &MessageQueue) -> Result<(), Error> {
        self.seek(queue, self.0.client.max_offset(queue).await?)
    }

    /// Polls give out no message of these queues, until they are resumed or dealt anew.
    ///
    /// # Errors
    /// [`Error::Config`] for a queue that is not read here.
    pub fn pause(&self, queues: &[MessageQueue]) -> Result<(), Error> {
        queues.iter().try_for_each(|queue| {
            self.0.lane(queue)?.pause(true);
            Ok(())
        })
    }

    /// The opposite of [`Self::pause`].
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn resume(&self, queues: &[MessageQueue]) -> Result<(), Error> {
        let resumed = queues.iter().try_for_each(|queue| {
            self.0.lane(queue)?.pause(false);
            Ok(())
        });
        self.0.arrived.notify_one();
        resumed
    }

    /// Tells the brokers that everything polls gave out is done, and waits until they have heard.
    ///
    /// # Errors
    /// The first failure; offsets that were not heard are told again with the next commit.
    pub async fn commit(&self) -> Result<(), Error> {
        self.0.pass();
        self.0.tell_all().await
    }

    /// Where the group goes on in a queue; see [`Client::committed`].
    ///
    /// # Errors
    /// As [`Client::committed`].
    pub async fn committed(&self, queue: &MessageQueue) -> Result<Option<i64>, Error> {
        self.0.client.committed(self.0.group(), queue).await
    }

    /// Stops pulling, tells what is done and leaves the group. Messages of the last poll are not
    /// done, unless a commit has said so: they come again.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn shutdown(self) -> Result<(), Error> {
        let shared = &self.0;
        let mut tasks = {
            // No commit may be cut off while the broker takes it.
            let _committing = shared.committing.lock().await;
            std::mem::take(&mut *shared.tasks())
        };
        tasks.shutdown().await;
        let told = shared.tell_all().await;
        shared.client.leave(shared.group());
        shared.client.unregister_consumer(shared.group()).await;
        told
    }
}

impl Drop for PullConsumer {
    fn drop(&mut self) {
        self.0.tasks().abort_all();
        self.0.client.leave(self.0.group());
    }
}

impl Shared {
    pub(super) fn group(&self) -> &str {
        &self.options.group
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Lane>> {
        self.lanes().by_queue.values().map(|(lane, _)| lane.clone()).collect()
    }

    fn lane(&self, queue: &MessageQueue) -> Result<Arc<Lane>, Error> {
        let lane = self.lanes().by_queue.get(queue).map(|(lane, _)| lane.clone());
        lane.ok_or_else(|| {
            let group = self.group();
            Error::Config(format!(
                "{queue} is not read by this member of `{group}`: see assignment"
            ))
        })
    }

    fn pass(&self) {
        self.all().iter().for_each(|lane| lane.pass());
    }

    fn take(&self) -> Vec<Delivery> {
        let mut lanes = self.lanes();
        let turn = lanes.turn.checked_rem(lanes.by_queue.len()).unwrap_or(0);
        lanes.turn = turn.wrapping_add(1);
        let all: Vec<&Arc<Lane>> = lanes.by_queue.values().map(|(lane, _)| lane).collect();
        let (late, early) = all.split_at(turn);
        let mut taken = Vec::new();
        for lane in early.iter().chain(late) {
            taken.extend(lane.take(self.options.poll_batch - taken.len()));
            if taken.len() == self.options.poll_batch {
                break;
            }
        }
        taken
    }

    /// Tells how far a queue is, if it is news.
    pub(super) async fn tell(&self, lane: &Lane) -> Result<(), Error> {
        let _one_at_a_time = self.committing.lock().await;
        let Some(offset) = lane.untold() else { return Ok(()) };
        offsets::commit(&self.client, self.group(), &lane.queue, offset).await?;
        lane.told(offset);
        Ok(())
    }

    async fn tell_all(&self) -> Result<(), Error> {
        let mut failed = Ok(());
        for lane in self.all() {
            failed = failed.and(self.tell(&lane).await);
        }
        failed
    }

    fn wanted(&self, topic: &str) -> SubscriptionData {
        let mut subscriptions = self.membership.data.subscription_data_set.iter();
        let wanted = subscriptions.find(|wanted| wanted.topic == topic);
        wanted
            .cloned()
            .unwrap_or_else(|| SubscriptionData::by_tags(topic, SubscriptionData::ALL, 0))
    }

    /// Gives up and takes over queues, of those that `concerned` names, until they are those
    /// wanted. For whoever holds `changing`.
    async fn change(
        self: &Arc<Self>,
        wanted: &BTreeSet<MessageQueue>,
        concerned: impl Fn(&MessageQueue) -> bool,
        shared_out: bool,
    ) {
        let held = self.lanes().by_queue.keys().filter(|queue| concerned(queue)).cloned().collect();
        let change = rebalance::change(&held, wanted);
        for queue in &change.lost {
            let lost = self.lanes().by_queue.remove(queue);
            let Some((lane, fetching)) = lost else { continue };
            fetching.abort();
            if let Err(failed) = self.tell(&lane).await {
                tracing::debug!(%failed, %queue, "an offset was not told");
            }
        }
        for queue in change.gained {
            let lane = Arc::new(Lane::new(queue.clone(), self.wanted(&queue.topic)));
            let fetching = lane::fetch(self.clone(), lane.clone(), shared_out);
            let fetching = self.tasks().spawn(fetching);
            self.lanes().by_queue.insert(queue, (lane, fetching));
        }
    }

    /// Deals all topics' queues. False: it has to be done again soon.
    async fn rebalance(self: &Arc<Self>) -> bool {
        let (settled, dealt) = rebalance::deal(&self.client, &self.membership).await;
        let _alone = self.changing.lock().await;
        for rebalance::Dealt { topic, wanted, shared } in dealt {
            self.change(&wanted, |queue| *queue.topic == topic, shared).await;
        }
        settled
    }

    async fn reposition(&self) {
        for (queue, offset) in self.membership.take_resets() {
            let Ok(lane) = self.lane(&queue) else { continue };
            tracing::info!(%queue, offset, group = self.group(), "the offset was reset");
            lane.seek(offset);
            if let Err(failed) = self.tell(&lane).await {
                tracing::debug!(%failed, %queue, "an offset was not told");
            }
        }
    }
}

impl Asked for Shared {
    fn offsets(&self) -> QueueMap<i64> {
        let lanes = self.all();
        lanes.iter().filter_map(|lane| Some((lane.queue.clone(), lane.passed()?))).collect()
    }

    fn running_info(&self) -> ConsumerRunningInfo {
        let manner = Manner {
            consume_type: "CONSUME_ACTIVELY",
            concurrency: 0,
            orderly: false,
            started_ms: self.started_ms,
        };
        let lanes = self.all();
        ConsumerRunningInfo {
            properties: self.client.running_properties(&manner),
            subscription_set: self.membership.data.subscription_data_set.clone(),
            mq_table: lanes.iter().map(|lane| (lane.queue.clone(), lane.info())).collect(),
            ..ConsumerRunningInfo::default()
        }
    }

    fn handle(
        self: Arc<Self>,
        _: Delivery,
    ) -> Option<BoxFuture<'static, ConsumeMessageDirectlyResult>> {
        None
    }
}

/// Deals queues: now, when the broker or a route says that something changed, and every 20 s.
async fn keep_balanced(shared: Arc<Shared>) {
    loop {
        shared.reposition().await;
        let settled = shared.rebalance().await;
        // Fetchers that were aborted.
        while shared.tasks().try_join_next().is_some() {}
        tokio::select! {
            () = shared.membership.wake.notified() => {}
            () = tokio::time::sleep(REBALANCE_RETRY), if !settled => {}
            () = shared.client.0.options.clock.sleep(REBALANCE_INTERVAL) => {}
        }
    }
}

async fn keep_committed(shared: Arc<Shared>, interval: Duration) {
    loop {
        shared.client.0.options.clock.sleep(interval).await;
        if let Err(failed) = shared.tell_all().await {
            tracing::debug!(%failed, group = shared.group(), "an offset was not told");
        }
    }
}
