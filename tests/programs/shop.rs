//! A small program for the tests that need a process: it is refused, or it starts, works, and stops
//! at a signal.
#![forbid(unsafe_code)]

use std::time::Duration;

use common_mq::prelude::*;
use support::Notes;

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "orders", tag = "new", key = "id")]
struct Order {
    id: u64,
}

#[component]
struct Till {
    mq: Mq,
}

#[component]
impl Till {
    #[post_construct]
    async fn open(&self) -> common_mq::Result {
        self.mq.send(&Order { id: 7 }).await?;
        Ok(())
    }

    #[mq_listener(group = "billing", concurrency = 4)]
    async fn on_order(&self, order: Order) {
        println!("order {} begins", order.id);
        tokio::time::sleep(Duration::from_millis(500)).await;
        println!("order {} ends", order.id);
    }

    #[pre_destroy]
    async fn close(&self) {
        println!("till is closed");
    }
}

#[mq_listener(topic = "${shop.bills:bills}", group = "${shop.group:ledger}", id = "bills")]
async fn on_bill() {}

#[common_mq::main(scan(support))]
async fn main(app: App) -> common_mq::Result {
    match std::env::var("SHOP_NOTES").as_deref() {
        Ok("none") => app.run().await,
        _ => app.provide(Notes::new().0).run().await,
    }
}
