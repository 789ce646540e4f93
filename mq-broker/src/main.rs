//! The program `mq`: arguments to configuration, run, exit code. No defaults live here.
#![forbid(unsafe_code)]

fn main() {}
