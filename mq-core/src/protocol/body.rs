//! The JSON bodies of requests and responses, as RocketMQ spells them.
//!
//! Written compact and strict, except that a map keyed by message queues has whole objects as
//! keys, because Java reads nothing else. Read leniently ([`from_json`]). State that is built from
//! bodies is not here.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lenient::{self, ObjectKeys};
use crate::names::MessageQueue;
use crate::properties::java_hash;

/// A body that is not the JSON it should be.
#[derive(Debug, thiserror::Error)]
#[error("the body is not the JSON of a {what}: {source}")]
pub struct BodyError {
    what: &'static str,
    source: serde_json::Error,
}

/// Reads a body, in strict JSON or in fastjson's.
pub fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    serde_json::from_slice(body).or_else(|source| {
        let json = lenient::normalise(body);
        let read = json.map_or(Err(source), |json| serde_json::from_slice(&json));
        let what = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
        read.map_err(|source| BodyError { what, source })
    })
}

/// Writes a body.
pub fn to_json<T: Serialize>(body: &T) -> Bytes {
    let mut json = Vec::with_capacity(256);
    let mut writer = serde_json::Serializer::with_formatter(&mut json, ObjectKeys::default());
    body.serialize(&mut writer).expect("bodies have text keys, and memory takes every write");
    json.into()
}

/// A message queue as JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueueJson<'a> {
    #[serde(borrow)]
    broker_name: std::borrow::Cow<'a, str>,
    queue_id: i32,
    #[serde(borrow)]
    topic: std::borrow::Cow<'a, str>,
}

impl Serialize for MessageQueue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let broker_name = (&*self.broker_name).into();
        let json = QueueJson { broker_name, queue_id: self.queue_id, topic: (&*self.topic).into() };
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for MessageQueue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = QueueJson::deserialize(deserializer)?;
        Ok(Self::new(json.topic, json.broker_name, json.queue_id))
    }
}

/// Something for each message queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueMap<V>(pub BTreeMap<MessageQueue, V>);

impl<V> Default for QueueMap<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> FromIterator<(MessageQueue, V)> for QueueMap<V> {
    fn from_iter<I: IntoIterator<Item = (MessageQueue, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl<V: Serialize> Serialize for QueueMap<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = |queue| serde_json::to_string(queue).unwrap_or_default();
        serializer.collect_map(self.0.iter().map(|(queue, value)| (text(queue), value)))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for QueueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = BTreeMap::<String, V>::deserialize(deserializer)?;
        let queues = texts.into_iter().map(|(text, value)| {
            let queue = serde_json::from_str(&text).map_err(D::Error::custom)?;
            Ok((queue, value))
        });
        queues.collect()
    }
}

/// Declares bodies: public fields, camelCase on the wire, whatever is absent has its default.
macro_rules! bodies {
    ($(
        $(#[$meta:meta])*
        $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty,)* }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$field_meta])* #[doc = concat!("As in Java: ", stringify!($field), ".")] pub $field: $kind,)*
        }
    )*};
}

/// Enumerations whose names Java reads; a name we do not know is kept out of the way as `Unknown`.
/// The client for C++ sends a value's place in Java's order instead of its name.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident {
        $default:ident = $text:literal $place:literal,
        $($variant:ident = $other:literal $other_place:literal,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub enum $name {
            #[doc = concat!("`", $text, "`")]
            #[default]
            #[serde(rename = $text)]
            $default,
            $(
                #[doc = concat!("`", $other, "`")]
                #[serde(rename = $other)]
                $variant,
            )*
            /// A name that this release does not know.
            Unknown,
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(match NameOrPlace::deserialize(deserializer)? {
                    NameOrPlace::Name(name) => match &*name {
                        $text => Self::$default,
                        $($other => Self::$variant,)*
                        _ => Self::Unknown,
                    },
                    NameOrPlace::Place(place) => match place {
                        $place => Self::$default,
                        $($other_place => Self::$variant,)*
                        _ => Self::Unknown,
                    },
                })
            }
        }
    )*};
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NameOrPlace<'a> {
    Name(std::borrow::Cow<'a, str>),
    Place(i64),
}

