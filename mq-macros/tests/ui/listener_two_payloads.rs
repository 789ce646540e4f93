use common_mq::prelude::*;

#[mq_listener(topic = "orders", group = "billing")]
async fn on_order(body: Bytes, text: Text) {
    drop((body, text));
}

fn main() {}
