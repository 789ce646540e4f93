//! Asking producers about undecided transactions (39): when, how often, whom, and giving up. Not
//! here: what is undecided and what settles it (`transaction`).
//!
//! A round every `transactionCheckInterval` goes over the undecided half messages in order. One
//! that is old enough is put at the end of the queue with its checks counted, and a producer of its
//! group is asked about that copy; after `transactionCheckMax` checks, or three days, it goes to
//! TRANS_CHECK_MAX_TIME_TOPIC. One that need not be asked about yet, or whose group has nobody to
//! ask, stays where it is and is not counted, and does not hold up those behind it: the answer of a
//! producer that is away for hours is waited for. It is moved all the same once [`WINDOW`] half
//! messages lie behind it, so that the ledger stays small.
//!
//! Invariants: a producer is asked only about a copy that its answer will find; a half message
//! that was stored after the round began waits for the next one.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use mq_core::names;
use mq_core::properties::{find, key};
use mq_core::protocol::code::RequestCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::CheckTransactionStateRequest;
use mq_core::protocol::record::{NewRecord, Position, Record, Verify, offset_msg_id};
use mq_core::server::Peer;
use tracing::{debug, warn};

use crate::broker::Broker;
use crate::store::{Appended, ConsumeQueue, StoreError};
use crate::transaction::{Half, QUEUE, read_entry};

/// Half messages behind an undecided one that may stay where it is.
const WINDOW: i64 = 1 << 18;
/// So many are looked at in a row; then others get their turn.
const BATCH: usize = 64;
/// No decision is waited for longer: messages are not kept longer by default.
const LIFE_MS: i64 = 72 * 3_600 * 1_000;

/// One pass over the undecided.
struct Round {
    began_ms: i64,
    /// Groups whose producers take no more now.
    busy: HashSet<String>,
    /// Counts up; the remainder is the producer that is asked first.
    turn: usize,
}

/// What is to be done with an undecided half message.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It, and all behind it, are too young.
    NextRound,
    Stay,
    Ask,
    GiveUp,
}

/// A question to send once the copy can be found.
struct Question {
    group: String,
    request: Command,
}

/// Looks for undecided transactions, until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>) {
    let queue = match broker.store.queues.queue_or_create(names::HALF_TOPIC, QUEUE) {
        Ok(queue) => queue,
        Err(error) => return broker.fail("transaction-check", &error),
    };
    let mut turn = 0;
    loop {
        let interval = Duration::from_millis(broker.config.transaction_check_interval_ms.now());
        broker.clock.sleep(interval).await;
        let mut round = Round { began_ms: broker.clock.now_ms(), busy: HashSet::new(), turn };
        match round.go(&broker, &queue).await {
            // On a full disk the next round may do better.
            Ok(()) | Err(StoreError::Full) => {}
            Err(error) => return broker.fail("transaction-check", &error),
        }
        turn = round.turn;
    }
}

