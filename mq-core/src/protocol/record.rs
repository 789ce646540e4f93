//! The stored message, which is also the unit of a pull answer: RocketMQ's record, byte for byte.
//!
//! ```text
//! size 4 | magic 4 | body CRC 4 | queue id 4 | flag 4 | queue offset 8 | physical offset 8 |
//! sys flag 4 | born time 8 | born host 8 | store time 8 | store host 8 | reconsume times 4 |
//! prepared transaction offset 8 | body: 4 + n | topic: 1 + n | properties: 2 + n
//! ```
//!
//! Every record we write ends in the property `__CRC32#`, a checksum over all bytes before it, as
//! RocketMQ 5 defines it; so no byte of a record is uncovered. We write IPv4 hosts only, because
//! many clients read nothing else, and read whatever RocketMQ wrote. Files and their positions are
//! not known here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use bytes::BufMut;

pub use super::batch::{BatchItem, batch_items, encode_batch_item};
use super::cursor::Cursor;
pub use super::msg_id::{offset_msg_id, parse_offset_msg_id};

use crate::properties;

/// Magic of a record whose topic has one length byte.
pub const MAGIC_V1: i32 = 0xDAA3_20A7_u32.cast_signed();
/// Magic of a record whose topic has two length bytes.
pub const MAGIC_V2: i32 = 0xDAA3_20AB_u32.cast_signed();
/// Magic of the blank that fills the end of a file.
pub const MAGIC_BLANK: i32 = 0xCBD4_3194_u32.cast_signed();

/// The blank at the end of a file needs room for its size and its magic.
pub const BLANK_BYTES_MIN: usize = 8;
/// The shortest record: no body, no topic, no properties.
pub const RECORD_BYTES_MIN: usize = 91;
/// The length of a topic is one byte, signed in Java.
pub const TOPIC_BYTES_MAX: usize = 127;
/// Properties as stored, the checksum included.
pub const PROPERTIES_BYTES_MAX: usize = i16::MAX as usize;

/// Bits of a record's sys flag.
#[expect(missing_docs, reason = "RocketMQ's names")]
pub mod sys_flag {
    pub const COMPRESSED: i32 = 1;
    pub const MULTI_TAGS: i32 = 2;
    pub const TRANSACTION_PREPARED: i32 = 4;
    pub const TRANSACTION_COMMIT: i32 = 8;
    pub const TRANSACTION_ROLLBACK: i32 = 12;
    /// The bits that tell the kind of transaction record.
    pub const TRANSACTION_MASK: i32 = 12;
    pub const BORN_HOST_V6: i32 = 16;
    pub const STORE_HOST_V6: i32 = 32;
    /// Which compression, 0 and 3 are zlib.
    pub const COMPRESSION_MASK: i32 = 0x700;
    pub const COMPRESSION_LZ4: i32 = 0x100;
    pub const COMPRESSION_ZSTD: i32 = 0x200;
    pub const COMPRESSION_ZLIB: i32 = 0x300;
}

/// The bytes of the checksum property: name, separator, ten digits, separator.
const CRC_SLOT_BYTES: usize = properties::key::CRC32.len() + 12;
const CRC_DIGITS: usize = 10;
/// Of the ten bytes that are the same in every slot, so many may be damaged.
const CRC_SLOT_STRANGE_MAX: usize = 4;
/// Checksums lack the sign bit, so none is this.
const NO_CHECKSUM: u32 = u32::MAX;

