//! Makes JSON of what fastjson writes: keys without quotes, whole objects as keys, single quotes,
//! trailing commas, `null` members. Strict JSON needs none of this and does not come here.
//!
//! An object that stands as a key becomes a text key that holds the object's JSON, and
//! [`ObjectKeys`] writes such keys back as objects, as Java wants to read them.

use std::io;

use serde_json::ser::{CharEscape, Formatter};

use super::fields::Decimal;

const DEPTH_MAX: usize = 64;

/// Strict JSON with the same content; `None` when the text is not even lenient JSON.
pub(super) fn normalise(text: &[u8]) -> Option<Vec<u8>> {
    let out = Vec::with_capacity(text.len() + 64);
    let mut reader = Reader { rest: text, out, in_key: false };
    reader.value(0)?;
    reader.skip_blanks();
    reader.rest.is_empty().then_some(reader.out)
}

struct Reader<'a> {
    rest: &'a [u8],
    out: Vec<u8>,
    in_key: bool,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' | b'\'' => self.string(),
            _ => self.word(false),
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.open();
        let mut first = true;
        while !self.close(b'}')? {
            let start = self.out.len();
            if !first {
                self.out.push(b',');
            }
            self.key(depth)?;
            self.expect(b':')?;
            self.out.push(b':');
            let value = self.out.len();
            self.value(depth + 1)?;
            if self.out.get(value..) == Some(b"null") {
                self.out.truncate(start);
            } else {
                first = false;
            }
            self.eat(b',');
        }
        Some(())
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.open();
        let mut first = true;
        while !self.close(b']')? {
            if !first {
                self.out.push(b',');
            }
            self.value(depth + 1)?;
            first = false;
            self.eat(b',');
        }
        Some(())
    }

    fn key(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' | b'\'' => self.string(),
            b'{' => self.object_key(depth),
            _ => self.word(true),
        }
    }

    /// A key's own keys are texts: each level of escapes doubles the level below it.
    fn object_key(&mut self, depth: usize) -> Option<()> {
        if self.in_key {
            return None;
        }
        let mut inner = Reader { rest: self.rest, out: Vec::new(), in_key: true };
        inner.value(depth + 1)?;
        self.rest = inner.rest;
        let key = String::from_utf8(inner.out).ok()?;
        serde_json::to_writer(&mut self.out, &key).ok()
    }

    /// A number or a name; a key's is put in quotes.
    fn word(&mut self, key: bool) -> Option<()> {
        self.skip_blanks();
        let word = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._$".contains(byte);
        let length = self.rest.iter().position(|byte| !word(byte)).unwrap_or(self.rest.len());
        let text = self.rest.split_off(..length).filter(|text| !text.is_empty())?;
        if key {
            self.out.push(b'"');
        }
        self.out.extend_from_slice(text);
        if key {
            self.out.push(b'"');
        }
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        let quote = *self.rest.split_off_first()?;
        self.out.push(b'"');
        loop {
            match *self.rest.split_off_first()? {
                byte if byte == quote => break,
                b'\\' => self.escape()?,
                b'"' => self.out.extend_from_slice(b"\\\""),
                byte @ 0..0x20 => self.put_code(byte),
                byte => self.out.push(byte),
            }
        }
        self.out.push(b'"');
        Some(())
    }

    fn escape(&mut self) -> Option<()> {
        match *self.rest.split_off_first()? {
            b'\'' => self.out.push(b'\''),
            b'v' => self.put_code(0x0B),
            digit @ b'0'..=b'7' => self.put_code(digit - b'0'),
            b'x' => {
                self.out.extend_from_slice(b"\\u00");
                let digits = self.rest.split_off(..2)?;
                self.out.extend_from_slice(digits);
            }
            byte => self.out.extend_from_slice(&[b'\\', byte]),
        }
        Some(())
    }

    fn put_code(&mut self, byte: u8) {
        let digit = b"0123456789abcdef".get(usize::from(byte & 0xF)).copied().unwrap_or(b'0');
        self.out.extend_from_slice(if byte < 0x10 { b"\\u000" } else { b"\\u001" });
        self.out.push(digit);
    }

    fn open(&mut self) {
        if let Some(byte) = self.rest.split_off_first() {
            self.out.push(*byte);
        }
    }

    /// Whether this is the closing bracket; `None` at the end of the text.
    fn close(&mut self, byte: u8) -> Option<bool> {
        self.peek()?;
        let closed = self.eat(byte);
        if closed {
            self.out.push(byte);
        }
        Some(closed)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.eat(byte).then_some(())
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.rest.split_off_first();
        }
        found
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_blanks();
        self.rest.first().copied()
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }
}