impl Round {
    async fn go(&mut self, broker: &Broker, queue: &ConsumeQueue) -> Result<(), StoreError> {
        let end = queue.max_offset();
        let mut offset = broker.transactions.next_open(queue.min_offset());
        while offset < end {
            let mut questions = Vec::new();
            let mut copied = 0;
            for _ in 0..BATCH {
                if offset >= end {
                    break;
                }
                match self.visit(broker, queue, offset)? {
                    ControlFlow::Break(()) => return self.ask(broker, questions, copied).await,
                    ControlFlow::Continue(None) => {}
                    ControlFlow::Continue(Some((question, copy_end))) => {
                        questions.push(question);
                        copied = copy_end;
                    }
                }
                offset = broker.transactions.next_open(offset + 1);
            }
            self.ask(broker, questions, copied).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Looks at one half message and does what is due. Breaks at the first that is too young.
    fn visit(
        &mut self,
        broker: &Broker,
        queue: &ConsumeQueue,
        offset: i64,
    ) -> Result<ControlFlow<(), Option<(Question, u64)>>, StoreError> {
        let mut bytes = None;
        if let Some(entry) = queue.read(offset, 1)?.first() {
            bytes = read_entry(&broker.store, entry)?;
        }
        let record = bytes.as_ref().and_then(|bytes| Record::decode(bytes, Verify::None).ok());
        let half = record.map(|(record, _)| Half::of(record));
        let Some(Ok(half)) = half else {
            warn!(offset, ?half, "a half message cannot be read, it will never be delivered");
            broker.transactions.pass_over(offset);
            return Ok(ControlFlow::Continue(None));
        };
        let asked = match self.verdict(broker, &half) {
            Verdict::NextRound => return Ok(ControlFlow::Break(())),
            Verdict::Stay if queue.max_offset() - offset > WINDOW => move_on(broker, &half)?,
            Verdict::Stay => None,
            Verdict::Ask => question(broker, &half)?,
            Verdict::GiveUp => give_up(broker, &half)?,
        };
        Ok(ControlFlow::Continue(asked))
    }

    fn verdict(&self, broker: &Broker, half: &Half<'_>) -> Verdict {
        let config = &broker.config;
        let record = &half.record;
        let age_ms = broker.clock.now_ms() - record.born_timestamp_ms;
        if u64::from(half.checks()) >= config.transaction_check_max.now() || age_ms > LIFE_MS {
            return Verdict::GiveUp;
        }
        if record.store_timestamp_ms >= self.began_ms {
            return Verdict::NextRound;
        }
        let time_out_ms = i64::try_from(config.transaction_time_out_ms.now()).unwrap_or(i64::MAX);
        let immunity = find(record.properties, key::CHECK_IMMUNITY_TIME_IN_SECONDS);
        let immune_ms = immunity.map_or(time_out_ms, |seconds| {
            seconds.parse().map_or(time_out_ms, |seconds: i64| seconds.saturating_mul(1_000))
        });
        // A negative age: the clock was set back, or is another one. It tells nothing.
        let young = age_ms <= immune_ms && (age_ms >= 0 || immunity.is_some());
        match (young, immunity) {
            (true, Some(_)) => Verdict::Stay,
            (true, None) => Verdict::NextRound,
            _ if self.busy.contains(half.group) => Verdict::Stay,
            _ if broker.clients.producers(half.group).is_empty() => Verdict::Stay,
            _ => Verdict::Ask,
        }
    }

    /// Sends the questions, once the copies up to `copied` can be found.
    async fn ask(
        &mut self,
        broker: &Broker,
        questions: Vec<Question>,
        copied: u64,
    ) -> Result<(), StoreError> {
        if let Err(closed) = broker.store.log.readable_mark().reached(copied).await {
            return Err(StoreError::Poisoned(closed.to_string().into()));
        }
        for Question { group, request } in questions {
            let peers = broker.clients.producers(&group);
            self.turn = self.turn.wrapping_add(1);
            if !ask_one(&peers, self.turn, &request) {
                debug!(group, "no producer of the group takes a question now");
                self.busy.insert(group);
            }
        }
        Ok(())
    }
}

/// Asks the producer whose turn it is, or the next that lives.
fn ask_one(peers: &[Arc<Peer>], turn: usize, request: &Command) -> bool {
    let from = turn.checked_rem(peers.len()).unwrap_or(0);
    let (before, after) = peers.split_at_checked(from).unwrap_or_default();
    after.iter().chain(before).any(|peer| peer.notify(request.clone()))
}

/// Counts a check in a copy, and makes the question about it.
fn question(broker: &Broker, half: &Half<'_>) -> Result<Option<(Question, u64)>, StoreError> {
    let Some((copy, end)) = copy_to(broker, half, names::HALF_TOPIC, half.checks() + 1)? else {
        return Ok(None);
    };
    let request = check_request(broker, half, &copy);
    Ok(Some((Question { group: half.group.to_owned(), request }, end)))
}

/// Puts it behind the others as it is: nobody was asked.
fn move_on(broker: &Broker, half: &Half<'_>) -> Result<Option<(Question, u64)>, StoreError> {
    copy_to(broker, half, names::HALF_TOPIC, half.checks()).map(|_| None)
}

fn give_up(broker: &Broker, half: &Half<'_>) -> Result<Option<(Question, u64)>, StoreError> {
    if let Err(refusal) = broker.catalog.ensure_topic(names::CHECK_MAX_TOPIC, 1) {
        warn!(refusal.remark, "the topic for transactions that were given up is missing");
    }
    let id = half.record.offset_msg_id();
    let (group, topic, checks) = (half.group, half.topic, half.checks());
    warn!(id, group, topic, checks, "a transaction was not decided and is given up");
    copy_to(broker, half, names::CHECK_MAX_TOPIC, checks).map(|_| None)
}

fn copy_to(
    broker: &Broker,
    half: &Half<'_>,
    topic: &str,
    checks: u32,
) -> Result<Option<(Appended, u64)>, StoreError> {
    let properties = half.properties_after(checks);
    let record = half.record.copy();
    let copy = NewRecord { topic, queue_id: QUEUE, properties: properties.as_str(), ..record };
    broker.transactions.replace(&broker.store, half, copy)
}

/// 39, with the message as it will be when it is committed.
fn check_request(broker: &Broker, half: &Half<'_>, copy: &Appended) -> Command {
    let properties = half.properties_after(half.checks() + 1);
    let unique_key = find(half.record.properties, key::UNIQ_KEY);
    let header = CheckTransactionStateRequest {
        topic: Some(half.topic),
        tran_state_table_offset: copy.queue_offset,
        commit_log_offset: copy.physical_offset,
        msg_id: unique_key,
        transaction_id: unique_key,
        offset_msg_id: Some(&offset_msg_id(half.record.store_host, copy.physical_offset)),
    };
    let position = Position {
        physical_offset: copy.physical_offset,
        queue_offset: copy.queue_offset,
        store_timestamp_ms: broker.clock.now_ms(),
    };
    let mut body = Vec::new();
    let record = half.record.copy();
    let shown = NewRecord {
        topic: half.topic,
        queue_id: half.queue_id,
        properties: properties.as_str(),
        ..record
    };
    shown.encode(&mut body, position);
    Command::with(RequestCode::CheckTransactionState, &header).body(body)
}
