use common_mq::prelude::*;

struct Pool;

#[bean(qualifier = "readonly", destroy = 5, phase = "late")]
fn replica() -> Pool {
    Pool
}

#[bean(tag = Readonly)]
fn tagged() -> Pool {
    Pool
}

#[bean(destroy)]
fn closed() -> Pool {
    Pool
}

fn main() {}
