//! Headers of sending, transactions, request-reply and looking messages up.

use super::{Fields, Header, HeaderError, Value};

headers! {
/// 10 and 324 with these keys; 310, 320 and 325 with the short keys of [`SendRequestV2`].
SendRequest<'a> {
    producer_group: &'a str = "producerGroup",
    topic: &'a str = "topic",
    default_topic: &'a str = "defaultTopic",
    default_topic_queue_nums: i32 = "defaultTopicQueueNums",
    queue_id: i32 = "queueId",
    sys_flag: i32 = "sysFlag",
    born_timestamp: i64 = "bornTimestamp",
    flag: i32 = "flag",
    properties: Option<&'a str> = "properties",
    reconsume_times: Option<i32> = "reconsumeTimes",
    unit_mode: Option<bool> = "unitMode",
    max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    batch: Option<bool> = "batch",
    broker_name: Option<&'a str> = "bname",
}

/// Answer to a send. Clients need the fields even when the code says that a wait timed out.
SendResponse<'a> {
    msg_id: &'a str = "msgId",
    queue_id: i32 = "queueId",
    queue_offset: i64 = "queueOffset",
    transaction_id: Option<&'a str> = "transactionId",
    batch_uniq_id: Option<&'a str> = "batchUniqId",
    recall_handle: Option<&'a str> = "recallHandle",
    region: Option<&'a str> = "MSG_REGION",
    trace_on: Option<bool> = "TRACE_ON",
}

/// 37, one-way.
EndTransactionRequest<'a> {
    topic: Option<&'a str> = "topic",
    producer_group: &'a str = "producerGroup",
    tran_state_table_offset: i64 = "tranStateTableOffset",
    commit_log_offset: i64 = "commitLogOffset",
    commit_or_rollback: i32 = "commitOrRollback",
    from_transaction_check: Option<bool> = "fromTransactionCheck",
    msg_id: &'a str = "msgId",
    transaction_id: Option<&'a str> = "transactionId",
}

/// 39, one-way, from broker to producer.
CheckTransactionStateRequest<'a> {
    topic: Option<&'a str> = "topic",
    tran_state_table_offset: i64 = "tranStateTableOffset",
    commit_log_offset: i64 = "commitLogOffset",
    msg_id: Option<&'a str> = "msgId",
    transaction_id: Option<&'a str> = "transactionId",
    offset_msg_id: Option<&'a str> = "offsetMsgId",
}

/// 326, from broker to the client that asked.
PushReplyRequest<'a> {
    producer_group: &'a str = "producerGroup",
    topic: &'a str = "topic",
    default_topic: &'a str = "defaultTopic",
    default_topic_queue_nums: i32 = "defaultTopicQueueNums",
    queue_id: i32 = "queueId",
    sys_flag: i32 = "sysFlag",
    born_timestamp: i64 = "bornTimestamp",
    flag: i32 = "flag",
    properties: Option<&'a str> = "properties",
    reconsume_times: Option<i32> = "reconsumeTimes",
    unit_mode: Option<bool> = "unitMode",
    born_host: &'a str = "bornHost",
    store_host: &'a str = "storeHost",
    store_timestamp: i64 = "storeTimestamp",
}

/// 370: takes a delayed message back.
RecallMessageRequest<'a> {
    producer_group: Option<&'a str> = "producerGroup",
    topic: &'a str = "topic",
    recall_handle: &'a str = "recallHandle",
}

/// Answer to 370.
RecallMessageResponse<'a> {
    msg_id: &'a str = "msgId",
    region: Option<&'a str> = "MSG_REGION",
}

/// 33.
ViewMessageRequest<'a> {
    topic: Option<&'a str> = "topic",
    offset: i64 = "offset",
}

/// 12. The key may be a unique key, which the last field says.
QueryMessageRequest<'a> {
    topic: &'a str = "topic",
    key: &'a str = "key",
    max_num: i32 = "maxNum",
    begin_timestamp: i64 = "beginTimestamp",
    end_timestamp: i64 = "endTimestamp",
    unique_key: Option<bool> = "_UNIQUE_KEY_QUERY",
}

/// Answer to 12.
QueryMessageResponse {
    index_last_update_timestamp: i64 = "indexLastUpdateTimestamp",
    index_last_update_phyoffset: i64 = "indexLastUpdatePhyoffset",
}

/// 323.
ResumeCheckHalfMessageRequest<'a> {
    topic: Option<&'a str> = "topic",
    msg_id: Option<&'a str> = "msgId",
}
}

/// A send under the short keys, which save a third of its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendRequestV2<'a>(pub SendRequest<'a>);

impl<'a> Header<'a> for SendRequestV2<'a> {
    fn read(fields: &'a Fields) -> Result<Self, HeaderError> {
        SendRequest::read_v2(fields).map(Self)
    }

    fn write(&self, out: &mut Fields) {
        self.0.write_v2(out);
    }
}

impl<'a> SendRequest<'a> {
    /// Reads the long keys of 10 and 324.
    pub fn read_v1(fields: &'a Fields) -> Result<Self, HeaderError> {
        Self::read(fields)
    }

    /// Reads the short keys of 310, 320 and 325.
    pub fn read_v2(fields: &'a Fields) -> Result<Self, HeaderError> {
        read_header!(fields, SendRequest {
            producer_group = "a",
            topic = "b",
            default_topic = "c",
            default_topic_queue_nums = "d",
            queue_id = "e",
            sys_flag = "f",
            born_timestamp = "g",
            flag = "h",
            properties = "i",
            reconsume_times = "j",
            unit_mode = "k",
            max_reconsume_times = "l",
            batch = "m",
            broker_name = "n",
        })
    }

    /// Writes the short keys of 310, 320 and 325.
    pub fn write_v2(&self, out: &mut Fields) {
        self.producer_group.write("a", out);
        self.topic.write("b", out);
        self.default_topic.write("c", out);
        self.default_topic_queue_nums.write("d", out);
        self.queue_id.write("e", out);
        self.sys_flag.write("f", out);
        self.born_timestamp.write("g", out);
        self.flag.write("h", out);
        self.properties.write("i", out);
        self.reconsume_times.write("j", out);
        self.unit_mode.write("k", out);
        self.max_reconsume_times.write("l", out);
        self.batch.write("m", out);
        self.broker_name.write("n", out);
    }
}
