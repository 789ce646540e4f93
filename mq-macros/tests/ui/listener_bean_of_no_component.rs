use common_mq::prelude::*;

struct Ledger;

#[mq_listener(topic = "orders", group = "billing")]
async fn on_order(ledger: Bean<Ledger>) {
    drop(ledger);
}

fn main() {}
