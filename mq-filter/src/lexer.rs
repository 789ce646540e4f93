//! The text of a condition into tokens, one at a time. Not here: what may follow what.
//!
//! Invariants: as in Apache's lexer the longest token wins, and a bad place is an error only when
//! the parser comes to it.

use crate::error::{Error, quote};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    Not,
    And,
    Or,
    Between,
    In,
    True,
    False,
    Null,
    Is,
    Contains,
    StartsWith,
    EndsWith,
    /// Digits, an `L` at their end cut off.
    Integer(&'a str),
    Float(&'a str),
    /// What stands between the quotes, `''` not yet replaced.
    Text(&'a str),
    Name(&'a str),
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Open,
    Comma,
    Close,
    Plus,
    Minus,
    End,
}

const KEYWORDS: [(&str, Token<'static>); 12] = [
    ("NOT", Token::Not),
    ("AND", Token::And),
    ("OR", Token::Or),
    ("BETWEEN", Token::Between),
    ("IN", Token::In),
    ("TRUE", Token::True),
    ("FALSE", Token::False),
    ("NULL", Token::Null),
    ("IS", Token::Is),
    ("CONTAINS", Token::Contains),
    ("STARTSWITH", Token::StartsWith),
    ("ENDSWITH", Token::EndsWith),
];

const SYMBOLS: [(&str, Token<'static>); 11] = [
    ("<>", Token::NotEqual),
    (">=", Token::GreaterEqual),
    ("<=", Token::LessEqual),
    ("=", Token::Equal),
    (">", Token::Greater),
    ("<", Token::Less),
    ("(", Token::Open),
    (",", Token::Comma),
    (")", Token::Close),
    ("+", Token::Plus),
    ("-", Token::Minus),
];

#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// What is not read yet.
    pub(crate) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next token and the byte it begins at.
    pub(crate) fn next(&mut self) -> Result<(Token<'a>, usize), Error> {
        self.pass_over();
        let (start, rest) = (self.at, self.rest());
        let Some(first) = rest.chars().next() else { return Ok((Token::End, start)) };
        let (token, length) = match first {
            '\'' => self.text_literal(rest)?,
            'a'..='z' | 'A'..='Z' | '_' | '$' => word(rest),
            '0'..='9' | '.' => number(rest).ok_or_else(|| self.bad(first))?,
            _ => symbol(rest).ok_or_else(|| self.bad(first))?,
        };
        self.at += length;
        Ok((token, start))
    }

    /// Blanks and comments. A line comment has to have a line's end, otherwise it is two minus
    /// signs.
    fn pass_over(&mut self) {
        loop {
            let rest = self.rest();
            let blank =
                rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{C}']).len();
            let comment = match rest.get(blank..).unwrap_or_default() {
                line if line.starts_with("--") => line.find(['\n', '\r']).map(|end| end + 1),
                block if block.starts_with("/*") => {
                    block.get(2..).and_then(|inside| inside.find("*/")).map(|end| end + 4)
                }
                _ => None,
            };
            self.at += blank + comment.unwrap_or(0);
            if comment.is_none() {
                return;
            }
        }
    }

    /// Up to the first quote that is not doubled; where all are, the last two do not count as one.
    fn text_literal(&self, rest: &'a str) -> Result<(Token<'a>, usize), Error> {
        let text = |end: usize| (Token::Text(rest.get(1..end).unwrap_or_default()), end + 1);
        let mut doubled = None;
        let mut quotes = rest.match_indices('\'').skip(1).map(|(at, _)| at).peekable();
        while let Some(at) = quotes.next() {
            if quotes.next_if_eq(&(at + 1)).is_none() {
                return Ok(text(at));
            }
            doubled = Some(at);
        }
        doubled.map(text).ok_or_else(|| {
            Error::at(self.text, self.at, format!("the text {} does not end", quote(rest)))
                .mend("close it with `'`; a quote inside is written twice: 'it''s'")
        })
    }

    fn bad(&self, letter: char) -> Error {
        let error = Error::at(self.text, self.at, format!("`{letter}` means nothing here"));
        match letter {
            '!' => error.mend("write `<>` for not equal, and `NOT (...)` for the contrary"),
            '"' => error.mend("texts stand in single quotes: 'text'"),
            '&' => error.mend("write AND"),
            '|' => error.mend("write OR"),
            '/' if self.rest().starts_with("/*") => error.mend("close the comment with `*/`"),
            _ => error.mend("names of properties have letters, digits, `_` and `$` only"),
        }
    }
}

/// Decodes what stood between the quotes.
pub(crate) fn unquote(raw: &str) -> String {
    raw.replace("''", "'")
}

fn word(rest: &str) -> (Token<'_>, usize) {
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$');
    let length = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
    let word = rest.get(..length).unwrap_or_default();
    let keyword = KEYWORDS.iter().find(|(keyword, _)| keyword.eq_ignore_ascii_case(word));
    (keyword.map_or(Token::Name(word), |(_, token)| *token), length)
}

fn symbol(rest: &str) -> Option<(Token<'_>, usize)> {
    let (symbol, token) = SYMBOLS.iter().find(|(symbol, _)| rest.starts_with(symbol))?;
    Some((*token, symbol.len()))
}

/// `12`, `12L`, `1.5`, `1.`, `.5`, `15e-1`. A whole number that begins with 0 is 0: what follows is
/// the next token.
fn number(rest: &str) -> Option<(Token<'_>, usize)> {
    let whole = digits(rest, 0);
    let fraction = match rest.as_bytes().get(whole) {
        Some(b'.') => Some(digits(rest, whole + 1)).filter(|fraction| whole + fraction > 0),
        _ => None,
    };
    let mantissa = whole + fraction.map_or(0, |fraction| fraction + 1);
    if mantissa == 0 {
        return None;
    }
    let exponent = exponent(rest, mantissa);
    if fraction.is_some() || exponent > 0 {
        let length = mantissa + exponent;
        return Some((Token::Float(rest.get(..length)?), length));
    }
    if rest.starts_with('0') {
        return Some((Token::Integer(rest.get(..1)?), 1));
    }
    let suffix = usize::from(matches!(rest.as_bytes().get(whole), Some(b'l' | b'L')));
    Some((Token::Integer(rest.get(..whole)?), whole + suffix))
}

fn digits(text: &str, from: usize) -> usize {
    let rest = text.as_bytes().get(from..).unwrap_or_default();
    rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The length of an exponent at `from`; 0 without a whole one.
fn exponent(text: &str, from: usize) -> usize {
    if !matches!(text.as_bytes().get(from), Some(b'e' | b'E')) {
        return 0;
    }
    let sign = usize::from(matches!(text.as_bytes().get(from + 1), Some(b'+' | b'-')));
    match digits(text, from + 1 + sign) {
        0 => 0,
        digits => 1 + sign + digits,
    }
}
