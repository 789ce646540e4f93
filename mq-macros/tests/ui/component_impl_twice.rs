use common_mq::prelude::*;

#[component]
struct Ledger;

#[component]
impl Ledger {
    #[post_construct]
    async fn open(&self) {}
}

#[component]
impl Ledger {
    #[pre_destroy]
    async fn close(&self) {}
}

fn main() {}
