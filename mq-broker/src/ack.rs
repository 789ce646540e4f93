//! 200051, 200151: a popped message is done with. 200053: it needs more time, or less. Not here:
//! popping (`pop`), what is in flight (`flights`).
//!
//! Rules: protocol section 2.13. A receipt that is not the newest one changes nothing: its message
//! was given to somebody else meanwhile.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mq_core::names;
use mq_core::protocol::body::{BatchAck, BatchAckRequest, from_json};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{
    AckMessageRequest, ChangeInvisibleTimeRequest, ChangeInvisibleTimeResponse,
};

use crate::broker::Broker;
use crate::catalog::topic_unknown;
use crate::dispatch::{Answer, Handled};
use crate::flights::{Due, Lane, Window, lock};
use crate::pop::check_invisible;
use crate::refusal::Refusal;

/// Offsets that one batch may name.
const BATCH_MAX: usize = 65_536;

/// 200051.
pub(crate) fn ack(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: AckMessageRequest<'_> = request.decode_header()?;
    let receipt = Receipt::parse(header.extra_info)?;
    let lane = lane(broker, header.consumer_group, header.topic, header.queue_id)?;
    check_offset(broker, &lane, header.offset)?;
    land(broker, &lane, receipt.pop_time_ms, [header.offset]);
    Ok(Answer::Now(Command::success(request)))
}

/// 200151. What is named wrongly is left out: the rest is done with.
pub(crate) fn batch_ack(broker: &Arc<Broker>, request: &Command) -> Handled {
    let body: BatchAckRequest = from_json(&request.body)?;
    if body.acks.is_empty() {
        return Err(Refusal::new(ResponseCode::NoMessage, "the batch names no message"));
    }
    for ack in &body.acks {
        let topic = real_topic(ack);
        let Ok(lane) = lane(broker, &ack.consumer_group, &topic, ack.queue_id) else { continue };
        land(broker, &lane, ack.pop_time, offsets(ack)?);
    }
    Ok(Answer::Now(Command::success(request)))
}

/// 200053.
pub(crate) fn change_invisible_time(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ChangeInvisibleTimeRequest<'_> = request.decode_header()?;
    let receipt = Receipt::parse(header.extra_info)?;
    check_invisible(header.invisible_time)?;
    let lane = lane(broker, header.consumer_group, header.topic, header.queue_id)?;
    check_offset(broker, &lane, header.offset)?;
    let now_ms = broker.clock.now_ms();
    // Not that of before, or the flight would end with it.
    let pop_time_ms = now_ms.max(receipt.pop_time_ms.saturating_add(1));
    let window = broker.flights.window(&lane);
    let mut window = lock(&window);
    follow(broker, &lane, &mut window);
    if !broker.flights.go_on(&mut window, header.offset, receipt.pop_time_ms, pop_time_ms) {
        let remark = "the message is acknowledged already, or was handed out again";
        return Err(Refusal::new(ResponseCode::NoMessage, remark));
    }
    drop(window);
    let due = Due { lane, offsets: header.offset..=header.offset, pop_time_ms };
    broker.flights.end_at(now_ms.saturating_add(header.invisible_time), due);
    Ok(Answer::Now(Command::success(request).header(&ChangeInvisibleTimeResponse {
        pop_time: pop_time_ms,
        invisible_time: header.invisible_time,
        revive_qid: receipt.revive_queue,
    })))
}

/// What of a receipt counts: when it was popped, and a number that clients get back.
struct Receipt {
    pop_time_ms: i64,
    revive_queue: i32,
}

impl Receipt {
    /// `ckOffset popTime invisibleTime reviveQueue retry broker queueId [offset]`.
    fn parse(text: &str) -> Result<Self, Refusal> {
        let mut fields = text.split(' ');
        let pop_time = fields.nth(1).and_then(|field| field.parse().ok());
        let revive_queue = fields.nth(1).and_then(|field| field.parse().ok());
        match (pop_time, revive_queue) {
            (Some(pop_time_ms), Some(revive_queue)) => Ok(Self { pop_time_ms, revive_queue }),
            _ => {
                let text: String = text.chars().take(128).collect();
                let remark = format!("extraInfo `{text}` is no receipt of a pop");
                Err(Refusal::new(ResponseCode::MessageIllegal, remark))
            }
        }
    }
}

