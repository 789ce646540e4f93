//! Who is connected, as administrators ask for it: 203, 204 and 328. Not here: the registry
//! (`clients.rs`), questions that are passed on to a client.

use std::sync::Arc;

use mq_core::protocol::body::to_json;
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{ConsumerGroupRequest, ProducerGroupRequest};

use crate::broker::Broker;
use crate::catalog::illegal;
use crate::dispatch::{Answer, Handled};
use crate::refusal::Refusal;

/// 203: the members of a consumer group.
pub(crate) fn consumers(broker: &Arc<Broker>, request: &Command) -> Handled {
    let ConsumerGroupRequest { consumer_group } = request.decode_header()?;
    let Some(consumers) = broker.clients.consumer_connection(consumer_group) else {
        let remark = format!("the consumer group[{consumer_group}] not online");
        return Err(Refusal::new(ResponseCode::ConsumerNotOnline, remark));
    };
    Ok(Answer::Now(Command::success(request).body(to_json(&consumers))))
}

/// 204: the members of a producer group.
pub(crate) fn producers(broker: &Arc<Broker>, request: &Command) -> Handled {
    let ProducerGroupRequest { producer_group } = request.decode_header()?;
    let Some(producers) = broker.clients.producer_connection(producer_group) else {
        return Err(illegal(format!("the producer group[{producer_group}] not exist")));
    };
    Ok(Answer::Now(Command::success(request).body(to_json(&producers))))
}

/// 328: the members of all producer groups.
pub(crate) fn all_producers(broker: &Arc<Broker>, request: &Command) -> Handled {
    Ok(Answer::Now(Command::success(request).body(to_json(&broker.clients.all_producers()))))
}
