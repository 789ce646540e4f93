//! One command, request or response, and its frame: a header in JSON or binary form and a body.
//!
//! What a field or a code means is not known here, sockets neither. A frame that cannot be decoded
//! is a [`CodecError`] and costs the connection: what follows it cannot be trusted.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::code::{Language, RequestCode, ResponseCode};
use super::fields::{Fields, FieldsBuilder};
use super::header::{Header, HeaderError};
use super::json;

/// The release whose behaviour we claim: 4.9.8. From 4.9.4 (401) on, name servers answer Java
/// clients in strict JSON, and consumers with SQL filters ask for at least 4.1 (232).
const VERSION: i32 = 409;
const FLAG_RESPONSE: i32 = 1;
const FLAG_ONEWAY: i32 = 2;
/// Length of the frame and mark of the header, in front of the header.
const PREFIX_BYTES: usize = 8;
const HEADER_BYTES_MAX: usize = 0x00FF_FFFF;

/// How large what a peer sends may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A whole frame, its length field counted.
    pub frame_bytes: usize,
    /// The header of a frame. Properties may be 32 KiB, six times that when escaped.
    pub header_bytes: usize,
    /// Ext fields of a header.
    pub fields: usize,
}

impl Limits {
    /// What RocketMQ allows, and no more of what it leaves open than anybody needs.
    pub const DEFAULT: Self =
        Self { frame_bytes: 16 * 1024 * 1024, header_bytes: 256 * 1024, fields: 256 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A frame that is no command. The connection it came from must be closed.
#[expect(missing_docs, reason = "each variant's message says what it is")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    FrameTooLong { length: usize, limit: usize },
    #[error("a frame of {length} bytes has no room for its header")]
    FrameTooShort { length: usize },
    #[error("a header of {length} bytes is over the limit of {limit}")]
    HeaderTooLong { length: usize, limit: usize },
    #[error("a header of serialize type {0}, which is neither JSON (0) nor binary (1)")]
    SerializeType(u8),
    #[error("a header with too many fields")]
    TooManyFields,
    #[error("a header that is not UTF-8")]
    NotUtf8,
    #[error("a header that cannot be read: {0}")]
    BadHeader(&'static str),
}

/// The form of a header. An answer has the form of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SerializeType {
    /// Text, which every client reads.
    #[default]
    Json = 0,
    /// RocketMQ's own, for clients that choose it.
    Binary = 1,
}

/// Everything of a command but its body, as a decoder finds it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) code: i32,
    pub(super) language: Language,
    pub(super) version: i32,
    pub(super) opaque: i32,
    pub(super) flag: i32,
    pub(super) remark: Option<Box<str>>,
    pub(super) fields: Fields,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            code: 0,
            language: Language::Other,
            version: 0,
            opaque: 0,
            flag: 0,
            remark: None,
            fields: Fields::default(),
        }
    }
}

/// A request or a response.
#[derive(Clone, Debug)]
pub struct Command {
    /// A request code or a response code, by `flag`.
    pub code: i32,
    /// What the sender is written in.
    pub language: Language,
    /// Ordinal of the sender's release in RocketMQ's list of releases.
    pub version: i32,
    /// Which request a response belongs to. Each side of a connection counts its own.
    pub opaque: i32,
    /// Bit 0: a response. Bit 1: a request that wants no response.
    pub flag: i32,
    /// The form of the header.
    pub serialize: SerializeType,
    /// Text for people; errors carry it.
    pub remark: Option<Box<str>>,
    /// The fields of the header that belong to the code.
    pub fields: Fields,
    /// Whatever the code says; empty is the same as none.
    pub body: Bytes,
}

impl Command {
    /// A request without fields.
    pub fn request(code: RequestCode) -> Self {
        Self {
            code: code.code(),
            language: Language::Other,
            version: VERSION,
            opaque: 0,
            flag: 0,
            serialize: SerializeType::Json,
            remark: None,
            fields: Fields::default(),
            body: Bytes::new(),
        }
    }

    /// A request with the fields of a header.
    pub fn with<'a, H: Header<'a>>(code: RequestCode, header: &H) -> Self {
        Self::request(code).header(header)
    }

    /// A response in the form of its request.
    pub fn response_to(request: &Command, code: ResponseCode) -> Self {
        Self {
            code: code.code(),
            // Java clients show the language of a peer, and know no other broker than Java's.
            language: Language::Java,
            version: VERSION,
            opaque: request.opaque,
            flag: FLAG_RESPONSE,
            serialize: request.serialize,
            remark: None,
            fields: Fields::default(),
            body: Bytes::new(),
        }
    }

