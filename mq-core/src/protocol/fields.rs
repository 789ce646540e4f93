//! The ext fields of a header: text pairs, kept flat.
//!
//! One `String` holds all pairs, each `prefix key value`. The prefix is eight bytes of seven bits,
//! so the whole stays valid UTF-8 and a pair is a slice of it: one allocation per header, no map,
//! no second check of the encoding. Readers scan; a header has about a dozen fields. What a field
//! means is not known here.

use std::fmt;

use super::command::CodecError;

const PREFIX: usize = 8;
const VALUE_BITS: u32 = 35;
/// Holds an ordinary header, so that adding fields one by one does not move them.
const ROOM_AT_FIRST: usize = 384;
/// The binary header gives a key's length in a signed 16-bit number.
const KEY_BYTES_MAX: usize = i16::MAX as usize;

/// The ext fields of a command.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields(String);

impl Fields {
    /// The value of a key. Of a key that stands twice the last counts.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().filter(|field| field.0 == key).last().map(|field| field.1)
    }

    /// Adds a field. A key longer than any header can carry (32,767 bytes) is left out.
    pub fn push(&mut self, key: &str, value: &str) {
        if key.len() > KEY_BYTES_MAX {
            return;
        }
        let room = if self.0.is_empty() { ROOM_AT_FIRST } else { 0 };
        self.0.reserve(room.max(PREFIX + key.len() + value.len()));
        let prefix = prefix(key.len(), value.len());
        // Seven bits a byte are always text.
        self.0.push_str(std::str::from_utf8(&prefix).unwrap_or_default());
        self.0.push_str(key);
        self.0.push_str(value);
    }

    /// Adds a number as decimal text.
    pub fn push_number(&mut self, key: &str, value: i64) {
        self.push(key, Decimal::of(value).as_str());
    }

    /// All fields, in the order they were added.
    pub fn iter(&self) -> Iter<'_> {
        Iter(&self.0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes held, which is a little more than keys and values together.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let mut fields = Self::default();
        for (key, value) in pairs {
            fields.push(key, value);
        }
        fields
    }
}

/// The fields in the order they were added.
#[derive(Clone, Debug)]
pub struct Iter<'a>(&'a str);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let prefix = self.0.as_bytes().first_chunk::<PREFIX>()?;
        let lengths = prefix.iter().fold(0_u64, |bits, byte| bits << 7 | u64::from(*byte));
        let key_length = (lengths >> VALUE_BITS) as usize;
        let value_length = (lengths & ((1 << VALUE_BITS) - 1)) as usize;
        let (key, rest) = self.0.get(PREFIX..)?.split_at_checked(key_length)?;
        let (value, rest) = rest.split_at_checked(value_length)?;
        self.0 = rest;
        Some((key, value))
    }
}

#[inline]
fn prefix(key_length: usize, value_length: usize) -> [u8; PREFIX] {
    let lengths = (key_length as u64) << VALUE_BITS | value_length as u64;
    std::array::from_fn(|i| (lengths >> (7 * (PREFIX - 1 - i)) & 0x7F) as u8)
}

/// Fields while a decoder is writing them, key and value in pieces.
#[derive(Debug)]
pub(super) struct FieldsBuilder {
    pub(super) bytes: Vec<u8>,
    field_start: usize,
    key_end: usize,
    left: usize,
}

impl FieldsBuilder {
    pub(super) fn new(capacity: usize, fields_max: usize) -> Self {
        let bytes = Vec::with_capacity(capacity);
        Self { bytes, field_start: 0, key_end: 0, left: fields_max }
    }

    /// Begins a field; what is appended to `bytes` from here is its key.
    pub(super) fn start_key(&mut self) -> Result<(), CodecError> {
        self.left = self.left.checked_sub(1).ok_or(CodecError::TooManyFields)?;
        self.field_start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; PREFIX]);
        Ok(())
    }

    /// Ends the key; what is appended from here is the value.
    pub(super) fn start_value(&mut self) {
        self.key_end = self.bytes.len();
    }

    pub(super) fn end_field(&mut self) -> Result<(), CodecError> {
        let key_length = self.key_end - self.field_start - PREFIX;
        if key_length > KEY_BYTES_MAX {
            return Err(CodecError::BadHeader("the key of a field is too long"));
        }
        // The text is checked as a whole, so a character must not reach from key into value.
        if self.bytes.get(self.key_end).is_some_and(|byte| matches!(byte, 0x80..=0xBF)) {
            return Err(CodecError::NotUtf8);
        }
        let prefix = prefix(key_length, self.bytes.len() - self.key_end);
        if let Some(slot) = self.bytes.get_mut(self.field_start..self.field_start + PREFIX) {
            slot.copy_from_slice(&prefix);
        }
        Ok(())
    }

    /// Forgets the field that was begun.
    pub(super) fn drop_field(&mut self) {
        self.bytes.truncate(self.field_start);
    }

    pub(super) fn finish(self) -> Result<Fields, CodecError> {
        String::from_utf8(self.bytes).map(Fields).map_err(|_| CodecError::NotUtf8)
    }
}

/// Decimal text of a number, on the stack.
#[derive(Debug)]
pub(super) struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    #[inline]
    pub(super) fn of(number: i64) -> Self {
        let mut text = Self { digits: [b'0'; 20], start: 20 };
        let mut rest = number.unsigned_abs();
        loop {
            text.put(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            text.put(b'-');
        }
        text
    }

    #[inline]
    fn put(&mut self, byte: u8) {
        self.start = self.start.saturating_sub(1);
        if let Some(slot) = self.digits.get_mut(self.start) {
            *slot = byte;
        }
    }

    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }

    #[inline]
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_repeated_key_has_its_last_value() {
        let fields: Fields = [("a", "1"), ("b", ""), ("a", "2")].into_iter().collect();
        assert_eq!(fields.get("a"), Some("2"));
        assert_eq!(fields.get("b"), Some(""));
        assert_eq!(fields.get("c"), None);
    }

    #[test]
    fn decimals_reach_from_end_to_end() {
        for number in [0, 7, -1, 10, i64::MAX, i64::MIN] {
            assert_eq!(Decimal::of(number).as_str(), number.to_string());
        }
    }

    #[test]
    fn a_key_no_header_can_carry_is_left_out() {
        let mut fields = Fields::default();
        fields.push(&"k".repeat(40_000), "v");
        assert!(fields.is_empty());
    }

    proptest! {
        #[test]
        fn pushed_fields_come_back(pairs in prop::collection::vec(("\\PC{0,20}", "\\PC{0,200}"), 0..20)) {
            let fields: Fields = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let back: Vec<_> = fields.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(back, pairs);
        }
    }
}
