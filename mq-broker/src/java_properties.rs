//! The text format of `broker.conf` and `namesrv.conf`: Java's properties, read and written.
//!
//! Not here: what a key means (`config.rs`), files. Invariants: lines are counted as an editor
//! counts them; what `write` puts out, `parse` reads back unchanged; nothing in a text panics.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// One `key = value` of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the line on which the key begins, from 1.
    pub line: usize,
    /// The key, unescaped.
    pub key: String,
    /// The value, unescaped, without blanks at either end.
    pub value: String,
}

/// An escape that Java refuses too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEscape {
    /// Number of the line on which the entry begins, from 1.
    pub line: usize,
}

/// Reads a text. Every entry is there, in the text's order, a doubled key twice.
pub fn parse(text: &str) -> Vec<Result<Entry, BadEscape>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let unified = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = unified.split('\n').zip(1..);
    let mut entries = Vec::new();
    while let Some((first, line)) = lines.next() {
        let first = first.trim_start_matches(is_blank);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = first.to_owned();
        while continues(&logical) {
            logical.pop();
            let Some((next, _)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(is_blank));
        }
        entries.push(entry(&logical, line));
    }
    entries
}

/// Writes entries as a text, one line each.
pub fn write<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (key, value) in entries {
        escape(key, &mut text);
        text.push('=');
        escape(value, &mut text);
        text.push('\n');
    }
    text
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

/// A line goes on in the next one when it ends in an odd number of backslashes.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

fn entry(logical: &str, line: usize) -> Result<Entry, BadEscape> {
    let mut chars = logical.chars().peekable();
    let key = unescape(&mut chars, |c| is_blank(c) || c == '=' || c == ':');
    skip_blanks(&mut chars);
    if chars.next_if(|c| *c == '=' || *c == ':').is_some() {
        skip_blanks(&mut chars);
    }
    // Java keeps blanks at a value's end, and then fails to read `10911 ` as a number.
    let trimmed = chars.collect::<String>();
    let value = unescape(&mut trim_end(&trimmed).chars().peekable(), |_| false);
    match (key, value) {
        (Some(key), Some(value)) => Ok(Entry { line, key, value }),
        _ => Err(BadEscape { line }),
    }
}

/// Cuts blanks off the end, but not one that is escaped.
fn trim_end(value: &str) -> &str {
    let cut = value.trim_end_matches(is_blank);
    match value[cut.len()..].chars().next() {
        Some(blank) if continues(cut) => &value[..cut.len() + blank.len_utf8()],
        _ => cut,
    }
}

fn skip_blanks(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|c| is_blank(*c)).is_some() {}
}

/// Takes characters up to the first unescaped one that `ends`. `None` for a malformed `\uXXXX`.
fn unescape(chars: &mut Peekable<Chars<'_>>, ends: impl Fn(char) -> bool) -> Option<String> {
    let mut units: Vec<u16> = Vec::new();
    let mut buffer = [0; 2];
    while let Some(c) = chars.next_if(|c| !ends(*c)) {
        if c != '\\' {
            units.extend_from_slice(c.encode_utf16(&mut buffer));
            continue;
        }
        match chars.next() {
            // UTF-16, because Java writes a character beyond the basic plane as two escapes.
            Some('u') => units.push(hex_unit(chars)?),
            Some(escaped) => {
                units.extend_from_slice(control(escaped).encode_utf16(&mut buffer));
            }
            None => {}
        }
    }
    String::from_utf16(&units).ok()
}

fn hex_unit(chars: &mut Peekable<Chars<'_>>) -> Option<u16> {
    (0..4).try_fold(0, |unit, _| {
        let digit = chars.next()?.to_digit(16)?;
        Some(unit * 16 + u16::try_from(digit).ok()?)
    })
}

fn control(escaped: char) -> char {
    match escaped {
        't' => '\t',
        'n' => '\n',
        'r' => '\r',
        'f' => '\u{c}',
        other => other,
    }
}

/// Escapes so much that key and value need no different rules.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\u{c}' => out.push_str("\\f"),
            ' ' | '=' | ':' | '#' | '!' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\u{feff}' => write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes all"),
            _ => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Vec<(usize, String, String)> {
        parse(text).into_iter().map(Result::unwrap).map(|e| (e.line, e.key, e.value)).collect()
    }

    fn pair(text: &str) -> (String, String) {
        let found = pairs(text);
        assert_eq!(found.len(), 1, "{text:?} gives {found:?}");
        let (_, key, value) = found.into_iter().next().unwrap();
        (key, value)
    }

    #[test]
    fn separators_are_those_of_java() {
        for text in ["a=b c", "a:b c", "a b c", "  a = b c", "a\t:\tb c  ", "\u{feff}a=b c\r\n"] {
            assert_eq!(pair(text), ("a".into(), "b c".into()), "{text:?}");
        }
        assert_eq!(pair("a"), ("a".into(), String::new()));
        assert_eq!(pair("a=b=c"), ("a".into(), "b=c".into()));
        assert_eq!(pair("a\\ b\\=c=d"), ("a b=c".into(), "d".into()));
        assert_eq!(pair("=b"), (String::new(), "b".into()));
    }

    #[test]
    fn comments_blank_lines_and_continuations() {
        let text = "# c \\\n! c\n\n  \nfirst=1,\\\n   2,\\\n\t3\rlast=\\u0041\\t\\\\";
        assert_eq!(
            pairs(text),
            [(5, "first".into(), "1,2,3".into()), (8, "last".into(), "A\t\\".into())]
        );
        assert_eq!(pair("a=b\\"), ("a".into(), "b".into()));
    }

    #[test]
    fn malformed_escapes_name_their_line() {
        assert_eq!(parse("a=1\nb=\\u12").pop(), Some(Err(BadEscape { line: 2 })));
        assert_eq!(parse("\\ud800=1").pop(), Some(Err(BadEscape { line: 1 })));
        assert_eq!(pair("a=\\ud83d\\ude00").1, "\u{1f600}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(entries in prop::collection::vec((".*", ".*"), 0..5)) {
            let text = write(entries.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            let read = parse(&text).into_iter().map(|e| e.map(|e| (e.key, e.value)));
            prop_assert_eq!(read.collect::<Result<Vec<_>, _>>(), Ok(entries));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "[ab=:#!\\\\u0-9\\s\\n\\r\u{feff}]{0,40}") {
            let lines = text.chars().filter(|c| matches!(c, '\n' | '\r')).count() + 1;
            for entry in parse(&text) {
                let line = entry.map_or_else(|bad| bad.line, |entry| entry.line);
                prop_assert!((1..=lines).contains(&line));
            }
        }
    }
}
