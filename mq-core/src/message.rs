//! Messages as applications see them: one to send, one received, and what a send came to.
//!
//! How they are framed on the wire or on disk is `protocol`'s; when they are sent or handled is
//! the client's.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::millis;
use crate::error::Error;
use crate::names::{self, MessageQueue};
use crate::properties::{self, Properties, key};
use crate::protocol::compression::{self, CompressionError};
use crate::protocol::record::{self, PROPERTIES_BYTES_MAX, Record, sys_flag};

/// What a broker adds to properties may take this much of their limit.
const PROPERTIES_BYTES_OF_BROKER: usize = 1_024;

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it goes.
    pub topic: String,
    /// What it says.
    pub body: Bytes,
    /// Tag, keys, delay, and whatever the application adds.
    pub properties: Properties,
    /// A number for the application's own use.
    pub flag: i32,
}

impl Outgoing {
    /// A message without properties.
    pub fn new(topic: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), body: body.into(), properties: Properties::default(), flag: 0 }
    }

    /// Puts the tag that consumers may filter by. An empty one is none.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.properties.set(key::TAGS, &without_separators(tag));
        self
    }

    /// Adds a key that the message can be found by.
    #[must_use]
    pub fn key(mut self, name: &str) -> Self {
        let name = without_separators(name);
        let keys = match self.properties.get(key::KEYS) {
            Some(keys) => format!("{keys} {name}"),
            None => name,
        };
        self.properties.set(key::KEYS, &keys);
        self
    }

    /// Delays the message by one of the broker's levels; 0 is no delay. It replaces what was asked
    /// for before, as each of the three ways to delay does.
    #[must_use]
    pub fn delay_level(self, level: u8) -> Self {
        self.delayed(key::DELAY, Some(level).filter(|level| *level > 0))
    }

    /// Has the message delivered at an instant, in milliseconds since the epoch; at once when that
    /// is over. Apache RocketMQ has instants from 5.0 on and rounds them down to seconds; a broker
    /// before that delivers at once.
    #[must_use]
    pub fn deliver_at(self, at_ms: i64) -> Self {
        self.delayed(key::TIMER_DELIVER_MS, Some(at_ms))
    }

    /// Has the message delivered so much time after the broker has it; else as
    /// [`Self::deliver_at`].
    #[must_use]
    pub fn deliver_after(self, delay: Duration) -> Self {
        self.delayed(key::TIMER_DELAY_MS, Some(millis(delay)))
    }

    fn delayed(mut self, name: &str, value: Option<impl Display>) -> Self {
        for name in [key::DELAY, key::TIMER_DELAY_MS, key::TIMER_DELIVER_MS] {
            self.properties.remove(name);
        }
        if let Some(value) = value {
            self.properties.push(name, &value.to_string());
        }
        self
    }

    /// Whether it asks to be delivered later.
    pub(crate) fn is_delayed(&self) -> bool {
        let mut names = self.properties.iter().map(|(name, _)| name);
        names.any(|name| name == key::DELAY || name.starts_with(key::TIMER_PREFIX))
    }

    /// Adds a property of the application's own.
    pub fn property(mut self, name: &str, value: &str) -> Result<Self, Error> {
        properties::check_pair(name, value).map_err(Error::Message)?;
        self.properties.set(name, value);
        Ok(self)
    }

    /// Whether a broker would take the message, as far as can be told without asking one.
    pub fn check(&self) -> Result<(), Error> {
        names::check_topic(&self.topic).map_err(Error::Message)?;
        let length = self.properties.as_str().len();
        let limit = PROPERTIES_BYTES_MAX - PROPERTIES_BYTES_OF_BROKER;
        if length > limit {
            let text = format!("properties of {length} bytes; at most {limit} can be sent");
            return Err(Error::Message(text));
        }
        Ok(())
    }
}

/// Tags and keys cannot hold the characters that separate properties.
fn without_separators(text: &str) -> String {
    text.replace([properties::NAME_END, properties::PAIR_END], "")
}

