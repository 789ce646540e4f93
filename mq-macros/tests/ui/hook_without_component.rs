use common_mq::prelude::*;

struct Ledger;

impl Ledger {
    #[post_construct]
    async fn open(&self) {}
}

fn main() {}
