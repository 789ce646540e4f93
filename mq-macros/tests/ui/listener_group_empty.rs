use common_mq::prelude::*;

#[mq_listener(topic = "orders", group = "")]
async fn empty(body: Bytes) {
    drop(body);
}

#[mq_listener(topic = "orders")]
async fn absent(body: Bytes) {
    drop(body);
}

fn main() {}
