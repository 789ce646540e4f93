//! What a caller of the client can do something about. Not here: errors of the store (they never
//! leave the broker), wire faults in detail (`protocol`).
//!
//! Invariant: a variant exists because a caller does something different with it.

use std::io;

/// A failed call of the client or a refused start of the application.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration or the wiring is wrong; the text names every finding and its mend.
    #[error("{0}")]
    Config(String),
    /// A part of the application could not be started or stopped; the text says which and why.
    #[error("{0}")]
    Start(String),
    /// No name server knows a broker for the topic, and it may not be created by sending.
    #[error(
        "no route for topic `{topic}`: create it, or allow autoCreateTopicEnable on the broker"
    )]
    NoRoute {
        /// The topic asked for.
        topic: String,
    },
    /// No connection could be made.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// `host:port` as it was dialled.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No answer in time. A send that timed out may or may not have been stored.
    #[error("{what} was not answered within {after_ms} ms")]
    Timeout {
        /// The call that waited.
        what: String,
        /// How long it waited.
        after_ms: u64,
    },
    /// The peer answered with a response code other than success.
    #[error("refused with code {code}: {remark}")]
    Refused {
        /// RocketMQ response code (protocol section 2.1.1).
        code: i32,
        /// The peer's words.
        remark: String,
    },
    /// The caller's message is illegal; nothing was sent.
    #[error("illegal message: {0}")]
    Message(String),
    /// The connection, client or broker has stopped; the text says which and why.
    #[error("closed: {0}")]
    Closed(String),
}
