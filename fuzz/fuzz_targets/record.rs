//! Bytes of a log, of a pull answer and of a batch; compressed bodies.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use mq_core::protocol::compression::decompress;
use mq_core::protocol::record::{
    NewRecord, Position, Record, Scan, Verify, batch_items, encode_batch_item, records, scan,
};

fuzz_target!(|data: &[u8]| {
    let _ = records(data).count();
    if let Scan::Record(record, size) = scan(data, Verify::None) {
        assert!(size <= data.len());
        store_again(&record);
    }
    if let Ok(items) = batch_items(data) {
        let mut out = BytesMut::new();
        items.iter().for_each(|item| encode_batch_item(&mut out, item));
        assert_eq!(batch_items(&out), Ok(items));
    }
    if let Some((kind, body)) = data.split_first() {
        let _ = decompress(i32::from(*kind) << 8, body, 64 * 1024);
    }
});

/// Whatever record can be read and may be stored can be stored and read.
fn store_again(record: &Record<'_>) {
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
    if new.check().is_err() {
        return;
    }
    let mut bytes = Vec::new();
    let position = Position { physical_offset: 1, queue_offset: 2, store_timestamp_ms: 3 };
    new.encode(&mut bytes, position);
    let (back, size) = Record::decode(&bytes, Verify::Whole).expect("what we write we can read");
    assert!(back.has_checksum());
    assert_eq!((size, back.topic, back.body), (bytes.len(), record.topic, record.body));
}
