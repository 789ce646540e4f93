//! Headers of name servers, their brokers, and of administration.

use super::{Fields, Header, HeaderError, Value};

headers! {
/// 105.
RouteInfoRequest<'a> {
    topic: &'a str = "topic",
    accept_standard_json_only: Option<bool> = "acceptStandardJsonOnly",
}

/// 103.
RegisterBrokerRequest<'a> {
    broker_name: &'a str = "brokerName",
    broker_addr: &'a str = "brokerAddr",
    cluster_name: &'a str = "clusterName",
    ha_server_addr: &'a str = "haServerAddr",
    broker_id: i64 = "brokerId",
    compressed: Option<bool> = "compressed",
    body_crc32: Option<i32> = "bodyCrc32",
    heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMillis",
    enable_acting_master: Option<bool> = "enableActingMaster",
}

/// Answer to 103: where a slave finds its master.
RegisterBrokerResponse<'a> {
    ha_server_addr: Option<&'a str> = "haServerAddr",
    master_addr: Option<&'a str> = "masterAddr",
}

/// 104 and 322: says which broker it is.
BrokerIdentity<'a> {
    broker_name: &'a str = "brokerName",
    broker_addr: &'a str = "brokerAddr",
    cluster_name: &'a str = "clusterName",
    broker_id: i64 = "brokerId",
}

/// Answer to 322.
QueryDataVersionResponse {
    changed: bool = "changed",
}

/// 904.
BrokerHeartbeatRequest<'a> {
    cluster_name: &'a str = "clusterName",
    broker_addr: &'a str = "brokerAddr",
    broker_name: &'a str = "brokerName",
    broker_id: Option<i64> = "brokerId",
    epoch: Option<i32> = "epoch",
    max_offset: Option<i64> = "maxOffset",
    confirm_offset: Option<i64> = "confirmOffset",
    heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMills",
    election_priority: Option<i32> = "electionPriority",
}

/// 901.
BrokerMemberGroupRequest<'a> {
    cluster_name: &'a str = "clusterName",
    broker_name: &'a str = "brokerName",
}

/// 100.
PutKvConfigRequest<'a> {
    namespace: &'a str = "namespace",
    key: &'a str = "key",
    value: &'a str = "value",
}

/// 101 and 102.
KvConfigRequest<'a> {
    namespace: &'a str = "namespace",
    key: &'a str = "key",
}

/// Answer to 101.
KvConfigResponse<'a> {
    value: Option<&'a str> = "value",
}

/// 219.
KvNamespaceRequest<'a> {
    namespace: &'a str = "namespace",
}

/// 205 and 327.
BrokerNameRequest<'a> {
    broker_name: &'a str = "brokerName",
}

/// Answer to 205.
WipeWritePermResponse {
    wipe_topic_count: i32 = "wipeTopicCount",
}

/// Answer to 327.
AddWritePermResponse {
    add_topic_count: i32 = "addTopicCount",
}

/// 224.
ClusterRequest<'a> {
    cluster: &'a str = "cluster",
}

/// 216.
DeleteTopicInNamesrvRequest<'a> {
    topic: &'a str = "topic",
    cluster_name: Option<&'a str> = "clusterName",
}

/// 202, 215, 217, 300 and 351: asks about one topic.
TopicRequest<'a> {
    topic: &'a str = "topic",
}

/// 343 and 352: asks about one group.
GroupRequest<'a> {
    group: &'a str = "group",
}

/// 17.
CreateTopicRequest<'a> {
    topic: &'a str = "topic",
    default_topic: &'a str = "defaultTopic",
    read_queue_nums: i32 = "readQueueNums",
    write_queue_nums: i32 = "writeQueueNums",
    perm: i32 = "perm",
    topic_filter_type: &'a str = "topicFilterType",
    topic_sys_flag: Option<i32> = "topicSysFlag",
    order: bool = "order",
    attributes: Option<&'a str> = "attributes",
    force: Option<bool> = "force",
}

