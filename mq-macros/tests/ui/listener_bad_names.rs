use common_mq::prelude::*;

#[mq_listener(topic = "orders:paid", group = "billing")]
async fn topic_with_tag(body: Bytes) {
    drop(body);
}

#[mq_listener(topic = "our orders", group = "billing.v2")]
async fn illegal_characters(body: Bytes) {
    drop(body);
}

fn main() {}