    /// A response that says yes.
    pub fn success(request: &Command) -> Self {
        Self::response_to(request, ResponseCode::Success)
    }

    /// Puts the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Makes it a request that wants no response.
    #[must_use]
    pub fn oneway(mut self) -> Self {
        self.flag |= FLAG_ONEWAY;
        self
    }

    /// Puts the text for people.
    #[must_use]
    pub fn remark(mut self, remark: impl Into<Box<str>>) -> Self {
        self.remark = Some(remark.into());
        self
    }

    /// Adds the fields of a header.
    #[must_use]
    pub fn header<'a, H: Header<'a>>(mut self, header: &H) -> Self {
        header.write(&mut self.fields);
        self
    }

    /// Whether it answers a request.
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// Whether it is a request that wants no response.
    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }

    /// What a request asks for.
    pub fn request_code(&self) -> RequestCode {
        self.code.into()
    }

    /// How a response says the request ended.
    pub fn response_code(&self) -> ResponseCode {
        self.code.into()
    }

    /// Reads the fields as a header of this kind.
    pub fn decode_header<'a, H: Header<'a>>(&'a self) -> Result<H, HeaderError> {
        H::read(&self.fields)
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(256 + self.fields.size() + self.body.len());
        self.encode_head(out);
        out.extend_from_slice(&self.body);
    }

    /// Appends the frame up to its body, for writers that send the body without copying it.
    pub fn encode_head(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_bytes(0, PREFIX_BYTES);
        let mut serialize = self.encode_header(out);
        if out.len() - start - PREFIX_BYTES > HEADER_BYTES_MAX {
            // No frame can carry it. The peer gets a command it refuses instead of a broken stream.
            out.truncate(start + PREFIX_BYTES);
            serialize = self.without_texts().encode_header(out);
        }
        let header_length = out.len() - start - PREFIX_BYTES;
        let frame_length = 4 + header_length + self.body.len();
        let mark = (serialize as u32) << 24 | header_length as u32;
        if let Some(mut prefix) = out.get_mut(start..start + PREFIX_BYTES) {
            prefix.put_u32(u32::try_from(frame_length).unwrap_or(u32::MAX));
            prefix.put_u32(mark);
        }
    }

    fn without_texts(&self) -> Self {
        let mut bare = self.clone().remark("the header is too long for a frame");
        bare.fields = Fields::default();
        bare
    }

    /// Writes the header, as JSON when its code does not fit the binary form's 16 bits.
    fn encode_header(&self, out: &mut BytesMut) -> SerializeType {
        match (self.serialize, i16::try_from(self.code)) {
            (SerializeType::Binary, Ok(code)) => {
                self.encode_binary(code, out);
                SerializeType::Binary
            }
            _ => {
                json::encode(self, out);
                SerializeType::Json
            }
        }
    }

    fn encode_binary(&self, code: i16, out: &mut BytesMut) {
        out.put_i16(code);
        out.put_u8(self.language.number());
        out.put_i16(i16::try_from(self.version).unwrap_or(i16::MAX));
        out.put_i32(self.opaque);
        out.put_i32(self.flag);
        let remark = self.remark.as_deref().unwrap_or_default();
        out.put_u32(remark.len() as u32);
        out.extend_from_slice(remark.as_bytes());
        let start = out.len();
        out.put_u32(0);
        for (key, value) in self.fields.iter() {
            out.put_u16(key.len() as u16);
            out.extend_from_slice(key.as_bytes());
            out.put_u32(value.len() as u32);
            out.extend_from_slice(value.as_bytes());
        }
        let length = (out.len() - start - 4) as u32;
        if let Some(mut slot) = out.get_mut(start..start + 4) {
            slot.put_u32(length);
        }
    }

    /// Decodes a frame without its length field. The body stays a part of the frame.
    pub fn decode(frame: Bytes) -> Result<Command, CodecError> {
        Self::decode_within(frame, &Limits::DEFAULT)
    }

    /// Decodes a frame without its length field, under these limits.
    pub fn decode_within(mut frame: Bytes, limits: &Limits) -> Result<Command, CodecError> {
        let length = frame.len();
        let mark = frame.first_chunk().ok_or(CodecError::FrameTooShort { length })?;
        let header_length = header_length(*mark, length, limits)?;
        let serialize = match mark {
            [0, ..] => SerializeType::Json,
            [1, ..] => SerializeType::Binary,
            [other, ..] => return Err(CodecError::SerializeType(*other)),
        };
        let end = 4 + header_length;
        let header = frame.get(4..end).ok_or(CodecError::FrameTooShort { length })?;
        let head = match serialize {
            SerializeType::Json => json::decode(header, limits)?,
            SerializeType::Binary => decode_binary(header, limits)?,
        };
        frame.advance(end);
        Ok(Self::from_parts(head, serialize, frame))
    }

    fn from_parts(head: Head, serialize: SerializeType, body: Bytes) -> Self {
        let Head { code, language, version, opaque, flag, remark, fields } = head;
        Self { code, language, version, opaque, flag, serialize, remark, fields, body }
    }
}

