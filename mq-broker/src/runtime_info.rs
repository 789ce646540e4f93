//! 28: how this broker is, as text by key. Tools read the keys that RocketMQ has, in the spelling
//! of 4.x or of 5.x; both are given. Not here: the counters (`stats.rs`).
//!
//! What RocketMQ's threads and caches have and this broker has not (queues of requests, waits for
//! the page cache) is told as 0: nothing waits there.

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_core::names;
use mq_core::protocol::body::{KvTable, to_json};
use mq_core::protocol::command::Command;

use crate::broker::Broker;
use crate::dispatch::{Answer, Handled};
use crate::stats::{Kind, Totals};

/// The release whose protocol is spoken: number and name of every answer's header.
const VERSION: (i32, &str) = (409, "V4_9_8");

/// Keys of what does not exist here.
const NOTHING: [&str; 21] = [
    "sendThreadPoolQueueSize",
    "sendThreadPoolQueueCapacity",
    "sendThreadPoolQueueHeadWaitTimeMills",
    "pullThreadPoolQueueSize",
    "pullThreadPoolQueueCapacity",
    "pullThreadPoolQueueHeadWaitTimeMills",
    "queryThreadPoolQueueSize",
    "queryThreadPoolQueueCapacity",
    "queryThreadPoolQueueHeadWaitTimeMills",
    "EndTransactionQueueSize",
    "EndTransactionThreadPoolQueueCapacity",
    "pageCacheLockTimeMills",
    "putMessageEntireTimeMax",
    "getMessageEntireTimeMax",
    "putMessageFailedTimes",
    "dispatchMaxBuffer",
    "remainTransientStoreBufferNumbs",
    "startAcceptSendRequestTimeStamp",
    "timerReadBehind",
    "timerOffsetBehind",
    "timerCongestNum",
];

/// Groups that are named when their members subscribe differently.
const DIFFERING_TOLD_MAX: usize = 32;

/// 28: how this broker is.
pub(crate) fn handle(broker: &Arc<Broker>, request: &Command) -> Handled {
    let mut table = BTreeMap::new();
    table.extend(NOTHING.map(|key| (key.to_owned(), "0".to_owned())));
    let mut put = |key: &str, value: String| drop(table.insert(key.to_owned(), value));
    identity(broker, &mut put);
    rates(broker, &mut put);
    totals(broker, &mut put);
    log(broker, &mut put)?;
    delays(broker, &mut put);
    subscriptions(broker, &mut put);
    Ok(Answer::Now(Command::success(request).body(to_json(&KvTable { table }))))
}

fn identity(broker: &Broker, put: &mut impl FnMut(&str, String)) {
    let started_ms = broker.stats.started_ms;
    put("brokerVersion", VERSION.0.to_string());
    put("brokerVersionDesc", VERSION.1.to_owned());
    put("brokerActive", "true".to_owned());
    put("bootTimestamp", started_ms.to_string());
    let seconds = (broker.clock.now_ms() - started_ms).max(0) / 1_000;
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    put("runtime", format!("[ {days} days, {hours} hours, {minutes} minutes, {seconds} seconds ]"));
}

/// A rate of the last minute, hour and day.
fn rates(broker: &Broker, put: &mut impl FnMut(&str, String)) {
    let spans = |kind| broker.measured(kind, "");
    let text = |kinds: &[Kind]| {
        let mut rates = [0.0; 3];
        for spans in kinds.iter().filter_map(|kind| spans(*kind)) {
            for (rate, span) in rates.iter_mut().zip(spans) {
                *rate += span.rate(|totals| totals.messages);
            }
        }
        rates.map(|rate| rate.to_string()).join(" ")
    };
    put("putTps", text(&[Kind::BrokerPut]));
    put("getTransferedTps", text(&[Kind::BrokerGet]));
    put("getTransferredTps", text(&[Kind::BrokerGet]));
    put("getFoundTps", text(&[Kind::Found]));
    put("getMissTps", text(&[Kind::Missed]));
    put("getTotalTps", text(&[Kind::Found, Kind::Missed]));
}

fn totals(broker: &Broker, put: &mut impl FnMut(&str, String)) {
    let Totals { messages, bytes, .. } = broker.stats.put.totals();
    put("putMessageTimesTotal", messages.to_string());
    put("putMessageSizeTotal", bytes.to_string());
    put("putMessageAverageSize", bytes.checked_div(messages).unwrap_or(0).to_string());
    let days = broker.stats.days();
    put("msgPutTotalYesterdayMorning", days.put.0.to_string());
    put("msgPutTotalTodayMorning", days.put.1.to_string());
    put("msgPutTotalTodayNow", messages.to_string());
    put("msgGetTotalYesterdayMorning", days.got.0.to_string());
    put("msgGetTotalTodayMorning", days.got.1.to_string());
    put("msgGetTotalTodayNow", broker.stats.got.totals().messages.to_string());
}

fn log(broker: &Broker, put: &mut impl FnMut(&str, String)) -> Result<(), crate::refusal::Refusal> {
    let log = &broker.store.log;
    let (appended, flushed) = (log.appended.get(), log.flushed.get());
    put("commitLogMinOffset", log.min_offset().to_string());
    put("commitLogMaxOffset", appended.to_string());
    put("earliestMessageTimeStamp", log.earliest_time().unwrap_or(-1).to_string());
    put("dispatchBehindBytes", appended.saturating_sub(broker.store.indexed.get()).to_string());
    put("remainHowManyDataToCommit", "0 B".to_owned());
    put("remainHowManyDataToFlush", format!("{} B", appended.saturating_sub(flushed)));
    let space = broker.store.space()?;
    let ratio = ratio(space.total.saturating_sub(space.free), space.total);
    put("commitLogDiskRatio", ratio.clone());
    put("consumeQueueDiskRatio", ratio);
    let [total, free] = [space.total, space.free].map(|bytes| bytes >> 20);
    put("commitLogDirCapacity", format!("Total : {total} MiB, Free : {free} MiB."));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a ratio is for people")]
fn ratio(part: u64, whole: u64) -> String {
    if whole == 0 { "0.0".to_owned() } else { format!("{:.4}", part as f64 / whole as f64) }
}

/// Groups whose members subscribe differently: how many, and which client says what.
fn subscriptions(broker: &Broker, put: &mut impl FnMut(&str, String)) {
    let differing = broker.clients.differing();
    put("groupsOfDifferentSubscriptions", differing.len().to_string());
    for (group, said) in differing.into_iter().take(DIFFERING_TOLD_MAX) {
        put(&format!("differentSubscriptions_{group}"), said);
    }
}

/// How far each delay level is, and how far it could be.
fn delays(broker: &Broker, put: &mut impl FnMut(&str, String)) {
    for (level, next) in broker.delay.progress().offset_table {
        let queue = broker.store.queues.queue(names::SCHEDULE_TOPIC, level - 1);
        let max = queue.map_or(0, |queue| queue.max_offset());
        put(&format!("scheduleMessageOffset_{level}"), format!("{next},{max}"));
    }
}
