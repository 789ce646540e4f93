//! `Error`: why an expression is none. Not here: conditions that fail on a message (`sql.rs`).

use std::fmt;

/// Why an expression cannot be used: where, what is there, what should be, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The character the complaint is about, counted from 1.
    pub position: usize,
    found: String,
    expected: String,
    mend: String,
}

/// Longest piece of an expression that is quoted in a complaint, in characters.
const QUOTE_MAX: usize = 30;

impl Error {
    /// A complaint about what `text` has at byte `at`.
    pub(crate) fn at(text: &str, at: usize, found: impl Into<String>) -> Self {
        let before = text.get(..at).unwrap_or(text);
        Self {
            position: before.chars().count() + 1,
            found: found.into(),
            expected: String::new(),
            mend: String::new(),
        }
    }

    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = expected.into();
        self
    }

    /// What to do. The first one said stays.
    pub(crate) fn mend(mut self, mend: impl Into<String>) -> Self {
        if self.mend.is_empty() {
            self.mend = mend.into();
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "character {}: {}", self.position, self.found)?;
        if !self.expected.is_empty() {
            write!(f, ", expected {}", self.expected)?;
        }
        if !self.mend.is_empty() {
            write!(f, "; {}", self.mend)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// A piece of an expression in backticks, shortened.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTE_MAX) {
        Some((end, _)) => format!("`{}...`", text.get(..end).unwrap_or_default()),
        None => format!("`{text}`"),
    }
}
