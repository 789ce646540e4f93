//! Compressed message bodies: zlib, which every client knows, and what RocketMQ 5 adds.
//!
//! The sys flag says how a body is compressed. Compressed data is a peer's, so its size is not
//! believed: decompression stops at a limit. When to compress is not decided here.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use lz4_flex::frame::FrameDecoder as Lz4Decoder;
use ruzstd::decoding::{FrameDecoder as ZstdState, StreamingDecoder as ZstdDecoder};

use super::record::sys_flag;

/// A decompressed body may be as large as the largest frame, which is four times the largest
/// message of a broker that nobody has configured.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Java's level: most of what zlib can do at a third of its time.
const ZLIB_LEVEL: u32 = 5;
/// What a zstd decoder may keep of what it has written; encoders ask for 2 to 8 MiB.
const ZSTD_WINDOW_MAX: u64 = 8 * 1024 * 1024;

/// A body that cannot be decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompressionError {
    /// The data is damaged or not of the kind that its flag says.
    #[error("a {kind} body that cannot be decompressed: {cause}")]
    Damaged {
        /// The compression's name.
        kind: &'static str,
        /// What its decoder said.
        cause: String,
    },
    /// The data grows beyond reason.
    #[error("a {kind} body that grows over {limit} bytes")]
    TooLong {
        /// The compression's name.
        kind: &'static str,
        /// The limit in force.
        limit: usize,
    },
    /// The flag names no compression that is known.
    #[error("a body of compression type {0}, which is not known")]
    Unknown(i32),
}

/// Compresses a body with zlib; the sender sets [`sys_flag::COMPRESSED`].
pub fn compress(body: &[u8]) -> Vec<u8> {
    let room = Vec::with_capacity(body.len() / 2);
    let mut encoder = ZlibEncoder::new(room, Compression::new(ZLIB_LEVEL));
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    written.expect("memory takes every write")
}

/// Decompresses a body in the way its sys flag says, up to `limit` bytes.
pub fn decompress(flags: i32, body: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    match flags & sys_flag::COMPRESSION_MASK {
        0 | sys_flag::COMPRESSION_ZLIB => inflate(body, limit),
        sys_flag::COMPRESSION_LZ4 => read_all("LZ4", Lz4Decoder::new(body), limit),
        sys_flag::COMPRESSION_ZSTD => unzstd(body, limit),
        other => {
            Err(CompressionError::Unknown(other >> sys_flag::COMPRESSION_MASK.trailing_zeros()))
        }
    }
}

/// Decompresses zlib data, up to `limit` bytes.
pub fn inflate(data: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    read_all("zlib", ZlibDecoder::new(data), limit)
}

fn unzstd(data: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    let mut state = ZstdState::new();
    state.set_max_window_size(ZSTD_WINDOW_MAX);
    let decoder = ZstdDecoder::new_with_decoder(data, state);
    let decoder = decoder.map_err(|cause| damaged("zstd", &cause))?;
    read_all("zstd", decoder, limit)
}

fn read_all(
    kind: &'static str,
    decoder: impl Read,
    limit: usize,
) -> Result<Vec<u8>, CompressionError> {
    let mut body = Vec::new();
    let read = decoder.take(limit as u64 + 1).read_to_end(&mut body);
    read.map_err(|cause| damaged(kind, &cause))?;
    if body.len() > limit {
        return Err(CompressionError::TooLong { kind, limit });
    }
    Ok(body)
}

fn damaged(kind: &'static str, cause: &dyn std::fmt::Display) -> CompressionError {
    CompressionError::Damaged { kind, cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [i32; 4] = [0, 0x100, 0x200, 0x300];

    fn packed(kind: i32, body: &[u8]) -> Vec<u8> {
        match kind {
            0x100 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(body).unwrap();
                encoder.finish().unwrap()
            }
            0x200 => {
                ruzstd::encoding::compress_to_vec(body, ruzstd::encoding::CompressionLevel::Fastest)
            }
            _ => compress(body),
        }
    }

    #[test]
    fn every_kind_comes_back() {
        let body = b"hello, hello, hello ".repeat(500);
        for kind in KINDS {
            let data = packed(kind, &body);
            assert!(data.len() < body.len());
            assert_eq!(decompress(kind | 1, &data, BODY_BYTES_MAX).unwrap(), body);
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0; 4 * 1024 * 1024];
        for kind in KINDS {
            let data = packed(kind, &zeros);
            let error = decompress(kind, &data, 100_000).unwrap_err();
            assert!(matches!(error, CompressionError::TooLong { .. }), "{error}");
            assert_eq!(decompress(kind, &data, zeros.len()).unwrap(), zeros);
        }
    }

    #[test]
    fn a_kind_nobody_knows_is_an_error() {
        assert_eq!(decompress(0x400, b"", 9), Err(CompressionError::Unknown(4)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..300_usize) {
            for kind in KINDS {
                let _ = decompress(kind, &bytes, 10_000);
                let mut data = packed(kind, &bytes);
                let length = data.len();
                data[at % length] ^= 0x55;
                let _ = decompress(kind, &data, 10_000);
            }
        }
    }
}
