//! 200050: hands out messages that come back unless they are acknowledged in time. 200052 shows
//! them without that, 200054 says whether there are any, 200055 how many ask. Not here: who may
//! have what in flight (`flights`), acknowledging (`ack`), coming back (`revive`).
//!
//! Invariants (protocol section 2.13): a message is in flight before it is answered; the four
//! numbers are in every answer 0, 209, 210; a message of the group's retry topic comes under its
//! origin's name and brings its receipt along. A peer's clock decides nothing: the time to wait
//! begins when the request is read.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select_all;
use mq_core::names;
use mq_core::properties::{Properties, key};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{
    NotificationRequest, NotificationResponse, PeekMessageRequest, PollingInfoRequest,
    PollingInfoResponse, PopMessageRequest, PopMessageResponse,
};
use mq_core::protocol::record::{NewRecord, Position, Record, Verify};
use tokio::time::{Instant, timeout_at};

use crate::broker::Broker;
use crate::catalog::{perm, topic_unknown};
use crate::dispatch::{Answer, Handled};
use crate::filter::{Filter, SIFTED_MAX};
use crate::flights::{Due, Lane, Waiting, Window, lock};
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::store::consume_queue::{ConsumeQueue, Entry};
use crate::{offsets, pull};

/// Messages in one answer (protocol section 2.13).
const MESSAGES_MAX: i32 = 32;
/// Bytes in one answer, save that one message always fits.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Queue entries looked at in one read when a filter drops most.
const SCAN_MAX: i64 = 4_096;
/// Pops that may wait at once.
const WAITING_MAX: usize = 100_000;
/// Longest wait for a message.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest invisible time: 3 days, as long as the longest timer.
const INVISIBLE_MAX_MS: i64 = 3 * 24 * 3_600 * 1_000;
/// Every so many pops the retry topic comes first, so that neither side starves.
const RETRY_FIRST_EVERY: usize = 5;
/// `initMode` of a group that begins at the end.
const FROM_END: i32 = 1;
/// Any queue of the topic.
const ANY_QUEUE: i32 = -1;

/// A checked pop that needs nothing of its request any more.
struct Ask {
    broker: Arc<Broker>,
    lanes: Vec<Source>,
    count: usize,
    from_end: bool,
    filter: Filter,
    /// How long messages stay invisible; without it they are only shown.
    invisible_ms: Option<i64>,
}

/// A queue to take from.
struct Source {
    lane: Lane,
    queue: Arc<ConsumeQueue>,
    /// The topic under which a message of the retry topic is answered.
    origin: Option<Arc<str>>,
}

/// What a pop has got so far.
#[derive(Default)]
struct Popped {
    time_ms: i64,
    body: Vec<u8>,
    count: usize,
    /// Messages that are left for others.
    rest: i64,
    starts: String,
    offsets: String,
}

/// What is asked about one topic's queues.
#[derive(Clone, Copy)]
struct Place<'a> {
    group: &'a str,
    topic: &'a str,
    queue_id: i32,
}

/// 200050.
pub(crate) fn pop(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: PopMessageRequest<'_> = request.decode_header()?;
    let ask = Ask::to_pop(broker, &header)?;
    let popped = ask.pop()?;
    let wait = Duration::from_millis(u64::try_from(header.poll_time).unwrap_or(0)).min(WAIT_MAX);
    if popped.count > 0 || wait.is_zero() || request.is_oneway() {
        let found = if popped.count > 0 { ResponseCode::Success } else { NOTHING };
        return Ok(Answer::Now(ask.answer(request, found, popped)));
    }
    let Some(waiting) = broker.flights.wait(WAITING_MAX) else {
        return Ok(Answer::Now(ask.answer(request, ResponseCode::PollingFull, popped)));
    };
    let request = Command { fields: Default::default(), body: Bytes::new(), ..request.clone() };
    Ok(Answer::Later(Box::pin(ask.park(request, Instant::now() + wait, waiting))))
}

