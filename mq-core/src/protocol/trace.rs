//! Trace records in the text form that RocketMQ's clients write and its tools read (protocol
//! section 5.7): fields separated by U+0001, records ended by U+0002. Not here: when something is
//! traced, where records are sent.
//!
//! Invariants: a value cannot break the form; a value that is missing is written `null`, as Java
//! does, and read as empty; what cannot be read is passed over, since other versions write more.

use std::fmt::Write;

use crate::properties::split_keys;

const FIELD_END: char = '\u{1}';
const RECORD_END: char = '\u{2}';
const MISSING: &str = "null";

/// One thing that happened to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceRecord {
    /// It was sent.
    Pub(Published),
    /// A consumer began with it.
    SubBefore(Begun),
    /// A consumer was through with it.
    SubAfter(Ended),
    /// Its transaction ended.
    EndTransaction(Decided),
}

/// See [`TraceRecord::Pub`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// When the send began.
    pub timestamp_ms: i64,
    /// The region of the broker.
    pub region_id: String,
    /// The producer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The id that the sender gave.
    pub msg_id: String,
    /// Its tag.
    pub tags: String,
    /// Its keys, separated by spaces.
    pub keys: String,
    /// The broker that stored it.
    pub store_host: String,
    /// Bytes of the body.
    pub body_length: i32,
    /// How long the send took.
    pub cost_ms: i32,
    /// 0 normal, 1 half, 2 commit, 3 delayed, 4 ordered.
    pub msg_type: i32,
    /// The id that says where it is stored.
    pub offset_msg_id: String,
    /// Whether it was stored.
    pub success: bool,
}

/// See [`TraceRecord::SubBefore`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// When the handler was called.
    pub timestamp_ms: i64,
    /// The region of the broker.
    pub region_id: String,
    /// The consumer group.
    pub group: String,
    /// The same as that of the [`Ended`] which belongs to it.
    pub request_id: String,
    /// The id that the sender gave.
    pub msg_id: String,
    /// How often it had been handled in vain.
    pub retry_times: i32,
    /// Its keys, separated by spaces.
    pub keys: String,
}

/// See [`TraceRecord::SubAfter`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The same as that of the [`Begun`] it belongs to.
    pub request_id: String,
    /// The id that the sender gave.
    pub msg_id: String,
    /// How long it was handled.
    pub cost_ms: i32,
    /// Whether that went well.
    pub success: bool,
    /// Its keys, separated by spaces.
    pub keys: String,
    /// 0 success, 1 time-out, 2 exception, 3 nothing returned, 4 failed.
    pub context_code: i32,
    /// When it ended; 0 from clients that do not say.
    pub timestamp_ms: i64,
    /// The consumer group; empty from clients that do not say.
    pub group: String,
}

/// See [`TraceRecord::EndTransaction`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// When it was ended.
    pub timestamp_ms: i64,
    /// The region of the broker.
    pub region_id: String,
    /// The producer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The id that the sender gave.
    pub msg_id: String,
    /// Its tag.
    pub tags: String,
    /// Its keys, separated by spaces.
    pub keys: String,
    /// The broker that has the half message.
    pub store_host: String,
    /// 2 commit.
    pub msg_type: i32,
    /// The id of the transaction.
    pub transaction_id: String,
    /// `COMMIT_MESSAGE`, `ROLLBACK_MESSAGE` or `UNKNOW`.
    pub state: String,
    /// Whether the broker had asked.
    pub from_check: bool,
}

/// Both directions of a record: its fields in the order they are written. A field after `?` may be
/// missing.
macro_rules! record {
    ($kind:ident, $name:literal, [$($field:ident),*] ? [$($late:ident),*]) => {
        impl $kind {
            fn write(&self, out: &mut String) {
                out.push_str($name);
                $(self.$field.put(out);)*
                $(self.$late.put(out);)*
                out.push(RECORD_END);
            }

            fn read<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<Self> {
                Some(Self {
                    $($field: Field::take(fields.next()?)?,)*
                    $($late: fields.next().and_then(Field::take).unwrap_or_default(),)*
                })
            }
        }
    };
}