/// Writes compact JSON, but keys that begin with `{` as the objects they hold.
#[derive(Debug, Default)]
pub(super) struct ObjectKeys {
    key: Key,
}

#[derive(Debug, Default, PartialEq)]
enum Key {
    /// A value is being written.
    #[default]
    No,
    /// A key begins; its first piece tells which kind it is.
    Begun,
    Text,
    Object,
}

impl ObjectKeys {
    /// Decides what kind of key this is, by its first piece.
    fn piece<W: ?Sized + io::Write>(&mut self, writer: &mut W, object: bool) -> io::Result<()> {
        if self.key != Key::Begun {
            return Ok(());
        }
        self.key = if object { Key::Object } else { Key::Text };
        if object { Ok(()) } else { writer.write_all(b"\"") }
    }
}

impl Formatter for ObjectKeys {
    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.key = Key::Begun;
        if first { Ok(()) } else { writer.write_all(b",") }
    }

    fn end_object_key<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.key = Key::No;
        Ok(())
    }

    fn begin_string<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.key == Key::Begun { Ok(()) } else { writer.write_all(b"\"") }
    }

    fn end_string<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.piece(writer, false)?;
        if self.key == Key::Object { Ok(()) } else { writer.write_all(b"\"") }
    }

    fn write_i32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i32) -> io::Result<()> {
        self.write_i64(writer, i64::from(value))
    }

    fn write_i64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i64) -> io::Result<()> {
        self.piece(writer, false)?;
        writer.write_all(Decimal::of(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        self.piece(writer, fragment.starts_with('{'))?;
        writer.write_all(fragment.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        self.piece(writer, false)?;
        match (&self.key, &escape) {
            (Key::Object, CharEscape::Quote) => writer.write_all(b"\""),
            (Key::Object, CharEscape::ReverseSolidus) => writer.write_all(b"\\"),
            _ => serde_json::ser::CompactFormatter.write_char_escape(writer, escape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(lenient: &str) -> Option<String> {
        normalise(lenient.as_bytes()).map(|json| String::from_utf8(json).unwrap())
    }

    #[test]
    fn what_fastjson_writes_becomes_json() {
        for (lenient, strict) in [
            ("{0:\"a\",1:\"b\"}", "{\"0\":\"a\",\"1\":\"b\"}"),
            ("{a:'it\\'s',}", "{\"a\":\"it's\"}"),
            (" [1 , -2.5e3 , true , null ,] ", "[1,-2.5e3,true,null]"),
            ("{\"a\":null,\"b\":1,\"c\":null}", "{\"b\":1}"),
            ("{\"a\":\"\\x41\\v\\0\u{1}\"}", "{\"a\":\"\\u0041\\u000b\\u0000\\u0001\"}"),
            ("{{\"q\":0,\"t\":\"x\"}:1}", "{\"{\\\"q\\\":0,\\\"t\\\":\\\"x\\\"}\":1}"),
        ] {
            assert_eq!(text(lenient).as_deref(), Some(strict));
        }
    }

    #[test]
    fn what_is_no_json_is_none() {
        for nonsense in ["", "{", "[1", "{\"a\"}", "\"a", "{\"a\":}", "1 2", "{{{1:2}:3}:4}"] {
            assert_eq!(text(nonsense), None, "{nonsense}");
        }
        assert_eq!(normalise("[".repeat(100_000).as_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(prop::sample::select(
            b"{}[]:,\"'\\ 0a\x01\xff".as_slice()), 0..60)) {
            if let Some(json) = normalise(&bytes) {
                prop_assert!(json.len() <= 8 * bytes.len() + 64);
            }
        }
    }
}
