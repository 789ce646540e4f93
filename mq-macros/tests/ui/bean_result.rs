use std::cell::Cell;

use common_mq::prelude::*;

struct Silent;

#[bean]
async fn pool() -> Result<String, Silent> {
    Err(Silent)
}

#[bean]
fn counter() -> Cell<u64> {
    Cell::new(0)
}

#[bean(destroy = close)]
fn names() -> Vec<String> {
    Vec::new()
}

async fn close(_names: &Vec<String>) -> bool {
    true
}

fn main() {}
