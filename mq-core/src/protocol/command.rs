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

#[cfg(test)]
mod tests {
    use super::super::header::{PullRequest, RouteInfoRequest, SendRequest, SendRequestV2};
    use super::*;
    use proptest::prelude::*;

    /// The length of a frame and the frame behind its length.
    fn framed(command: &Command) -> (usize, Bytes) {
        let mut out = BytesMut::new();
        command.encode(&mut out);
        let length = frame_length(&out, &Limits::DEFAULT).unwrap().unwrap();
        (length, out.split_off(4).freeze())
    }

    fn decoded(command: &Command) -> Command {
        let (length, frame) = framed(command);
        assert_eq!(length, frame.len() + 4);
        Command::decode(frame).unwrap()
    }

    fn from_hex(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    fn json_frame(header: &str) -> Bytes {
        let mut frame = BytesMut::new();
        frame.put_u32(header.len() as u32);
        frame.put_slice(header.as_bytes());
        frame.freeze()
    }

    fn from_json(header: &str) -> Result<Command, CodecError> {
        Command::decode(json_frame(header))
    }

    #[test]
    fn the_json_frame_of_a_java_client_is_reproduced() {
        let header = concat!(
            r#"{"code":105,"extFields":{"topic":"TopicTest"},"flag":0,"language":"JAVA","opaque":7,"#,
            r#""serializeTypeCurrentRPC":"JSON","version":293}"#
        );
        let mut bytes = from_hex("00000087 00000083");
        bytes.extend_from_slice(header.as_bytes());
        let command = Command::decode(Bytes::copy_from_slice(&bytes[4..])).unwrap();
        assert_eq!(command.request_code(), RequestCode::GetRouteinfoByTopic);
        assert_eq!((command.opaque, command.version), (7, 293));
        let route: RouteInfoRequest<'_> = command.decode_header().unwrap();
        assert_eq!(route.topic, "TopicTest");
        let mut out = BytesMut::new();
        command.encode(&mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn the_binary_frame_of_a_java_client_is_reproduced() {
        let bytes = from_hex(
            "0000002d 01000029 0069 00 0125 00000007 00000000 00000000 00000014
             0005746f706963 00000009546f70696354657374",
        );
        let command = Command::decode(Bytes::copy_from_slice(&bytes[4..])).unwrap();
        assert_eq!(command.serialize, SerializeType::Binary);
        assert_eq!(command.fields.get("topic"), Some("TopicTest"));
        let mut out = BytesMut::new();
        command.encode(&mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn values_that_are_no_texts_become_texts() {
        let header = r#" { "code" : 310 , "extFields" : {"e":0,"k":false,"g":1.5e3,"x":null,
            "y":{"a":[1,{"b":"}"}]},"b":"T\n\"\\\/A\u00e9\uD83D\uDE00\u0001"} , "z":[[]] } "#;
        let command = from_json(header).unwrap();
        let fields: Vec<_> = command.fields.iter().collect();
        let text = "T\n\"\\/A\u{e9}\u{1F600}\u{1}";
        assert_eq!(fields, [("e", "0"), ("k", "false"), ("g", "1.5e3"), ("b", text)]);
        assert_eq!(command.code, 310);
    }

    #[test]
    fn odd_headers_are_read() {
        for (header, code, remark) in [
            ("{}", 0, None),
            (r#"{"code":"12","remark":null,"extFields":null,"language":7}"#, 12, None),
            (r#"{"code":1,"code":2,"remark":"\ud83d x"}"#, 2, Some("\u{FFFD} x")),
            (r#"{"code":-1,"remark":"\uD83D\u0041","opaque":-2147483648}"#, -1, Some("\u{FFFD}A")),
        ] {
            let command = from_json(header).unwrap();
            assert_eq!(command.code, code);
            assert_eq!(command.remark.as_deref(), remark);
        }
        assert_eq!(from_json(r#"{"language":"COBOL"}"#).unwrap().language, Language::Other);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for header in [
            "",
            "{",
            "}",
            "[]",
            "{}{}",
            "{} x",
            "{\"code\"}",
            "{\"code\":}",
            "{\"code\":1,}",
            "{\"code\":x}",
            "{\"code\":2147483648}",
            "{\"remark\":\"",
            "{\"remark\":\"\\",
            "{\"remark\":\"\\q\"}",
            "{\"remark\":\"\\u12\"}",
            "{\"remark\":\"\\u12G4\"}",
            "{\"a\":]}",
            "{\"extFields\":{\"a\":\"b\"}",
            "{\"extFields\":{\"a\"}}",
            "{a:1}",
        ] {
            assert!(from_json(header).is_err(), "{header}");
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |depth| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(from_json(&nested(30)).is_ok());
        assert!(from_json(&nested(10_000)).is_err());
    }

    #[test]
    fn bytes_that_are_no_utf8_are_refused() {
        for header in [r#"{"remark":"x"}"#, r#"{"extFields":{"k":"x"}}"#] {
            let mut frame = json_frame(header).to_vec();
            let at = frame.iter().rposition(|byte| *byte == b'x').unwrap();
            frame[at] = 0xFF;
            assert_eq!(Command::decode(frame.into()).unwrap_err(), CodecError::NotUtf8, "{header}");
        }
        // A character cut in two by the border of key and value.
        let bytes = from_hex(
            "01000027 0069 00 0125 00000007 00000000 00000000 00000012
             0001 C3 00000001 A9 0001 61 00000001 62",
        );
        let mut bytes = bytes;
        bytes[3] = (bytes.len() - 4) as u8;
        bytes[24] = (bytes.len() - 25) as u8;
        assert_eq!(Command::decode(bytes.into()).unwrap_err(), CodecError::NotUtf8);
    }

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        let limits = Limits::DEFAULT;
        assert_eq!(frame_length(&[0, 0, 0], &limits), Ok(None));
        assert_eq!(frame_length(&[0, 0, 0, 9], &limits), Ok(Some(13)));
        assert_eq!(frame_length(&16_777_212_u32.to_be_bytes(), &limits), Ok(Some(16_777_216)));
        for refused in [
            [0, 0, 0, 3, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 0, 0, 0],
            [0x16, 3, 1, 0, 0, 0, 0, 0],
            [0, 0, 0, 8, 0, 0, 0, 5],
            [0, 0xFF, 0, 0, 0, 8, 0, 0],
        ] {
            assert!(frame_length(&refused, &limits).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn too_many_fields_and_unknown_forms_are_refused() {
        let mut command = Command::request(RequestCode::HeartBeat);
        for _ in 0..=Limits::DEFAULT.fields {
            command.fields.push("k", "v");
        }
        for serialize in [SerializeType::Json, SerializeType::Binary] {
            command.serialize = serialize;
            assert_eq!(Command::decode(framed(&command).1).unwrap_err(), CodecError::TooManyFields);
        }
        let other = Bytes::from_static(&[2, 0, 0, 0]);
        assert_eq!(Command::decode(other).unwrap_err(), CodecError::SerializeType(2));
    }

    #[test]
    fn a_code_over_sixteen_bits_goes_as_json() {
        let mut command = Command::request(RequestCode::PopMessage);
        command.serialize = SerializeType::Binary;
        let back = decoded(&command);
        assert_eq!((back.code, back.serialize), (200_050, SerializeType::Json));
    }

    #[test]
    fn a_header_no_frame_can_carry_becomes_a_command_that_is_refused() {
        let mut command = Command::request(RequestCode::SendMessage);
        command.fields.push("properties", &"x".repeat(HEADER_BYTES_MAX));
        let back = decoded(&command);
        assert_eq!(back.code, 10);
        assert!(back.fields.is_empty() && back.remark.is_some());
    }

    #[test]
    fn an_answer_has_the_form_of_its_request() {
        let mut request = Command::request(RequestCode::PullMessage).oneway();
        request.opaque = -5;
        request.serialize = SerializeType::Binary;
        let answer = Command::response_to(&request, ResponseCode::SystemBusy).remark("later");
        let back = decoded(&answer);
        assert!(back.is_response() && !back.is_oneway() && request.is_oneway());
        assert_eq!(back.response_code(), ResponseCode::SystemBusy);
        assert_eq!((back.opaque, back.serialize), (-5, SerializeType::Binary));
        assert_eq!(back.remark.as_deref(), Some("later"));
    }

    #[test]
    fn a_missing_or_malformed_field_is_named() {
        let missing = from_json(r#"{"code":11,"extFields":{"topic":"t"}}"#).unwrap();
        let error = missing.decode_header::<PullRequest<'_>>().unwrap_err();
        assert!(error.to_string().contains("`consumerGroup` is missing"), "{error}");
        let ext = r#"{"extFields":{"a":"g","b":"t","c":"d","d":"4","e":"999999999999"}}"#;
        let command = from_json(ext).unwrap();
        let error = command.decode_header::<SendRequestV2<'_>>().unwrap_err();
        assert!(error.to_string().contains("`e`"), "{error}");
    }

    #[test]
    fn both_kinds_of_send_say_the_same() {
        let send = SendRequest {
            producer_group: "g",
            topic: "t",
            default_topic: "TBW102",
            default_topic_queue_nums: 4,
            queue_id: -1,
            sys_flag: 1,
            born_timestamp: 1_700_000_000_000,
            flag: i32::MIN,
            properties: Some("TAGS\u{1}a\u{2}"),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(true),
            broker_name: None,
        };
        let v1 = decoded(&Command::with(RequestCode::SendMessage, &send));
        assert_eq!(SendRequest::read_v1(&v1.fields), Ok(send));
        let v2 = decoded(&Command::with(RequestCode::SendMessageV2, &SendRequestV2(send)));
        assert_eq!(SendRequest::read_v2(&v2.fields), Ok(send));
        let mut fields = Fields::default();
        send.write_v2(&mut fields);
        assert_eq!(fields, v2.fields);
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let texts = prop::collection::vec((any::<String>(), any::<String>()), 0..12);
        let numbers = (any::<i16>(), any::<i32>(), 0..4, any::<i16>(), 0..14_u8, any::<bool>());
        let remark = prop::option::of("\\PC{1,20}|[\\x00-\\x7f]{1,20}");
        let body = prop::collection::vec(any::<u8>(), 0..100);
        (numbers, texts, remark, body).prop_map(|(numbers, texts, remark, body)| {
            let (code, opaque, flag, version, language, binary) = numbers;
            Command {
                code: i32::from(code),
                language: Language::from_number(language),
                version: i32::from(version),
                opaque,
                flag,
                serialize: if binary { SerializeType::Binary } else { SerializeType::Json },
                remark: remark.map(Into::into),
                fields: texts.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
                body: body.into(),
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(command in any_command()) {
            let back = decoded(&command);
            prop_assert_eq!(format!("{:?}", back), format!("{:?}", command));
        }

        #[test]
        fn any_bytes_are_borne(kind in 0..3_u8, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frame = vec![kind, 0, 0, bytes.len() as u8];
            frame.extend_from_slice(&bytes);
            let _ = frame_length(&frame, &Limits::DEFAULT);
            let _ = Command::decode(frame.into());
            let _ = Command::decode(bytes.into());
        }

        #[test]
        fn any_damage_is_borne(command in any_command(), at in 0..10_000_usize, byte in any::<u8>()) {
            let (_, frame) = framed(&command);
            let mut frame = frame.to_vec();
            let length = frame.len();
            frame[at % length] = byte;
            if let Ok(command) = Command::decode(frame.into()) {
                decoded(&command);
                let _ = command.decode_header::<PullRequest<'_>>();
                let _ = command.decode_header::<SendRequestV2<'_>>();
            }
        }

        #[test]
        fn any_json_is_borne(text in "[{}\\[\\]\",:\\\\ucodeextFields0-9]{0,60}") {
            let _ = from_json(&text);
            let _ = from_json(&format!("{{\"extFields\":{text}}}"));
        }
    }
}
