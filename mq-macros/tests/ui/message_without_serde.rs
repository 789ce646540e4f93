use common_mq::prelude::*;

#[derive(Message, Serialize)]
#[message(topic = "orders")]
struct Order {
    order_id: u64,
}

fn main() {}