/// How long the frame at the start of `buffer` is, its length field counted; `None` while that
/// cannot be seen yet. Lengths over the limits are refused before anybody makes room for them.
pub fn frame_length(buffer: &[u8], limits: &Limits) -> Result<Option<usize>, CodecError> {
    let Some((length, rest)) = buffer.split_first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    let total = length.saturating_add(4);
    if total > limits.frame_bytes {
        return Err(CodecError::FrameTooLong { length: total, limit: limits.frame_bytes });
    }
    if length < 4 {
        return Err(CodecError::FrameTooShort { length });
    }
    if let Some(mark) = rest.first_chunk() {
        header_length(*mark, length, limits)?;
    }
    Ok(Some(total))
}

/// The length in a header's mark, if it fits the frame and the limits.
fn header_length(mark: [u8; 4], length: usize, limits: &Limits) -> Result<usize, CodecError> {
    let header_length = u32::from_be_bytes(mark) as usize & HEADER_BYTES_MAX;
    if header_length > limits.header_bytes {
        return Err(CodecError::HeaderTooLong {
            length: header_length,
            limit: limits.header_bytes,
        });
    }
    if header_length > length.saturating_sub(4) {
        return Err(CodecError::FrameTooShort { length });
    }
    Ok(header_length)
}

fn decode_binary(header: &[u8], limits: &Limits) -> Result<Head, CodecError> {
    let mut bytes = header;
    let head = read_binary(&mut bytes, limits)?;
    let Some(head) = head else { return Err(CodecError::BadHeader("it ends early")) };
    if bytes.is_empty() { Ok(head) } else { Err(CodecError::BadHeader("bytes behind the fields")) }
}

/// `None` when the bytes end early.
fn read_binary(bytes: &mut &[u8], limits: &Limits) -> Result<Option<Head>, CodecError> {
    let fixed = (
        bytes.try_get_i16(),
        bytes.try_get_u8(),
        bytes.try_get_i16(),
        bytes.try_get_i32(),
        bytes.try_get_i32(),
    );
    let (Ok(code), Ok(language), Ok(version), Ok(opaque), Ok(flag)) = fixed else {
        return Ok(None);
    };
    let Some(remark) = take_long(bytes) else { return Ok(None) };
    let remark = std::str::from_utf8(remark).map_err(|_| CodecError::NotUtf8)?;
    let Some(ext) = take_long(bytes) else { return Ok(None) };
    Ok(Some(Head {
        code: i32::from(code),
        language: Language::from_number(language),
        version: i32::from(version),
        opaque,
        flag,
        remark: (!remark.is_empty()).then(|| remark.into()),
        fields: read_binary_fields(ext, limits)?,
    }))
}

fn read_binary_fields(mut ext: &[u8], limits: &Limits) -> Result<Fields, CodecError> {
    let mut fields = FieldsBuilder::new(ext.len() + 64, limits.fields);
    while !ext.is_empty() {
        let (Some(key), Some(value)) = (take_short(&mut ext), take_long(&mut ext)) else {
            return Err(CodecError::BadHeader("a field ends early"));
        };
        fields.start_key()?;
        fields.bytes.extend_from_slice(key);
        fields.start_value();
        fields.bytes.extend_from_slice(value);
        fields.end_field()?;
    }
    fields.finish()
}

fn take_short<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = bytes.try_get_u16().ok()?;
    bytes.split_off(..usize::from(length))
}

fn take_long<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = bytes.try_get_u32().ok()?;
    bytes.split_off(..length as usize)
}
