//! What a queue has in orderly consumption: the lease of its lock, and the lane in which its
//! messages wait for their turn. Asking brokers for locks. Not here: pulling (`worker.rs`), calling
//! handlers (`handling.rs`).
//!
//! Invariants:
//! - A lease ends 30 s after it was last asked for, by the clock and by the monotonic clock, half
//!   of the broker's time. One that has ended stays ended until the queue's worker begins anew with
//!   the offset that the broker has: in between another member may have had the queue.
//! - A lane gives out one message (or batch) at a time. What failed is given out again before what
//!   is behind it.
//!
//! What is promised: no handler call begins without a lease, and a call whose lease ends is dropped
//! at its next `.await`, at least 5 s before a broker gives the queue to another member. A handler
//! that blocks its thread cannot be dropped; if it blocks for longer than that, it may run beside
//! the queue's new owner. Its queue offset is the fence for such work: offsets of a queue only
//! grow.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::consumer::Group;
use super::handling::Message;
use super::refused;
use super::worker::Progress;
use crate::clock::{Clock, millis};
use crate::error::Error;
use crate::names::MessageQueue;
use crate::protocol::body::{LockBatchRequest, LockBatchResponse, from_json, to_json};
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;

/// How long a lock is believed in.
const LEASE: Duration = Duration::from_secs(30);
const RENEW_INTERVAL: Duration = Duration::from_secs(20);
/// The rest before a broker that did not answer is asked again.
const RENEW_PAUSE: Duration = Duration::from_secs(1);
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// The rest before a queue that another member holds is asked for again.
const HELD_PAUSE: Duration = Duration::from_millis(250);

/// What makes a queue's messages wait for each other.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) lease: Lease,
    lane: Mutex<Lane>,
    suspended: Notify,
}

impl Order {
    pub(super) fn new(clock: Clock) -> Self {
        let lease = Lease { end: watch::Sender::new(None), clock };
        Self { lease, lane: Mutex::default(), suspended: Notify::new() }
    }

    fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues messages up; returns the one to give out, unless one is out.
    pub(super) fn enter(&self, messages: Vec<Message>) -> Option<Message> {
        let mut lane = self.lane();
        lane.waiting.extend(messages);
        match lane.state {
            State::Idle => lane.next(),
            State::Out | State::Suspended => None,
        }
    }

    /// Up to `most` messages of an epoch, to be handled together with the one that is out.
    pub(super) fn more(&self, epoch: u32, most: usize) -> Vec<Message> {
        let mut lane = self.lane();
        let fitting = lane.waiting.iter().take(most).take_while(|m| m.kept.epoch == epoch).count();
        lane.waiting.drain(..fitting).collect()
    }

    /// What was out is done: the next message to give out.
    pub(super) fn next(&self) -> Option<Message> {
        self.lane().next()
    }

    /// What was out is to be given out again, before all others, after a rest.
    pub(super) fn suspend(&self, messages: Vec<Message>) {
        let mut lane = self.lane();
        for message in messages.into_iter().rev() {
            lane.waiting.push_front(message);
        }
        lane.state = State::Suspended;
        drop(lane);
        self.suspended.notify_one();
    }

    /// Forgets what waits. What is out still has to come to its end.
    pub(super) fn clear(&self) {
        let mut lane = self.lane();
        lane.waiting.clear();
        if lane.state == State::Suspended {
            lane.state = State::Idle;
        }
    }

    /// How many messages wait.
    pub(super) fn waiting(&self) -> usize {
        self.lane().waiting.len()
    }

    /// Gives out what was suspended, each after its rest.
    pub(super) async fn resume(&self, group: &Group, progress: &Arc<Progress>) {
        loop {
            self.suspended.notified().await;
            group.clock().sleep(group.options.suspend).await;
            let message = {
                let mut lane = self.lane();
                // It may have been cleared since.
                if lane.state == State::Suspended { lane.next() } else { None }
            };
            group.ready.push_one(progress, message);
        }
    }
}

/// Messages of one queue, in their order.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Message>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    /// A message waits for a runner or is being handled.
    Out,
    /// The first message failed and rests.
    Suspended,
}

