//! Message model, RocketMQ remoting protocol, transport, client and application container.
//!
//! Modules stand in reading order. Nothing is defined here.
#![forbid(unsafe_code)]
