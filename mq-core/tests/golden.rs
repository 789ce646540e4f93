//! Frames captured between Java clients and Apache brokers (`golden/README.md`): everything in
//! them is decoded, and what we would write instead has the same content, records the same bytes.
#![expect(clippy::unwrap_used, reason = "a frame that cannot be read fails the test")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use mq_core::protocol::body::{self, from_json, to_json};
use mq_core::protocol::header::*;
use mq_core::protocol::record::{self, NewRecord, Position, Record, Verify};
use mq_core::protocol::{
    Command, Fields, Limits, RequestCode, ResponseCode, SerializeType, frame_length,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Fields that clients and brokers add to headers, and that nobody here reads.
const IGNORED: [&str; 7] =
    ["ReqT", "bname", "committed", "groupSysFlag", "indexType", "lo", "topicSysFlag"];

struct Entry {
    file: String,
    request: RequestCode,
    /// The frame without its length.
    frame: Bytes,
    command: Command,
}

impl Entry {
    fn name(&self) -> String {
        let side = if self.command.is_response() { "answer" } else { "request" };
        format!("{}: {side} {:?}", self.file, self.request)
    }
}

fn entries() -> Vec<Entry> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files.iter().flat_map(entries_of).collect()
}

fn entries_of(path: &PathBuf) -> Vec<Entry> {
    let file = path.file_name().unwrap().to_string_lossy().into_owned();
    let mut bytes = Bytes::from(std::fs::read(path).unwrap());
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let head = bytes.split_to(6);
        let request = i32::from_be_bytes(head[2..].try_into().unwrap()).into();
        let length = frame_length(&bytes, &Limits::DEFAULT).unwrap().unwrap();
        let frame = bytes.split_to(length).slice(4..);
        let command = Command::decode(frame.clone()).unwrap();
        entries.push(Entry { file: file.clone(), request, frame, command });
    }
    entries
}

#[test]
fn every_frame_keeps_its_content() {
    for entry in entries() {
        let mut out = BytesMut::new();
        entry.command.encode(&mut out);
        let ours = out.freeze().slice(4..);
        let back = Command::decode(ours.clone()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", entry.command), "{}", entry.name());
        match entry.command.serialize {
            SerializeType::Json => assert_eq!(json(&ours), json(&entry.frame), "{}", entry.name()),
            SerializeType::Binary => assert_eq!(ours, entry.frame, "{}", entry.name()),
        }
    }
}

/// The header of a frame as JSON; fields are put in as Java leaves them out when there are none.
fn json(frame: &[u8]) -> serde_json::Value {
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&frame[4..4 + length]).unwrap();
    let object = header.as_object_mut().unwrap();
    object.entry("extFields").or_insert_with(|| serde_json::json!({}));
    header
}

#[test]
fn every_header_is_read_and_written_whole() {
    for entry in entries() {
        let covered = typed_header(&entry);
        for (key, value) in entry.command.fields.iter() {
            if (IGNORED.contains(&key) && covered.get(key).is_none()) || value.is_empty() {
                continue;
            }
            assert_eq!(covered.get(key), Some(value), "{}: {key}", entry.name());
        }
        for (key, _) in covered.iter() {
            assert!(entry.command.fields.get(key).is_some(), "{}: {key}", entry.name());
        }
    }
}

