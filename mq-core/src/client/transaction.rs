//! Transactional sends: a message that consumers see only once the sender has committed, and the
//! answers to brokers that ask what became of it (39). Not here: how a half message is sent
//! (`producer.rs`), what a broker does with it.
//!
//! Invariants: a half message that was not stored safely is rolled back and its branch is never
//! run; a decision is sent to the broker that has the half message, one-way, and when it is lost
//! the broker asks; whatever goes wrong in a checker means that nothing is known yet.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Client, Producer};
use crate::error::Error;
use crate::message::{Delivery, Outgoing, SendReceipt, SendStatus};
use crate::names::{MessageQueue, check_group};
use crate::properties::{find, key};
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::header::{CheckTransactionStateRequest, EndTransactionRequest};
use crate::protocol::record::{Record, Verify, parse_offset_msg_id, sys_flag};
use crate::remote::Inbound;

/// Checks that run at once for one group.
const CHECKS_AT_ONCE: usize = 16;
/// Checks that wait for their turn; the broker repeats those beyond.
const CHECKS_WAITING: usize = 1_024;

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// Consumers may have the message.
    Commit,
    /// Nobody will ever see it.
    Rollback,
    /// It is not known yet; the broker will ask.
    Unknown,
}

/// Answers brokers that ask what became of a transaction: because its sender has crashed, because
/// its decision was lost, or because it takes long.
#[async_trait]
pub trait TransactionChecker: Send + Sync + 'static {
    /// What became of the transaction of this message? It may be asked more than once, at the same
    /// time, and by another process than the one that sent it. A panic means that it is not known.
    /// The broker's address stands in the place of its name.
    async fn check(&self, half: Delivery) -> TransactionState;
}

/// Sends messages in transactions for one producer group. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct TransactionProducer {
    producer: Producer,
}

/// A half message whose transaction is open. Dropped, it is left undecided: the broker asks.
#[derive(Debug)]
#[must_use = "nobody sees the message until it is committed"]
pub struct Transaction {
    /// Where the half message is: not where consumers will find the message.
    pub receipt: SendReceipt,
    producer: Producer,
}

/// What a transactional send came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionReceipt {
    /// Where the half message is.
    pub receipt: SendReceipt,
    /// What the branch decided.
    pub state: TransactionState,
}

impl Client {
    /// A producer whose messages become visible when they are committed, and the checker that
    /// brokers ask about those of its group. Every member of the group must be able to answer for
    /// every other.
    ///
    /// # Errors
    /// [`Error::Config`] for an illegal name, or a group that has a checker in this client already.
    pub async fn transaction_producer(
        &self,
        group: &str,
        checker: Arc<dyn TransactionChecker>,
    ) -> Result<TransactionProducer, Error> {
        self.check_open()?;
        check_group(group).map_err(Error::Config)?;
        let (ask, checks) = mpsc::channel(CHECKS_WAITING);
        if !self.groups().add_checker(group, ask) {
            let known = format!("the producer group `{group}` has a checker already: share it");
            return Err(Error::Config(known));
        }
        self.spawn(answer_checks(group.to_owned(), checker, checks));
        let producer = self.producer(group);
        // A broker asks only those that it knows to be producers of the group.
        self.meet_brokers().await;
        self.heartbeat_all().await;
        Ok(TransactionProducer { producer })
    }
}

impl TransactionProducer {
    /// Stores a message that nobody sees yet, runs `branch`, and ends the transaction as it says.
    ///
    /// When the decision does not reach the broker, the broker asks the group's checker: the result
    /// is then what the checker says.
    ///
    /// # Errors
    /// As [`Self::prepare`]; then the branch has not run.
    pub async fn send_in_transaction<F>(
        &self,
        message: Outgoing,
        branch: impl FnOnce(SendReceipt) -> F,
    ) -> Result<TransactionReceipt, Error>
    where
        F: Future<Output = TransactionState>,
    {
        let transaction = self.prepare(message).await?;
        let receipt = transaction.receipt.clone();
        let state = branch(receipt.clone()).await;
        if let Err(failed) = transaction.end(state).await {
            tracing::warn!(%failed, ?state, id = receipt.msg_id, "the broker will ask for it");
        }
        Ok(TransactionReceipt { receipt, state })
    }

    /// Stores a message that nobody sees until [`Transaction::commit`].
    ///
    /// # Errors
    /// As [`Producer::send`]. [`Error::Message`] for a delayed message: brokers would take the half
    /// message for it. [`Error::Refused`] also when the message was stored, but not as safely as
    /// the broker is configured to: then it is rolled back.
    pub async fn prepare(&self, message: Outgoing) -> Result<Transaction, Error> {
        let receipt = self.producer.send_half(message).await?;
        let status = receipt.status;
        let transaction = Transaction { receipt, producer: self.producer.clone() };
        if status == SendStatus::Ok {
            return Ok(transaction);
        }
        let rolled_back = transaction.rollback().await;
        let remark = match rolled_back {
            Ok(()) => format!("the half message is not stored safely and rolled back: {status:?}"),
            Err(error) => format!("the half message is not stored safely: {status:?}, {error}"),
        };
        Err(Error::Refused { code: code_of(status).code(), remark })
    }
}

