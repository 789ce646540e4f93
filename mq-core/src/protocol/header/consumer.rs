//! Headers of consuming: pulls, offsets, groups, retries and pop.

use super::{Fields, Header, HeaderError, Value};

headers! {
/// 11 and 361.
PullRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
    queue_offset: i64 = "queueOffset",
    max_msg_nums: i32 = "maxMsgNums",
    sys_flag: i32 = "sysFlag",
    commit_offset: i64 = "commitOffset",
    suspend_timeout_millis: i64 = "suspendTimeoutMillis",
    subscription: Option<&'a str> = "subscription",
    sub_version: i64 = "subVersion",
    expression_type: Option<&'a str> = "expressionType",
    max_msg_bytes: Option<i32> = "maxMsgBytes",
}

/// Answer to a pull; codes 0, 19, 20 and 21 need all of it.
PullResponse {
    suggest_which_broker_id: i64 = "suggestWhichBrokerId",
    next_begin_offset: i64 = "nextBeginOffset",
    min_offset: i64 = "minOffset",
    max_offset: i64 = "maxOffset",
}

/// 14.
QueryConsumerOffsetRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
    set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
}

/// 15, mostly one-way.
UpdateConsumerOffsetRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
    commit_offset: i64 = "commitOffset",
}

/// Answer to 14, 29, 30 and 31.
OffsetResponse {
    offset: i64 = "offset",
}

/// 29.
SearchOffsetRequest<'a> {
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
    timestamp: i64 = "timestamp",
    boundary_type: Option<&'a str> = "boundaryType",
}

/// 30, 31 and 32: asks about one queue.
QueueRequest<'a> {
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
}

/// Answer to 32.
TimestampResponse {
    timestamp: i64 = "timestamp",
}

/// 38 and, from broker to client, 40; also 203 and 208 without their optional fields.
ConsumerGroupRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
}

/// 35.
UnregisterClientRequest<'a> {
    client_id: &'a str = "clientID",
    producer_group: Option<&'a str> = "producerGroup",
    consumer_group: Option<&'a str> = "consumerGroup",
}

/// Answer to 34 of a broker that knows the second kind of heartbeat.
HeartbeatResponse {
    supports_v2: Option<bool> = "IS_SUPPORT_HEART_BEAT_V2",
    subscription_changed: Option<bool> = "IS_SUB_CHANGE",
}

/// 36. The cause is ours, Apache's brokers do not read it: why the message failed, in one line, to
/// be kept as a property of the dead letter.
ConsumerSendMsgBackRequest<'a> {
    offset: i64 = "offset",
    group: &'a str = "group",
    delay_level: i32 = "delayLevel",
    origin_msg_id: Option<&'a str> = "originMsgId",
    origin_topic: Option<&'a str> = "originTopic",
    unit_mode: Option<bool> = "unitMode",
    max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    cause: Option<&'a str> = "dlqCause",
}

/// 200050.
PopMessageRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
    max_msg_nums: i32 = "maxMsgNums",
    invisible_time: i64 = "invisibleTime",
    poll_time: i64 = "pollTime",
    born_time: i64 = "bornTime",
    init_mode: i32 = "initMode",
    exp_type: Option<&'a str> = "expType",
    exp: Option<&'a str> = "exp",
    order: Option<bool> = "order",
    attempt_id: Option<&'a str> = "attemptId",
}

/// Answer to 200050; codes 209 and 210 need the first four fields too.
PopMessageResponse<'a> {
    pop_time: i64 = "popTime",
    invisible_time: i64 = "invisibleTime",
    revive_qid: i32 = "reviveQid",
    rest_num: i64 = "restNum",
    start_offset_info: Option<&'a str> = "startOffsetInfo",
    msg_offset_info: Option<&'a str> = "msgOffsetInfo",
    order_count_info: Option<&'a str> = "orderCountInfo",
}

/// 200051.
AckMessageRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
    extra_info: &'a str = "extraInfo",
    offset: i64 = "offset",
}

/// 200053.
ChangeInvisibleTimeRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
    extra_info: &'a str = "extraInfo",
    offset: i64 = "offset",
    invisible_time: i64 = "invisibleTime",
}

/// Answer to 200053.
ChangeInvisibleTimeResponse {
    pop_time: i64 = "popTime",
    invisible_time: i64 = "invisibleTime",
    revive_qid: i32 = "reviveQid",
}

/// 200052.
PeekMessageRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
    max_msg_nums: i32 = "maxMsgNums",
}

/// 200054.
NotificationRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
    poll_time: i64 = "pollTime",
    born_time: i64 = "bornTime",
    order: Option<bool> = "order",
    attempt_id: Option<&'a str> = "attemptId",
}

/// Answer to 200054.
NotificationResponse {
    has_msg: bool = "hasMsg",
    polling_full: Option<bool> = "pollingFull",
}

/// 200055.
PollingInfoRequest<'a> {
    consumer_group: &'a str = "consumerGroup",
    topic: &'a str = "topic",
    queue_id: i32 = "queueId",
}

/// Answer to 200055.
PollingInfoResponse {
    polling_num: i32 = "pollingNum",
}
}