impl Lane {
    fn next(&mut self) -> Option<Message> {
        let next = self.waiting.pop_front();
        self.state = if next.is_some() { State::Out } else { State::Idle };
        next
    }
}

/// Until when a queue's lock is believed in.
#[derive(Debug)]
pub(super) struct Lease {
    end: watch::Sender<Option<End>>,
    clock: Clock,
}

/// By both clocks: the wall clock may be set back, the monotonic one may stand while a machine
/// sleeps.
#[derive(Clone, Copy, Debug)]
struct End {
    at_ms: i64,
    at: Instant,
}

impl End {
    fn after(clock: &Clock, life: Duration) -> Self {
        let at_ms = clock.now_ms().saturating_add(millis(life));
        Self { at_ms, at: Instant::now() + life }
    }
}

impl Lease {
    /// Whether the queue's messages may be handled now. Ends the lease when its time is over.
    pub(super) fn is_valid(&self) -> bool {
        let end = *self.end.borrow();
        let in_time = |end: End| self.clock.now_ms() < end.at_ms && Instant::now() < end.at;
        let valid = end.is_some_and(in_time);
        if !valid && end.is_some() {
            self.lapse();
        }
        valid
    }

    fn begin(&self, end: End) {
        self.end.send_replace(Some(end));
    }

    /// Makes a lease that has not ended last longer.
    fn renew(&self, end: End) {
        if self.is_valid() {
            self.begin(end);
        }
    }

    /// Ends the lease.
    pub(super) fn lapse(&self) {
        self.end.send_replace(None);
    }

    /// Returns once the lease has ended.
    pub(super) async fn lost(&self) {
        let mut changes = self.end.subscribe();
        while self.is_valid() {
            let Some(end) = *changes.borrow_and_update() else { return };
            tokio::select! {
                () = self.clock.sleep_until(end.at_ms) => {}
                () = tokio::time::sleep_until(end.at) => {}
                // The sender lives as long as `self`.
                _ = changes.changed() => {}
            }
        }
    }
}

/// Gets a queue's lock, however long others hold it.
pub(super) async fn acquire(group: &Group, progress: &Progress, order: &Order) {
    loop {
        let end = End::after(group.clock(), LEASE);
        let queue = &progress.queue;
        match lock(group, &queue.broker_name, vec![queue.clone()]).await {
            Ok(locked) if locked.contains(queue) => return order.lease.begin(end),
            Ok(_) => {}
            Err(failed) => {
                tracing::debug!(%failed, %queue, group = group.name(), "a queue is not locked yet");
            }
        }
        tokio::time::sleep(HELD_PAUSE).await;
    }
}

/// Renews the leases of all queues that are worked, for as long as it is polled.
pub(super) async fn keep_locked(group: Arc<Group>) {
    loop {
        let renewed = renew_all(&group).await;
        let pause = if renewed { RENEW_INTERVAL } else { RENEW_PAUSE };
        tokio::select! {
            () = group.clock().sleep(pause) => {}
            // A broker was away: it may have started anew, and know no locks.
            () = group.relock.notified() => {}
        }
    }
}

/// False: not every broker has answered.
async fn renew_all(group: &Group) -> bool {
    let mut brokers: BTreeMap<Arc<str>, Vec<Arc<Progress>>> = BTreeMap::new();
    for progress in group.worked() {
        if progress.order.as_ref().is_some_and(|order| order.lease.is_valid()) {
            brokers.entry(progress.queue.broker_name.clone()).or_default().push(progress);
        }
    }
    let mut all = true;
    for (broker, progresses) in &brokers {
        let end = End::after(group.clock(), LEASE);
        let queues = progresses.iter().map(|progress| progress.queue.clone()).collect();
        match lock(group, broker, queues).await {
            Ok(locked) => renew(progresses, &locked, end),
            Err(failed) => {
                all = false;
                tracing::debug!(%failed, group = group.name(), "locks were not renewed yet");
            }
        }
    }
    all
}

fn renew(progresses: &[Arc<Progress>], locked: &[MessageQueue], end: End) {
    for progress in progresses {
        let Some(order) = &progress.order else { continue };
        if locked.contains(&progress.queue) {
            order.lease.renew(end);
        } else {
            tracing::warn!(queue = %progress.queue, "another member has the lock of this queue now");
            order.lease.lapse();
        }
    }
}

