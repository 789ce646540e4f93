//! The JSON form of a command's header: one pass over the bytes, straight into flat fields.
//!
//! Lenient where RocketMQ's clients differ: numbers and booleans as ext values become text, `null`
//! is absence, unknown keys are skipped. Bodies are not read here; they go through serde.

use bytes::{BufMut, BytesMut};

use super::code::Language;
use super::command::{CodecError, Command, Head, Limits};
use super::fields::{Decimal, Fields, FieldsBuilder};

/// How deep a value that nobody reads may nest.
const DEPTH_MAX: usize = 32;

type Result<T> = std::result::Result<T, CodecError>;

pub(super) fn decode(header: &[u8], limits: &Limits) -> Result<Head> {
    let mut scanner = Scanner { rest: header };
    let mut head = Head::default();
    scanner.expect(b'{')?;
    if !scanner.eat(b'}') {
        loop {
            scanner.member(&mut head, limits)?;
            if !scanner.more(b'}')? {
                break;
            }
        }
    }
    scanner.skip_blanks();
    if scanner.rest.is_empty() { Ok(head) } else { Err(bad("text behind the JSON header")) }
}

fn bad(what: &'static str) -> CodecError {
    CodecError::BadHeader(what)
}

struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    fn member(&mut self, head: &mut Head, limits: &Limits) -> Result<()> {
        let key = self.raw_string()?;
        self.expect(b':')?;
        match key {
            b"code" => head.code = self.number()?,
            b"flag" => head.flag = self.number()?,
            b"opaque" => head.opaque = self.number()?,
            b"version" => head.version = self.number()?,
            b"language" => head.language = self.language()?,
            b"remark" => head.remark = self.remark()?,
            b"extFields" => head.fields = self.ext_fields(limits)?,
            _ => self.skip_value()?,
        }
        Ok(())
    }

    fn ext_fields(&mut self, limits: &Limits) -> Result<Fields> {
        if !self.eat(b'{') {
            self.skip_value()?;
            return Ok(Fields::default());
        }
        let mut fields = FieldsBuilder::new(self.rest.len() + 64, limits.fields);
        if !self.eat(b'}') {
            loop {
                self.ext_field(&mut fields)?;
                if !self.more(b'}')? {
                    break;
                }
            }
        }
        fields.finish()
    }

    fn ext_field(&mut self, fields: &mut FieldsBuilder) -> Result<()> {
        fields.start_key()?;
        self.string(&mut fields.bytes)?;
        self.expect(b':')?;
        fields.start_value();
        match self.peek() {
            Some(b'"') => self.string(&mut fields.bytes)?,
            Some(b'{' | b'[') => {
                self.skip_value()?;
                fields.drop_field();
                return Ok(());
            }
            _ => match self.token()? {
                b"null" => {
                    fields.drop_field();
                    return Ok(());
                }
                token => fields.bytes.extend_from_slice(token),
            },
        }
        fields.end_field()
    }

    fn number(&mut self) -> Result<i32> {
        let text = if self.peek() == Some(b'"') { self.raw_string()? } else { self.token()? };
        if text == b"null" {
            return Ok(0);
        }
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        number.ok_or(bad("a number of the header is not a 32-bit integer"))
    }

    fn language(&mut self) -> Result<Language> {
        if self.peek() != Some(b'"') {
            self.skip_value()?;
            return Ok(Language::Other);
        }
        let name = std::str::from_utf8(self.raw_string()?);
        Ok(name.map_or(Language::Other, Language::from_name))
    }

    fn remark(&mut self) -> Result<Option<Box<str>>> {
        if self.peek() != Some(b'"') {
            self.skip_value()?;
            return Ok(None);
        }
        let mut text = Vec::new();
        self.string(&mut text)?;
        let text = String::from_utf8(text).map_err(|_| CodecError::NotUtf8)?;
        Ok(Some(text.into_boxed_str()))
    }

    /// Skips one value of any kind; counts brackets instead of descending.
    fn skip_value(&mut self) -> Result<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek().ok_or(bad("the JSON header ends early"))? {
                b'"' => drop(self.raw_string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.advance(1);
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1).ok_or(bad("a closing bracket too many"))?;
                    self.advance(1);
                }
                b',' | b':' if depth > 0 => self.advance(1),
                _ => drop(self.token()?),
            }
            if depth > DEPTH_MAX {
                return Err(bad("the JSON header nests too deep"));
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// A number, `true`, `false` or `null`.
    fn token(&mut self) -> Result<&'a [u8]> {
        self.skip_blanks();
        let word = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.');
        let length = self.rest.iter().position(|byte| !word(byte)).unwrap_or(self.rest.len());
        if length == 0 {
            return Err(bad("a value of the JSON header is missing"));
        }
        Ok(self.take(length))
    }

    /// The bytes between two quotes, escapes untouched.
    fn raw_string(&mut self) -> Result<&'a [u8]> {
        self.expect(b'"')?;
        let mut length = 0;
        loop {
            match self.rest.get(length) {
                None => return Err(bad("a string of the JSON header does not end")),
                Some(b'"') => break,
                Some(b'\\') => length += 2,
                Some(_) => length += 1,
            }
        }
        let text = self.take(length);
        self.advance(1);
        Ok(text)
    }

    /// A string with its escapes resolved, appended to `out`.
    fn string(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.expect(b'"')?;
        loop {
            let run = plain_run(self.rest, 0);
            if run == self.rest.len() {
                return Err(bad("a string of the JSON header does not end"));
            }
            out.extend_from_slice(self.take(run));
            let quote = self.rest.first() == Some(&b'"');
            self.advance(1);
            if quote {
                return Ok(());
            }
            self.escape(out)?;
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let byte = match self.take(1) {
            b"u" => return self.unicode_escape(out),
            b"n" => b'\n',
            b"t" => b'\t',
            b"r" => b'\r',
            b"b" => 0x08,
            b"f" => 0x0C,
            b"v" => 0x0B,
            [byte @ (b'"' | b'\\' | b'/' | b'\'')] => *byte,
            _ => return Err(bad("an escape that JSON does not know")),
        };
        out.push(byte);
        Ok(())
    }

    /// Four digits behind `\u`; two such escapes when the first is half of a pair. A half alone,
    /// which Java can send, becomes the replacement character.
    fn unicode_escape(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let unit = self.hex4()?;
        let mut character = char::from_u32(unit);
        if (0xD800..0xDC00).contains(&unit)
            && let Some(after) = self.rest.strip_prefix(b"\\u")
        {
            let mut ahead = Scanner { rest: after };
            let low = ahead.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                self.rest = ahead.rest;
                character = char::from_u32(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00));
            }
        }
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32> {
        let digits = self.take(4);
        if digits.len() != 4 {
            return Err(bad("an escape of the JSON header ends early"));
        }
        digits.iter().try_fold(0, |unit, digit| {
            let digit = char::from(*digit).to_digit(16).ok_or(bad("a bad digit in an escape"))?;
            Ok(unit << 4 | digit)
        })
    }

    /// Whether another member follows; eats the comma or the closing bracket.
    fn more(&mut self, close: u8) -> Result<bool> {
        if self.eat(b',') {
            return Ok(true);
        }
        self.expect(close).map(|()| false)
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(bad("the header is not the JSON of a command")) }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.advance(1);
        }
        found
    }

    /// The next byte that is not blank.
    fn peek(&mut self) -> Option<u8> {
        self.skip_blanks();
        self.rest.first().copied()
    }

    fn skip_blanks(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// The next bytes, fewer at the end.
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn advance(&mut self, length: usize) {
        self.take(length);
    }
}

