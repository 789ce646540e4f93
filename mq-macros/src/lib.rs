//! Attribute and derive macros of common-mq: entry points and their documentation only.
#![forbid(unsafe_code)]