record!(Published, "Pub", [
    timestamp_ms, region_id, group, topic, msg_id, tags, keys, store_host, body_length, cost_ms,
    msg_type, offset_msg_id, success
] ? []);
record!(Begun, "SubBefore", [
    timestamp_ms, region_id, group, request_id, msg_id, retry_times, keys
] ? []);
record!(Ended, "SubAfter", [
    request_id, msg_id, cost_ms, success, keys
] ? [context_code, timestamp_ms, group]);
record!(Decided, "EndTransaction", [
    timestamp_ms, region_id, group, topic, msg_id, tags, keys, store_host, msg_type,
    transaction_id, state, from_check
] ? []);

/// A value of a record.
trait Field: Sized {
    fn put(&self, out: &mut String);
    fn take(text: &str) -> Option<Self>;
}

impl Field for String {
    fn put(&self, out: &mut String) {
        out.push(FIELD_END);
        match self.as_str() {
            "" => out.push_str(MISSING),
            text => out.extend(text.chars().filter(|c| !matches!(*c, FIELD_END | RECORD_END))),
        }
    }

    fn take(text: &str) -> Option<Self> {
        Some(if text == MISSING { Self::new() } else { text.to_owned() })
    }
}

macro_rules! plain {
    ($($kind:ty),*) => {$(
        impl Field for $kind {
            fn put(&self, out: &mut String) {
                // Writing to a String cannot fail.
                let _ = write!(out, "{FIELD_END}{self}");
            }

            fn take(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}

plain!(i32, i64, bool);

impl TraceRecord {
    /// Appends the record to a text.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Pub(record) => record.write(out),
            Self::SubBefore(record) => record.write(out),
            Self::SubAfter(record) => record.write(out),
            Self::EndTransaction(record) => record.write(out),
        }
    }

    /// The id of the message it is about.
    #[must_use]
    pub fn msg_id(&self) -> &str {
        match self {
            Self::Pub(record) => &record.msg_id,
            Self::SubBefore(record) => &record.msg_id,
            Self::SubAfter(record) => &record.msg_id,
            Self::EndTransaction(record) => &record.msg_id,
        }
    }

    /// The keys of the message it is about.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        split_keys(match self {
            Self::Pub(record) => &record.keys,
            Self::SubBefore(record) => &record.keys,
            Self::SubAfter(record) => &record.keys,
            Self::EndTransaction(record) => &record.keys,
        })
    }
}

/// The records of a text. Those of a kind that is not known, and broken ones, are passed over.
pub fn trace_records(text: &str) -> impl Iterator<Item = TraceRecord> {
    text.split(RECORD_END).filter_map(|record| {
        let mut fields = record.split(FIELD_END);
        match fields.next()? {
            "Pub" => published(fields).map(TraceRecord::Pub),
            "SubBefore" => Begun::read(fields).map(TraceRecord::SubBefore),
            "SubAfter" => Ended::read(fields).map(TraceRecord::SubAfter),
            "EndTransaction" => Decided::read(fields).map(TraceRecord::EndTransaction),
            _ => None,
        }
    })
}

