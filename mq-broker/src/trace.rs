//! `mq trace`: what became of a message, told from the trace topic: who sent it, where it is, who
//! consumed it and with what result. Traces of Java clients and of ours read alike. Not here: the
//! form of a trace record (`mq_core::protocol::trace`), writing them (the client).
//!
//! Invariant: a trace is found by the keys of the message it lies in, and kept only when it is
//! about what was asked for, since many lie in one message.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use mq_core::Error;
use mq_core::clock::{Clock, utc};
use mq_core::names;
use mq_core::protocol::compression::{BODY_BYTES_MAX, decompress};
use mq_core::protocol::header::QueryMessageRequest;
use mq_core::protocol::record::{Record, records, sys_flag};
use mq_core::protocol::trace::{Begun, Decided, Ended, Published, TraceRecord, trace_records};
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::Remote;

use crate::bench::report;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Messages of the trace topic that are asked for by one key.
const MESSAGES_MAX: i32 = 64;
/// Messages whose path is shown, when a key belongs to several.
const SHOWN_MAX: usize = 16;
const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// What is to be traced.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// A key of the message.
    #[arg(long, required_unless_present = "msg_id", conflicts_with = "msg_id")]
    key: Option<String>,
    /// The message's id, as its sender was told it.
    #[arg(long)]
    msg_id: Option<String>,
    /// Only messages of this topic; traces that do not name one are shown too.
    #[arg(long)]
    topic: Option<String>,
    /// The topic that the clients write traces to.
    #[arg(long, default_value = names::TRACE_TOPIC)]
    trace_topic: String,
    /// Name servers, `host:port` separated by `;`.
    #[arg(short, long, value_name = "ADDRESSES", default_value = "127.0.0.1:9876")]
    name_servers: String,
}

pub(crate) async fn run(trace: Trace) -> Result<(), Error> {
    let brokers = brokers(&trace).await?;
    let mut paths: BTreeMap<String, Vec<TraceRecord>> = BTreeMap::new();
    for id in ids(&trace, &brokers).await? {
        let mut path = find(&trace, &brokers, &id).await?;
        path.retain(|record| record.msg_id() == id);
        path.sort_by_key(time);
        path.dedup();
        if trace.topic.as_deref().is_none_or(|topic| is_of(&path, topic)) {
            paths.insert(id, path);
        }
    }
    paths.retain(|_, path| !path.is_empty());
    if paths.is_empty() {
        let topic = &trace.trace_topic;
        return Err(Error::Closed(format!(
            "nothing about it in `{topic}`: do the clients write traces?"
        )));
    }
    for (id, path) in paths {
        print!("{}", told(&id, &path));
    }
    Ok(())
}

/// The ids of the messages that are asked about.
async fn ids(trace: &Trace, brokers: &[Remote]) -> Result<BTreeSet<String>, Error> {
    let Some(key) = &trace.key else { return Ok(trace.msg_id.iter().cloned().collect()) };
    let about = find(trace, brokers, key).await?;
    let about = about.iter().filter(|record| record.keys().any(|known| known == key));
    Ok(about.map(|record| record.msg_id().to_owned()).take(SHOWN_MAX).collect())
}

fn is_of(path: &[TraceRecord], topic: &str) -> bool {
    let mut named = path.iter().filter_map(|record| match record {
        TraceRecord::Pub(record) => Some(&record.topic),
        TraceRecord::EndTransaction(record) => Some(&record.topic),
        TraceRecord::SubBefore(_) | TraceRecord::SubAfter(_) => None,
    });
    named.next().is_none_or(|first| first == topic)
}

/// The masters that have the trace topic.
async fn brokers(trace: &Trace) -> Result<Vec<Remote>, Error> {
    let route = report::route(&trace.name_servers, &trace.trace_topic).await?;
    let mut masters = Vec::new();
    for broker in &route.broker_datas {
        if let Some(address) = broker.broker_addrs.get(&0) {
            masters.push(report::dial(address).await?);
        }
    }
    Ok(masters)
}

fn refused(answer: &Command) -> Error {
    let remark = answer.remark.as_deref().unwrap_or_default().to_owned();
    Error::Refused { code: answer.code, remark }
}

/// Every trace in the messages that have this key.
async fn find(trace: &Trace, brokers: &[Remote], key: &str) -> Result<Vec<TraceRecord>, Error> {
    let header = QueryMessageRequest {
        topic: &trace.trace_topic,
        key,
        max_num: MESSAGES_MAX,
        begin_timestamp: 0,
        end_timestamp: Clock::System.now_ms() + DAY_MS,
        unique_key: None,
    };
    let mut found = Vec::new();
    for broker in brokers {
        let request = Command::with(RequestCode::QueryMessage, &header);
        let answer = broker.call(request, TIMEOUT).await?;
        match answer.response_code() {
            ResponseCode::Success => {
                // What cannot be read is somebody else's.
                for record in records(&answer.body).map_while(Result::ok) {
                    found.extend(trace_records(&text(&record)));
                }
            }
            ResponseCode::QueryNotFound => {}
            _ => return Err(refused(&answer)),
        }
    }
    Ok(found)
}

