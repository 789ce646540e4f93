//! What brokers ask of a group's member on somebody's behalf: 307 what it does, 309 handle this
//! message now, 221 where it is. Not here: passing the questions on (the broker), consuming.
//!
//! Invariant: an answer that may take long is a task of its own, so that nothing waits for it;
//! there are at most [`HANDLING_MAX`].

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use super::Client;
use crate::message::Delivery;
use crate::names::MessageQueue;
use crate::protocol::body::{
    ConsumeMessageDirectlyResult, ConsumerRunningInfo, ConsumerStatusBody, QueueMap, to_json,
};
use crate::protocol::code::ResponseCode;
use crate::protocol::command::Command;
use crate::protocol::header::{
    ConsumeMessageDirectlyRequest, ConsumerRunningInfoRequest, ConsumerStatusRequest,
};
use crate::protocol::record::{Record, Verify};
use crate::remote::Inbound;

/// Messages that may be handled at once because somebody asked for it.
const HANDLING_MAX: usize = 16;

/// Keys of a member's properties, as Java's tools read them.
mod property {
    pub(super) const NAME_SERVERS: &str = "PROP_NAMESERVER_ADDR";
    pub(super) const CONCURRENCY: &str = "PROP_THREADPOOL_CORE_SIZE";
    pub(super) const ORDERLY: &str = "PROP_CONSUMEORDERLY";
    pub(super) const CONSUME_TYPE: &str = "PROP_CONSUME_TYPE";
    pub(super) const VERSION: &str = "PROP_CLIENT_VERSION";
    pub(super) const STARTED: &str = "PROP_CONSUMER_START_TIMESTAMP";
}

/// A member that can be asked.
pub(super) trait Asked: Send + Sync {
    /// Where it is in the queues it has: what it would tell a broker now.
    fn offsets(&self) -> QueueMap<i64>;

    /// What it does.
    fn running_info(&self) -> ConsumerRunningInfo;

    /// Has the handler handle a message that comes from no queue of this member; `None` without a
    /// handler.
    fn handle(
        self: Arc<Self>,
        delivery: Delivery,
    ) -> Option<BoxFuture<'static, ConsumeMessageDirectlyResult>>;
}

/// How a member consumes, in the words of Java's tools.
pub(super) struct Manner {
    pub(super) consume_type: &'static str,
    pub(super) concurrency: usize,
    pub(super) orderly: bool,
    pub(super) started_ms: i64,
}

impl Client {
    /// What tools read of a member beside its queues.
    pub(super) fn running_properties(&self, manner: &Manner) -> BTreeMap<String, String> {
        let servers = self.0.options.name_servers.join(";");
        [
            (property::NAME_SERVERS, servers),
            (property::CONCURRENCY, manner.concurrency.to_string()),
            (property::ORDERLY, manner.orderly.to_string()),
            (property::CONSUME_TYPE, manner.consume_type.to_owned()),
            (property::VERSION, concat!("common-mq ", env!("CARGO_PKG_VERSION")).to_owned()),
            (property::STARTED, manner.started_ms.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    fn asked(&self, group: &str) -> Option<Arc<dyn Asked>> {
        self.groups().consumers.get(group)?.asked.get()?.upgrade()
    }

    /// 307.
    pub(super) fn tell_running_info(&self, question: &Command) -> Command {
        let header = match question.decode_header::<ConsumerRunningInfoRequest<'_>>() {
            Ok(header) => header,
            Err(error) => return failed(question, &error.to_string()),
        };
        match self.asked(header.consumer_group) {
            Some(asked) => Command::success(question).body(to_json(&asked.running_info())),
            None => nobody(question, header.consumer_group),
        }
    }

    /// 221.
    pub(super) fn tell_offsets(&self, question: &Command) -> Command {
        let header = match question.decode_header::<ConsumerStatusRequest<'_>>() {
            Ok(header) => header,
            Err(error) => return failed(question, &error.to_string()),
        };
        let mut offsets = self.asked(header.group).map(|asked| asked.offsets()).unwrap_or_default();
        offsets.0.retain(|queue, _| *queue.topic == *header.topic);
        let body =
            ConsumerStatusBody { message_queue_table: offsets, ..ConsumerStatusBody::default() };
        Command::success(question).body(to_json(&body))
    }

    /// 309: answered when the handler is through.
    pub(super) async fn handle_directly(&self, question: Inbound, handling: &mut JoinSet<()>) {
        while handling.try_join_next().is_some() {}
        let command = question.command.clone();
        if handling.len() >= HANDLING_MAX {
            let remark = format!("{HANDLING_MAX} messages are handled directly at the moment");
            let busy = Command::response_to(&command, ResponseCode::SystemBusy).remark(remark);
            return question.answer(busy).await;
        }
        match self.direct(&command) {
            Err(refusal) => question.answer(refusal).await,
            Ok(handled) => {
                handling.spawn(async move {
                    let answer = Command::success(&command).body(to_json(&handled.await));
                    question.answer(answer).await;
                });
            }
        }
    }

    fn direct(
        &self,
        question: &Command,
    ) -> Result<BoxFuture<'static, ConsumeMessageDirectlyResult>, Command> {
        let header = question
            .decode_header::<ConsumeMessageDirectlyRequest<'_>>()
            .map_err(|error| failed(question, &error.to_string()))?;
        let group = header.consumer_group;
        let asked = self.asked(group).ok_or_else(|| nobody(question, group))?;
        let (record, _) = Record::decode(&question.body, Verify::None)
            .map_err(|error| failed(question, &format!("the message cannot be read: {error}")))?;
        let broker = header.broker_name.unwrap_or_default();
        let queue = MessageQueue::new(record.topic, broker, record.queue_id);
        let delivery = Delivery::from_record(&record, &question.body, &queue)
            .map_err(|error| failed(question, &format!("the message cannot be read: {error}")))?;
        asked.handle(delivery).ok_or_else(|| {
            failed(question, &format!("The Consumer Group <{group}> has no handler: it polls"))
        })
    }
}

fn failed(question: &Command, remark: &str) -> Command {
    Command::response_to(question, ResponseCode::SystemError).remark(remark)
}

fn nobody(question: &Command, group: &str) -> Command {
    failed(question, &format!("The Consumer Group <{group}> not exist in this consumer"))
}
