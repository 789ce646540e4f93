use common_mq::prelude::*;

#[mq_listener(topic = "orders", group = "billing", tags = "created | paid")]
async fn one_bar(body: Bytes) {
    drop(body);
}

#[mq_listener(topic = "orders", group = "billing", tags = "created ||")]
async fn half(body: Bytes) {
    drop(body);
}

fn main() {}
