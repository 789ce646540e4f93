//! Spring-style messaging for Rust with a RocketMQ-compatible broker inside.
#![forbid(unsafe_code)]
