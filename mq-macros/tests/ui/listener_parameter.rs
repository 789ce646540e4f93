use common_mq::prelude::*;

struct Order;

#[mq_listener(topic = "orders", group = "billing")]
async fn no_message(order: Order) {
    drop(order);
}

#[mq_listener(topic = "orders", group = "billing")]
async fn by_reference(body: &Bytes) {
    _ = body;
}

fn main() {}
