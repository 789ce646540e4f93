//! From a request code to the verb that handles it: the one `match`. Not here: handlers, sockets.
//!
//! Invariants: every request that is not one-way gets exactly one answer; a one-way request gets
//! none; all sends of a burst are stored with one append.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mq_core::protocol::code::RequestCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::SendRequestV2;
use mq_core::server::{Peer, Replies, Service};
use tracing::debug;

use crate::broker::Broker;
use crate::refusal::Refusal;
use crate::{
    ack, admin_clients, admin_groups, admin_topics, assignment, catalog, clients, forward,
    live_settings, locks, offsets, pop, pull, query, recall, request_reply, reset, retry,
    runtime_info, send, stats, transaction,
};

/// What a handler has to say.
pub(crate) enum Answer {
    Now(Command),
    /// The answer waits for the store.
    Later(BoxFuture<'static, Command>),
}

pub(crate) type Handled = Result<Answer, Refusal>;

impl Service for Broker {
    fn burst(this: &Arc<Self>, peer: &Arc<Peer>, burst: &mut Vec<Command>, replies: &mut Replies) {
        let mut sends = Vec::with_capacity(burst.len());
        for command in burst.drain(..) {
            if is_send(command.request_code()) {
                sends.push(command);
                continue;
            }
            let handled = handle(this, peer, &command);
            reply(&command, handled, replies);
        }
        if !sends.is_empty() {
            send::handle(this, peer, &sends, replies);
        }
    }

