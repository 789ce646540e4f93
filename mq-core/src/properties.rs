//! Message properties in their stored form, one text `name 0x01 value 0x02` repeated.
//!
//! Here and nowhere else a property key is spelled. The text is scanned, never parsed into a map:
//! a message has a handful of properties and most readers want one. As in RocketMQ the last pair
//! of a name counts, and a pair with an empty name or value does not exist. How the text is
//! framed in records and headers is not known here.

use std::fmt;

/// Separates a name from its value.
pub const NAME_END: char = '\u{1}';
/// Ends a pair; the last one of a text may lack it.
pub const PAIR_END: char = '\u{2}';
/// A cause is cut at this length.
const CAUSE_BYTES_MAX: usize = 256;
/// Properties of this length have no room for a cause any more: a dead letter that cannot be stored
/// were worse than one without.
const NO_ROOM_BYTES: usize = 30_000;

/// The names RocketMQ gives to properties, and one of ours: `DLQ_CAUSE` says why a message became a
/// dead letter ([`Properties::set_cause`]). RocketMQ's brokers and clients pass it over.
pub mod key {
    macro_rules! keys {
        (reserved { $($reserved:ident = $text:literal,)* } free { $($free:ident = $other:literal,)* }) => {
            $(#[doc = concat!("`", $text, "`")] pub const $reserved: &str = $text;)*
            $(#[doc = concat!("`", $other, "`")] pub const $free: &str = $other;)*

            /// Whether users may not choose this name, because RocketMQ means something by it.
            pub fn is_reserved(name: &str) -> bool {
                matches!(name, $($text)|*) || name.starts_with(TRANSIENT_PREFIX)
            }
        };
    }

    keys! {
        reserved {
            KEYS = "KEYS",
            TAGS = "TAGS",
            WAIT = "WAIT",
            DELAY = "DELAY",
            RETRY_TOPIC = "RETRY_TOPIC",
            REAL_TOPIC = "REAL_TOPIC",
            REAL_QID = "REAL_QID",
            TRAN_MSG = "TRAN_MSG",
            PGROUP = "PGROUP",
            MIN_OFFSET = "MIN_OFFSET",
            MAX_OFFSET = "MAX_OFFSET",
            BUYER_ID = "BUYER_ID",
            ORIGIN_MESSAGE_ID = "ORIGIN_MESSAGE_ID",
            TRANSFER_FLAG = "TRANSFER_FLAG",
            CORRECTION_FLAG = "CORRECTION_FLAG",
            MQ2_FLAG = "MQ2_FLAG",
            RECONSUME_TIME = "RECONSUME_TIME",
            MSG_REGION = "MSG_REGION",
            TRACE_ON = "TRACE_ON",
            UNIQ_KEY = "UNIQ_KEY",
            EXTEND_UNIQ_INFO = "EXTEND_UNIQ_INFO",
            MAX_RECONSUME_TIMES = "MAX_RECONSUME_TIMES",
            CONSUME_START_TIME = "CONSUME_START_TIME",
            DUP_INFO = "DUP_INFO",
            TRAN_PREPARED_QUEUE_OFFSET = "TRAN_PREPARED_QUEUE_OFFSET",
            INSTANCE_ID = "INSTANCE_ID",
            CORRELATION_ID = "CORRELATION_ID",
            REPLY_TO_CLIENT = "REPLY_TO_CLIENT",
            TTL = "TTL",
            ARRIVE_TIME = "ARRIVE_TIME",
            PUSH_REPLY_TIME = "PUSH_REPLY_TIME",
            CLUSTER = "CLUSTER",
            MSG_TYPE = "MSG_TYPE",
            POP_CK = "POP_CK",
            POP_CK_OFFSET = "POP_CK_OFFSET",
            FIRST_POP_TIME = "1ST_POP_TIME",
            INNER_MULTI_QUEUE_OFFSET = "INNER_MULTI_QUEUE_OFFSET",
            TIMER_DELAY_MS = "TIMER_DELAY_MS",
            TIMER_DELAY_SEC = "TIMER_DELAY_SEC",
            TIMER_DELIVER_MS = "TIMER_DELIVER_MS",
            TIMER_ENQUEUE_MS = "TIMER_ENQUEUE_MS",
            TIMER_DEQUEUE_MS = "TIMER_DEQUEUE_MS",
            TIMER_ROLL_TIMES = "TIMER_ROLL_TIMES",
            TIMER_OUT_MS = "TIMER_OUT_MS",
            TIMER_DEL_UNIQKEY = "TIMER_DEL_UNIQKEY",
            TIMER_DELAY_LEVEL = "TIMER_DELAY_LEVEL",
            BORN_HOST = "__BORNHOST",
            BORN_TIMESTAMP = "BORN_TIMESTAMP",
            DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC",
            DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID",
            DLQ_CAUSE = "DLQ_CAUSE",
            CRC32 = "__CRC32#",
        }
        free {
            INNER_NUM = "INNER_NUM",
            INNER_BASE = "INNER_BASE",
            CHECK_IMMUNITY_TIME_IN_SECONDS = "CHECK_IMMUNITY_TIME_IN_SECONDS",
            TRANSACTION_ID = "__transactionId__",
            TRANSACTION_CHECK_TIMES = "TRANSACTION_CHECK_TIMES",
            SHARDING_KEY = "__SHARDINGKEY",
            INNER_MULTI_DISPATCH = "INNER_MULTI_DISPATCH",
            TRACE_CONTEXT = "TRACE_CONTEXT",
            TRANSIENT_PREFIX = "__RMQ.TRANSIENT.",
            TIMER_PREFIX = "TIMER_",
        }
    }
}

/// The properties of one message.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(String);

impl Properties {
    /// Takes the text as a peer sent it.
    pub fn from_wire(text: String) -> Self {
        Self(text)
    }

    /// The text as it is sent and stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, taken out.
    pub fn into_wire(self) -> String {
        self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        find(&self.0, name)
    }

    /// Puts the pair in place of whatever the name had.
    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.push(name, value);
    }

    /// Adds a pair without looking for an older one of the name.
    pub fn push(&mut self, name: &str, value: &str) {
        push_pair(&mut self.0, name, value);
    }

    /// Says why a message has become a dead letter, in one line of limited length. Without room
    /// for it, or without a word in it, nothing is said.
    pub fn set_cause(&mut self, cause: &str) {
        let line = one_line(cause);
        self.remove(key::DLQ_CAUSE);
        if !line.is_empty() && self.0.len() < NO_ROOM_BYTES {
            self.push(key::DLQ_CAUSE, &line);
        }
    }

    /// Takes a name away.
    pub fn remove(&mut self, name: &str) {
        if self.get(name).is_some() {
            self.0 = without(&self.0, name);
        }
    }

    /// The pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.0)
    }

