use common_mq::prelude::*;

#[mq_listener(topc = "orders", group = "billing", colour = "red")]
async fn on_order(body: Bytes) {
    drop(body);
}

fn main() {}
