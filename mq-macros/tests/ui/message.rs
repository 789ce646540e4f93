use common_mq::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct NoTopic;

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "orders", key = "order_ids")]
struct NoField {
    order_id: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "${orders}", tag = "a || b")]
struct Template;

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "orders")]
struct Generic<T>(T);

fn main() {}
