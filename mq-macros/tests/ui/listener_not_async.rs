use common_mq::prelude::*;

#[mq_listener(topic = "orders", group = "billing")]
fn on_order(body: Bytes) {
    drop(body);
}

fn main() {}
