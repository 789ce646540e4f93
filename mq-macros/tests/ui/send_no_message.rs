use common_mq::prelude::*;

#[derive(Serialize, Deserialize)]
struct Order;

async fn send(mq: Mq) {
    let _ = mq.send(&Order).await;
}

fn main() {}