/// Writes a header in the order and the compactness of fastjson, which all clients read.
pub(super) fn encode(command: &Command, out: &mut BytesMut) {
    put_integer(out, b"{\"code\":", command.code);
    if !command.fields.is_empty() {
        put_fields(out, &command.fields);
    }
    put_integer(out, b",\"flag\":", command.flag);
    out.extend_from_slice(b",\"language\":\"");
    out.extend_from_slice(command.language.name().as_bytes());
    put_integer(out, b"\",\"opaque\":", command.opaque);
    if let Some(remark) = &command.remark {
        out.extend_from_slice(b",\"remark\":");
        put_string(out, remark);
    }
    put_integer(out, b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":", command.version);
    out.put_u8(b'}');
}

fn put_fields(out: &mut BytesMut, fields: &Fields) {
    out.extend_from_slice(b",\"extFields\":");
    let mut before = b'{';
    for (key, value) in fields.iter() {
        out.put_u8(before);
        put_string(out, key);
        out.put_u8(b':');
        put_string(out, value);
        before = b',';
    }
    out.put_u8(b'}');
}

fn put_integer(out: &mut BytesMut, before: &[u8], number: i32) {
    out.extend_from_slice(before);
    out.extend_from_slice(Decimal::of(i64::from(number)).as_bytes());
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    loop {
        let run = plain_run(rest, FIRST_PRINTABLE);
        let (plain, tail) = rest.split_at(run);
        out.extend_from_slice(plain);
        let Some((byte, after)) = tail.split_first() else { break };
        put_escape(out, *byte);
        rest = after;
    }
    out.put_u8(b'"');
}

/// Bytes below it are controls, which a JSON string cannot hold as they are.
const FIRST_PRINTABLE: u8 = 0x20;

/// How many bytes there are before a quote, a backslash or a byte below `least`; all when there is
/// none. Looks at eight bytes at a time: headers are mostly plain text, and each byte is looked at
/// by every broker and client on its way.
fn plain_run(text: &[u8], least: u8) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // The lowest bit set marks the first byte below a limit of at most 128; bits above it may be
    // wrong.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH;
    let special = |byte: &u8| *byte < least || matches!(byte, b'"' | b'\\');
    let (words, _) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = quote | backslash | below(word, least);
        if found != 0 {
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let done = words.len() * 8;
    let rest = text.get(done..).unwrap_or_default();
    done + rest.iter().position(special).unwrap_or(rest.len())
}

fn put_escape(out: &mut BytesMut, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\t' => out.extend_from_slice(b"\\t"),
        b'\r' => out.extend_from_slice(b"\\r"),
        _ => {
            let digit = |half: u8| if half < 10 { b'0' + half } else { b'a' + half - 10 };
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xF)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_run_ends_where_looking_at_each_byte_ends_it(
            text in prop::collection::vec(prop_oneof![Just(b'"'), Just(b'\\'), any::<u8>(), b'a'..=b'z'], 0..64),
            controls in any::<bool>(),
        ) {
            let least = if controls { FIRST_PRINTABLE } else { 0 };
            let special = |byte: &u8| *byte < least || matches!(byte, b'"' | b'\\');
            let expected = text.iter().position(special).unwrap_or(text.len());
            prop_assert_eq!(plain_run(&text, least), expected);
        }
    }
}