/// Why bytes are no record, or a message cannot become one.
#[expect(missing_docs, reason = "each variant's message says what it is")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    #[error("a record of {size} bytes, of which {available} are there")]
    Truncated { size: usize, available: usize },
    #[error("no record: its magic is {0:#010x}")]
    Magic(i32),
    #[error("a record that says it has {size} bytes and has not: {what}")]
    Layout { size: usize, what: &'static str },
    #[error("the {what} of a record is not UTF-8")]
    NotUtf8 { what: &'static str },
    #[error("the {what} of a record has checksum {found}, not {expected}")]
    Checksum { what: &'static str, expected: u32, found: u32 },
    #[error("a topic of {0} bytes; from 1 to 127 can be stored")]
    TopicLength(usize),
    #[error("properties of {0} bytes with the broker's own; at most 32767 can be stored")]
    PropertiesLength(usize),
    #[error("a body of {0} bytes; a record cannot hold it")]
    BodyLength(usize),
    #[error("a batch that cannot be taken apart: {0}")]
    Batch(&'static str),
}

/// CRC-32 as RocketMQ keeps it, without the sign bit.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes) & 0x7FFF_FFFF
}

/// Where and when a record is stored; known only under the lock that orders appends.
#[expect(missing_docs, reason = "the layout above says what each field is")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub physical_offset: i64,
    pub queue_offset: i64,
    pub store_timestamp_ms: i64,
}

/// A message about to be stored.
#[expect(missing_docs, reason = "the layout above says what each field is")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRecord<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
    /// The user's number, stored as it is.
    pub flag: i32,
    pub sys_flag: i32,
    pub born_timestamp_ms: i64,
    pub born_host: SocketAddr,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    pub body: &'a [u8],
    /// In their stored form. A `__CRC32#` among them is replaced by the record's own.
    pub properties: &'a str,
}

impl NewRecord<'_> {
    /// The bytes of the record, its checksum included.
    pub fn size(&self) -> usize {
        RECORD_BYTES_MIN + self.body.len() + self.topic.len() + self.properties_length()
    }

    /// Whether the message can be stored. `encode` relies on it.
    pub fn check(&self) -> Result<(), RecordError> {
        if self.topic.is_empty() || self.topic.len() > TOPIC_BYTES_MAX {
            return Err(RecordError::TopicLength(self.topic.len()));
        }
        let properties = self.properties_length();
        if properties > PROPERTIES_BYTES_MAX {
            return Err(RecordError::PropertiesLength(properties));
        }
        if i32::try_from(self.size()).is_err() {
            return Err(RecordError::BodyLength(self.body.len()));
        }
        Ok(())
    }

    /// Appends the record, which must have passed `check`.
    pub fn encode(&self, out: &mut Vec<u8>, position: Position) {
        debug_assert_eq!(self.check(), Ok(()));
        let start = out.len();
        let size = self.size();
        out.reserve(size);
        out.put_slice(&self.fixed_part(size, position));
        out.put_slice(self.body);
        out.put_u8(self.topic.len() as u8);
        out.put_slice(self.topic.as_bytes());
        self.put_properties(out);
        let checksum = crc32(out.get(start..).unwrap_or_default());
        out.put_slice(&crc_slot(checksum));
        debug_assert_eq!(out.len() - start, size);
    }

    /// The fields before the body, gathered on the stack so that the output grows once.
    fn fixed_part(&self, size: usize, position: Position) -> [u8; 88] {
        let mut bytes = [0; 88];
        let mut out = &mut bytes[..];
        out.put_u32(size as u32);
        out.put_i32(MAGIC_V1);
        out.put_u32(crc32(self.body));
        out.put_i32(self.queue_id);
        out.put_i32(self.flag);
        out.put_i64(position.queue_offset);
        out.put_i64(position.physical_offset);
        out.put_i32(self.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6));
        out.put_i64(self.born_timestamp_ms);
        put_host(&mut out, self.born_host);
        out.put_i64(position.store_timestamp_ms);
        put_host(&mut out, self.store_host);
        out.put_i32(self.reconsume_times);
        out.put_i64(self.prepared_transaction_offset);
        out.put_u32(self.body.len() as u32);
        bytes
    }

    fn put_properties(&self, out: &mut Vec<u8>) {
        out.put_u16(self.properties_length() as u16);
        let (before, after) = self.own_properties();
        out.put_slice(before.as_bytes());
        out.put_slice(after.as_bytes());
        if lacks_separator(before, after) {
            out.put_u8(properties::PAIR_END as u8);
        }
    }

    fn properties_length(&self) -> usize {
        let (before, after) = self.own_properties();
        let separator = usize::from(lacks_separator(before, after));
        before.len() + after.len() + separator + CRC_SLOT_BYTES
    }

    /// The properties around a checksum that another broker or an earlier store left in them.
    fn own_properties(&self) -> (&str, &str) {
        // Nearly always there is none, and looking for one byte is cheaper than reading pairs.
        if !self.properties.as_bytes().contains(&b'#') {
            return (self.properties, "");
        }
        properties::around(self.properties, properties::key::CRC32).unwrap_or((self.properties, ""))
    }
}

