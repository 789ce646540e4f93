//! A frame from the wire: lengths, both forms of header, and what is written back.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use mq_core::protocol::{Command, Limits, frame_length};

fuzz_target!(|data: &[u8]| {
    let _ = frame_length(data, &Limits::DEFAULT);
    let Ok(command) = Command::decode(Bytes::copy_from_slice(data)) else { return };
    let mut out = BytesMut::new();
    command.encode(&mut out);
    let length = frame_length(&out, &Limits { header_bytes: usize::MAX, ..Limits::DEFAULT });
    assert_eq!(length, Ok(Some(out.len())));
    let back = Command::decode(out.freeze().slice(4..)).expect("what we write we can read");
    assert_eq!(format!("{command:?}"), format!("{back:?}"));
});
