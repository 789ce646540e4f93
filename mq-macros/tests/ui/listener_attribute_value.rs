use common_mq::prelude::*;

#[mq_listener(topic = 5, group, concurrency = "many", phase = "late")]
async fn on_order(body: Bytes) {
    drop(body);
}

#[mq_listener(topic = "orders", group = "billing", concurrency = 0)]
async fn on_none(body: Bytes) {
    drop(body);
}

fn main() {}