fn text(record: &Record<'_>) -> String {
    let body = match record.sys_flag & sys_flag::COMPRESSED {
        0 => record.body.to_vec(),
        _ => decompress(record.sys_flag, record.body, BODY_BYTES_MAX).unwrap_or_default(),
    };
    String::from_utf8_lossy(&body).into_owned()
}

fn time(record: &TraceRecord) -> i64 {
    match record {
        TraceRecord::Pub(record) => record.timestamp_ms,
        TraceRecord::SubBefore(record) => record.timestamp_ms,
        // Clients that do not say when: behind everything else.
        TraceRecord::SubAfter(Ended { timestamp_ms: 0, .. }) => i64::MAX,
        TraceRecord::SubAfter(record) => record.timestamp_ms,
        TraceRecord::EndTransaction(record) => record.timestamp_ms,
    }
}

fn told(id: &str, path: &[TraceRecord]) -> String {
    // Who handles is in the record before, as old clients do not repeat it.
    let groups: BTreeMap<&str, &str> = path
        .iter()
        .filter_map(|record| match record {
            TraceRecord::SubBefore(begun) => Some((&*begun.request_id, &*begun.group)),
            _ => None,
        })
        .collect();
    let mut told = format!("message {id}\n");
    for record in path {
        let line = match record {
            TraceRecord::Pub(record) => sent(record),
            TraceRecord::SubBefore(record) => begun(record),
            TraceRecord::SubAfter(record) => {
                let group = groups.get(&*record.request_id).copied().unwrap_or(&record.group);
                ended(record, group)
            }
            TraceRecord::EndTransaction(record) => decided(record),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(told, "  {}  {line}", when(time(record)));
    }
    told
}

fn sent(record: &Published) -> String {
    let Published { group, topic, tags, keys, store_host, body_length, cost_ms, .. } = record;
    let kind = match record.msg_type {
        1 => "half message ",
        3 => "delayed message ",
        4 => "ordered message ",
        _ => "",
    };
    let result = if record.success { "stored by" } else { "FAILED at" };
    let mut line = format!("sent {kind}to `{topic}` by group `{group}`, {result} {store_host}");
    let _ = write!(line, " in {cost_ms} ms, {body_length} bytes");
    for (name, value) in [("tag", tags), ("keys", keys), ("at", &record.offset_msg_id)] {
        if !value.is_empty() {
            let _ = write!(line, ", {name} {value}");
        }
    }
    line
}

fn begun(record: &Begun) -> String {
    format!("begun by group `{}`, attempt {}", record.group, record.retry_times.saturating_add(1))
}

fn ended(record: &Ended, group: &str) -> String {
    let result = match (record.success, record.context_code) {
        (true, _) => "done",
        (false, 1) => "NOT done in time",
        (false, 2) => "FAILED with an exception",
        (false, _) => "FAILED",
    };
    format!("{result} by group `{group}` in {} ms", record.cost_ms)
}

fn decided(record: &Decided) -> String {
    let asked = if record.from_check { ", after the broker had asked" } else { "" };
    format!("transaction ended by group `{}`: {}{asked}", record.group, record.state)
}

/// `2026-01-31 23:59:59.999` in UTC.
fn when(ms: i64) -> String {
    if ms == i64::MAX {
        return "at an unknown time     ".to_owned();
    }
    let [year, month, day, hour, minute, second, ms] = utc(ms);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_by_people() {
        assert_eq!(when(0), "1970-01-01 00:00:00.000");
        assert_eq!(when(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(when(1_709_251_199_999), "2024-02-29 23:59:59.999");
        assert_eq!(when(4_107_542_400_001), "2100-03-01 00:00:00.001");
        assert_eq!(when(-1), "1969-12-31 23:59:59.999");
    }

    #[test]
    fn a_path_is_told_in_lines() {
        let text = "Pub\u{1}5\u{1}R\u{1}PG\u{1}T\u{1}ID\u{1}a\u{1}k1 k2\u{1}h:1\u{1}9\u{1}2\u{1}3\
                    \u{1}OFF\u{1}true\u{2}SubBefore\u{1}7\u{1}R\u{1}CG\u{1}Q\u{1}ID\u{1}1\u{1}k1\u{2}\
                    SubAfter\u{1}Q\u{1}ID\u{1}4\u{1}false\u{1}k1\u{1}2\u{2}";
        let path: Vec<TraceRecord> = trace_records(text).collect();
        let expected = "\
message ID
  1970-01-01 00:00:00.005  sent delayed message to `T` by group `PG`, stored by h:1 in 2 ms, \
            9 bytes, tag a, keys k1 k2, at OFF
  1970-01-01 00:00:00.007  begun by group `CG`, attempt 2
  at an unknown time       FAILED with an exception by group `CG` in 4 ms
";
        assert_eq!(told("ID", &path), expected);
    }
}