/// A message received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// Where it lies. The topic is the one it was sent to, also when it comes from a retry topic.
    pub queue: MessageQueue,
    /// Its number in the queue.
    pub queue_offset: i64,
    /// Its place in the broker's log.
    pub commit_log_offset: i64,
    /// A number for the application's own use.
    pub flag: i32,
    /// How it was stored: compression, transaction.
    pub sys_flag: i32,
    /// When it was sent, by the sender's clock.
    pub born_timestamp_ms: i64,
    /// Who sent it.
    pub born_host: SocketAddr,
    /// When it was stored, by the broker's clock.
    pub store_timestamp_ms: i64,
    /// Which broker stored it.
    pub store_host: SocketAddr,
    /// How often it has been handled in vain.
    pub reconsume_times: i32,
    /// What it says, decompressed.
    pub body: Bytes,
    /// Tag, keys, and whatever sender and broker added.
    pub properties: Properties,
}

impl Delivery {
    /// The topic it was sent to.
    pub fn topic(&self) -> &str {
        &self.queue.topic
    }

    /// The id that the sender gave it, which retries keep; else the id of its place.
    pub fn msg_id(&self) -> String {
        self.properties.unique_key().map_or_else(|| self.offset_msg_id(), str::to_owned)
    }

    /// The id that says where it is stored.
    pub fn offset_msg_id(&self) -> String {
        record::offset_msg_id(self.store_host, self.commit_log_offset)
    }

    /// Its tag.
    pub fn tags(&self) -> Option<&str> {
        self.properties.tags()
    }

    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.properties.keys()
    }

    /// Of a dead letter: why its last handler failed, as far as the broker was told.
    pub fn cause(&self) -> Option<&str> {
        self.properties.get(key::DLQ_CAUSE)
    }

    /// A property by name.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name)
    }

    /// The message of a record that was read from `queue`. `source` is what the record borrows
    /// from; the body stays a part of it unless it is compressed.
    pub fn from_record(
        record: &Record<'_>,
        source: &Bytes,
        queue: &MessageQueue,
    ) -> Result<Self, CompressionError> {
        let properties = Properties::from_wire(record.properties.to_owned());
        Ok(Self {
            queue: queue_of(record, &properties, queue),
            queue_offset: record.queue_offset,
            commit_log_offset: record.physical_offset,
            flag: record.flag,
            sys_flag: record.sys_flag,
            born_timestamp_ms: record.born_timestamp_ms,
            born_host: record.born_host,
            store_timestamp_ms: record.store_timestamp_ms,
            store_host: record.store_host,
            reconsume_times: record.reconsume_times,
            body: body_of(record, source)?,
            properties,
        })
    }
}

fn queue_of(record: &Record<'_>, properties: &Properties, queue: &MessageQueue) -> MessageQueue {
    let retry = record.topic.starts_with(names::RETRY_PREFIX);
    let origin = properties.get(key::RETRY_TOPIC).filter(|_| retry);
    let topic = origin.unwrap_or(record.topic);
    let topic = if topic == &*queue.topic { queue.topic.clone() } else { topic.into() };
    MessageQueue { topic, broker_name: queue.broker_name.clone(), queue_id: record.queue_id }
}

fn body_of(record: &Record<'_>, source: &Bytes) -> Result<Bytes, CompressionError> {
    if record.sys_flag & sys_flag::COMPRESSED != 0 {
        let limit = compression::BODY_BYTES_MAX;
        return compression::decompress(record.sys_flag, record.body, limit).map(Bytes::from);
    }
    let start = record.body.as_ptr().addr().wrapping_sub(source.as_ptr().addr());
    let shared = start.checked_add(record.body.len()).filter(|end| *end <= source.len());
    Ok(shared.map_or_else(|| Bytes::copy_from_slice(record.body), |end| source.slice(start..end)))
}

/// What the broker made of a message. In all four cases it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// Stored as safely as the broker is configured to.
    Ok,
    /// Stored, but not on disk in time.
    FlushDiskTimeout,
    /// Stored, but not at a slave in time.
    FlushSlaveTimeout,
    /// Stored, but there is no slave that follows.
    SlaveNotAvailable,
}