fn code_of(status: SendStatus) -> ResponseCode {
    match status {
        SendStatus::Ok => ResponseCode::Success,
        SendStatus::FlushDiskTimeout => ResponseCode::FlushDiskTimeout,
        SendStatus::FlushSlaveTimeout => ResponseCode::FlushSlaveTimeout,
        SendStatus::SlaveNotAvailable => ResponseCode::SlaveNotAvailable,
    }
}

impl Transaction {
    /// Consumers get the message.
    ///
    /// # Errors
    /// The broker could not be told; it will ask the checker.
    pub async fn commit(self) -> Result<SendReceipt, Error> {
        self.end(TransactionState::Commit).await?;
        Ok(self.receipt)
    }

    /// Nobody gets the message.
    ///
    /// # Errors
    /// The broker could not be told; it will ask the checker.
    pub async fn rollback(self) -> Result<(), Error> {
        self.end(TransactionState::Rollback).await
    }

    async fn end(&self, state: TransactionState) -> Result<(), Error> {
        let Some(decision) = decision(state) else { return Ok(()) };
        let receipt = &self.receipt;
        let Some((_, commit_log_offset)) = parse_offset_msg_id(&receipt.offset_msg_id) else {
            let id = &receipt.offset_msg_id;
            let remark = format!("the broker's id `{id}` does not say where the half message is");
            return Err(Error::Refused { code: ResponseCode::SystemError.code(), remark });
        };
        let header = EndTransactionRequest {
            topic: Some(&receipt.queue.topic),
            producer_group: &self.producer.group,
            tran_state_table_offset: receipt.queue_offset,
            commit_log_offset,
            commit_or_rollback: decision,
            from_transaction_check: Some(false),
            msg_id: &receipt.msg_id,
            transaction_id: Some(&receipt.msg_id),
        };
        let client = &self.producer.client;
        let remote = client.master(&receipt.queue.broker_name).await?;
        let request = Command::with(RequestCode::EndTransaction, &header);
        remote.oneway(client.form(request)).await?;
        if let Some(tracer) = &client.0.tracer {
            let now_ms = client.0.options.clock.now_ms();
            tracer.ended(receipt, &self.producer.group, state == TransactionState::Commit, now_ms);
        }
        Ok(())
    }
}

/// As the wire has it; nothing to tell when nothing is known.
fn decision(state: TransactionState) -> Option<i32> {
    match state {
        TransactionState::Commit => Some(sys_flag::TRANSACTION_COMMIT),
        TransactionState::Rollback => Some(sys_flag::TRANSACTION_ROLLBACK),
        TransactionState::Unknown => None,
    }
}

/// 39: hands a broker's question to the checker of the message's group.
pub(super) fn asked(client: &Client, question: Inbound) {
    let body = question.command.body.clone();
    let group = Record::decode(&body, Verify::None)
        .ok()
        .and_then(|(record, _)| find(record.properties, key::PGROUP));
    let Some(checker) = group.and_then(|group| client.groups().checker(group)) else {
        return tracing::warn!(group, "no checker for a transaction of this group");
    };
    if checker.try_send(question).is_err() {
        tracing::warn!(group, "too many checks of transactions at once; the broker asks again");
    }
}

async fn answer_checks(
    group: String,
    checker: Arc<dyn TransactionChecker>,
    mut checks: mpsc::Receiver<Inbound>,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = running.join_next() => if let Err(panicked) = ended {
                tracing::error!(group, %panicked, "the checker of a transaction panicked");
            },
            question = checks.recv(), if running.len() < CHECKS_AT_ONCE => {
                let Some(question) = question else { return };
                running.spawn(answer_check(checker.clone(), question));
            }
        }
    }
}

async fn answer_check(checker: Arc<dyn TransactionChecker>, question: Inbound) {
    let half = match half_of(&question.command) {
        Ok(half) => half,
        Err(why) => return tracing::warn!(why, "a broker's question cannot be understood"),
    };
    let id = half.msg_id();
    let group = half.property(key::PGROUP).unwrap_or_default().to_owned();
    let state = checker.check(half).await;
    let Some(decision) = decision(state) else { return };
    let Ok(asked) = question.command.decode_header::<CheckTransactionStateRequest<'_>>() else {
        return;
    };
    let header = EndTransactionRequest {
        topic: asked.topic,
        producer_group: &group,
        tran_state_table_offset: asked.tran_state_table_offset,
        commit_log_offset: asked.commit_log_offset,
        commit_or_rollback: decision,
        from_transaction_check: Some(true),
        msg_id: &id,
        transaction_id: asked.transaction_id,
    };
    if let Err(failed) = question.tell(Command::with(RequestCode::EndTransaction, &header)).await {
        tracing::debug!(%failed, id, "the answer to a broker's question is lost; it asks again");
    }
}

fn half_of(question: &Command) -> Result<Delivery, String> {
    let (record, _) =
        Record::decode(&question.body, Verify::None).map_err(|error| error.to_string())?;
    let queue = MessageQueue::new(record.topic, record.store_host.to_string(), record.queue_id);
    Delivery::from_record(&record, &question.body, &queue).map_err(|error| error.to_string())
}