impl NameOrPlace<'_> {
    fn number<E: serde::de::Error>(self) -> Result<i64, E> {
        match self {
            Self::Name(text) => text.parse().map_err(E::custom),
            Self::Place(number) => Ok(number),
        }
    }
}

/// A number, which the client for C++ writes as text.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    NameOrPlace::deserialize(deserializer)?.number()
}

/// Hash codes, which the client for Go writes as text.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<i32>, D::Error> {
    let all = Vec::<NameOrPlace<'_>>::deserialize(deserializer)?.into_iter();
    let code = |one: NameOrPlace<'_>| i32::try_from(one.number()?).map_err(D::Error::custom);
    all.map(code).collect()
}

names! {
/// How a group consumes.
ConsumeType {
    Passively = "CONSUME_PASSIVELY" 1,
    Actively = "CONSUME_ACTIVELY" 0,
    Pop = "CONSUME_POP" 2,
}

/// Whether a group shares messages out or gives all to every member.
MessageModel {
    Clustering = "CLUSTERING" 1,
    Broadcasting = "BROADCASTING" 0,
}

/// Where a group without progress begins.
ConsumeFromWhere {
    LastOffset = "CONSUME_FROM_LAST_OFFSET" 0,
    FirstOffset = "CONSUME_FROM_FIRST_OFFSET" 4,
    Timestamp = "CONSUME_FROM_TIMESTAMP" 5,
    LastOffsetAndFromMinWhenBootFirst = "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST" 1,
    MinOffset = "CONSUME_FROM_MIN_OFFSET" 2,
    MaxOffset = "CONSUME_FROM_MAX_OFFSET" 3,
}

/// How many tags messages of a topic have.
TopicFilterType {
    SingleTag = "SINGLE_TAG" 0,
    MultiTag = "MULTI_TAG" 1,
}
}