/// Where a sent message went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendReceipt {
    /// How safely it is stored.
    pub status: SendStatus,
    /// The id that the sender gave it; the receiver sees the same.
    pub msg_id: String,
    /// The id that says where it is stored.
    pub offset_msg_id: String,
    /// The queue it went to.
    pub queue: MessageQueue,
    /// Its number in the queue.
    pub queue_offset: i64,
    /// Of a message for an instant: by it [`recall`](crate::client::Producer::recall) takes the
    /// message back. Apache RocketMQ gives one from 5.3 on.
    pub recall_handle: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::{NewRecord, Position, Verify};

    fn stored(topic: &str, flags: i32, body: &[u8], properties: &str) -> Bytes {
        let record = NewRecord {
            topic,
            queue_id: 2,
            flag: 0,
            sys_flag: flags,
            born_timestamp_ms: 1,
            born_host: "10.0.0.1:1".parse().unwrap(),
            store_host: "10.0.0.2:2".parse().unwrap(),
            reconsume_times: 1,
            prepared_transaction_offset: 0,
            body,
            properties,
        };
        let mut bytes = Vec::new();
        let position = Position { physical_offset: 16, queue_offset: 3, store_timestamp_ms: 9 };
        record.encode(&mut bytes, position);
        bytes.into()
    }

    fn received(source: &Bytes) -> Result<Delivery, CompressionError> {
        let (record, _) = Record::decode(source, Verify::Whole).unwrap();
        Delivery::from_record(&record, source, &MessageQueue::new("t", "b", 2))
    }

    #[test]
    fn a_body_stays_where_it_came() {
        let source = stored("t", 0, b"hello", "");
        let delivery = received(&source).unwrap();
        let inside = source.as_ptr_range().contains(&delivery.body.as_ptr());
        assert!(inside && delivery.body == "hello");
        assert_eq!(delivery.msg_id(), delivery.offset_msg_id());
        assert_eq!(delivery.offset_msg_id(), "0A000002000000020000000000000010");
    }

    #[test]
    fn a_compressed_body_is_decompressed() {
        let body = compression::compress(b"hello");
        assert_eq!(received(&stored("t", 1, &body, "")).unwrap().body, "hello");
        assert!(received(&stored("t", 1, b"hello", "")).is_err());
    }

    #[test]
    fn a_retry_shows_the_topic_it_was_sent_to() {
        let properties = "RETRY_TOPIC\u{1}orders\u{2}UNIQ_KEY\u{1}U\u{2}";
        let delivery = received(&stored("%RETRY%g", 0, b"", properties)).unwrap();
        assert_eq!((delivery.topic(), delivery.msg_id().as_str()), ("orders", "U"));
        let plain = received(&stored("t", 0, b"", properties)).unwrap();
        assert_eq!(plain.topic(), "t");
    }

    #[test]
    fn an_outgoing_message_gathers_its_properties() {
        let message = Outgoing::new("t", "x")
            .tag("a\u{2}DELAY\u{1}3")
            .key("k1")
            .key("k2")
            .delay_level(2)
            .property("name", "value")
            .unwrap();
        assert_eq!(message.properties.tags(), Some("aDELAY3"));
        assert_eq!(message.properties.keys().collect::<Vec<_>>(), ["k1", "k2"]);
        assert_eq!(message.properties.delay_level(), 2);
        assert_eq!(message.properties.get("name"), Some("value"));
        let message = message.deliver_after(Duration::from_secs(2)).deliver_at(7);
        assert_eq!(message.properties.get("TIMER_DELIVER_MS"), Some("7"));
        assert_eq!(
            message.properties.get("TIMER_DELAY_MS").or(message.properties.get("DELAY")),
            None
        );
        assert!(message.is_delayed() && !message.clone().delay_level(0).is_delayed());
        assert!(message.check().is_ok());
        assert!(Outgoing::new("t", "").property("TAGS", "x").is_err());
        assert!(Outgoing::new("no topic!", "").check().is_err());
    }
}
