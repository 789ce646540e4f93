//! 324, 325: an answer to a request is handed to the client that asked (326), and stored. Not here:
//! requests, which are messages like any other.
//!
//! Invariants (protocol section 2.7): the answer to the replier says whether the asking client has
//! taken the reply, whatever became of storing it; a client that does not answer costs its
//! replier's request 3 s, and no other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mq_core::properties::{self, Properties, key};
use mq_core::protocol::code::{RequestCode, ResponseCode};
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{PushReplyRequest, SendRequest, SendResponse};
use mq_core::protocol::record::{NewRecord, offset_msg_id};
use mq_core::server::Peer;
use tokio::time::timeout;
use tracing::warn;

use crate::broker::Broker;
use crate::config::FlushDiskType;
use crate::dispatch::{Answer, Handled};
use crate::send::{check_size, queue_for_send};
use crate::store::{Appended, StoreError};

/// How long the asking client has to take a reply.
const PUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a reply is stored, and from whom it came.
#[derive(Clone, Copy)]
struct Hosts {
    born: SocketAddr,
    store: SocketAddr,
}

/// `header` is the reply's, from whichever keys.
pub(crate) fn handle(
    broker: &Arc<Broker>,
    peer: &Peer,
    request: &Command,
    header: &SendRequest<'_>,
) -> Handled {
    check_size(broker, request)?;
    let queue_id = queue_for_send(broker, header)?;
    let hosts = Hosts { born: peer.remote, store: broker.store_host(peer) };
    let asker = properties::find(header.properties.unwrap_or_default(), key::REPLY_TO_CLIENT);
    let found = asker.and_then(|id| broker.clients.producer_of(id));
    let push = push_request(broker, request, header, hosts);
    if request.is_oneway() {
        // Nobody waits for what becomes of it.
        if let Some(asker) = found {
            asker.notify(push);
        }
        store(broker, request, (header, queue_id), hosts)?;
        return Ok(Answer::Now(Command::success(request)));
    }
    let pushed = {
        let asker = asker.map(str::to_owned);
        async move { push_to(found, asker, push).await }
    };
    let stored = store(broker, request, (header, queue_id), hosts);
    let answer = answer(broker, request, queue_id, (hosts.store, &stored));
    let broker = Arc::clone(broker);
    Ok(Answer::Later(Box::pin(async move {
        let refused = pushed.await.err();
        if let Ok(Some(stored)) = stored {
            wait_synced(&broker, &stored).await;
        }
        match refused {
            None => answer,
            Some(remark) => {
                Command { code: ResponseCode::SystemError.code(), ..answer }.remark(remark)
            }
        }
    })))
}

/// 326 for the client that asked.
fn push_request(
    broker: &Broker,
    request: &Command,
    header: &SendRequest<'_>,
    hosts: Hosts,
) -> Command {
    let now_ms = broker.clock.now_ms();
    let mut properties = Properties::from_wire(header.properties.unwrap_or_default().to_owned());
    properties.set(key::PUSH_REPLY_TIME, &now_ms.to_string());
    let header = PushReplyRequest {
        producer_group: header.producer_group,
        topic: header.topic,
        default_topic: header.default_topic,
        default_topic_queue_nums: header.default_topic_queue_nums,
        queue_id: header.queue_id,
        sys_flag: header.sys_flag,
        born_timestamp: header.born_timestamp,
        flag: header.flag,
        properties: Some(properties.as_str()),
        reconsume_times: header.reconsume_times,
        unit_mode: header.unit_mode,
        born_host: &hosts.born.to_string(),
        store_host: &hosts.store.to_string(),
        store_timestamp: now_ms,
    };
    let push = Command::with(RequestCode::PushReplyMessageToClient, &header);
    push.body(request.body.clone())
}

/// The error is what the replier is told.
async fn push_to(
    found: Option<Arc<Peer>>,
    asker: Option<String>,
    push: Command,
) -> Result<(), String> {
    let name = key::REPLY_TO_CLIENT;
    let asker = asker.ok_or_else(|| format!("reply message properties[{name}] is null"))?;
    let lost = || format!("push reply message fail, channel of <{asker}> not found.");
    let taken = found.ok_or_else(lost)?.call(push, PUSH_TIMEOUT).await;
    match taken {
        Ok(answer) if answer.response_code() == ResponseCode::Success => Ok(()),
        Ok(answer) => {
            let remark = answer.remark.unwrap_or_default();
            Err(format!("push reply message to {asker} fail: {remark}"))
        }
        Err(error) => Err(format!("push reply message to {asker} fail: {error}")),
    }
}

/// Stores the reply, where replies are stored.
fn store(
    broker: &Broker,
    request: &Command,
    (header, queue_id): (&SendRequest<'_>, i32),
    hosts: Hosts,
) -> Result<Option<Appended>, StoreError> {
    if !broker.config.store_reply_message_enable.now() {
        return Ok(None);
    }
    let record = NewRecord {
        topic: header.topic,
        queue_id,
        flag: header.flag,
        sys_flag: header.sys_flag,
        born_timestamp_ms: header.born_timestamp,
        born_host: hosts.born,
        store_host: hosts.store,
        reconsume_times: header.reconsume_times.unwrap_or(0),
        prepared_transaction_offset: 0,
        body: &request.body,
        properties: header.properties.unwrap_or_default(),
    };
    let appended = broker.store.log.append(&[record]);
    let appended = appended.inspect_err(|error| warn!(%error, "a reply could not be stored"))?;
    Ok(appended.first().copied())
}

fn answer(
    broker: &Broker,
    request: &Command,
    queue_id: i32,
    (host, stored): (SocketAddr, &Result<Option<Appended>, StoreError>),
) -> Command {
    let stored = stored.as_ref().ok().and_then(Option::as_ref);
    let id = stored.map(|stored| offset_msg_id(host, stored.physical_offset));
    Command::success(request).header(&SendResponse {
        // Clients cannot do without one.
        msg_id: id.as_deref().unwrap_or("0"),
        queue_id,
        queue_offset: stored.map_or(0, |stored| stored.queue_offset),
        region: Some(&broker.config.region_id),
        trace_on: Some(broker.config.trace_on.now()),
        ..SendResponse::default()
    })
}

/// A reply that is not synced in time was pushed all the same.
async fn wait_synced(broker: &Broker, stored: &Appended) {
    if broker.config.flush_disk_type == FlushDiskType::Sync {
        let limit = Duration::from_millis(broker.config.sync_flush_timeout_ms.now());
        let _late = timeout(limit, broker.store.log.flushed.reached(stored.end())).await;
    }
}
