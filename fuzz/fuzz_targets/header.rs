//! The JSON of a header, the typed headers of the busiest requests, and bodies.
#![no_main]

use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;
use mq_core::protocol::Command;
use mq_core::protocol::body::{self, from_json, to_json};
use mq_core::protocol::header::{PullRequest, SendRequest, SendRequestV2};
use mq_core::protocol::register::RegisterError;

fuzz_target!(|data: &[u8]| {
    let mut frame = BytesMut::new();
    frame.put_u32(data.len() as u32 & 0x00FF_FFFF);
    frame.put_slice(data);
    if let Ok(command) = Command::decode(frame.freeze()) {
        let _ = command.decode_header::<SendRequest<'_>>();
        let _ = command.decode_header::<SendRequestV2<'_>>();
        let _ = command.decode_header::<PullRequest<'_>>();
    }
    if let Ok(heartbeat) = from_json::<body::HeartbeatData>(data) {
        assert_eq!(from_json::<body::HeartbeatData>(&to_json(&heartbeat)).unwrap(), heartbeat);
    }
    if let Ok(stats) = from_json::<body::ResetOffsetBody>(data) {
        assert_eq!(from_json::<body::ResetOffsetBody>(&to_json(&stats)).unwrap(), stats);
    }
    let _: Result<_, RegisterError> = body::RegisterBrokerBody::decode(data, false, 409);
    let _: Result<_, RegisterError> = body::RegisterBrokerBody::decode(data, true, 409);
});
