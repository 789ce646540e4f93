//! What the integration tests share: brokers on port 0, clients, waiting on facts.
#![forbid(unsafe_code)]
