//! What a subscription wants of a message: tag expressions and SQL92 conditions.
//!
//! A crate of its own because three need the same answer: the broker evaluates, the client checks
//! before it subscribes, the macros check while a program is compiled. Not here: where properties
//! come from, who subscribes, hashes of tags.
//!
//! Invariants: every expression of Apache RocketMQ means here what it means there, down to what
//! fails; no text, however long or deep, makes parsing or evaluating overflow or run away.
#![forbid(unsafe_code)]

mod error;
mod lexer;
mod number;
mod parser;
mod sql;
mod tags;

pub use error::Error;
pub use sql::{Failed, Sql};
pub use tags::{TAGS_MAX, check_tags, tags};
