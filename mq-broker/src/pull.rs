//! 11 (and 361): reads one queue, filters, and parks on the queue's watermark when there is
//! nothing. Not here: what a filter means, who subscribes, disk formats.
//!
//! Invariants (protocol sections 2.8 and 9): the four offset fields are in every answer 0, 19, 20,
//! 21; messages that the filter drops move `nextBeginOffset`; the commit carried by a pull counts
//! once, before the first read; a parked pull is a future of its own connection, so that nothing is
//! swept and nothing outlives the connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{PullRequest, PullResponse};
use mq_core::watermark::Closed;
use tokio::time::{Instant, timeout_at};

use crate::broker::Broker;
use crate::catalog::{perm, topic_unknown};
use crate::dispatch::{Answer, Handled};
use crate::filter::{Filter, SIFTED_MAX};
use crate::offsets;
use crate::refusal::Refusal;
use crate::stats::Taken;
use crate::store::StoreError;
use crate::store::commit_log::CommitLog;
use crate::store::consume_queue::{ConsumeQueue, Entry};

/// Bits of a pull's sysFlag.
mod flag {
    pub(super) const COMMIT_OFFSET: i32 = 1;
    pub(super) const SUSPEND: i32 = 2;
    pub(super) const SUBSCRIPTION: i32 = 4;
}

/// Messages in one answer.
const MESSAGES_MAX: usize = 1_024;
/// Bytes in one answer, save that one message always fits.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Queue entries looked at in one read when a filter drops most.
const SCAN_MAX: usize = 4_096;
/// Longest hold of a pull.
const SUSPEND_MAX: Duration = Duration::from_secs(30);
/// Records whose distance is below this are read with one call; what lies between is thrown away.
const GAP_BYTES: u64 = 4 << 10;

/// A checked pull that needs nothing of its request any more.
struct Pull {
    broker: Arc<Broker>,
    queue: Arc<ConsumeQueue>,
    offset: i64,
    count: usize,
    filter: Filter,
    /// How often parked pulls had been recalled when this one came.
    recalled: u64,
    taken: Arc<Taken>,
}

/// What a read of the queue gave.
struct Found {
    code: ResponseCode,
    next: i64,
    messages: usize,
    body: Bytes,
}

impl Found {
    /// The pull is to go on at another offset.
    fn elsewhere(next: i64) -> Self {
        Self { code: ResponseCode::PullOffsetMoved, next, messages: 0, body: Bytes::new() }
    }
}

pub(crate) fn handle(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: PullRequest<'_> = request.decode_header()?;
    let (filter, taken) = check(broker, &header)?;
    // Before the resets are looked at: one that comes later recalls this pull.
    let recalled = broker.recalled.get();
    if header.sys_flag & flag::COMMIT_OFFSET != 0 {
        let place = (header.consumer_group, header.topic, header.queue_id);
        offsets::commit(broker, place, header.commit_offset);
    }
    let jump = broker.resets.jump(&header, request.version, &broker.clock);
    let pull = Pull {
        broker: Arc::clone(broker),
        queue: broker.store.queues.queue_or_create(header.topic, header.queue_id)?,
        offset: header.queue_offset,
        count: usize::try_from(header.max_msg_nums).unwrap_or(1).clamp(1, MESSAGES_MAX),
        filter,
        recalled,
        taken,
    };
    if let Some(target) = jump {
        return Ok(Answer::Now(pull.answer(request, Found::elsewhere(target))));
    }
    let found = pull.read(pull.offset)?;
    let may_wait = header.sys_flag & flag::SUSPEND != 0 && !request.is_oneway() && !broker.stops();
    if found.code != ResponseCode::PullNotFound || !may_wait {
        return Ok(Answer::Now(pull.answer(request, found)));
    }
    let hold = Duration::from_millis(u64::try_from(header.suspend_timeout_millis).unwrap_or(0));
    let deadline = Instant::now() + hold.min(SUSPEND_MAX);
    // The header's text is not needed again: only what an answer copies is kept while waiting.
    let request = Command { fields: Default::default(), body: Bytes::new(), ..request.clone() };
    Ok(Answer::Later(Box::pin(pull.park(request, deadline))))
}