const NOTHING: ResponseCode = ResponseCode::PollingTimeout;

/// 200052: as a pop, but the messages stay where they are.
pub(crate) fn peek(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: PeekMessageRequest<'_> = request.decode_header()?;
    let place =
        Place { group: header.consumer_group, topic: header.topic, queue_id: header.queue_id };
    let mut ask = Ask::at(broker, place)?;
    ask.count = check_count(header.max_msg_nums)?;
    let shown = ask.pop()?;
    let code = if shown.count > 0 { ResponseCode::Success } else { ResponseCode::PullNotFound };
    Ok(Answer::Now(ask.answer(request, code, shown)))
}

/// 200054: waits until there is something to pop.
pub(crate) fn notification(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: NotificationRequest<'_> = request.decode_header()?;
    let place =
        Place { group: header.consumer_group, topic: header.topic, queue_id: header.queue_id };
    let ask = Ask::at(broker, place)?;
    let wait = Duration::from_millis(u64::try_from(header.poll_time).unwrap_or(0)).min(WAIT_MAX);
    let says = |has_msg, polling_full| NotificationResponse { has_msg, polling_full };
    if ask.has_messages() || wait.is_zero() {
        let header = says(ask.has_messages(), None);
        return Ok(Answer::Now(Command::success(request).header(&header)));
    }
    let Some(waiting) = broker.flights.wait(WAITING_MAX) else {
        return Ok(Answer::Now(Command::success(request).header(&says(false, Some(true)))));
    };
    let answer = Command::success(request);
    Ok(Answer::Later(Box::pin(async move {
        ask.grown(Instant::now() + wait).await;
        drop(waiting);
        answer.header(&says(ask.has_messages(), None))
    })))
}

/// 200055: how many pops wait.
pub(crate) fn polling_info(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: PollingInfoRequest<'_> = request.decode_header()?;
    broker.catalog.topic(header.topic).ok_or_else(|| topic_unknown(header.topic))?;
    let polling_num = i32::try_from(broker.flights.waiting()).unwrap_or(i32::MAX);
    Ok(Answer::Now(Command::success(request).header(&PollingInfoResponse { polling_num })))
}

fn invalid(remark: String) -> Refusal {
    Refusal::new(ResponseCode::InvalidParameter, remark)
}

pub(crate) fn check_invisible(ms: i64) -> Result<(), Refusal> {
    match (1..=INVISIBLE_MAX_MS).contains(&ms) {
        true => Ok(()),
        false => {
            Err(invalid(format!("invisibleTime is {ms} ms: it must be 1 to {INVISIBLE_MAX_MS}")))
        }
    }
}

fn check_count(count: i32) -> Result<usize, Refusal> {
    match usize::try_from(count) {
        Ok(wanted) if (1..=MESSAGES_MAX).contains(&count) => Ok(wanted),
        _ => Err(invalid(format!("maxMsgNums is {count}: it must be 1 to {MESSAGES_MAX}"))),
    }
}

impl Ask {
    fn to_pop(broker: &Arc<Broker>, header: &PopMessageRequest<'_>) -> Result<Self, Refusal> {
        check_invisible(header.invisible_time)?;
        if header.order == Some(true) {
            return Err(Refusal::new(
                ResponseCode::SystemError,
                "this broker does not hand out messages in order by pop: set the group's request \
                 mode to PULL for ordered consumption",
            ));
        }
        let place =
            Place { group: header.consumer_group, topic: header.topic, queue_id: header.queue_id };
        let expression = header.exp.unwrap_or("*");
        let filter = Filter::requested(&broker.config, expression, header.exp_type)?;
        Ok(Self {
            count: check_count(header.max_msg_nums)?,
            from_end: header.init_mode == FROM_END,
            invisible_ms: Some(header.invisible_time),
            filter,
            ..Self::at(broker, place)?
        })
    }

