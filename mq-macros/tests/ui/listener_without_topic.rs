use common_mq::prelude::*;

#[mq_listener(group = "billing")]
async fn on_order(body: Bytes) {
    drop(body);
}

fn main() {}
