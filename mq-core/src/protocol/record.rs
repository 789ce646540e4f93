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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use bytes::{BufMut, BytesMut};

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

    /// The id that says where the message is stored.
    pub fn offset_msg_id(&self) -> String {
        offset_msg_id(self.store_host, self.physical_offset)
    }

    fn verify(&self, whole: &[u8], verify: Verify) -> Result<(), RecordError> {
        match (verify, self.whole_crc(whole)) {
            (Verify::None, _) => Ok(()),
            (Verify::Whole, Some((covered, expected))) => {
                check_crc("whole", expected, crc32(covered))
            }
            _ => check_crc("body", self.body_crc, crc32(self.body)),
        }
    }

    /// The bytes that the checksum property covers, and its value.
    fn whole_crc<'b>(&self, whole: &'b [u8]) -> Option<(&'b [u8], u32)> {
        let (covered, slot) = whole.split_last_chunk::<CRC_SLOT_BYTES>()?;
        if self.properties.len() < CRC_SLOT_BYTES {
            return None;
        }
        let digits = slot.strip_prefix(properties::key::CRC32.as_bytes())?;
        let digits = digits.strip_prefix(&[properties::NAME_END as u8])?;
        let digits = digits.strip_suffix(&[properties::PAIR_END as u8])?;
        let value = digits.iter().rev().try_fold(0_u32, |value, digit| {
            let digit = char::from(*digit).to_digit(10)?;
            value.checked_mul(10)?.checked_add(digit)
        });
        // A slot that cannot be read is damage, and no checksum has the sign bit.
        Some((covered, value.unwrap_or(u32::MAX)))
    }
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

/// Reads fields from the front; `None` when the bytes end early.
struct Cursor<'a>(&'a [u8]);

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

    #[inline]
    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*number)
    }

    fn byte(&mut self) -> Option<i32> {
        self.number().map(|[byte]| i32::from(byte))
    }

    fn short(&mut self) -> Option<i16> {
        self.number().map(i16::from_be_bytes)
    }

    fn int(&mut self) -> Option<i32> {
        self.number().map(i32::from_be_bytes)
    }

    fn long(&mut self) -> Option<i64> {
        self.number().map(i64::from_be_bytes)
    }

    /// So many bytes; `None` for a length below zero too.
    fn take(&mut self, length: i32) -> Option<&'a [u8]> {
        self.0.split_off(..usize::try_from(length).ok()?)
    }

    fn host(&mut self, v6: bool) -> Option<SocketAddr> {
        let address: IpAddr = if v6 {
            Ipv6Addr::from(self.number::<16>()?).into()
        } else {
            Ipv4Addr::from(self.number::<4>()?).into()
        };
        // Java keeps a port in four bytes; a number that is none can only be damage.
        Some(SocketAddr::new(address, u16::try_from(self.int()?).ok()?))
    }
}

/// One message of a batch, the body of request 320.
#[expect(missing_docs, reason = "the layout above says what each field is")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchItem<'a> {
    pub flag: i32,
    pub body: &'a [u8],
    pub properties: &'a str,
}

/// Takes a batch apart. Sizes and checksums of items are RocketMQ's to fill and not to check; we
/// check the sizes.
pub fn batch_items(body: &[u8]) -> Result<Vec<BatchItem<'_>>, RecordError> {
    let mut cursor = Cursor(body);
    let mut items = Vec::new();
    while !cursor.0.is_empty() {
        let size = cursor.int().ok_or(RecordError::Batch("an item has no size"))?;
        let item = cursor.take(size.saturating_sub(4));
        let mut item = Cursor(item.ok_or(RecordError::Batch("the size of an item is wrong"))?);
        let parts = item.batch_parts().filter(|_| item.0.is_empty());
        let (flag, body, properties) =
            parts.ok_or(RecordError::Batch("an item is not as long as its parts"))?;
        let properties = std::str::from_utf8(properties)
            .map_err(|_| RecordError::NotUtf8 { what: "properties" })?;
        items.push(BatchItem { flag, body, properties });
    }
    if items.is_empty() { Err(RecordError::Batch("it has no items")) } else { Ok(items) }
}

impl<'a> Cursor<'a> {
    fn batch_parts(&mut self) -> Option<(i32, &'a [u8], &'a [u8])> {
        // Magic and checksum are zero.
        self.take(8)?;
        let flag = self.int()?;
        let body_length = self.int()?;
        let body = self.take(body_length)?;
        let properties_length = self.short()?;
        Some((flag, body, self.take(i32::from(properties_length))?))
    }
}

/// Appends one message to a batch. The properties must fit 32,767 bytes.
pub fn encode_batch_item(out: &mut BytesMut, item: &BatchItem<'_>) {
    debug_assert!(item.properties.len() <= PROPERTIES_BYTES_MAX);
    let size = 22 + item.body.len() + item.properties.len();
    out.reserve(size);
    out.put_u32(size as u32);
    out.put_u64(0);
    out.put_i32(item.flag);
    out.put_u32(item.body.len() as u32);
    out.put_slice(item.body);
    out.put_u16(item.properties.len() as u16);
    out.put_slice(item.properties.as_bytes());
}

/// The id that says where a message is stored: host, port and offset in hexadecimal.
pub fn offset_msg_id(host: SocketAddr, physical_offset: i64) -> String {
    let mut bytes = [0; 28];
    let address = match host.ip().to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let address = address.to_be_bytes();
    let length = if host.ip().to_canonical().is_ipv4() { 4 } else { 16 };
    let mut out = &mut bytes[..];
    out.put_slice(address.get(..length).unwrap_or_default());
    out.put_u32(u32::from(host.port()));
    out.put_i64(physical_offset);
    hexadecimal(bytes.get(..length + 12).unwrap_or_default())
}

/// Host and offset of an id made by [`offset_msg_id`]; `None` for any other text. A unique key
/// looks the same and gives a place where nothing is.
pub fn parse_offset_msg_id(id: &str) -> Option<(SocketAddr, i64)> {
    let bytes = from_hexadecimal(id)?;
    let mut cursor = Cursor(&bytes);
    let address: IpAddr = match bytes.len() {
        16 => Ipv4Addr::from(cursor.number::<4>()?).into(),
        28 => Ipv6Addr::from(cursor.number::<16>()?).into(),
        _ => return None,
    };
    let port = u16::try_from(cursor.int()?).ok()?;
    Some((SocketAddr::new(address, port), cursor.long()?))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(if half < 10 { b'0' + half } else { b'A' + half - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xF)]).collect()
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || text.len() > 56 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| Some((digit(*pair.first()?)? << 4 | digit(*pair.last()?)?) as u8)).collect()
}
