use common_mq::prelude::*;

#[component]
struct Ledger;

#[component]
impl Ledger {
    #[post_construct]
    fn not_async(&self) {}

    #[post_construct]
    async fn with_parameter(&self, mq: Mq) {
        drop(mq);
    }

    #[pre_destroy]
    #[post_construct]
    async fn both(&self) {}

    #[pre_destroy(order = 1)]
    async fn with_argument(&self) {}
}

#[component]
struct Book;

#[component]
impl Book {
    #[post_construct]
    async fn answer(&self) -> u8 {
        42
    }
}

fn main() {}