bodies! {
/// 34: who is here, with which groups.
#[derive(Default)]
HeartbeatData {
    #[serde(rename = "clientID")]
    client_id: String,
    producer_data_set: Vec<ProducerData>,
    consumer_data_set: Vec<ConsumerData>,
    heartbeat_fingerprint: i32,
    without_sub: bool,
}

/// A producer group of a client.
#[derive(Default)]
ProducerData {
    group_name: String,
}

/// A consumer group of a client.
#[derive(Default)]
ConsumerData {
    group_name: String,
    consume_type: ConsumeType,
    message_model: MessageModel,
    consume_from_where: ConsumeFromWhere,
    subscription_data_set: Vec<SubscriptionData>,
    unit_mode: bool,
}

/// What a group wants of a topic.
SubscriptionData {
    class_filter_mode: bool,
    topic: String,
    sub_string: String,
    tags_set: BTreeSet<String>,
    #[serde(deserialize_with = "numbers")]
    code_set: BTreeSet<i32>,
    #[serde(deserialize_with = "number")]
    sub_version: i64,
    expression_type: String,
}

/// 46: asks whether a subscription can be served.
#[derive(Default)]
CheckClientRequest {
    client_id: String,
    group: String,
    subscription_data: SubscriptionData,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

/// Answer to 38.
#[derive(Default)]
ConsumerIdList {
    consumer_id_list: Vec<String>,
}

/// 41 and 42.
#[derive(Default)]
LockBatchRequest {
    consumer_group: String,
    client_id: String,
    only_this_broker: bool,
    mq_set: Vec<MessageQueue>,
}

/// Answer to 41: the queues that are locked for this client now.
#[derive(Default)]
LockBatchResponse {
    #[serde(rename = "lockOKMQSet")]
    lock_ok_mq_set: Vec<MessageQueue>,
}

/// Answer to 105. Clients compare answers, so both lists should be sorted.
#[derive(Default)]
TopicRouteData {
    #[serde(skip_serializing_if = "Option::is_none")]
    order_topic_conf: Option<String>,
    queue_datas: Vec<QueueData>,
    broker_datas: Vec<BrokerData>,
    filter_server_table: BTreeMap<String, Vec<String>>,
}

/// The queues of a topic on one broker.
#[derive(Default)]
QueueData {
    broker_name: String,
    read_queue_nums: i32,
    write_queue_nums: i32,
    perm: i32,
    topic_sys_flag: i32,
    /// The same flag as releases up to 4.8 spell it.
    topic_syn_flag: i32,
}

/// Where a broker is: master (id 0) and slaves.
#[derive(Default)]
BrokerData {
    cluster: String,
    broker_name: String,
    broker_addrs: BTreeMap<i64, String>,
}

/// Answer to 106.
#[derive(Default)]
ClusterInfo {
    broker_addr_table: BTreeMap<String, BrokerData>,
    cluster_addr_table: BTreeMap<String, BTreeSet<String>>,
}

/// Answer to 901.
#[derive(Default)]
BrokerMemberGroupBody {
    broker_member_group: BrokerData,
}

/// A topic of a broker.
TopicConfig {
    topic_name: String,
    read_queue_nums: i32,
    write_queue_nums: i32,
    perm: i32,
    topic_filter_type: TopicFilterType,
    topic_sys_flag: i32,
    order: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
}

/// Which state of a table this is. Compared as a whole.
#[derive(Default)]
DataVersion {
    state_version: i64,
    timestamp: i64,
    counter: i64,
}

/// The topics of a broker: answer to 21, part of 103, and `topics.json`.
#[derive(Default)]
TopicConfigSerializeWrapper {
    topic_config_table: BTreeMap<String, TopicConfig>,
    data_version: DataVersion,
}

/// 18.
#[derive(Default)]
TopicConfigList {
    topic_config_list: Vec<TopicConfig>,
}

/// 103.
#[derive(Default)]
RegisterBrokerBody {
    topic_config_serialize_wrapper: TopicConfigSerializeWrapper,
    filter_server_list: Vec<String>,
}

/// Text for text: answer to 103, 219 and 28.
#[derive(Default)]
KvTable {
    table: BTreeMap<String, String>,
}

/// Answer to 206, 224, 304, 305, 311..313 and 343.
#[derive(Default)]
TopicList {
    topic_list: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broker_addr: Option<String>,
}

/// Answer to 300.
#[derive(Default)]
GroupList {
    group_list: Vec<String>,
}

/// 200, answer to 352, part of 201 and of `subscriptionGroup.json`.
SubscriptionGroupConfig {
    group_name: String,
    consume_enable: bool,
    consume_from_min_enable: bool,
    consume_broadcast_enable: bool,
    consume_message_orderly: bool,
    retry_queue_nums: i32,
    retry_max_times: i32,
    broker_id: i64,
    which_broker_when_consume_slowly: i64,
    notify_consumer_ids_changed_enable: bool,
    group_sys_flag: i32,
    consume_timeout_minute: i32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
}

/// 225.
#[derive(Default)]
SubscriptionGroupList {
    group_config_list: Vec<SubscriptionGroupConfig>,
}

/// The groups of a broker: answer to 201, and `subscriptionGroup.json`.
#[derive(Default)]
SubscriptionGroupWrapper {
    subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
    data_version: DataVersion,
}

/// Progress by `topic@group` and queue: answer to 43, and `consumerOffset.json`.
#[derive(Default)]
ConsumerOffsets {
    offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
    data_version: DataVersion,
}

/// Progress by delay level: answer to 45, and `delayOffset.json`.
#[derive(Default)]
DelayOffsets {
    offset_table: BTreeMap<i32, i64>,
    data_version: DataVersion,
}

/// Answer to 202.
#[derive(Default)]
TopicStatsTable {
    offset_table: QueueMap<TopicOffset>,
    topic_put_tps: f64,
}

/// The ends of a queue.
#[derive(Default)]
TopicOffset {
    min_offset: i64,
    max_offset: i64,
    last_update_timestamp: i64,
}

/// Answer to 208.
#[derive(Default)]
ConsumeStats {
    offset_table: QueueMap<OffsetWrapper>,
    consume_tps: f64,
}

/// How far a group is in a queue.
#[derive(Default)]
OffsetWrapper {
    broker_offset: i64,
    consumer_offset: i64,
    pull_offset: i64,
    last_timestamp: i64,
}

/// Answer to 317.
#[derive(Default)]
ConsumeStatsList {
    consume_stats_list: Vec<BTreeMap<String, Vec<ConsumeStats>>>,
    broker_addr: String,
    total_diff: i64,
    total_inflight_diff: i64,
}

/// A client of a group.
#[derive(Default)]
Connection {
    client_id: String,
    client_addr: String,
    language: String,
    version: i32,
}

/// Answer to 203.
#[derive(Default)]
ConsumerConnection {
    connection_set: Vec<Connection>,
    subscription_table: BTreeMap<String, SubscriptionData>,
    consume_type: ConsumeType,
    message_model: MessageModel,
    consume_from_where: ConsumeFromWhere,
}

/// Answer to 204.
#[derive(Default)]
ProducerConnection {
    connection_set: Vec<Connection>,
}

/// Answer to 328.
#[derive(Default)]
ProducerTableInfo {
    data: BTreeMap<String, Vec<ProducerInfo>>,
}

/// A client of a producer group.
#[derive(Default)]
ProducerInfo {
    client_id: String,
    #[serde(rename = "remoteIP")]
    remote_ip: String,
    language: String,
    version: i32,
    last_update_timestamp: i64,
}

/// Answer to 307.
#[derive(Default)]
ConsumerRunningInfo {
    properties: BTreeMap<String, String>,
    subscription_set: Vec<SubscriptionData>,
    mq_table: QueueMap<ProcessQueueInfo>,
    mq_pop_table: QueueMap<PopProcessQueueInfo>,
    status_table: BTreeMap<String, ConsumeStatus>,
    user_consumer_info: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jstack: Option<String>,
}

/// What a consumer holds of a queue. `droped` is Java's spelling.
#[derive(Default)]
ProcessQueueInfo {
    commit_offset: i64,
    cached_msg_min_offset: i64,
    cached_msg_max_offset: i64,
    cached_msg_count: i32,
    cached_msg_size_in_mi_b: i32,
    transaction_msg_min_offset: i64,
    transaction_msg_max_offset: i64,
    transaction_msg_count: i32,
    locked: bool,
    try_unlock_times: i64,
    last_lock_timestamp: i64,
    droped: bool,
    last_pull_timestamp: i64,
    last_consume_timestamp: i64,
}

/// What a pop consumer holds of a queue.
#[derive(Default)]
PopProcessQueueInfo {
    wait_ack_count: i32,
    droped: bool,
    last_pop_timestamp: i64,
}

/// Rates of a consumer for a topic.
#[derive(Default)]
ConsumeStatus {
    #[serde(rename = "pullRT")]
    pull_rt: f64,
    #[serde(rename = "pullTPS")]
    pull_tps: f64,
    #[serde(rename = "consumeRT")]
    consume_rt: f64,
    #[serde(rename = "consumeOKTPS")]
    consume_ok_tps: f64,
    #[serde(rename = "consumeFailedTPS")]
    consume_failed_tps: f64,
    consume_failed_msgs: i64,
}

/// Answer to 309.
#[derive(Default)]
ConsumeMessageDirectlyResult {
    order: bool,
    auto_commit: bool,
    consume_result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remark: Option<String>,
    spent_time_mills: i64,
}

/// 220 and answer to 222.
#[derive(Default)]
ResetOffsetBody {
    offset_table: QueueMap<i64>,
}

/// 220 as members in C++ read it.
#[derive(Default)]
ResetOffsetForC {
    offset_table: Vec<QueueOffsetForC>,
}

/// A queue and its offset in one object.
#[derive(Default)]
QueueOffsetForC {
    topic: String,
    broker_name: String,
    queue_id: i32,
    offset: i64,
}

/// The file in which a broadcasting consumer keeps its progress.
#[derive(Default)]
BroadcastOffsets {
    offset_table: QueueMap<i64>,
}

/// Answer to 221 (the first) and 223 (the second).
#[derive(Default)]
ConsumerStatusBody {
    message_queue_table: QueueMap<i64>,
    consumer_table: BTreeMap<String, QueueMap<i64>>,
}

/// Answer to 303.
#[derive(Default)]
ConsumeTimeSpans {
    consume_time_span_set: Vec<QueueTimeSpan>,
}

/// The times of a queue's ends and of a group's progress in it.
QueueTimeSpan {
    message_queue: MessageQueue,
    min_time_stamp: i64,
    max_time_stamp: i64,
    consume_time_stamp: i64,
    delay_time: i64,
}

/// Answer to 308.
#[derive(Default)]
CorrectionOffsets {
    correction_offsets: BTreeMap<i32, i64>,
}

/// Answer to 315.
#[derive(Default)]
BrokerStatsData {
    stats_minute: BrokerStatsItem,
    stats_hour: BrokerStatsItem,
    stats_day: BrokerStatsItem,
}

/// A count over a time.
#[derive(Default)]
BrokerStatsItem {
    sum: i64,
    tps: f64,
    avgpt: f64,
}

/// Answer to 321.
#[derive(Default)]
ConsumeQueueEntries {
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_data: Option<SubscriptionData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter_data: Option<String>,
    queue_data: Vec<ConsumeQueueData>,
    max_queue_index: i64,
    min_queue_index: i64,
}

/// An entry of a queue.
#[derive(Default)]
ConsumeQueueData {
    physic_offset: i64,
    physic_size: i32,
    tags_code: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    extend_data_json: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bit_map: Option<String>,
    eval: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<String>,
}

/// Answer to 353.
#[derive(Default)]
GroupForbidden {
    group: String,
    topic: String,
    readable: bool,
}

/// Answer to 345.
#[derive(Default)]
SubscriptionByConsumer {
    subscription_data: Option<SubscriptionData>,
    group: String,
    topic: String,
}

/// 400.
#[derive(Default)]
QueryAssignmentRequest {
    topic: String,
    consumer_group: String,
    client_id: String,
    strategy_name: String,
    message_model: MessageModel,
}

/// Answer to 400.
#[derive(Default)]
QueryAssignmentResponse {
    message_queue_assignments: Option<Vec<MessageQueueAssignment>>,
}

/// A queue that a client shall read, and how.
MessageQueueAssignment {
    message_queue: MessageQueue,
    mode: MessageRequestMode,
}

/// 401.
#[derive(Default)]
SetMessageRequestModeRequest {
    topic: String,
    consumer_group: String,
    mode: MessageRequestMode,
    pop_share_queue_num: i32,
}

/// 200151.
#[derive(Default)]
BatchAckRequest {
    broker_name: String,
    acks: Vec<BatchAck>,
}

/// Messages of one pop that are done, as bits.
#[derive(Default)]
BatchAck {
    #[serde(rename = "c", alias = "consumerGroup")]
    consumer_group: String,
    #[serde(rename = "t", alias = "topic")]
    topic: String,
    #[serde(rename = "r", alias = "retry")]
    retry: String,
    #[serde(rename = "so", alias = "startOffset")]
    start_offset: i64,
    #[serde(rename = "q", alias = "queueId")]
    queue_id: i32,
    #[serde(rename = "rq", alias = "reviveQueueId")]
    revive_queue_id: i32,
    #[serde(rename = "pt", alias = "popTime")]
    pop_time: i64,
    #[serde(rename = "it", alias = "invisibleTime")]
    invisible_time: i64,
    #[serde(rename = "b", alias = "bitSet")]
    bit_set: String,
}
}

names! {
/// How a client gets the messages of a queue.
MessageRequestMode {
    Pull = "PULL" 0,
    Pop = "POP" 1,
}
}

impl Default for SubscriptionData {
    fn default() -> Self {
        Self {
            class_filter_mode: false,
            topic: String::new(),
            sub_string: String::new(),
            tags_set: BTreeSet::new(),
            code_set: BTreeSet::new(),
            sub_version: 0,
            expression_type: Self::TAG.to_owned(),
        }
    }
}

impl SubscriptionData {
    /// Tags separated by `||`.
    pub const TAG: &'static str = "TAG";
    /// An SQL condition on properties.
    pub const SQL92: &'static str = "SQL92";
    /// All messages.
    pub const ALL: &'static str = "*";

    /// A subscription by tags; an empty expression means all, like `*`.
    pub fn by_tags(topic: &str, expression: &str, sub_version: i64) -> Self {
        let mut subscription = Self { topic: topic.to_owned(), sub_version, ..Self::default() };
        if matches!(expression.trim(), "" | Self::ALL) {
            subscription.sub_string = Self::ALL.to_owned();
            return subscription;
        }
        subscription.sub_string = expression.to_owned();
        for tag in mq_filter::tags(expression).unwrap_or_default() {
            subscription.tags_set.insert(tag.to_owned());
            subscription.code_set.insert(java_hash(tag));
        }
        subscription
    }

    /// A subscription by an SQL condition.
    pub fn by_sql(topic: &str, expression: &str, sub_version: i64) -> Self {
        Self {
            topic: topic.to_owned(),
            sub_string: expression.to_owned(),
            sub_version,
            expression_type: Self::SQL92.to_owned(),
            ..Self::default()
        }
    }

    /// Whether the subscription is by tags, as every one is that says nothing else.
    pub fn is_by_tags(&self) -> bool {
        self.expression_type.is_empty() || self.expression_type == Self::TAG
    }
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            topic_name: String::new(),
            read_queue_nums: 16,
            write_queue_nums: 16,
            perm: 6,
            topic_filter_type: TopicFilterType::SingleTag,
            topic_sys_flag: 0,
            order: false,
            attributes: BTreeMap::new(),
        }
    }
}