fn lacks_separator(before: &str, after: &str) -> bool {
    let last = if after.is_empty() { before } else { after };
    !last.is_empty() && !last.ends_with(properties::PAIR_END)
}

/// The checksum property. Its digits stand in reverse, padded at the end.
fn crc_slot(mut checksum: u32) -> [u8; CRC_SLOT_BYTES] {
    let mut slot = [0; CRC_SLOT_BYTES];
    let mut out = &mut slot[..];
    out.put_slice(properties::key::CRC32.as_bytes());
    out.put_u8(properties::NAME_END as u8);
    for _ in 0..CRC_DIGITS {
        out.put_u8(b'0' + (checksum % 10) as u8);
        checksum /= 10;
    }
    out.put_u8(properties::PAIR_END as u8);
    slot
}

/// The address that a record keeps of a host: IPv4, or 0.0.0.0 for a host that has none.
pub fn stored_host(host: SocketAddr) -> SocketAddrV4 {
    let address = match host.ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => address.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED),
    };
    SocketAddrV4::new(address, host.port())
}

fn put_host(out: &mut &mut [u8], host: SocketAddr) {
    let host = stored_host(host);
    out.put_slice(&host.ip().octets());
    out.put_u32(u32::from(host.port()));
}

/// A stored message, borrowed from its bytes.
#[expect(missing_docs, reason = "the layout above says what each field is")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub size: usize,
    pub magic: i32,
    pub body_crc: u32,
    pub queue_id: i32,
    pub flag: i32,
    pub queue_offset: i64,
    pub physical_offset: i64,
    pub sys_flag: i32,
    pub born_timestamp_ms: i64,
    pub born_host: SocketAddr,
    pub store_timestamp_ms: i64,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    pub body: &'a [u8],
    pub topic: &'a str,
    pub properties: &'a str,
}

/// How much of a record is checked against its checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Nothing but the layout.
    None,
    /// The body.
    Body,
    /// All bytes, if the record has a checksum of them; else the body.
    Whole,
}

impl<'a> Record<'a> {
    /// Decodes the record at the start of `bytes`, and says how long it is.
    pub fn decode(bytes: &'a [u8], verify: Verify) -> Result<(Record<'a>, usize), RecordError> {
        let (size, magic) = start_of(bytes)?;
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(RecordError::Magic(magic));
        }
        if size < RECORD_BYTES_MIN {
            return Err(RecordError::Layout { size, what: "no record is that short" });
        }
        let available = bytes.len();
        let whole = bytes.get(..size).ok_or(RecordError::Truncated { size, available })?;
        let record = Cursor(whole.get(8..).unwrap_or_default()).record(size, magic)?;
        record.verify(whole, verify)?;
        Ok((record, size))
    }

    /// The message, to be stored once more.
    pub fn copy(&self) -> NewRecord<'a> {
        NewRecord {
            topic: self.topic,
            queue_id: self.queue_id,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_timestamp_ms: self.born_timestamp_ms,
            born_host: self.born_host,
            store_host: self.store_host,
            reconsume_times: self.reconsume_times,
            prepared_transaction_offset: self.prepared_transaction_offset,
            body: self.body,
            properties: self.properties,
        }
    }

    /// The id that says where the message is stored.
    pub fn offset_msg_id(&self) -> String {
        offset_msg_id(self.store_host, self.physical_offset)
    }

    /// Whether the record has a checksum of all its bytes, be it damaged. Ours have; those of
    /// RocketMQ have where it is configured so.
    pub fn has_checksum(&self) -> bool {
        checksum_in(self.properties).is_some()
    }

    fn verify(&self, whole: &[u8], verify: Verify) -> Result<(), RecordError> {
        if verify == Verify::None {
            return Ok(());
        }
        let checksum = checksum_in(self.properties).filter(|_| verify == Verify::Whole);
        let covered = whole.len().saturating_sub(CRC_SLOT_BYTES);
        match (checksum, whole.get(..covered)) {
            (Some(expected), Some(covered)) => check_crc("whole", expected, crc32(covered)),
            _ => check_crc("body", self.body_crc, crc32(self.body)),
        }
    }
}

