//! What both ends of a connection share: frames out of a byte stream, a burst at a time, and the
//! buffers they live in. Not here: correlation of calls and answers (`remote.rs`), dispatch
//! (`server.rs`), the frame's insides (`protocol`).
//!
//! Invariants: a frame's length is judged before room is made for it, and room grows with what has
//! arrived, not with what was announced; [`FrameReader::read_burst`] can be dropped between bursts
//! without losing a byte.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::protocol::command::{CodecError, Command, Limits, frame_length};

/// One read asks for at least this much; a burst of small frames fits in.
const READ_BYTES: usize = 64 * 1024;
const LENGTH_BYTES: usize = 4;

/// Why a connection can no longer be read. Every one of them ends it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system's words.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer sent something that is not a frame.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The peer hung up inside a frame.
    #[error("the peer hung up inside a frame, {0} bytes after its start")]
    Torn(usize),
}

/// Cuts frames out of what a peer sends.
#[derive(Debug)]
pub struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    limits: Limits,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader that refuses what is beyond `limits`.
    pub fn new(io: R, limits: Limits) -> Self {
        Self { io, buffer: BytesMut::new(), limits }
    }

    /// Waits until at least one whole frame has arrived and adds all that have to `burst`. False:
    /// the peer hung up between two frames.
    ///
    /// # Errors
    /// See [`ReadError`]; frames before the fault are in `burst`.
    pub async fn read_burst(&mut self, burst: &mut Vec<Command>) -> Result<bool, ReadError> {
        loop {
            let missing = self.decode(burst)?;
            if !burst.is_empty() {
                return Ok(true);
            }
            self.make_room(missing);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.len() {
                    0 => Ok(false),
                    torn => Err(ReadError::Torn(torn)),
                };
            }
        }
    }

    /// Bytes of a frame that has begun and not yet ended.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Decodes the whole frames; returns how many bytes the next one still lacks, 0 if not even its
    /// length is known.
    fn decode(&mut self, burst: &mut Vec<Command>) -> Result<usize, ReadError> {
        while let Some(total) = frame_length(&self.buffer, &self.limits)? {
            if self.buffer.len() < total {
                return Ok(total - self.buffer.len());
            }
            let mut frame = self.buffer.split_to(total);
            frame.advance(LENGTH_BYTES);
            burst.push(Command::decode_within(frame.freeze(), &self.limits)?);
        }
        Ok(0)
    }

    /// A long frame's room doubles as it arrives, so that a peer who only announces much costs
    /// little.
    fn make_room(&mut self, missing: usize) {
        let allowed = READ_BYTES.max(self.buffer.len());
        self.buffer.reserve(missing.clamp(READ_BYTES, allowed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::code::RequestCode;
    use tokio::io::AsyncWriteExt;

    fn frames(bodies: &[Vec<u8>]) -> BytesMut {
        let mut out = BytesMut::new();
        for body in bodies {
            Command::request(RequestCode::HeartBeat).body(body.clone()).encode(&mut out);
        }
        out
    }

    #[tokio::test]
    async fn a_burst_is_all_that_has_arrived() {
        let bytes = frames(&[b"a".to_vec(), b"b".to_vec(), vec![7; 300_000]]);
        let (mut writer, reader) = tokio::io::duplex(1_000_000);
        let mut reader = FrameReader::new(reader, Limits::default());
        let (first, rest) = bytes.split_at(bytes.len() - 10);
        writer.write_all(first).await.unwrap();
        let mut burst = Vec::new();
        assert!(reader.read_burst(&mut burst).await.unwrap());
        assert_eq!(burst.len(), 2);
        burst.clear();
        writer.write_all(rest).await.unwrap();
        drop(writer);
        assert!(reader.read_burst(&mut burst).await.unwrap());
        assert_eq!(burst[0].body.len(), 300_000);
        burst.clear();
        assert!(!reader.read_burst(&mut burst).await.unwrap());
    }

    #[tokio::test]
    async fn a_torn_frame_and_a_huge_announcement_are_errors() {
        let torn = frames(&[b"abc".to_vec()]);
        let mut reader = FrameReader::new(&torn[..torn.len() - 1], Limits::default());
        assert!(matches!(reader.read_burst(&mut Vec::new()).await, Err(ReadError::Torn(_))));

        let mut reader = FrameReader::new(&[0x7f, 0xff, 0xff, 0xff, 0][..], Limits::default());
        assert!(matches!(reader.read_burst(&mut Vec::new()).await, Err(ReadError::Codec(_))));
        assert!(reader.buffer.capacity() <= 2 * READ_BYTES);
    }
}
