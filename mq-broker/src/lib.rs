//! Name server, broker and store of common-mq. The map of the crate; nothing is defined here.
//!
//! A request travels `mq_core::server` -> `dispatch` -> its verb (`send`, `pull`, ...) -> `store`.
//! What runs beside the requests is started in `broker`.
#![forbid(unsafe_code)]

pub mod config;
pub mod hot;
pub mod java_properties;

pub mod broker;
pub mod embedded;

mod dispatch;
mod refusal;

mod ack;
mod admin_clients;
mod admin_groups;
mod admin_topics;
mod assignment;
mod catalog;
mod clients;
mod delay;
mod filter;
mod flights;
mod forward;
mod live_settings;
mod locks;
mod offsets;
mod pop;
mod pull;
mod query;
mod recall;
mod request_reply;
mod reset;
mod retry;
mod revive;
mod runtime_info;
mod send;
mod stats;
mod timer;
pub mod transaction;
mod transaction_check;

pub mod namesrv;
mod registration;
pub mod routes;

pub mod store;

pub use broker::{Broker, RunningBroker};
pub use embedded::start_embedded;