impl Default for SubscriptionGroupConfig {
    fn default() -> Self {
        Self {
            group_name: String::new(),
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            consume_message_orderly: false,
            retry_queue_nums: 1,
            retry_max_times: 16,
            broker_id: 0,
            which_broker_when_consume_slowly: 1,
            notify_consumer_ids_changed_enable: true,
            group_sys_flag: 0,
            consume_timeout_minute: 15,
            attributes: BTreeMap::new(),
        }
    }
}

impl Default for QueueTimeSpan {
    fn default() -> Self {
        Self {
            message_queue: MessageQueue::new("", "", 0),
            min_time_stamp: 0,
            max_time_stamp: 0,
            consume_time_stamp: 0,
            delay_time: 0,
        }
    }
}

impl Default for MessageQueueAssignment {
    fn default() -> Self {
        Self { message_queue: MessageQueue::new("", "", 0), mode: MessageRequestMode::Pull }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: Serialize>(body: &T) -> String {
        String::from_utf8(to_json(body).to_vec()).unwrap()
    }

    #[test]
    fn a_route_is_compact_and_has_quoted_keys() {
        let route = TopicRouteData {
            broker_datas: vec![BrokerData {
                cluster: "c".into(),
                broker_name: "b".into(),
                broker_addrs: [(0, "10.0.0.1:10911".to_owned())].into(),
            }],
            ..TopicRouteData::default()
        };
        let json = text(&route);
        assert!(json.contains(r#""brokerAddrs":{"0":"10.0.0.1:10911"}"#), "{json}");
        assert!(json.contains(r#""queueDatas":[]"#) && !json.contains(' '), "{json}");
        assert_eq!(from_json::<TopicRouteData>(json.as_bytes()).unwrap(), route);
    }

    #[test]
    fn routes_of_old_name_servers_are_read() {
        let old = br#"{"brokerDatas":[{"brokerAddrs":{0:"h:1",1:"h:2"},"brokerName":"b"}],
            "filterServerTable":{},"queueDatas":[{"brokerName":"b","perm":6,"topicSynFlag":3}]}"#;
        let route: TopicRouteData = from_json(old).unwrap();
        assert_eq!(route.broker_datas[0].broker_addrs[&1], "h:2");
        assert_eq!(route.queue_datas[0].topic_syn_flag, 3);
    }

    #[test]
    fn maps_by_queue_have_objects_as_keys() {
        let queue = MessageQueue::new("t", "b\\\"", 1);
        let body = ResetOffsetBody { offset_table: [(queue, 7)].into_iter().collect() };
        let json = text(&body);
        let want = r#"{"offsetTable":{{"brokerName":"b\\\"","queueId":1,"topic":"t"}:7}}"#;
        assert_eq!(json, want);
        assert_eq!(from_json::<ResetOffsetBody>(json.as_bytes()).unwrap(), body);
        assert_eq!(text(&ResetOffsetBody::default()), r#"{"offsetTable":{}}"#);
    }

    #[test]
    fn a_heartbeat_of_any_client_is_read() {
        let body = br#"{"clientID":"1@2","consumerDataSet":[{"consumeFromWhere":"SOMEWHERE",
            "consumeType":"CONSUME_PASSIVELY","groupName":"g","messageModel":"BROADCASTING",
            "subscriptionDataSet":[{"codeSet":null,"subString":"*","topic":"t"}],"x":{}}]}"#;
        let heartbeat: HeartbeatData = from_json(body).unwrap();
        let group = &heartbeat.consumer_data_set[0];
        assert_eq!(group.message_model, MessageModel::Broadcasting);
        assert_eq!(group.consume_from_where, ConsumeFromWhere::Unknown);
        assert!(group.subscription_data_set[0].is_by_tags());
    }

    #[test]
    fn a_heartbeat_in_numbers_is_read() {
        let body = br#"{"clientID":"1","consumerDataSet":[{"consumeFromWhere":4,"consumeType":0,
            "groupName":"g","messageModel":0,"subscriptionDataSet":[{"codeSet":["-7",0],
            "subString":"TagA","subVersion":"1795521440528","tagsSet":["TagA"],"topic":"t"}]}]}
            "#;
        let heartbeat: HeartbeatData = from_json(body).unwrap();
        let group = &heartbeat.consumer_data_set[0];
        assert_eq!(group.consume_from_where, ConsumeFromWhere::FirstOffset);
        assert_eq!(group.consume_type, ConsumeType::Actively);
        assert_eq!(group.message_model, MessageModel::Broadcasting);
        let subscription = &group.subscription_data_set[0];
        assert_eq!(subscription.sub_version, 1_795_521_440_528);
        assert_eq!(subscription.code_set, [-7, 0].into());
    }

    #[test]
    fn tags_are_split_and_hashed() {
        let subscription = SubscriptionData::by_tags("t", " TagA||TagB || ", 1);
        assert_eq!(subscription.code_set, [2_598_919, 2_598_920].into());
        assert_eq!(subscription.tags_set.len(), 2);
        for all in ["", " ", "*"] {
            let subscription = SubscriptionData::by_tags("t", all, 1);
            assert_eq!(subscription.sub_string, "*");
            assert!(subscription.tags_set.is_empty());
        }
    }

    #[test]
    fn what_is_no_body_is_refused_by_name() {
        let error = from_json::<TopicConfig>(b"nonsense").unwrap_err();
        assert!(error.to_string().contains("TopicConfig"), "{error}");
    }
}
