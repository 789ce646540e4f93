//! A batch, the body of request 320: messages of one topic, one behind the other.
//!
//! ```text
//! size 4 | magic 4 | CRC 4 | flag 4 | body: 4 + n | properties: 2 + n
//! ```
//!
//! Each becomes a record of its own; what they share stands in the request's header.

use bytes::{BufMut, BytesMut};

use super::cursor::Cursor;
use super::record::{PROPERTIES_BYTES_MAX, RecordError};

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_hex(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    #[test]
    fn a_batch_item_is_the_one_described() {
        let bytes = from_hex(
            "00000025 00000000 00000000 00000000 00000005 68656c6c6f 000a 54414753015461674102",
        );
        let item = BatchItem { flag: 0, body: b"hello", properties: "TAGS\u{1}TagA\u{2}" };
        assert_eq!(batch_items(&bytes), Ok(vec![item]));
        let mut out = BytesMut::new();
        encode_batch_item(&mut out, &item);
        assert_eq!(out, bytes);
    }

    #[test]
    fn odd_batches_are_refused() {
        let item = from_hex("00000016 0000000000000000 00000000 00000000 0000");
        assert!(batch_items(&item).is_ok());
        for (at, byte) in [(3, 0), (0, 0xFF), (3, 0x15), (3, 0x17), (19, 1), (16, 0x80), (21, 9)] {
            let mut odd = item.clone();
            odd[at] = byte;
            assert!(batch_items(&odd).is_err(), "{at} {byte}");
        }
        assert!(batch_items(&[]).is_err());
    }

    proptest! {
        #[test]
        fn batches_come_back(items in prop::collection::vec(
            (any::<i32>(), prop::collection::vec(any::<u8>(), 0..50), "\\PC{0,20}"), 1..9)) {
            let items: Vec<_> = items.iter()
                .map(|(flag, body, properties)| BatchItem { flag: *flag, body, properties })
                .collect();
            let mut out = BytesMut::new();
            items.iter().for_each(|item| encode_batch_item(&mut out, item));
            prop_assert_eq!(batch_items(&out), Ok(items));
        }

        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = batch_items(&bytes);
        }
    }
}
