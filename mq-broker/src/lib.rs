//! Name server, broker and store. The map of the crate; nothing is defined here.
#![forbid(unsafe_code)]

pub mod config;
pub mod java_properties;
pub mod routes;
pub mod store;