/// 21 of clients that page.
AllTopicConfigRequest<'a> {
    topic_seq: Option<i32> = "topicSeq",
    max_topic_num: Option<i32> = "maxTopicNum",
    data_version: Option<&'a str> = "dataVersion",
}

/// Answer to 21 of a server that pages.
AllTopicConfigResponse {
    total_topic_num: i32 = "totalTopicNum",
}

/// 201 of clients that page.
AllSubscriptionGroupRequest<'a> {
    group_seq: Option<i32> = "groupSeq",
    max_group_num: Option<i32> = "maxGroupNum",
    data_version: Option<&'a str> = "dataVersion",
}

/// Answer to 201 of a server that pages.
AllSubscriptionGroupResponse {
    total_group_num: i32 = "totalGroupNum",
}

/// 207. The last two are one thing, as 4.9 and as 5.x spell it.
DeleteSubscriptionGroupRequest<'a> {
    group_name: &'a str = "groupName",
    clean_offset: Option<bool> = "cleanOffset",
    remove_offset: Option<bool> = "removeOffset",
}

/// Answer to 25 and 26.
BrokerConfigResponse<'a> {
    version: &'a str = "version",
}

/// 208.
ConsumeStatsRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    topic: Option<&'a str> = "topic",
    topic_list: Option<&'a str> = "topicList",
}

/// 204.
ProducerGroupRequest<'a> {
    producer_group: &'a str = "producerGroup",
}

/// 303.
ConsumeTimeSpanRequest<'a> {
    topic: &'a str = "topic",
    group: &'a str = "group",
}

/// 345.
SubscriptionByConsumerRequest<'a> {
    group: &'a str = "group",
    topic: Option<&'a str> = "topic",
}

/// 308.
CorrectionOffsetRequest<'a> {
    filter_groups: Option<&'a str> = "filterGroups",
    compare_group: &'a str = "compareGroup",
    topic: &'a str = "topic",
}

/// 314.
CloneGroupOffsetRequest<'a> {
    src_group: &'a str = "srcGroup",
    dest_group: &'a str = "destGroup",
    topic: Option<&'a str> = "topic",
    offline: Option<bool> = "offline",
}

/// 315.
BrokerStatsDataRequest<'a> {
    stats_name: &'a str = "statsName",
    stats_key: &'a str = "statsKey",
}

/// 317.
BrokerConsumeStatsRequest {
    is_order: bool = "isOrder",
}

/// 321.
QueryConsumeQueueRequest<'a> {
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
    index: i64 = "index",
    count: i32 = "count",
    consumer_group: Option<&'a str> = "consumerGroup",
}

/// 353.
GroupForbiddenRequest<'a> {
    group: &'a str = "group",
    topic: &'a str = "topic",
    readable: Option<bool> = "readable",
}

/// 307, from admin to broker and from broker to client.
ConsumerRunningInfoRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    client_id: &'a str = "clientId",
    jstack_enable: Option<bool> = "jstackEnable",
}

/// 309, from admin to broker and from broker to client.
ConsumeMessageDirectlyRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    client_id: Option<&'a str> = "clientId",
    msg_id: Option<&'a str> = "msgId",
    broker_name: Option<&'a str> = "brokerName",
    topic: Option<&'a str> = "topic",
    topic_sys_flag: Option<i32> = "topicSysFlag",
    group_sys_flag: Option<i32> = "groupSysFlag",
}

/// 222, and 220 from broker to client.
ResetOffsetRequest<'a> {
    group: &'a str = "group",
    topic: &'a str = "topic",
    timestamp: i64 = "timestamp",
    is_force: bool = "isForce",
    queue_id: Option<i32> = "queueId",
    offset: Option<i64> = "offset",
}

/// 223, and 221 from broker to client.
ConsumerStatusRequest<'a> {
    topic: &'a str = "topic",
    group: &'a str = "group",
    client_addr: Option<&'a str> = "clientAddr",
}
}