/// The oldest clients do not write the id of the place.
fn published<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Published> {
    const OLD_FIELDS: usize = 12;
    let mut fields: Vec<&str> = fields.collect();
    if fields.len() == OLD_FIELDS {
        fields.insert(OLD_FIELDS - 1, MISSING);
    }
    Published::read(fields.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_of_java_are_read() {
        let text = "Pub\u{1}1700000000000\u{1}DefaultRegion\u{1}PG\u{1}T\u{1}7F00\u{1}TagA\u{1}\
                    k1 k2\u{1}127.0.0.1:10911\u{1}11\u{1}3\u{1}0\u{1}7F000001\u{1}true\u{2}\
                    Pub\u{1}1\u{1}R\u{1}PG\u{1}T\u{1}OLD\u{1}null\u{1}null\u{1}h\u{1}1\u{1}1\u{1}0\
                    \u{1}false\u{2}Future\u{1}1\u{2}\
                    SubAfter\u{1}R1\u{1}7F00\u{1}5\u{1}false\u{1}k1\u{1}4\u{2}\
                    SubAfter\u{1}R2\u{1}7F00\u{1}5\u{1}true\u{1}k1\u{1}0\u{1}9\u{1}CG\u{2}Pub\u{1}x";
        let records: Vec<TraceRecord> = trace_records(text).collect();
        let [TraceRecord::Pub(first), TraceRecord::Pub(old), third, fourth] = &records[..] else {
            panic!("{records:?}");
        };
        assert_eq!((&*first.keys, first.cost_ms, first.success), ("k1 k2", 3, true));
        assert_eq!((&*old.tags, &*old.offset_msg_id, old.success), ("", "", false));
        assert!(matches!(third, TraceRecord::SubAfter(e) if e.group.is_empty() && !e.success));
        assert!(matches!(fourth, TraceRecord::SubAfter(e) if e.group == "CG"));
    }

    #[test]
    fn a_value_cannot_break_the_form() {
        let keys = "a\u{1}b\u{2}Pub\u{1}".to_owned();
        let record = TraceRecord::SubBefore(Begun { keys, ..Begun::default() });
        let mut text = String::new();
        record.write(&mut text);
        let read: Vec<TraceRecord> = trace_records(&text).collect();
        assert!(matches!(&read[..], [TraceRecord::SubBefore(b)] if b.keys == "abPub"), "{read:?}");
    }

    fn value() -> impl Strategy<Value = String> {
        "[^\u{1}\u{2}]{0,12}".prop_filter("a word that means nothing", |text| text != MISSING)
    }

    prop_compose! {
        fn record()(
            kind in 0..4, texts in prop::collection::vec(value(), 9),
            numbers in prop::array::uniform3(any::<i32>()), time in any::<i64>(), yes in any::<bool>(),
        ) -> TraceRecord {
            let text = |index: usize| texts[index].clone();
            match kind {
                0 => TraceRecord::Pub(Published {
                    timestamp_ms: time, region_id: text(0), group: text(1), topic: text(2),
                    msg_id: text(3), tags: text(4), keys: text(5), store_host: text(6),
                    body_length: numbers[0], cost_ms: numbers[1], msg_type: numbers[2],
                    offset_msg_id: text(7), success: yes,
                }),
                1 => TraceRecord::SubBefore(Begun {
                    timestamp_ms: time, region_id: text(0), group: text(1), request_id: text(2),
                    msg_id: text(3), retry_times: numbers[0], keys: text(4),
                }),
                2 => TraceRecord::SubAfter(Ended {
                    request_id: text(0), msg_id: text(1), cost_ms: numbers[0], success: yes,
                    keys: text(2), context_code: numbers[1], timestamp_ms: time, group: text(3),
                }),
                _ => TraceRecord::EndTransaction(Decided {
                    timestamp_ms: time, region_id: text(0), group: text(1), topic: text(2),
                    msg_id: text(3), tags: text(4), keys: text(5), store_host: text(6),
                    msg_type: numbers[0], transaction_id: text(7), state: text(8), from_check: yes,
                }),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in prop::collection::vec(record(), 0..6)) {
            let mut text = String::new();
            records.iter().for_each(|record| record.write(&mut text));
            prop_assert_eq!(trace_records(&text).collect::<Vec<_>>(), records);
        }

        #[test]
        fn any_text_is_read(text in "(Pub|SubAfter|[a-z0-9\u{1}\u{2}]{0,40}|\\PC){0,9}") {
            let _ = trace_records(&text).count();
        }
    }
}
