use common_mq::prelude::*;

struct Billing;

impl Billing {
    #[mq_listener(topic = "orders", group = "billing")]
    async fn on_order(&self, body: Bytes) {
        drop(body);
    }
}

fn main() {}
