//! 36: a consumer gives a message back. The rule that picks the next delay or the dead letter
//! topic, and the handler. Not here: waiting (`delay`), retries that a client sends by itself
//! (`send`).
//!
//! Rule: protocol section 2.11.

use std::sync::Arc;

use mq_core::names;
use mq_core::properties::{Properties, key};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::ConsumerSendMsgBackRequest;
use mq_core::protocol::record::{NewRecord, Record, Verify};

use crate::broker::Broker;
use crate::config::FlushDiskType;
use crate::delay::{self, Wish};
use crate::dispatch::{Answer, Handled};
use crate::refusal::Refusal;

/// The first retry waits as long as this level says: 10 s by default.
const FIRST_LEVEL: i32 = 3;
/// Older clients cannot say how many attempts they want.
const ATTEMPTS_IN_HEADER_VERSION: i32 = 121;

/// Where a message goes after a failed attempt.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Retry { delay_level: i32 },
    DeadLetter,
}

/// `asked_level`: below 0 dead letter, 0 the broker decides, above 0 exactly that. `attempts_done`
/// is that of the message as it was delivered.
fn next(asked_level: i32, attempts_done: i32, attempts_max: i32) -> Next {
    if asked_level < 0 || attempts_done >= attempts_max {
        return Next::DeadLetter;
    }
    let delay_level =
        if asked_level == 0 { FIRST_LEVEL.saturating_add(attempts_done) } else { asked_level };
    Next::Retry { delay_level }
}

pub(crate) fn handle(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ConsumerSendMsgBackRequest<'_> = request.decode_header()?;
    let group = broker.catalog.group(header.group)?;
    if group.retry_queue_nums <= 0 {
        return Ok(Answer::Now(Command::success(request)));
    }
    broker.catalog.group_with_retry_topic(header.group)?;
    let bytes = read_original(broker, header.offset)?;
    let (record, _) = Record::decode(&bytes, Verify::None)
        .map_err(|error| Refusal::new(ResponseCode::SystemError, error.to_string()))?;
    let attempts_max = header
        .max_reconsume_times
        .filter(|_| request.version >= ATTEMPTS_IN_HEADER_VERSION)
        .unwrap_or(group.retry_max_times);
    let end = match next(header.delay_level, record.reconsume_times, attempts_max) {
        Next::DeadLetter => {
            let topic = names::dlq_topic(header.group);
            broker.catalog.ensure_topic(&topic, 1)?;
            put(broker, &record, (&topic, 0), Fate::Dead { cause: header.cause })?
        }
        Next::Retry { delay_level } => {
            let level = broker.delay.level(delay_level);
            put(broker, &record, (&names::retry_topic(header.group), 0), Fate::Delayed { level })?
        }
    };
    let topic = header.origin_topic.unwrap_or(record.topic);
    broker.stats.taken(header.group, topic).sent_back.add(1, bytes.len());
    answer_when_stored(broker, Command::success(request), end)
}

pub(crate) fn read_original(broker: &Broker, offset: i64) -> Result<bytes::Bytes, Refusal> {
    let read = u64::try_from(offset).ok().map(|at| broker.store.log.read_record_at(at));
    match read {
        Some(Ok(record)) => Ok(record),
        _ => Err(Refusal::new(
            ResponseCode::SystemError,
            format!("look message by offset failed, {offset}"),
        )),
    }
}

/// What becomes of a copy.
#[derive(Clone, Copy)]
enum Fate<'a> {
    Delayed { level: i32 },
    Dead { cause: Option<&'a str> },
}

/// Appends the copy; gives the end of its record.
fn put(
    broker: &Broker,
    record: &Record<'_>,
    (topic, queue_id): (&str, i32),
    fate: Fate<'_>,
) -> Result<u64, Refusal> {
    let mut properties = Properties::from_wire(record.properties.to_owned());
    if properties.get(key::RETRY_TOPIC).is_none() {
        properties.set(key::RETRY_TOPIC, record.topic);
    }
    if properties.get(key::ORIGIN_MESSAGE_ID).is_none() {
        properties.set(key::ORIGIN_MESSAGE_ID, &record.offset_msg_id());
    }
    // The consumer waits for the answer to 36, not for a sender's policy.
    properties.set(key::WAIT, "false");
    properties.remove(key::DELAY);
    let (mut topic, mut queue_id) = (topic, queue_id);
    match fate {
        Fate::Delayed { level } => {
            properties.set(key::DELAY, &level.to_string());
            let wish = Wish::of(record.properties).at_level(level);
            let to = (topic, queue_id);
            if let Some(detour) = delay::divert(broker, &wish, &mut properties, to)? {
                (topic, queue_id) = (detour.topic, detour.queue_id);
            }
        }
        Fate::Dead { cause } => properties.set_cause(cause.unwrap_or_default()),
    }
    let copy = NewRecord {
        topic,
        queue_id,
        properties: properties.as_str(),
        reconsume_times: record.reconsume_times.saturating_add(1),
        ..record.copy()
    };
    let appended = broker.store.log.append(&[copy])?;
    Ok(appended.last().map_or(0, |one| one.end()))
}

/// The original is acknowledged by the consumer once this is answered: what took its place must be
/// as safe as the original was.
pub(crate) fn answer_when_stored(broker: &Arc<Broker>, answer: Command, end: u64) -> Handled {
    if broker.config.flush_disk_type == FlushDiskType::Async {
        return Ok(Answer::Now(answer));
    }
    let broker = Arc::clone(broker);
    Ok(Answer::Later(Box::pin(async move {
        match broker.store.log.flushed.reached(end).await {
            Ok(_) => answer,
            Err(closed) => {
                Refusal::new(ResponseCode::ServiceNotAvailable, closed.to_string()).answer(&answer)
            }
        }
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_of_levels_and_attempts() {
        assert_eq!(next(0, 0, 16), Next::Retry { delay_level: 3 });
        assert_eq!(next(0, 15, 16), Next::Retry { delay_level: 18 });
        assert_eq!(next(0, 16, 16), Next::DeadLetter);
        assert_eq!(next(-1, 0, 16), Next::DeadLetter);
        assert_eq!(next(5, 2, 16), Next::Retry { delay_level: 5 });
    }
}
