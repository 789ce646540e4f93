//! A method of a component is a listener: it sees the component's fields, which the application
//! injected by type.

use common_mq::ConfigSection;
use common_mq::prelude::*;
use tokio::sync::mpsc;

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

#[component(provided)]
struct Ledger(mpsc::UnboundedSender<String>);

#[component]
struct Billing {
    ledger: Bean<Ledger>,
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
    #[mq_listener(group = "billing", id = "bills", concurrency = 2)]
    async fn on_order(&self, order: Order, MsgId(id): MsgId) -> common_mq::Result {
        let fits = order.id <= self.limits.largest;
        self.mq
            .to("bills")
            .text(format!("{} {} {fits} {}", self.word, order.id, id.len()))
            .send()
            .await?;
        Ok(())
    }

    #[mq_listener(topic = "bills", group = "ledger")]
    async fn on_bill(&self, Text(bill): Text) {
        self.ledger.0.send(bill).expect("the test is there");
    }

    #[cfg(any())]
    #[mq_listener(topic = "bills", group = "never")]
    async fn never(&self) {}
}

#[tokio::test]
async fn methods_receive_messages_and_use_what_is_injected() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (ledger, mut bills) = mpsc::unbounded_channel();
    let app = App::bare()
        .component::<Billing>()
        .provide(Ledger(ledger))
        .set("limits.largest", "10")
        .set("mq.embedded.store", store.path().display().to_string());
    let running = app.start().await.expect("it starts");
    running.mq().send(&Order { id: 11 }).await.expect("it is stored");
    assert_eq!(bills.recv().await.as_deref(), Some("bill 11 false 32"));
    running.stop().await.expect("it stops");
}

#[tokio::test]
async fn one_method_can_be_named_alone() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (ledger, mut bills) = mpsc::unbounded_channel();
    let app = App::bare()
        .listener(def!(Billing::on_bill))
        .provide(Ledger(ledger))
        .set("limits.largest", "10")
        .set("mq.embedded.store", store.path().display().to_string());
    let running = app.start().await.expect("it starts");
    assert_eq!(running.table().to_string().lines().count(), 2);
    running.mq().to("bills").text("by hand").send().await.expect("it is stored");
    assert_eq!(bills.recv().await.as_deref(), Some("by hand"));
    running.stop().await.expect("it stops");
}