    /// The queues, checked as for a pull; the group's retry topic is made with the first question.
    fn at(broker: &Arc<Broker>, place: Place<'_>) -> Result<Self, Refusal> {
        let group = broker.catalog.group(place.group)?;
        let forbidden = |remark: String| Refusal::new(ResponseCode::NoPermission, remark);
        if !group.consume_enable {
            return Err(forbidden(format!("subscription group no permission, {}", place.group)));
        }
        let topic = broker.catalog.topic(place.topic).ok_or_else(|| topic_unknown(place.topic))?;
        if topic.perm & perm::READ == 0 {
            return Err(forbidden(format!("the topic[{}] cannot be read", place.topic)));
        }
        if !(ANY_QUEUE..topic.read_queue_nums).contains(&place.queue_id) {
            return Err(invalid(format!(
                "queueId[{}] is illegal, topic[{}] has {} queues to read",
                place.queue_id, place.topic, topic.read_queue_nums
            )));
        }
        let ids = match place.queue_id {
            ANY_QUEUE => 0..topic.read_queue_nums,
            one => one..one + 1,
        };
        Ok(Self {
            broker: Arc::clone(broker),
            lanes: sources(broker, place, ids)?,
            count: 0,
            from_end: false,
            filter: Filter::All,
            invisible_ms: None,
        })
    }

    /// Takes what there is, beginning with another queue each time.
    fn pop(&self) -> Result<Popped, StoreError> {
        let mut popped = Popped { time_ms: self.broker.clock.now_ms(), ..Popped::default() };
        for source in self.in_turn() {
            self.pop_from(source, &mut popped)?;
        }
        Ok(popped)
    }

    fn in_turn(&self) -> impl Iterator<Item = &Source> {
        let turn = self.broker.flights.turn();
        let (queues, retry) = self.lanes.split_at(self.lanes.len().saturating_sub(1));
        let (late, early) = queues.split_at(turn % queues.len().max(1));
        let (first, last) = match turn.is_multiple_of(RETRY_FIRST_EVERY) {
            true => (retry, &[][..]),
            false => (&[][..], retry),
        };
        first.iter().chain(early).chain(late).chain(last)
    }

    fn pop_from(&self, source: &Source, popped: &mut Popped) -> Result<(), StoreError> {
        let flights = &self.broker.flights;
        let window = flights.window(&source.lane);
        let mut window = lock(&window);
        self.catch_up(source, &mut window);
        let room = match self.invisible_ms {
            Some(_) if !flights.has_room() => 0,
            _ => window.room().min(self.count - popped.count),
        };
        let (taken, next) = self.choose(source, &mut window, room, popped.body.len())?;
        popped.rest += (source.queue.max_offset() - next).max(0);
        if let Some(invisible_ms) = self.invisible_ms {
            window.next = next;
            for (offset, _) in &taken {
                window.take_off(*offset, popped.time_ms);
            }
            self.commit(&source.lane, &mut window);
            if let (Some((first, _)), Some((last, _))) = (taken.first(), taken.last()) {
                let (lane, offsets) = (source.lane.clone(), *first..=*last);
                let due = Due { lane, offsets, pop_time_ms: popped.time_ms };
                flights.end_at(popped.time_ms.saturating_add(invisible_ms), due);
            }
        }
        drop(window);
        self.collect(source, &taken, popped)
    }

    /// Brings the window to where the group stands.
    fn catch_up(&self, source: &Source, window: &mut Window) {
        let (lane, queue) = (&source.lane, &source.queue);
        let (min, max) = (queue.min_offset(), queue.max_offset());
        // Following what is committed, pop follows resets.
        self.broker.resets.forget(&lane.group, &lane.topic, lane.queue_id);
        let committed = self.broker.offsets.committed(&lane.group, &lane.topic, lane.queue_id);
        // As for pulls: a young queue is read from its start.
        let at_end =
            || self.from_end && source.origin.is_none() && !offsets::is_young(&self.broker, queue);
        window.follow(committed, || if at_end() { max } else { min });
        window.next = window.next.clamp(min, max.max(min));
    }

