//! The headers of requests and responses: which ext fields each has, declared once for both ends.
//!
//! A header borrows its texts from the command it was read from. A field that is missing or
//! malformed is a [`HeaderError`], which is answered; the connection goes on. What a field makes
//! somebody do is not here.

use super::fields::Fields;

/// A field that a request must have and has not, or that cannot be read; says which.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HeaderError(pub String);

/// A typed view of a command's fields.
pub trait Header<'a>: Sized {
    fn read(fields: &'a Fields) -> Result<Self, HeaderError>;
    fn write(&self, out: &mut Fields);
}
