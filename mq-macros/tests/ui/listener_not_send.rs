use std::rc::Rc;

use common_mq::prelude::*;

#[mq_listener(topic = "orders", group = "billing")]
async fn on_order(body: Bytes) {
    let shared = Rc::new(body);
    std::future::ready(()).await;
    drop(shared);
}

fn main() {}