    /// The tag.
    pub fn tags(&self) -> Option<&str> {
        self.get(key::TAGS)
    }

    /// The index keys, one by one.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        split_keys(self.get(key::KEYS).unwrap_or_default())
    }

    /// The id that the first sender gave; it survives retries.
    pub fn unique_key(&self) -> Option<&str> {
        self.get(key::UNIQ_KEY)
    }

    /// The delay level, 0 when there is none or it is not a number.
    pub fn delay_level(&self) -> i32 {
        self.get(key::DELAY).and_then(|level| level.parse().ok()).unwrap_or(0)
    }

    /// Whether the sender wants to wait for the disk and the replicas, which is the default.
    pub fn wait_store_ok(&self) -> bool {
        self.get(key::WAIT).is_none_or(|wait| !wait.eq_ignore_ascii_case("false"))
    }

    /// How often the message was tried, as a client says that resends it.
    pub fn reconsume_times(&self) -> Option<i32> {
        self.get(key::RECONSUME_TIME)?.parse().ok()
    }

    /// How often the message may be tried, as a client says that resends it.
    pub fn max_reconsume_times(&self) -> Option<i32> {
        self.get(key::MAX_RECONSUME_TIMES)?.parse().ok()
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The pairs of a stored text, in order.
pub fn pairs(wire: &str) -> impl Iterator<Item = (&str, &str)> {
    wire.split(PAIR_END)
        .filter_map(|pair| pair.split_once(NAME_END))
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
}

/// The value of a name in a stored text.
pub fn find<'a>(wire: &'a str, name: &str) -> Option<&'a str> {
    pairs(wire).filter(|pair| pair.0 == name).last().map(|pair| pair.1)
}