/// A lane that exists.
fn lane(broker: &Broker, group: &str, topic: &str, queue_id: i32) -> Result<Lane, Refusal> {
    let config = broker.catalog.topic(topic).ok_or_else(|| topic_unknown(topic))?;
    broker.catalog.group(group)?;
    if !(0..config.read_queue_nums).contains(&queue_id) {
        let count = config.read_queue_nums;
        let remark = format!("queueId[{queue_id}] is illegal, topic[{topic}] has {count} queues");
        return Err(Refusal::new(ResponseCode::MessageIllegal, remark));
    }
    Ok(Lane { group: group.into(), topic: topic.into(), queue_id })
}

fn check_offset(broker: &Broker, lane: &Lane, offset: i64) -> Result<(), Refusal> {
    let queue = broker.store.queues.queue(&lane.topic, lane.queue_id);
    let (min, max) = queue.map_or((0, 0), |queue| (queue.min_offset(), queue.max_offset()));
    match (min..max).contains(&offset) {
        true => Ok(()),
        false => {
            let remark = format!(
                "offset is illegal, {}@{}: {offset} is not in {min}..{max}",
                lane.topic, lane.queue_id
            );
            Err(Refusal::new(ResponseCode::NoMessage, remark))
        }
    }
}

/// Takes over what is committed, should nothing have been popped here since the start.
fn follow(broker: &Broker, lane: &Lane, window: &mut Window) {
    let committed = broker.offsets.committed(&lane.group, &lane.topic, lane.queue_id);
    let queue = broker.store.queues.queue(&lane.topic, lane.queue_id);
    window.follow(committed, || queue.map_or(0, |queue| queue.min_offset()));
}

/// Ends flights, and commits what that allows.
fn land(broker: &Broker, lane: &Lane, pop_time_ms: i64, offsets: impl IntoIterator<Item = i64>) {
    let window = broker.flights.window(lane);
    let mut window = lock(&window);
    follow(broker, lane, &mut window);
    for offset in offsets {
        broker.flights.land(&mut window, offset, pop_time_ms);
    }
    if let Some(offset) = window.commit() {
        broker.offsets.commit(&lane.group, &lane.topic, lane.queue_id, offset);
    }
}

/// The topic whose queue a batch means (protocol section 2.13).
fn real_topic(ack: &BatchAck) -> String {
    match ack.retry.as_str() {
        "1" => names::pop_retry_topic(&ack.consumer_group, &ack.topic),
        _ => ack.topic.clone(),
    }
}

/// The offsets that a batch names: bits from its start on, the lowest of a byte first.
fn offsets(ack: &BatchAck) -> Result<Vec<i64>, Refusal> {
    let illegal = |remark: String| Refusal::new(ResponseCode::MessageIllegal, remark);
    let bits = STANDARD
        .decode(&ack.bit_set)
        .map_err(|error| illegal(format!("the batch's bit set is not base64: {error}")))?;
    if bits.len() * 8 > BATCH_MAX {
        return Err(illegal(format!("the batch's bit set has more than {BATCH_MAX} bits")));
    }
    let set = |(number, byte): (usize, &u8)| {
        let byte = *byte;
        (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| number * 8 + bit)
    };
    let offset = |bit: usize| ack.start_offset.saturating_add(i64::try_from(bit).unwrap_or(0));
    Ok(bits.iter().enumerate().flat_map(set).map(offset).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_of_a_batch_count_from_its_start() {
        // BitSet{0, 2, 9}.toByteArray() is 05 02.
        let ack = BatchAck { start_offset: 100, bit_set: "BQI=".to_owned(), ..BatchAck::default() };
        assert_eq!(offsets(&ack).ok(), Some(vec![100, 102, 109]));
    }

    #[test]
    fn a_receipt_is_eight_words() {
        let receipt = Receipt::parse("7 1700000000000 60000 3 0 broker-a 2 9").ok();
        assert_eq!(receipt.map(|r| (r.pop_time_ms, r.revive_queue)), Some((1_700_000_000_000, 3)));
        assert!(Receipt::parse("7").is_err() && Receipt::parse("a b c d").is_err());
    }
}
