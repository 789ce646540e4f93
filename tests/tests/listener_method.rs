//! A method of a component is a listener: it sees the component's fields, which the application
//! injected by type.

use common_mq::ConfigSection;
use common_mq::prelude::*;
use support::{Notes, application};

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "orders")]
struct Order {
    id: u64,
}

#[derive(Deserialize)]
struct Limits {
    largest: u64,
}

impl ConfigSection for Limits {
    const PREFIX: &str = "limits";
}

#[component]
struct Billing {
    notes: Bean<Notes>,
    limits: Cfg<Limits>,
    mq: Mq,
    #[init("bill".to_owned())]
    word: String,
    #[init]
    #[cfg(any())]
    never: u8,
}

#[component]
impl Billing {
    #[mq_listener(group = "billing", concurrency = 2)]
    async fn on_order(&self, order: Order, MsgId(id): MsgId) -> common_mq::Result {
        let fits = order.id <= self.limits.largest;
        let bill = format!("{} {} {fits} {}", self.word, order.id, id.len());
        self.mq.to("bills").text(bill).send().await?;
        Ok(())
    }

    #[mq_listener(topic = "bills", group = "ledger")]
    async fn on_bill(&self, Text(bill): Text) {
        self.notes.take(bill);
    }

    #[cfg(any())]
    #[mq_listener(topic = "bills", group = "never")]
    async fn never(&self) {}
}

#[tokio::test]
async fn methods_receive_messages_and_use_what_is_injected() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).component::<Billing>().provide(notes);
    let running = app.set("limits.largest", "10").start().await.expect("it starts");
    running.mq().send(&Order { id: 11 }).await.expect("it is stored");
    assert_eq!(taken.next().await, "bill 11 false 32");
    running.stop().await.expect("it stops");
}

#[tokio::test]
async fn one_method_can_be_named_alone() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).listener(def!(Billing::on_bill)).provide(notes);
    let running = app.set("limits.largest", "10").start().await.expect("it starts");
    assert_eq!(running.table().to_string().lines().count(), 2, "one listener below the head");
    running.mq().to("bills").text("by hand").send().await.expect("it is stored");
    assert_eq!(taken.next().await, "by hand");
    running.stop().await.expect("it stops");
}
