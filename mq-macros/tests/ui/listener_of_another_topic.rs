use common_mq::prelude::*;

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "orders")]
struct Order;

#[mq_listener(topic = "bills", group = "billing")]
async fn on_order(order: Order) {
    drop(order);
}

fn main() {}