/// The checks of protocol section 2.8, in order; gives the filter to apply, and the counter.
fn check(broker: &Broker, header: &PullRequest<'_>) -> Result<(Filter, Arc<Taken>), Refusal> {
    if broker.config.broker_permission.now() & u64::from(perm::READ.cast_unsigned()) == 0 {
        let name = &broker.config.broker_name;
        return Err(forbidden(format!("the broker[{name}] pulling message is forbidden")));
    }
    let group = broker.catalog.group(header.consumer_group)?;
    if !group.consume_enable {
        return Err(forbidden(format!("subscription group no permission, {}", group.group_name)));
    }
    let topic = broker.catalog.topic(header.topic).ok_or_else(|| topic_unknown(header.topic))?;
    if topic.perm & perm::READ == 0 {
        return Err(forbidden(format!("the topic[{}] pulling message is forbidden", header.topic)));
    }
    if !(0..topic.read_queue_nums).contains(&header.queue_id) {
        return Err(Refusal::new(
            ResponseCode::SystemError,
            format!(
                "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}]",
                header.queue_id, header.topic, topic.read_queue_nums
            ),
        ));
    }
    if header.sys_flag & flag::SUBSCRIPTION != 0 {
        let expression = header.subscription.unwrap_or("*");
        let filter = Filter::requested(&broker.config, expression, header.expression_type)?;
        return Ok((filter, broker.stats.taken(header.consumer_group, header.topic)));
    }
    registered_filter(broker, header)
}

/// The filter that the group's heartbeat brought.
fn registered_filter(
    broker: &Broker,
    header: &PullRequest<'_>,
) -> Result<(Filter, Arc<Taken>), Refusal> {
    let missing = |remark: &str| {
        let remark = format!("{remark}, group {}, topic {}", header.consumer_group, header.topic);
        Refusal::new(ResponseCode::SubscriptionNotExist, remark)
    };
    let subscription = broker
        .clients
        .subscription(header.consumer_group, header.topic)
        .ok_or_else(|| missing("the consumer's group info not exist"))?
        .ok_or_else(|| missing("the consumer's subscription not exist"))?;
    if subscription.version < header.sub_version {
        return Err(Refusal::new(
            ResponseCode::SubscriptionNotLatest,
            "the consumer's subscription not latest",
        ));
    }
    let filter = subscription.filter.as_ref().map_err(|remark| {
        Refusal::new(
            ResponseCode::FilterDataNotExist,
            format!("The broker's consumer filter data is not exist!Your expression may be wrong! {remark}"),
        )
    })?;
    filter.check_enabled(&broker.config)?;
    Ok((filter.clone(), Arc::clone(&subscription.taken)))
}

fn forbidden(remark: String) -> Refusal {
    Refusal::new(ResponseCode::NoPermission, remark)
}

impl Pull {
    /// Waits for the queue to grow past what was seen, until `deadline`. A message that the filter
    /// drops is passed over and the wait goes on.
    async fn park(mut self, request: Command, deadline: Instant) -> Command {
        loop {
            let target = u64::try_from(self.offset).unwrap_or(0) + 1;
            let grown = tokio::select! {
                grown = timeout_at(deadline, self.queue.length.reached(target)) => grown,
                _ = self.broker.recalled.reached(self.recalled + 1) => {
                    Ok(Err(Closed("the pull is recalled".into())))
                }
            };
            match self.read(self.offset) {
                Err(error) => return Refusal::from(error).answer(&request),
                Ok(found) if found.code == ResponseCode::Success => {
                    return self.answer(&request, found);
                }
                // The time is up or the pull is recalled: say what there is.
                Ok(found) if !matches!(grown, Ok(Ok(_))) => return self.answer(&request, found),
                Ok(found) => self.offset = found.next,
            }
        }
    }

