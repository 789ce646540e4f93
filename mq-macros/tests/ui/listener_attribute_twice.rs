use common_mq::prelude::*;

#[mq_listener(topic = "orders", group = "billing", topic = "bills")]
async fn on_order(body: Bytes) {
    drop(body);
}

fn main() {}
