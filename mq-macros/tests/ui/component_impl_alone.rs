use common_mq::prelude::*;

struct Ledger;

#[component]
impl Ledger {
    #[mq_listener(topic = "orders", group = "billing")]
    async fn on_order(&self, body: Bytes) {
        drop(body);
    }
}

fn main() {}