/// The fields of the typed header that belongs to a command, read and written.
fn typed_header(entry: &Entry) -> Fields {
    if entry.command.is_response() {
        return response_header(entry);
    }
    use RequestCode as C;
    let h = entry;
    match entry.request {
        C::SendMessage => again::<SendRequest<'_>>(h),
        C::SendMessageV2 | C::SendBatchMessage => again::<SendRequestV2<'_>>(h),
        C::PullMessage | C::LitePullMessage => again::<PullRequest<'_>>(h),
        C::QueryMessage => again::<QueryMessageRequest<'_>>(h),
        C::QueryConsumerOffset => again::<QueryConsumerOffsetRequest<'_>>(h),
        C::UpdateConsumerOffset => again::<UpdateConsumerOffsetRequest<'_>>(h),
        C::UpdateAndCreateTopic => again::<CreateTopicRequest<'_>>(h),
        C::SearchOffsetByTimestamp => again::<SearchOffsetRequest<'_>>(h),
        C::GetMaxOffset | C::GetMinOffset | C::GetEarliestMsgStoretime => {
            again::<QueueRequest<'_>>(h)
        }
        C::ViewMessageById => again::<ViewMessageRequest<'_>>(h),
        C::UnregisterClient => again::<UnregisterClientRequest<'_>>(h),
        C::ConsumerSendMsgBack => again::<ConsumerSendMsgBackRequest<'_>>(h),
        C::EndTransaction => again::<EndTransactionRequest<'_>>(h),
        C::CheckTransactionState => again::<CheckTransactionStateRequest<'_>>(h),
        C::GetConsumerListByGroup | C::NotifyConsumerIdsChanged => {
            again::<ConsumerGroupRequest<'_>>(h)
        }
        C::RegisterBroker => again::<RegisterBrokerRequest<'_>>(h),
        C::UnregisterBroker | C::QueryDataVersion => again::<BrokerIdentity<'_>>(h),
        C::GetRouteinfoByTopic => again::<RouteInfoRequest<'_>>(h),
        C::GetKvConfig => again::<KvConfigRequest<'_>>(h),
        C::HeartBeat
        | C::LockBatchMq
        | C::UnlockBatchMq
        | C::CheckClientConfig
        | C::GetBrokerClusterInfo => again::<()>(h),
        other => panic!("a request that this test does not know: {other:?}"),
    }
}

fn response_header(entry: &Entry) -> Fields {
    use RequestCode as C;
    let h = entry;
    let ok = h.command.response_code() == ResponseCode::Success;
    match entry.request {
        C::SendMessage | C::SendMessageV2 | C::SendBatchMessage => again::<SendResponse<'_>>(h),
        C::PullMessage | C::LitePullMessage if !h.command.fields.is_empty() => {
            again::<PullResponse>(h)
        }
        C::QueryMessage if !h.command.fields.is_empty() => again::<QueryMessageResponse>(h),
        C::QueryConsumerOffset | C::SearchOffsetByTimestamp | C::GetMaxOffset | C::GetMinOffset
            if ok =>
        {
            again::<OffsetResponse>(h)
        }
        C::GetEarliestMsgStoretime => again::<TimestampResponse>(h),
        C::HeartBeat => again::<HeartbeatResponse>(h),
        C::RegisterBroker => again::<RegisterBrokerResponse<'_>>(h),
        C::QueryDataVersion => again::<QueryDataVersionResponse>(h),
        _ => again::<()>(h),
    }
}

fn again<'a, H: Header<'a>>(entry: &'a Entry) -> Fields {
    let header: H =
        entry.command.decode_header().unwrap_or_else(|error| panic!("{}: {error}", entry.name()));
    let mut fields = Fields::default();
    header.write(&mut fields);
    fields
}

#[test]
fn every_body_is_read() {
    let mut read = BTreeSet::new();
    for entry in entries() {
        if entry.command.body.is_empty() {
            continue;
        }
        read_body(&entry);
        read.insert(entry.name());
    }
    assert!(read.len() > 20, "{read:?}");
}

fn read_body(entry: &Entry) {
    use RequestCode as C;
    let json = &entry.command.body;
    match (entry.request, entry.command.is_response()) {
        (C::HeartBeat, false) => same::<body::HeartbeatData>(json),
        (C::CheckClientConfig, false) => same::<body::CheckClientRequest>(json),
        (C::GetConsumerListByGroup, true) => same::<body::ConsumerIdList>(json),
        (C::LockBatchMq | C::UnlockBatchMq, false) => same::<body::LockBatchRequest>(json),
        (C::LockBatchMq, true) => same::<body::LockBatchResponse>(json),
        (C::GetRouteinfoByTopic, true) => same::<body::TopicRouteData>(json),
        (C::GetBrokerClusterInfo, true) => same::<body::ClusterInfo>(json),
        (C::RegisterBroker, false) => registration(entry),
        (C::RegisterBroker, true) => same::<body::KvTable>(json),
        (C::QueryDataVersion, _) => same::<body::DataVersion>(json),
        (C::PullMessage | C::LitePullMessage | C::QueryMessage | C::ViewMessageById, true)
        | (C::CheckTransactionState, false) => check_records(entry),
        (C::SendMessage | C::SendMessageV2, false) => {}
        (C::SendBatchMessage, false) => check_batch(json),
        other => panic!("a body that this test does not know: {other:?}"),
    }
}

