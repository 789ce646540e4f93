//! Names: message queues, reserved topics, retry and dead letter topics, and what a legal name is.
//! Not here: settings of a topic. No reserved name is spelled elsewhere.
//!
//! Rules are those of protocol section 3.6; the lengths are the strictest of the clients' (5.x:
//! topic 127, group 120).

use std::fmt;
use std::sync::Arc;

/// The topic whose route and permissions a topic created by sending inherits.
pub const DEFAULT_TOPIC: &str = "TBW102";
/// The prefix of a group's retry topic.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// The prefix of a group's dead letter topic.
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Delayed messages wait here, one queue a level.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Messages that wait for an instant of their own.
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";
/// Half messages of transactions.
pub const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// Marks of ended transactions.
pub const OP_HALF_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// The group under which a broker keeps how far it has decided half messages.
pub const TRANSACTION_GROUP: &str = "CID_RMQ_SYS_TRANS";
/// Half messages whose checks were used up.
pub const CHECK_MAX_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// Apache's self test.
pub const SELF_TEST_TOPIC: &str = "SELF_TEST_TOPIC";
/// Events of consumers whose offset was moved.
pub const OFFSET_MOVED_TOPIC: &str = "OFFSET_MOVED_EVENT";
/// Apache's benchmark topic.
pub const BENCHMARK_TOPIC: &str = "BenchmarkTest";
/// Message traces.
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";
/// The group that sends message traces.
pub const TRACE_PRODUCER_GROUP: &str = "_INNER_TRACE_PRODUCER";
/// The group every Java client registers for its own sends.
pub const INNER_PRODUCER_GROUP: &str = "CLIENT_INNER_PRODUCER";

const REPLY_TOPIC_SUFFIX: &str = "_REPLY_TOPIC";

/// A record has one byte for its topic's length, signed in Java. A retry topic of the longest group
/// just fits.
const TOPIC_LENGTH_MAX: usize = 127;
const GROUP_LENGTH_MAX: usize = 120;
const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";
const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";

/// Topics that clients may read or that exist on every broker, but that are RocketMQ's own.
const SYSTEM_TOPICS: [&str; 9] = [
    DEFAULT_TOPIC,
    SCHEDULE_TOPIC,
    HALF_TOPIC,
    OP_HALF_TOPIC,
    CHECK_MAX_TOPIC,
    SELF_TEST_TOPIC,
    OFFSET_MOVED_TOPIC,
    BENCHMARK_TOPIC,
    TRACE_TOPIC,
];

/// Topics that only the broker writes (protocol section 3.6).
const CLOSED_TOPICS: [&str; 7] = [
    SCHEDULE_TOPIC,
    TIMER_TOPIC,
    HALF_TOPIC,
    OP_HALF_TOPIC,
    CHECK_MAX_TOPIC,
    SELF_TEST_TOPIC,
    OFFSET_MOVED_TOPIC,
];

/// One queue of a topic on one broker. Ordered as Java's allocation sorts: topic, broker name,
/// queue id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageQueue {
    /// The topic.
    pub topic: Arc<str>,
    /// The broker's name, not its address.
    pub broker_name: Arc<str>,
    /// The queue's number on that broker, from 0.
    pub queue_id: i32,
}

impl MessageQueue {
    /// A queue by its three parts.
    pub fn new(
        topic: impl Into<Arc<str>>,
        broker_name: impl Into<Arc<str>>,
        queue_id: i32,
    ) -> Self {
        Self { topic: topic.into(), broker_name: broker_name.into(), queue_id }
    }
}

impl fmt::Display for MessageQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}[{}]", self.topic, self.broker_name, self.queue_id)
    }
}

/// The topic that holds a group's messages between attempts.
#[must_use]
pub fn retry_topic(group: &str) -> String {
    [RETRY_PREFIX, group].concat()
}

/// The topic that holds the messages a group has given up on.
#[must_use]
pub fn dlq_topic(group: &str) -> String {
    [DLQ_PREFIX, group].concat()
}

/// The topic of what a group has popped from `topic` and not acknowledged in time.
#[must_use]
pub fn pop_retry_topic(group: &str, topic: &str) -> String {
    format!("{RETRY_PREFIX}{group}_{topic}")
}

/// The topic that the replies to a cluster's requests go to.
#[must_use]
pub fn reply_topic(cluster: &str) -> String {
    [cluster, REPLY_TOPIC_SUFFIX].concat()
}

/// Is `topic` one of RocketMQ's own?
#[must_use]
pub fn is_system_topic(topic: &str) -> bool {
    SYSTEM_TOPICS.contains(&topic) || topic.starts_with(SYSTEM_TOPIC_PREFIX)
}

/// Does RocketMQ itself keep progress under the name of `group`?
#[must_use]
pub fn is_system_group(group: &str) -> bool {
    group.starts_with(SYSTEM_GROUP_PREFIX)
}

/// May only the broker itself write to `topic`?
#[must_use]
pub fn is_closed_to_senders(topic: &str) -> bool {
    CLOSED_TOPICS.contains(&topic)
}

/// Checks a topic's name.
///
/// # Errors
/// A sentence that names the topic, what is wrong and what is allowed.
pub fn check_topic(topic: &str) -> Result<(), String> {
    check("topic", topic, TOPIC_LENGTH_MAX)
}

/// Checks a group's name.
///
/// # Errors
/// A sentence that names the group, what is wrong and what is allowed.
pub fn check_group(group: &str) -> Result<(), String> {
    check("group", group, GROUP_LENGTH_MAX)
}

fn check(what: &str, name: &str, length_max: usize) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("the {what} is empty: give it a name"));
    }
    if name.len() > length_max {
        let shown: String = name.chars().take(32).collect();
        return Err(format!(
            "the {what} `{shown}...` has {} bytes; at most {length_max} are allowed",
            name.len()
        ));
    }
    match name.chars().find(|c| !is_name_char(*c)) {
        None => Ok(()),
        Some(bad) => Err(format!(
            "the {what} `{}` contains {bad:?}; allowed are letters, digits and `%|-_`",
            name.escape_debug()
        )),
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '-' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_by_character_and_length() {
        assert!(check_topic("Shop_1-%|").is_ok());
        assert!(check_topic(&"t".repeat(127)).is_ok());
        for bad in ["", "a b", "../../etc", "a\u{1}", "主题", &"t".repeat(128)] {
            assert!(check_topic(bad).is_err(), "{bad:?}");
        }
        assert!(check_group(&"g".repeat(120)).is_ok());
        assert!(check_group(&"g".repeat(121)).is_err());
        assert!(check_topic(&retry_topic(&"g".repeat(120))).is_ok());
    }
}
