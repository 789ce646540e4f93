//! `Refusal`: why a request is answered with something other than success. Not here: faults of the
//! wire (they cost the connection, in `mq_core::server`).
//!
//! Invariant: a refusal becomes a response in `dispatch` only, and its remark names the thing and
//! the mend.

use mq_core::protocol::body::BodyError;
use mq_core::protocol::{Command, HeaderError, ResponseCode};

use crate::store::StoreError;

/// A response code and the words for a person.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ResponseCode,
    pub(crate) remark: String,
}

impl Refusal {
    pub(crate) fn new(code: ResponseCode, remark: impl Into<String>) -> Self {
        Self { code, remark: remark.into() }
    }

    /// The remark begins as Apache's (protocol section 1.9).
    pub(crate) fn unsupported(code: i32) -> Self {
        Self::new(
            ResponseCode::RequestCodeNotSupported,
            format!(" request type {code} not supported"),
        )
    }

    pub(crate) fn answer(self, request: &Command) -> Command {
        Command::response_to(request, self.code).remark(self.remark)
    }
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::new(ResponseCode::SystemError, error.to_string())
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::new(ResponseCode::SystemError, error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Full | StoreError::Poisoned(_) => ResponseCode::ServiceNotAvailable,
            StoreError::Illegal(_) => ResponseCode::MessageIllegal,
            _ => ResponseCode::SystemError,
        };
        Self::new(code, error.to_string())
    }
}