/// A body keeps what we know of it when it is written and read again, and it is not nothing.
fn same<T: DeserializeOwned + Serialize + Default + PartialEq + std::fmt::Debug>(json: &[u8]) {
    let read: T = from_json(json).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(from_json::<T>(&to_json(&read)).unwrap(), read);
    let empty = json == b"{}" || json == br#"{"table":{}}"#;
    assert!(empty || read != T::default(), "{}", String::from_utf8_lossy(json));
}

fn registration(entry: &Entry) {
    let header: RegisterBrokerRequest<'_> = entry.command.decode_header().unwrap();
    let compressed = header.compressed == Some(true);
    let crc = header.body_crc32.unwrap_or_default();
    assert_eq!(crc, record::crc32(&entry.command.body).cast_signed());
    let (json, version) = (&entry.command.body, entry.command.version);
    let body = body::RegisterBrokerBody::decode(json, compressed, version).unwrap();
    let topics = body.topic_config_serialize_wrapper.topic_config_table;
    // A broker tells its whole table or a topic that has changed.
    assert!(!topics.is_empty());
}

fn check_batch(body: &[u8]) {
    let items = record::batch_items(body).unwrap();
    let mut out = BytesMut::new();
    items.iter().for_each(|item| record::encode_batch_item(&mut out, item));
    assert_eq!(out, body);
    assert_eq!(items.len(), 3);
}

/// Records are verified, and written again to the same bytes.
fn check_records(entry: &Entry) {
    let mut rest = &entry.command.body[..];
    while !rest.is_empty() {
        let (record, size) = Record::decode(rest, Verify::Whole).unwrap();
        let (theirs, after) = rest.split_at(size);
        rest = after;
        let checksummed = record.has_checksum();
        // A check of a transaction is put together anew and has none.
        let configured = entry.file.contains("broker-5");
        assert!(checksummed == configured || !entry.command.is_response(), "{}", entry.name());
        assert_eq!(encoded(&record, checksummed), theirs, "{}", entry.name());
        let id = record.offset_msg_id();
        let place: (SocketAddr, i64) = (record.store_host, record.physical_offset);
        assert_eq!(record::parse_offset_msg_id(&id), Some(place));
    }
}

/// The bytes we would write for a record; without our checksum if it has none.
fn encoded(record: &Record<'_>, checksummed: bool) -> Vec<u8> {
    let new = NewRecord {
        topic: record.topic,
        queue_id: record.queue_id,
        flag: record.flag,
        sys_flag: record.sys_flag,
        born_timestamp_ms: record.born_timestamp_ms,
        born_host: record.born_host,
        store_host: record.store_host,
        reconsume_times: record.reconsume_times,
        prepared_transaction_offset: record.prepared_transaction_offset,
        body: record.body,
        properties: record.properties,
    };
    let mut bytes = Vec::new();
    let position = Position {
        physical_offset: record.physical_offset,
        queue_offset: record.queue_offset,
        store_timestamp_ms: record.store_timestamp_ms,
    };
    new.encode(&mut bytes, position);
    if !checksummed {
        bytes.truncate(record.size);
        let properties = record.size - record.properties.len();
        let length = record.properties.len() as u16;
        bytes[..4].copy_from_slice(&(record.size as u32).to_be_bytes());
        bytes[properties - 2..properties].copy_from_slice(&length.to_be_bytes());
    }
    bytes
}