    fn closed(this: &Arc<Self>, peer: &Arc<Peer>) {
        this.clients.forget(peer);
        if let Some(name_server) = &this.name_server {
            name_server.peer_closed(peer);
        }
    }
}

fn is_send(code: RequestCode) -> bool {
    matches!(
        code,
        RequestCode::SendMessage | RequestCode::SendMessageV2 | RequestCode::SendBatchMessage
    )
}

fn handle(broker: &Arc<Broker>, peer: &Arc<Peer>, request: &Command) -> Handled {
    match request.request_code() {
        RequestCode::PullMessage | RequestCode::LitePullMessage => pull::handle(broker, request),
        RequestCode::QueryConsumerOffset => offsets::query(broker, request),
        RequestCode::UpdateConsumerOffset => offsets::update(broker, request),
        RequestCode::SearchOffsetByTimestamp => query::search_offset(broker, request),
        RequestCode::GetMaxOffset => query::max_offset(broker, request),
        RequestCode::GetMinOffset => query::min_offset(broker, request),
        RequestCode::GetEarliestMsgStoretime => query::earliest_store_time(broker, request),
        RequestCode::ViewMessageById => query::view_message(broker, request),
        RequestCode::QueryMessage => query::query_message(broker, request),
        RequestCode::HeartBeat => clients::heartbeat(broker, peer, request),
        RequestCode::UnregisterClient => clients::unregister(broker, peer, request),
        RequestCode::GetConsumerListByGroup => clients::consumer_list(broker, request),
        RequestCode::LockBatchMq => locks::lock(broker, request),
        RequestCode::UnlockBatchMq => locks::unlock(broker, request),
        RequestCode::EndTransaction => transaction::end(broker, request),
        RequestCode::ResumeCheckHalfMessage => transaction::resume(broker, request),
        RequestCode::CheckClientConfig => clients::check_config(broker, request),
        RequestCode::InvokeBrokerToResetOffset => reset::handle(broker, request),
        RequestCode::InvokeBrokerToGetConsumerStatus => forward::status(broker, request),
        RequestCode::GetConsumerRunningInfo => forward::running_info(broker, request),
        RequestCode::ConsumeMessageDirectly => forward::consume_directly(broker, request),
        RequestCode::SendReplyMessage => {
            request_reply::handle(broker, peer, request, &request.decode_header()?)
        }
        RequestCode::SendReplyMessageV2 => {
            let header: SendRequestV2<'_> = request.decode_header()?;
            request_reply::handle(broker, peer, request, &header.0)
        }
        RequestCode::ConsumerSendMsgBack => retry::handle(broker, request),
        RequestCode::RecallMessage => recall::handle(broker, peer, request),
        RequestCode::PopMessage => pop::pop(broker, request),
        RequestCode::PeekMessage => pop::peek(broker, request),
        RequestCode::Notification => pop::notification(broker, request),
        RequestCode::PollingInfo => pop::polling_info(broker, request),
        RequestCode::AckMessage => ack::ack(broker, request),
        RequestCode::BatchAckMessage => ack::batch_ack(broker, request),
        RequestCode::ChangeMessageInvisibletime => ack::change_invisible_time(broker, request),
        RequestCode::QueryAssignment => assignment::query(broker, peer, request),
        RequestCode::SetMessageRequestMode => assignment::set_mode(broker, request),
        RequestCode::GetAllMessageRequestMode => assignment::all_modes(broker, request),
        RequestCode::GetRouteinfoByTopic => {
            catalog::expect_group(broker, request);
            ask_name_server(broker, peer, request)
        }
        _ => administer(broker, peer, request),
    }
}

/// What administrators ask, of this broker or of the name server of this process.
fn administer(broker: &Arc<Broker>, peer: &Arc<Peer>, request: &Command) -> Handled {
    match request.request_code() {
        RequestCode::UpdateAndCreateTopic => admin_topics::create(broker, request),
        RequestCode::UpdateAndCreateTopicList => admin_topics::create_all(broker, request),
        RequestCode::GetAllTopicConfig => admin_topics::all(broker, request),
        RequestCode::GetTopicConfig => admin_topics::one(broker, request),
        RequestCode::GetTopicStatsInfo => admin_topics::stats(broker, request),
        RequestCode::DeleteTopicInBroker => admin_topics::delete(broker, request),
        RequestCode::QueryTopicConsumeByWho => admin_topics::groups_of(broker, request),
        RequestCode::GetSystemTopicListFromBroker => admin_topics::own(broker, request),
        RequestCode::CleanUnusedTopic => admin_topics::clean_unused(broker, request),
        RequestCode::QueryConsumeQueue => admin_topics::consume_queue(broker, request),
        RequestCode::UpdateAndCreateSubscriptiongroup => admin_groups::create(broker, request),
        RequestCode::UpdateAndCreateSubscriptiongroupList => {
            admin_groups::create_all(broker, request)
        }
        RequestCode::GetAllSubscriptiongroupConfig => admin_groups::all(broker, request),
        RequestCode::GetSubscriptiongroupConfig => admin_groups::one(broker, request),
        RequestCode::DeleteSubscriptiongroup => admin_groups::delete(broker, request),
        RequestCode::GetConsumeStats => admin_groups::consume_stats(broker, request),
        RequestCode::GetBrokerConsumeStats => admin_groups::broker_consume_stats(broker, request),
        RequestCode::QueryConsumeTimeSpan => admin_groups::time_span(broker, request),
        RequestCode::QueryCorrectionOffset => admin_groups::correction(broker, request),
        RequestCode::CloneGroupOffset => admin_groups::clone_progress(broker, request),
        RequestCode::QueryTopicsByConsumer => admin_groups::topics_of(broker, request),
        RequestCode::QuerySubscriptionByConsumer => admin_groups::subscription(broker, request),
        RequestCode::UpdateAndGetGroupForbidden => admin_groups::forbidden(broker, request),
        RequestCode::GetConsumerConnectionList => admin_clients::consumers(broker, request),
        RequestCode::GetProducerConnectionList => admin_clients::producers(broker, request),
        RequestCode::GetAllProducerInfo => admin_clients::all_producers(broker, request),
        RequestCode::UpdateBrokerConfig => live_settings::update(broker, request),
        RequestCode::GetBrokerConfig => live_settings::all(broker, request),
        RequestCode::GetBrokerRuntimeInfo => runtime_info::handle(broker, request),
        RequestCode::ViewBrokerStatsData => stats::view(broker, request),
        RequestCode::CleanExpiredConsumequeue | RequestCode::DeleteExpiredCommitlog => {
            nothing_expires(request)
        }
        _ => ask_name_server(broker, peer, request),
    }
}

/// 306 and 329: there is never anything to remove.
fn nothing_expires(request: &Command) -> Handled {
    let remark = "this broker keeps all files: expired ones are not removed yet";
    Ok(Answer::Now(Command::success(request).remark(remark)))
}

/// Everything else is the name server's of this process, if there is one.
fn ask_name_server(broker: &Broker, peer: &Peer, request: &Command) -> Handled {
    match broker.name_server_answer(peer, request) {
        Some(answer) => Ok(Answer::Now(answer)),
        None => Err(Refusal::unsupported(request.code)),
    }
}

/// Puts what a handler said where it belongs.
pub(crate) fn reply(request: &Command, handled: Handled, replies: &mut Replies) {
    if request.is_oneway() {
        if let Err(refusal) = handled {
            debug!(code = request.code, remark = refusal.remark, "a one-way request was refused");
        }
        return;
    }
    match handled {
        Ok(Answer::Now(answer)) => replies.now(answer),
        Ok(Answer::Later(answer)) => replies.later(answer.map(|answer| vec![answer])),
        Err(refusal) => replies.now(refusal.answer(request)),
    }
}