    fn commit(&self, lane: &Lane, window: &mut Window) {
        if let Some(offset) = window.commit() {
            self.broker.offsets.commit(&lane.group, &lane.topic, lane.queue_id, offset);
        }
    }

    /// Up to `room` messages that are wanted and free, and the offset behind what was looked at.
    fn choose(
        &self,
        source: &Source,
        window: &mut Window,
        room: usize,
        bytes: usize,
    ) -> Result<(Vec<(i64, Entry)>, i64), StoreError> {
        let (mut taken, mut bytes, mut next, mut sifted) = (Vec::new(), bytes, window.next, 0);
        let filter = if source.origin.is_some() { &Filter::All } else { &self.filter };
        while taken.len() < room && next - window.next < SCAN_MAX && sifted < SIFTED_MAX {
            let mut entries = source.queue.read(next, room.max(64))?;
            if entries.is_empty() {
                break;
            }
            sifted += filter.sift(&self.broker.store.log, &mut entries)?;
            for entry in entries {
                if taken.len() == room {
                    break;
                }
                let wanted = !entry.is_hole() && filter.wants(entry.tags_code);
                if wanted && !window.passes(next) {
                    bytes += usize::try_from(entry.size).unwrap_or(0);
                    if bytes > ANSWER_BYTES_MAX && !taken.is_empty() {
                        return Ok((taken, next));
                    }
                    taken.push((next, entry));
                }
                next += 1;
            }
        }
        Ok((taken, next))
    }