/// Appends a pair to a stored text; mends a missing separator at its end first.
pub fn push_pair(wire: &mut String, name: &str, value: &str) {
    if !wire.is_empty() && !wire.ends_with(PAIR_END) {
        wire.push(PAIR_END);
    }
    wire.reserve(name.len() + value.len() + 2);
    wire.push_str(name);
    wire.push(NAME_END);
    wire.push_str(value);
    wire.push(PAIR_END);
}

/// Two stored texts as one; a separator that is missing between them is added.
pub fn join(first: &str, second: &str) -> String {
    let mut joined = String::with_capacity(first.len() + second.len() + 1);
    joined.push_str(first);
    if !first.is_empty() && !first.ends_with(PAIR_END) {
        joined.push(PAIR_END);
    }
    joined.push_str(second);
    joined
}

/// A stored text without a name.
pub fn without(wire: &str, name: &str) -> String {
    let mut kept = String::with_capacity(wire.len());
    for pair in pairs(wire).filter(|pair| pair.0 != name) {
        push_pair(&mut kept, pair.0, pair.1);
    }
    kept
}

/// The text before and behind the first pair of a name, separators with it; `None` without one.
pub fn around<'a>(wire: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let mut start = 0;
    for pair in wire.split_inclusive(PAIR_END) {
        let end = start + pair.len();
        if pair.split_once(NAME_END).is_some_and(|pair| pair.0 == name) {
            return Some((wire.get(..start)?, wire.get(end..)?));
        }
        start = end;
    }
    None
}

/// The first words of a text, without line breaks and whatever else is not to be seen.
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if !word.is_empty() && !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() >= CAUSE_BYTES_MAX {
            line.truncate(line.floor_char_boundary(CAUSE_BYTES_MAX));
            break;
        }
    }
    line
}

/// The keys in the value of `KEYS`.
pub fn split_keys(value: &str) -> impl Iterator<Item = &str> {
    value.split(' ').filter(|key| !key.is_empty())
}

/// Whether users may set this property.
pub fn check_pair(name: &str, value: &str) -> Result<(), String> {
    if name.is_empty() || value.is_empty() {
        return Err(format!("property `{name}`: neither name nor value may be empty"));
    }
    if name.contains([NAME_END, PAIR_END]) || value.contains([NAME_END, PAIR_END]) {
        return Err(format!("property `{name}`: the characters U+0001 and U+0002 separate pairs"));
    }
    if key::is_reserved(name) {
        return Err(format!("property `{name}` is reserved by RocketMQ; choose another name"));
    }
    Ok(())
}