/// Asks for locks; returns those that this client has.
async fn lock(
    group: &Group,
    broker: &str,
    queues: Vec<MessageQueue>,
) -> Result<Vec<MessageQueue>, Error> {
    let answer = ask(group, broker, RequestCode::LockBatchMq, queues).await?;
    let body: LockBatchResponse = from_json(&answer.body)
        .map_err(|error| Error::Refused { code: answer.code, remark: error.to_string() })?;
    Ok(body.lock_ok_mq_set)
}

/// Releases locks, so that others need not wait for their end.
pub(super) async fn unlock(group: &Group, broker: &str, queues: Vec<MessageQueue>) {
    if let Err(failed) = ask(group, broker, RequestCode::UnlockBatchMq, queues).await {
        tracing::debug!(%failed, group = group.name(), "queues are unlocked by the broker later");
    }
}

async fn ask(
    group: &Group,
    broker: &str,
    code: RequestCode,
    mq_set: Vec<MessageQueue>,
) -> Result<Command, Error> {
    let body = LockBatchRequest {
        consumer_group: group.name().to_owned(),
        client_id: group.client.0.id.clone(),
        only_this_broker: false,
        mq_set,
    };
    let request = group.client.form(Command::request(code).body(to_json(&body)));
    let remote = group.client.master(broker).await?;
    let answer = remote.call(request, LOCK_TIMEOUT).await?;
    match answer.response_code() {
        ResponseCode::Success => Ok(answer),
        _ => Err(refused(&answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(offset: i64) -> Message {
        Message::unread(3, offset, Bytes::new())
    }

    fn offset(message: Option<Message>) -> Option<i64> {
        message.map(|message| message.kept.offset)
    }

    #[test]
    fn a_lane_gives_out_one_at_a_time_in_order() {
        let order = Order::new(Clock::System);
        assert_eq!(offset(order.enter(vec![message(1), message(2)])), Some(1));
        assert_eq!(offset(order.enter(vec![message(3)])), None, "one is out");
        assert_eq!(offset(order.next()), Some(2));
        assert_eq!(order.more(3, 9).len(), 1);
        assert_eq!(offset(order.next()), None);
        assert_eq!(offset(order.enter(vec![message(4)])), Some(4));
    }

    #[test]
    fn what_failed_comes_before_what_is_behind_it() {
        let order = Order::new(Clock::System);
        order.enter(vec![message(1), message(2), message(3)]);
        order.suspend(vec![message(1)]);
        assert_eq!(offset(order.enter(vec![message(4)])), None, "the lane rests");
        assert_eq!(offset(order.next()), Some(1));
        order.suspend(vec![message(1)]);
        order.clear();
        assert_eq!(offset(order.enter(vec![message(9)])), Some(9), "nothing of before is out");
        order.clear();
        assert_eq!(offset(order.enter(vec![message(7)])), None, "a handler still runs");
        assert_eq!(offset(order.next()), Some(7));
    }

    #[tokio::test]
    async fn a_lease_ends_after_30_s_and_is_not_revived() {
        let (clock, hand) = Clock::manual(1_000);
        let lease = Order::new(clock.clone()).lease;
        assert!(!lease.is_valid());
        lease.begin(End::after(&clock, LEASE));
        hand.advance(Duration::from_secs(20));
        lease.renew(End::after(&clock, LEASE));
        hand.advance(Duration::from_millis(29_999));
        assert!(lease.is_valid());
        let mut lost = Box::pin(lease.lost());
        assert!(futures_util::poll!(&mut lost).is_pending());
        hand.advance(Duration::from_millis(1));
        lost.await;
        lease.renew(End::after(&clock, LEASE));
        assert!(!lease.is_valid(), "somebody else may have had the queue");
        lease.begin(End::after(&clock, LEASE));
        assert!(lease.is_valid());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_stands_does_not_make_a_lease_last() {
        let (clock, _hand) = Clock::manual(1_000);
        let lease = Order::new(clock.clone()).lease;
        lease.begin(End::after(&clock, LEASE));
        lease.lost().await;
        assert!(!lease.is_valid());
    }
}
