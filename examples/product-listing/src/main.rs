//! Product listing.
#![forbid(unsafe_code)]

fn main() {}