/// Java's `String.hashCode`, over UTF-16 units: the tag code of consume queues, the index hash.
pub fn java_hash(text: &str) -> i32 {
    text.encode_utf16()
        .fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pair_is_found_with_and_without_the_last_separator() {
        for wire in ["TAGS\u{1}a\u{2}KEYS\u{1}k1 k2\u{2}", "TAGS\u{1}a\u{2}KEYS\u{1}k1 k2"] {
            let properties = Properties::from_wire(wire.to_owned());
            assert_eq!(properties.tags(), Some("a"));
            assert_eq!(properties.keys().collect::<Vec<_>>(), ["k1", "k2"]);
            assert_eq!(properties.get("KEY"), None);
        }
    }

    #[test]
    fn the_last_pair_counts_and_empty_ones_do_not_exist() {
        let wire = "a\u{1}1\u{2}b\u{1}\u{2}\u{1}x\u{2}nonsense\u{2}a\u{1}2\u{2}c\u{1}x\u{1}y\u{2}";
        assert_eq!(find(wire, "a"), Some("2"));
        assert_eq!(find(wire, "b"), None);
        assert_eq!(find(wire, ""), None);
        assert_eq!(find(wire, "c"), Some("x\u{1}y"));
    }

    #[test]
    fn set_replaces_and_push_mends_the_separator() {
        let mut properties = Properties::from_wire("a\u{1}1\u{2}b\u{1}2".to_owned());
        properties.set("a", "3");
        assert_eq!(properties.as_str(), "b\u{1}2\u{2}a\u{1}3\u{2}");
        properties.remove("b");
        assert_eq!(properties.as_str(), "a\u{1}3\u{2}");
    }

    #[test]
    fn a_cause_is_one_line_of_limited_length() {
        let mut properties = Properties::default();
        properties.set_cause("  no\nsuch \u{1}DELAY\u{2} table\t");
        assert_eq!(properties.get(key::DLQ_CAUSE), Some("no such DELAY table"));
        properties.set_cause(&"\u{6807}".repeat(1_000));
        assert_eq!(properties.get(key::DLQ_CAUSE), Some(&*"\u{6807}".repeat(85)));
        properties.set_cause(" ");
        assert!(properties.is_empty());
        properties.push("a", &"x".repeat(NO_ROOM_BYTES));
        properties.set_cause("x");
        assert_eq!(properties.get(key::DLQ_CAUSE), None);
    }

    #[test]
    fn typed_readings_have_defaults() {
        let mut properties = Properties::default();
        assert!(properties.wait_store_ok());
        assert_eq!(properties.delay_level(), 0);
        properties.push(key::WAIT, "false");
        properties.push(key::DELAY, "3");
        assert!(!properties.wait_store_ok());
        assert_eq!(properties.delay_level(), 3);
    }

    #[test]
    fn users_may_not_take_reserved_names() {
        assert!(check_pair("trace-id", "7").is_ok());
        for (name, value) in [("TAGS", "a"), ("", "a"), ("a", ""), ("a\u{1}", "b"), ("a", "\u{2}")]
        {
            assert!(check_pair(name, value).is_err(), "{name:?} {value:?}");
        }
    }

    #[test]
    fn java_hashes_are_javas() {
        assert_eq!(java_hash("TagA"), 2_598_919);
        assert_eq!(java_hash("TagB"), 2_598_920);
        assert_eq!(java_hash("order_created"), 848_461_559);
        assert_eq!(java_hash("\u{6807}\u{7B7E}"), 857_175);
        assert_eq!(java_hash("\u{1F600}"), 1_772_899);
        assert_eq!(java_hash("TopicTest#7F00000100002A139F5512345678ABCD"), -1_609_557_962);
    }

    proptest! {
        #[test]
        fn pushed_pairs_are_found(given in prop::collection::vec(("[a-z]{1,4}", "[^\u{1}\u{2}]{1,9}"), 0..9)) {
            let mut properties = Properties::default();
            for (name, value) in &given {
                properties.set(name, value);
            }
            for (name, _) in &given {
                let last = given.iter().rfind(|pair| pair.0 == *name).map(|pair| pair.1.as_str());
                prop_assert_eq!(properties.get(name), last);
            }
        }

        #[test]
        fn any_text_can_be_read(wire in "\\PC*|[a\u{1}\u{2}]{0,30}") {
            let mut properties = Properties::from_wire(wire);
            properties.set("a", "b");
            prop_assert_eq!(properties.get("a"), Some("b"));
        }
    }
}