/// The value at the end of a record's properties; `None` where no checksum is. What is nearly one
/// is a damaged one and has a value that no checksum has: a flipped bit must not take it away.
fn checksum_in(properties: &str) -> Option<u32> {
    let slot = properties.as_bytes().last_chunk::<CRC_SLOT_BYTES>()?;
    let (name, digits) = slot.split_at(CRC_SLOT_BYTES - CRC_DIGITS - 1);
    let (end, digits) = digits.split_last()?;
    let model = crc_slot(0);
    let differing = name.iter().zip(model).filter(|(byte, model)| *byte != model).count();
    match differing + usize::from(char::from(*end) != properties::PAIR_END) {
        0 => Some(checksum_value(digits).unwrap_or(NO_CHECKSUM)),
        1..=CRC_SLOT_STRANGE_MAX => Some(NO_CHECKSUM),
        _ => None,
    }
}

fn checksum_value(digits: &[u8]) -> Option<u32> {
    digits.iter().rev().try_fold(0_u32, |value, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

fn check_crc(what: &'static str, expected: u32, found: u32) -> Result<(), RecordError> {
    if expected == found {
        return Ok(());
    }
    Err(RecordError::Checksum { what, expected, found })
}

/// Size and magic of whatever starts here.
fn start_of(bytes: &[u8]) -> Result<(usize, i32), RecordError> {
    let Some((start, _)) = bytes.split_first_chunk::<8>() else {
        return Err(RecordError::Truncated { size: 8, available: bytes.len() });
    };
    let mut cursor = Cursor(start);
    let (size, magic) = (cursor.number(), cursor.number());
    let (Some(size), Some(magic)) = (size, magic) else {
        return Err(RecordError::Truncated { size: 8, available: bytes.len() });
    };
    Ok((u32::from_be_bytes(size) as usize, i32::from_be_bytes(magic)))
}

/// What stands at a place of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan<'a> {
    /// A record and its size.
    Record(Record<'a>, usize),
    /// The rest of the file is empty: so many bytes, the blank's own counted.
    Blank(usize),
    /// Nothing has been written here, as far as can be seen.
    End,
    /// Something that is no record.
    Bad(RecordError),
}

/// Looks at the start of `bytes`, which must be the whole rest of what could be there.
pub fn scan(bytes: &[u8], verify: Verify) -> Scan<'_> {
    if bytes.iter().take(8).all(|byte| *byte == 0) {
        return Scan::End;
    }
    match start_of(bytes) {
        Ok((size, MAGIC_BLANK)) if size >= BLANK_BYTES_MIN => Scan::Blank(size),
        Ok(_) => match Record::decode(bytes, verify) {
            Ok((record, size)) => Scan::Record(record, size),
            Err(error) => Scan::Bad(error),
        },
        Err(error) => Scan::Bad(error),
    }
}

/// The records of a pull answer, one behind the other. The first that is bad is the last.
pub fn records(body: &[u8]) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let decoded = Record::decode(rest, Verify::Body);
        let size = decoded.as_ref().map_or(rest.len(), |record| record.1);
        rest = rest.get(size..).unwrap_or_default();
        Some(decoded.map(|record| record.0))
    })
}

