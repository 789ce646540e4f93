use common_mq::prelude::*;

#[component]
struct Ledger;

#[component]
impl Ledger {
    #[mq_listener(topic = "orders", group = "billing")]
    async fn on_order(&mut self, body: Bytes) {
        drop(body);
    }

    #[mq_listener(topic = "orders", group = "billing")]
    async fn nobody(body: Bytes) {
        drop(body);
    }

    #[mq_listener(topic = "orders", group = "billing")]
    fn not_async(&self, body: Bytes) {
        drop(body);
    }
}

fn main() {}
