//! A listener on a free function receives what is sent to its topic, and stays a plain function.

use common_mq::prelude::*;
use tokio::sync::mpsc;

#[derive(Debug, PartialEq, Message, Serialize, Deserialize)]
#[message(topic = "product-shelf", tag = "on", key = "sku")]
struct OnShelf {
    sku: u64,
}

#[mq_listener(group = "search-on-shelf")]
async fn index_product(event: OnShelf, index: Bean<Index>, key: Key, tag: Tag, attempt: Attempt) {
    index.0.send((event, key, tag, attempt)).expect("the test is there");
}

type Seen = (OnShelf, Key, Tag, Attempt);

#[component(provided)]
struct Index(mpsc::UnboundedSender<Seen>);

#[tokio::test]
async fn a_message_reaches_the_function() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (index, mut seen) = mpsc::unbounded_channel();
    let app = App::bare()
        .listener(def!(index_product))
        .provide(Index(index))
        .set("mq.embedded.store", store.path().display().to_string());
    let running = app.start().await.expect("it starts");
    running.mq().send(&OnShelf { sku: 7 }).await.expect("it is stored");
    let (event, key, tag, attempt) = seen.recv().await.expect("it arrives");
    assert_eq!(event, OnShelf { sku: 7 });
    assert_eq!((key, tag), (Key(Some("7".to_owned())), Tag(Some("on".to_owned()))));
    assert_eq!(attempt, Attempt(1));
    running.stop().await.expect("it stops");
}
