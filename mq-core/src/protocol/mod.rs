//! The RocketMQ remoting protocol: frames, headers, bodies and the stored message.
//!
//! ```text
//! | length: 4 | type: 1, header length: 3 | header: JSON or binary | body |
//!   length counts everything behind itself; header and body may be empty
//! ```
//!
//! Everything here is pure: bytes in, values out, and back. No sockets, no files, no runtime, no
//! clock. Nothing that a peer can send panics, hangs or allocates more than the frame it came in.

mod batch;
pub mod code;
mod cursor;
mod fields;
mod json;
mod lenient;
mod msg_id;

pub mod body;
pub mod command;
pub mod compression;
pub mod header;
pub mod recall;
pub mod record;
pub mod register;
pub mod trace;

pub use code::{Language, RequestCode, ResponseCode};
pub use command::{CodecError, Command, Limits, SerializeType, frame_length};
pub use fields::{Fields, Iter as FieldsIter};
pub use header::{Header, HeaderError};