    /// Adds the taken messages to the answer.
    fn collect(
        &self,
        source: &Source,
        taken: &[(i64, Entry)],
        popped: &mut Popped,
    ) -> Result<(), StoreError> {
        let Some((start, _)) = taken.first() else { return Ok(()) };
        let entries: Vec<Entry> = taken.iter().map(|(_, entry)| *entry).collect();
        let records = pull::records(&self.broker.store.log, &entries)?;
        match &source.origin {
            None => popped.body.extend_from_slice(&records),
            Some(origin) => self.rename(source, origin, &records, popped),
        }
        popped.count += taken.len();
        let retry = i32::from(source.origin.is_some());
        let queue_id = source.lane.queue_id;
        let gap = if popped.starts.is_empty() { "" } else { ";" };
        // Writing to a String cannot fail.
        let _ = write!(popped.starts, "{gap}{retry} {queue_id} {start}");
        let _ = write!(popped.offsets, "{gap}{retry} {queue_id} ");
        for (number, (offset, _)) in taken.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let _ = write!(popped.offsets, "{comma}{offset}");
        }
        Ok(())
    }

    /// Messages of the retry topic, under the name of the topic they come from.
    fn rename(&self, source: &Source, origin: &str, records: &[u8], popped: &mut Popped) {
        let mut rest = records;
        while let Ok((record, size)) = Record::decode(rest, Verify::None) {
            rest = rest.get(size..).unwrap_or_default();
            let mut properties = Properties::from_wire(record.properties.to_owned());
            properties.set(key::POP_CK, &self.receipt(source, &record, popped.time_ms));
            let renamed =
                NewRecord { topic: origin, properties: properties.as_str(), ..record.copy() };
            let position = Position {
                physical_offset: record.physical_offset,
                queue_offset: record.queue_offset,
                store_timestamp_ms: record.store_timestamp_ms,
            };
            renamed.encode(&mut popped.body, position);
        }
    }

    /// Names a flight to whoever acknowledges it (protocol section 2.13).
    fn receipt(&self, source: &Source, record: &Record<'_>, time_ms: i64) -> String {
        let (offset, queue_id) = (record.queue_offset, source.lane.queue_id);
        let invisible_ms = self.invisible_ms.unwrap_or(0);
        let broker = &self.broker.config.broker_name;
        format!("{offset} {time_ms} {invisible_ms} 0 1 {broker} {queue_id} {offset}")
    }

    /// Waits for messages until `deadline`.
    async fn park(self, request: Command, deadline: Instant, waiting: Waiting) -> Command {
        loop {
            let grown = self.grown(deadline).await;
            match self.pop() {
                Err(error) => return Refusal::from(error).answer(&request),
                Ok(popped) if popped.count > 0 => {
                    return self.answer(&request, ResponseCode::Success, popped);
                }
                Ok(popped) if !grown => return self.answer(&request, NOTHING, popped),
                // Others were quicker, or the filter dropped it.
                Ok(_) => tokio::task::yield_now().await,
            }
            debug_assert!(self.broker.flights.waiting() > 0, "{waiting:?} counts");
        }
    }

    /// Returns when one of the queues may have something; false: the time is up, or the broker
    /// stops.
    async fn grown(&self, deadline: Instant) -> bool {
        let growing: Vec<_> = self
            .lanes
            .iter()
            .filter_map(|source| {
                let next = self.next_of(source)?;
                Some(source.queue.length.reached(u64::try_from(next).unwrap_or(0) + 1))
            })
            .collect();
        let any = async {
            match growing.is_empty() {
                true => std::future::pending().await,
                false => select_all(growing).await.0.is_ok(),
            }
        };
        tokio::select! {
            grown = timeout_at(deadline, any) => grown.unwrap_or(false),
            _ = self.broker.stopping.reached(1) => false,
        }
    }

    /// The next offset to hand out; nothing when too many are in flight.
    fn next_of(&self, source: &Source) -> Option<i64> {
        let window = self.broker.flights.window(&source.lane);
        let mut window = lock(&window);
        self.catch_up(source, &mut window);
        (window.room() > 0).then_some(window.next)
    }

    fn has_messages(&self) -> bool {
        let has = |source: &Source| {
            self.next_of(source).is_some_and(|next| next < source.queue.max_offset())
        };
        self.lanes.iter().any(has)
    }

    fn answer(&self, request: &Command, code: ResponseCode, popped: Popped) -> Command {
        let infos = (popped.count > 0).then_some((&popped.starts, &popped.offsets));
        Command::response_to(request, code)
            .header(&PopMessageResponse {
                pop_time: popped.time_ms,
                invisible_time: self.invisible_ms.unwrap_or(0),
                revive_qid: 0,
                rest_num: popped.rest,
                start_offset_info: infos.map(|(starts, _)| starts.as_str()),
                msg_offset_info: infos.map(|(_, offsets)| offsets.as_str()),
                order_count_info: None,
            })
            .body(popped.body)
    }
}

/// The topic's queues, and the retry topic's at the end.
fn sources(
    broker: &Broker,
    place: Place<'_>,
    ids: std::ops::Range<i32>,
) -> Result<Vec<Source>, Refusal> {
    let retry = names::pop_retry_topic(place.group, place.topic);
    names::check_topic(&retry).map_err(|remark| {
        invalid(format!("group and topic together are too long for pop: {remark}"))
    })?;
    broker.catalog.ensure_topic(&retry, 1)?;
    let (group, topic): (Arc<str>, Arc<str>) = (place.group.into(), place.topic.into());
    let source = |topic: &Arc<str>, queue_id, origin| {
        let lane = Lane { group: Arc::clone(&group), topic: Arc::clone(topic), queue_id };
        let queue = broker.store.queues.queue_or_create(topic, queue_id)?;
        Ok(Source { lane, queue, origin })
    };
    let mut sources =
        ids.map(|id| source(&topic, id, None)).collect::<Result<Vec<_>, Refusal>>()?;
    sources.push(source(&retry.into(), 0, Some(Arc::clone(&topic)))?);
    Ok(sources)
}
