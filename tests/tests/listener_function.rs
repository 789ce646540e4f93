//! A listener on a free function receives what is sent to its topic, and stays a plain function.

use common_mq::prelude::*;
use support::{Notes, application};

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "product-shelf", tag = "on", key = "sku")]
struct OnShelf {
    sku: u64,
    title: String,
}

#[mq_listener(group = "search-on-shelf")]
async fn index_product(
    shelf: OnShelf,
    notes: Bean<Notes>,
    Key(key): Key,
    Tag(tag): Tag,
    Attempt(attempt): Attempt,
) -> Result<(), String> {
    notes.take(format!("{} {} {key:?} {tag:?} {attempt}", shelf.sku, shelf.title));
    if shelf.title.is_empty() { Err("no title".to_owned()) } else { Ok(()) }
}

fn shirt() -> OnShelf {
    OnShelf { sku: 7, title: "shirt".to_owned() }
}

#[tokio::test]
async fn a_message_reaches_the_function() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).listener(def!(index_product)).provide(notes);
    let running = app.start().await.expect("it starts");
    running.mq().to("product-shelf").tag("off").json(&shirt()).send().await.expect("it is stored");
    running.mq().send(&shirt()).await.expect("it is stored");
    assert_eq!(taken.next().await, r#"7 shirt Some("7") Some("on") 1"#, "the tag is filtered by");
    running.stop().await.expect("it stops");
    assert_eq!(taken.rest(), Vec::<String>::new());
}

#[tokio::test]
async fn a_unit_test_calls_the_function() {
    let (notes, mut taken) = Notes::new();
    let untitled = OnShelf { title: String::new(), ..shirt() };
    let (key, tag) = (Key(None), Tag(None));
    let result = index_product(untitled, Bean::new(notes), key, tag, Attempt(3)).await;
    assert_eq!(result, Err("no title".to_owned()));
    assert_eq!(taken.rest(), ["7  None None 3"]);
}