    fn read(&self, offset: i64) -> Result<Found, StoreError> {
        let (min, max) = (self.queue.min_offset(), self.queue.max_offset());
        if let Some(found) = outside(offset, min, max) {
            return Ok(found);
        }
        let mut next = offset;
        let mut wanted: Vec<Entry> = Vec::new();
        let (mut bytes, mut scanned, mut sifted) = (0, 0, 0);
        'scan: while scanned < SCAN_MAX && sifted < SIFTED_MAX && wanted.len() < self.count {
            let all = matches!(self.filter, Filter::All);
            let ask = if all { self.count - wanted.len() } else { 256 };
            let mut entries = self.queue.read(next, ask)?;
            if entries.is_empty() {
                break;
            }
            sifted += self.filter.sift(&self.broker.store.log, &mut entries)?;
            for entry in entries {
                let size = usize::try_from(entry.size).unwrap_or(0);
                if !entry.is_hole() && self.filter.wants(entry.tags_code) {
                    let full = wanted.len() == self.count || bytes + size > ANSWER_BYTES_MAX;
                    if full && !wanted.is_empty() {
                        break 'scan;
                    }
                    bytes += size;
                    wanted.push(entry);
                }
                next += 1;
                scanned += 1;
            }
        }
        let code = match (wanted.is_empty(), next > offset) {
            (false, _) => ResponseCode::Success,
            (true, true) => ResponseCode::PullRetryImmediately,
            (true, false) => ResponseCode::PullNotFound,
        };
        let body = records(&self.broker.store.log, &wanted)?;
        Ok(Found { code, next, messages: wanted.len(), body })
    }

    fn answer(&self, request: &Command, found: Found) -> Command {
        self.count(&found);
        Command::response_to(request, found.code)
            .header(&PullResponse {
                suggest_which_broker_id: 0,
                next_begin_offset: found.next,
                min_offset: self.queue.min_offset(),
                max_offset: self.queue.max_offset(),
            })
            .body(found.body)
    }
}

/// The records of `entries`, one after the other. Neighbours in the log are read with one call.
pub(crate) fn records(log: &CommitLog, entries: &[Entry]) -> Result<Bytes, StoreError> {
    let mut spans = spans(entries);
    let Some(first) = spans.next() else { return Ok(Bytes::new()) };
    let read = log.read(first.start, first.length())?;
    if first.exact && first.entries.len() == entries.len() {
        return Ok(read);
    }
    let bytes = entries.iter().map(|entry| usize::try_from(entry.size).unwrap_or(0)).sum();
    let mut body = BytesMut::with_capacity(bytes);
    first.cut(&read, &mut body);
    for span in spans {
        span.cut(&log.read(span.start, span.length())?, &mut body);
    }
    Ok(body.freeze())
}

impl Pull {
    fn count(&self, found: &Found) {
        let stats = &self.broker.stats;
        if found.messages == 0 {
            return stats.missed.add(0, 0);
        }
        stats.got.add(found.messages, found.body.len());
        self.taken.got.add(found.messages, found.body.len());
    }
}

/// Answers that need no read (protocol section 2.8, "store status").
fn outside(offset: i64, min: i64, max: i64) -> Option<Found> {
    let (code, next) = if offset == max || (max == 0 && offset == 0) {
        (ResponseCode::PullNotFound, offset)
    } else if offset > max {
        return Some(Found::elsewhere(max));
    } else if offset < min {
        return Some(Found::elsewhere(min));
    } else {
        return None;
    };
    Some(Found { code, next, messages: 0, body: Bytes::new() })
}

/// Entries that one read of the log covers.
struct Span<'a> {
    entries: &'a [Entry],
    start: u64,
    end: u64,
    /// Nothing lies between the entries.
    exact: bool,
}

impl Span<'_> {
    fn length(&self) -> usize {
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }

    fn cut(&self, read: &[u8], body: &mut BytesMut) {
        for entry in self.entries {
            let (at, size) = place(entry);
            let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
            let to = from.saturating_add(usize::try_from(size).unwrap_or(0));
            body.extend_from_slice(read.get(from..to).unwrap_or_default());
        }
    }
}

fn place(entry: &Entry) -> (u64, u64) {
    (u64::try_from(entry.physical_offset).unwrap_or(0), u64::try_from(entry.size).unwrap_or(0))
}

fn spans(entries: &[Entry]) -> impl Iterator<Item = Span<'_>> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let (start, size) = place(rest.first()?);
        let (mut end, mut exact, mut taken) = (start + size, true, 1);
        for entry in rest.get(1..)? {
            let (at, size) = place(entry);
            if at < end || at - end > GAP_BYTES {
                break;
            }
            exact &= at == end;
            end = at + size;
            taken += 1;
        }
        let (span, after) = rest.split_at_checked(taken)?;
        rest = after;
        Some(Span { entries: span, start, end, exact })
    })
}
