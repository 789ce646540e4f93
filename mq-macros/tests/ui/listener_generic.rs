use common_mq::prelude::*;

#[mq_listener(topic = "orders", group = "billing")]
async fn on_order<T: Message>(order: T) {
    drop(order);
}

fn main() {}
