//! Questions to a group's members that others ask through the broker: 307 what a member does, 309
//! handle this message now, 223 where members are (221 to each of them). Not here: what members
//! answer.
//!
//! Invariants: an answer waits for the member as a future of the asker's connection, at most
//! [`ANSWER_MAX`]; nothing else of either connection waits with it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mq_core::Error;
use mq_core::protocol::body::{ConsumerStatusBody, QueueMap, from_json, to_json};
use mq_core::protocol::code::{RequestCode, ResponseCode};
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{
    ConsumeMessageDirectlyRequest, ConsumerRunningInfoRequest, ConsumerStatusRequest,
};
use mq_core::protocol::record::parse_offset_msg_id;

use crate::broker::Broker;
use crate::clients::Online;
use crate::dispatch::{Answer, Handled};
use crate::refusal::Refusal;

/// How long a member may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The same where several are asked.
const STATUS_MAX: Duration = Duration::from_secs(5);

/// 307: what a member does.
pub(crate) fn running_info(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ConsumerRunningInfoRequest<'_> = request.decode_header()?;
    let member = member(broker, header.consumer_group, header.client_id)?;
    Ok(pass_on(member, request, request.clone()))
}

/// 309: has a member handle a message, whose bytes the broker adds.
pub(crate) fn consume_directly(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ConsumeMessageDirectlyRequest<'_> = request.decode_header()?;
    let client_id = header.client_id.unwrap_or_default();
    let member = member(broker, header.consumer_group, client_id)?;
    let msg_id = header.msg_id.unwrap_or_default();
    let at = parse_offset_msg_id(msg_id).and_then(|(_, at)| u64::try_from(at).ok());
    let record = at.and_then(|at| broker.store.log.read_record_at(at).ok()).ok_or_else(|| {
        let remark = format!("can not find message by the offset id `{msg_id}`");
        Refusal::new(ResponseCode::SystemError, remark)
    })?;
    let header =
        ConsumeMessageDirectlyRequest { broker_name: Some(&broker.config.broker_name), ..header };
    let question = Command::with(RequestCode::ConsumeMessageDirectly, &header).body(record);
    Ok(pass_on(member, request, question))
}

/// 223: where each member is in the queues of a topic. Members that do not answer are left out.
pub(crate) fn status(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ConsumerStatusRequest<'_> = request.decode_header()?;
    let mut members = broker.clients.online(header.group);
    if members.is_empty() {
        let remark = format!("No Any Consumer online in the consumer group: [{}]", header.group);
        return Err(Refusal::new(ResponseCode::SystemError, remark));
    }
    if let Some(wanted) = header.client_addr.filter(|wanted| !wanted.trim().is_empty()) {
        members.retain(|member| member.client_id == wanted);
    }
    let header = ConsumerStatusRequest { client_addr: None, ..header };
    let question = Command::with(RequestCode::GetConsumerStatusFromClient, &header);
    let answer = Command::success(request);
    Ok(Answer::Later(Box::pin(async move {
        let asked = members.into_iter().map(|member| status_of(member, question.clone()));
        let consumer_table = join_all(asked).await.into_iter().flatten().collect();
        let body = ConsumerStatusBody { consumer_table, ..ConsumerStatusBody::default() };
        answer.body(to_json(&body))
    })))
}

async fn status_of(member: Online, question: Command) -> Option<(String, QueueMap<i64>)> {
    let answer = member.peer.call(question, STATUS_MAX).await.ok()?;
    let body: ConsumerStatusBody = from_json(&answer.body).ok()?;
    Some((member.client_id, body.message_queue_table))
}

fn member(broker: &Broker, group: &str, client_id: &str) -> Result<Online, Refusal> {
    let members = broker.clients.online(group).into_iter();
    let member = members.filter(|member| member.client_id == client_id).max_by_key(|m| m.peer.id);
    member.ok_or_else(|| {
        let remark = format!("The Consumer <{group}> <{client_id}> not online");
        Refusal::new(ResponseCode::SystemError, remark)
    })
}

/// Asks a member; what it answers is the answer to `request`.
fn pass_on(member: Online, request: &Command, question: Command) -> Answer {
    let opaque = request.opaque;
    let failed = Command::response_to(request, ResponseCode::SystemError);
    Answer::Later(Box::pin(async move {
        match member.peer.call(question, ANSWER_MAX).await {
            Ok(answer) => Command { opaque, serialize: failed.serialize, ..answer },
            Err(error) => {
                let timed_out = matches!(error, Error::Timeout { .. });
                let remark = format!("consumer <{}>: {error}", member.client_id);
                let code = match timed_out {
                    true => ResponseCode::ConsumeMsgTimeout.code(),
                    false => failed.code,
                };
                Command { code, ..failed.remark(remark) }
            }
        }
    }))
}
