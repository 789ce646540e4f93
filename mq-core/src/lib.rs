//! Message model, RocketMQ remoting protocol, transport, client and application container.
//!
//! Modules stand in reading order. Nothing is defined here.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod error;
pub mod message;
pub mod names;
pub mod properties;

pub mod protocol;

pub mod connection;
pub mod embedded;
pub mod remote;
pub mod server;

pub mod client;

pub mod clock;
pub mod watermark;

pub mod app;

pub use error::Error;

/// What generated code names. No promise of stability.
#[doc(hidden)]
pub mod __private {
    pub use inventory;
    pub use linkme;

    pub use crate::__register as register;
    pub use crate::app::*;
    pub use crate::message::Delivery;
}