impl<'a> Cursor<'a> {
    /// The fields behind size and magic.
    fn record(mut self, size: usize, magic: i32) -> Result<Record<'a>, RecordError> {
        let fields = self.fields(size, magic);
        let (record, topic, properties) =
            fields.ok_or(RecordError::Layout { size, what: "its parts are longer" })?;
        if !self.0.is_empty() {
            return Err(RecordError::Layout { size, what: "its parts are shorter" });
        }
        let text =
            |bytes, what| std::str::from_utf8(bytes).map_err(|_| RecordError::NotUtf8 { what });
        Ok(Record {
            topic: text(topic, "topic")?,
            properties: text(properties, "properties")?,
            ..record
        })
    }

    fn fields(&mut self, size: usize, magic: i32) -> Option<(Record<'a>, &'a [u8], &'a [u8])> {
        let body_crc = self.number().map(u32::from_be_bytes)?;
        let [queue_id, flag] = [self.int()?, self.int()?];
        let [queue_offset, physical_offset] = [self.long()?, self.long()?];
        let sys_flag = self.int()?;
        let born_timestamp_ms = self.long()?;
        let born_host = self.host(sys_flag & sys_flag::BORN_HOST_V6 != 0)?;
        let store_timestamp_ms = self.long()?;
        let store_host = self.host(sys_flag & sys_flag::STORE_HOST_V6 != 0)?;
        let reconsume_times = self.int()?;
        let prepared_transaction_offset = self.long()?;
        let body_length = self.int()?;
        let body = self.take(body_length)?;
        let topic_length = if magic == MAGIC_V1 { self.byte()? } else { i32::from(self.short()?) };
        let topic = self.take(topic_length)?;
        let properties_length = self.short()?;
        let properties = self.take(i32::from(properties_length))?;
        let record = Record {
            size,
            magic,
            body_crc,
            queue_id,
            flag,
            queue_offset,
            physical_offset,
            sys_flag,
            born_timestamp_ms,
            born_host,
            store_timestamp_ms,
            store_host,
            reconsume_times,
            prepared_transaction_offset,
            body,
            topic: "",
            properties: "",
        };
        Some((record, topic, properties))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POSITION: Position =
        Position { physical_offset: 4096, queue_offset: 5, store_timestamp_ms: 1_700_000_000_123 };

    fn from_hex(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    fn message() -> NewRecord<'static> {
        NewRecord {
            topic: "TopicTest",
            queue_id: 3,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1_700_000_000_000,
            born_host: "192.168.0.2:50000".parse().unwrap(),
            store_host: "192.168.0.1:10911".parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"hello",
            properties: "TAGS\u{1}TagA\u{2}UNIQ_KEY\u{1}AC1100010000ABCD0000000000010000\u{2}WAIT\u{1}true\u{2}",
        }
    }

    fn encoded(record: &NewRecord<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes, POSITION);
        bytes
    }

    /// The record of the protocol's description, which has no checksum of the whole.
    fn vector() -> Vec<u8> {
        from_hex(
            "000000a7 daa320a7 3610a686 00000003 00000000 0000000000000005 0000000000001000
             00000000 0000018bcfe56800 c0a800020000c350 0000018bcfe5687b c0a8000100002a9f 00000000
             0000000000000000 00000005 68656c6c6f 09546f70696354657374 003e 54414753015461674102
             554e49515f4b4559014143313130303031303030304142434430303030303030303030303130303030
             02 574149540174727565 02",
        )
    }

    #[test]
    fn the_record_of_the_description_is_read() {
        let bytes = vector();
        let (record, size) = Record::decode(&bytes, Verify::Whole).unwrap();
        assert_eq!(size, 167);
        assert_eq!((record.topic, record.body), ("TopicTest", &b"hello"[..]));
        assert_eq!((record.queue_id, record.queue_offset, record.physical_offset), (3, 5, 4096));
        assert_eq!(record.store_host, "192.168.0.1:10911".parse().unwrap());
        assert_eq!(properties::find(record.properties, "TAGS"), Some("TagA"));
        assert_eq!(record.offset_msg_id(), "C0A8000100002A9F0000000000001000");
    }

    #[test]
    fn ours_is_the_same_record_and_a_checksum() {
        let ours = encoded(&message());
        let theirs = vector();
        assert_eq!(ours.len(), theirs.len() + CRC_SLOT_BYTES);
        let properties = 167 - 62 - 2;
        assert_eq!(ours[4..properties], theirs[4..properties]);
        assert_eq!(ours[properties + 2..167], theirs[properties + 2..]);
        assert!(ours[167..].starts_with(b"__CRC32#\x01"));
    }

    #[test]
    fn the_digits_of_the_checksum_are_reversed() {
        assert_eq!(&crc_slot(0x7FFF_FFFF), b"__CRC32#\x017463847412\x02");
        assert_eq!(&crc_slot(120), b"__CRC32#\x010210000000\x02");
        assert_eq!(&crc_slot(0), b"__CRC32#\x010000000000\x02");
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = encoded(&message());
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            let seen = Record::decode(&damaged, Verify::Whole);
            assert!(seen.is_err(), "bit {at}: {seen:?}");
        }
    }

    #[test]
    fn a_checksum_left_in_the_properties_is_replaced() {
        let plain = encoded(&message());
        let (record, _) = Record::decode(&plain, Verify::None).unwrap();
        let again = NewRecord { properties: record.properties, ..message() };
        assert_eq!(encoded(&again), plain);
        let middle = "a\u{1}1\u{2}__CRC32#\u{1}1\u{2}b\u{1}#";
        let record = NewRecord { properties: middle, ..message() };
        let bytes = encoded(&record);
        let (record, _) = Record::decode(&bytes, Verify::Whole).unwrap();
        assert!(record.properties.starts_with("a\u{1}1\u{2}b\u{1}#\u{2}__CRC32#"));
    }

    #[test]
    fn hosts_without_an_ipv4_address_are_stored_as_none() {
        let record = NewRecord {
            born_host: "[::ffff:10.1.2.3]:7".parse().unwrap(),
            store_host: "[2001:db8::1]:8".parse().unwrap(),
            sys_flag: sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6 | 1,
            ..message()
        };
        let bytes = encoded(&record);
        let (record, _) = Record::decode(&bytes, Verify::Whole).unwrap();
        assert_eq!(record.born_host, "10.1.2.3:7".parse().unwrap());
        assert_eq!(record.store_host, "0.0.0.0:8".parse().unwrap());
        assert_eq!(record.sys_flag, 1);
    }

    #[test]
    fn records_of_rocketmq_5_with_long_topics_and_ipv6_are_read() {
        let mut bytes = vector();
        bytes.splice(64..68, [0x20, 1, 0xD, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes[39] = 32;
        bytes[7] = 0xAB;
        bytes.insert(88 + 12 + 5, 0);
        let size = bytes.len() as u32;
        bytes[..4].copy_from_slice(&size.to_be_bytes());
        let (record, _) = Record::decode(&bytes, Verify::Body).unwrap();
        assert_eq!(record.topic, "TopicTest");
        assert_eq!(record.store_host, "[2001:db8::1]:10911".parse().unwrap());
        let id = record.offset_msg_id();
        assert_eq!(parse_offset_msg_id(&id), Some((record.store_host, 4096)));
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let long = "x".repeat(40_000);
        let check = |record: NewRecord<'_>| record.check().unwrap_err();
        assert_eq!(check(NewRecord { topic: "", ..message() }), RecordError::TopicLength(0));
        assert_eq!(
            check(NewRecord { topic: &long[..128], ..message() }),
            RecordError::TopicLength(128)
        );
        let longest = format!("a\u{1}{}\u{2}", &long[..PROPERTIES_BYTES_MAX - CRC_SLOT_BYTES - 3]);
        assert_eq!(NewRecord { properties: &longest, ..message() }.check(), Ok(()));
        let longer = format!("b{longest}");
        let error = check(NewRecord { properties: &longer, ..message() });
        assert_eq!(error, RecordError::PropertiesLength(32_768));
    }

    #[test]
    fn a_log_is_walked() {
        let record = encoded(&message());
        assert!(
            matches!(scan(&record, Verify::Whole), Scan::Record(_, size) if size == record.len())
        );
        assert_eq!(scan(&[0; 100], Verify::Whole), Scan::End);
        assert_eq!(scan(&[], Verify::Whole), Scan::End);
        let blank = from_hex("00000064 cbd43194 ffff");
        assert_eq!(scan(&blank, Verify::Whole), Scan::Blank(100));
        assert!(matches!(scan(&blank[..6], Verify::Whole), Scan::Bad(_)));
        let torn = RecordError::Truncated { size: record.len(), available: 90 };
        assert_eq!(scan(&record[..90], Verify::Whole), Scan::Bad(torn));
        assert!(matches!(scan(b"garbage!", Verify::None), Scan::Bad(RecordError::Magic(_))));
    }

    #[test]
    fn a_pull_answer_is_read_up_to_damage() {
        let mut body = [vector(), encoded(&message())].concat();
        assert_eq!(records(&body).filter(Result::is_ok).count(), 2);
        body.extend_from_slice(&[0; 9]);
        let read: Vec<_> = records(&body).collect();
        assert_eq!(read.len(), 3);
        assert!(read[2].is_err());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            topic in "[a-zA-Z0-9_%-]{1,127}",
            numbers in (any::<i32>(), any::<i32>(), any::<i64>(), any::<i32>(), any::<i64>()),
            hosts in (any::<std::net::SocketAddrV4>(), any::<std::net::SocketAddrV4>()),
            body in prop::collection::vec(any::<u8>(), 0..300),
            properties in "([a-c#]{1,3}\u{1}\\PC{1,9}\u{2}){0,5}",
        ) {
            let (queue_id, flag, born_timestamp_ms, reconsume_times, prepared) = numbers;
            let new = NewRecord {
                topic: &topic, queue_id, flag, born_timestamp_ms, reconsume_times,
                prepared_transaction_offset: prepared,
                born_host: hosts.0.into(), store_host: hosts.1.into(),
                body: &body, properties: &properties, sys_flag: 9,
            };
            let bytes = encoded(&new);
            prop_assert_eq!(bytes.len(), new.size());
            let (record, size) = Record::decode(&bytes, Verify::Whole).unwrap();
            prop_assert_eq!(size, bytes.len());
            let own = &record.properties[..record.properties.len() - CRC_SLOT_BYTES];
            let back = NewRecord {
                topic: record.topic, queue_id: record.queue_id, flag: record.flag,
                born_timestamp_ms: record.born_timestamp_ms,
                reconsume_times: record.reconsume_times,
                prepared_transaction_offset: record.prepared_transaction_offset,
                born_host: record.born_host, store_host: record.store_host,
                body: record.body, properties: own, sys_flag: record.sys_flag,
            };
            prop_assert_eq!(back, new);
        }

        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..167_usize) {
            let _ = scan(&bytes, Verify::Whole);
            let _ = records(&bytes).count();
            let mut damaged = vector();
            damaged[at] = bytes.first().copied().unwrap_or(0xFF);
            damaged.extend_from_slice(&bytes);
            let _ = scan(&damaged, Verify::None);
        }
    }
}
