use common_mq::prelude::*;

#[component]
struct Ledger<T> {
    entry: T,
}

fn main() {}
