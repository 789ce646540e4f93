//! Questions about queues and messages: 29-32 by offset and time, 33 by offset id, 12 by key. Not
//! here: consumer progress.
//!
//! Rules: protocol sections 2.9 and 2.14.

use std::sync::Arc;

use bytes::BytesMut;
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{
    OffsetResponse, QueryMessageRequest, QueryMessageResponse, QueueRequest, SearchOffsetRequest,
    TimestampResponse, ViewMessageRequest,
};

use crate::broker::Broker;
use crate::dispatch::{Answer, Handled};
use crate::refusal::Refusal;
use crate::store::consume_queue::ConsumeQueue;

/// Messages that one query by key gives at most, and for a unique key always asks for.
const QUERY_MAX: usize = 64;
const UNIQUE_QUERY_MAX: usize = 32;
/// Bytes that one answer carries at most.
const ANSWER_BYTES_MAX: usize = 4 << 20;

fn queue(broker: &Broker, topic: &str, queue_id: i32) -> Option<Arc<ConsumeQueue>> {
    broker.store.queues.queue(topic, queue_id)
}

/// 30: the next offset to be written.
pub(crate) fn max_offset(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: QueueRequest<'_> = request.decode_header()?;
    let offset = queue(broker, header.topic, header.queue_id).map_or(0, |q| q.max_offset());
    Ok(Answer::Now(Command::success(request).header(&OffsetResponse { offset })))
}

/// 31: the first offset that is still there.
pub(crate) fn min_offset(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: QueueRequest<'_> = request.decode_header()?;
    let offset = queue(broker, header.topic, header.queue_id).map_or(0, |q| q.min_offset());
    Ok(Answer::Now(Command::success(request).header(&OffsetResponse { offset })))
}

/// 32: the store time of the first message that is still there, -1 when there is none.
pub(crate) fn earliest_store_time(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: QueueRequest<'_> = request.decode_header()?;
    let mut timestamp = -1;
    if let Some(queue) = queue(broker, header.topic, header.queue_id) {
        timestamp = queue.earliest_time(&broker.store.log)?.unwrap_or(-1);
    }
    Ok(Answer::Now(Command::success(request).header(&TimestampResponse { timestamp })))
}

/// 29: the first offset stored at or after a time; the end when all are older (the lower bound of
/// 5.x: 4.x's "nearest" can skip messages).
pub(crate) fn search_offset(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: SearchOffsetRequest<'_> = request.decode_header()?;
    let mut offset = 0;
    if let Some(queue) = queue(broker, header.topic, header.queue_id) {
        offset = queue.search_time(&broker.store.log, header.timestamp)?;
    }
    Ok(Answer::Now(Command::success(request).header(&OffsetResponse { offset })))
}

/// 33: one record by its place in the log.
pub(crate) fn view_message(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ViewMessageRequest<'_> = request.decode_header()?;
    let found = u64::try_from(header.offset).ok().map(|at| broker.store.log.read_record_at(at));
    match found {
        Some(Ok(record)) => Ok(Answer::Now(Command::success(request).body(record))),
        _ => Err(Refusal::new(
            ResponseCode::SystemError,
            format!("can not find message by the offset, {}", header.offset),
        )),
    }
}

/// 12: records by key, newest first. Hashes may collide: the client compares the keys.
pub(crate) fn query_message(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: QueryMessageRequest<'_> = request.decode_header()?;
    let count = match header.unique_key {
        Some(true) => UNIQUE_QUERY_MAX,
        _ => usize::try_from(header.max_num).unwrap_or(0).min(QUERY_MAX),
    };
    let times = (header.begin_timestamp, header.end_timestamp);
    let found = broker.store.index.query(header.topic, header.key, count, times.0, times.1)?;
    let mut body = BytesMut::new();
    for at in found {
        let Ok(at) = u64::try_from(at) else { continue };
        if broker.store.is_deleted(header.topic, at) {
            continue;
        }
        let record = broker.store.log.read_record_at(at)?;
        if body.len() + record.len() > ANSWER_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&record);
    }
    if body.is_empty() {
        return Err(Refusal::new(
            ResponseCode::QueryNotFound,
            "can not find message, maybe time range not correct",
        ));
    }
    let header = QueryMessageResponse {
        index_last_update_timestamp: broker.clock.now_ms(),
        index_last_update_phyoffset: i64::try_from(broker.store.log.readable()).unwrap_or(0),
    };
    Ok(Answer::Now(Command::success(request).header(&header).body(body.freeze())))
}
