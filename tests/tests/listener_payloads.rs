//! Payloads in their raw forms, and a body that does not decode: a dead letter at once.

use common_mq::prelude::*;
use support::{Notes, application};

#[derive(Serialize, Deserialize)]
struct Price {
    cents: u32,
}

#[mq_listener(topic = "raw", group = "json")]
async fn json(Json(price): Json<Price>, notes: Bean<Notes>) {
    notes.take(format!("json {}", price.cents));
}

#[mq_listener(topic = "raw", group = "bytes")]
async fn bytes(body: Bytes, notes: Bean<Notes>) {
    notes.take(format!("bytes {}", body.len()));
}

#[mq_listener(topic = "raw", group = "text")]
async fn text(Text(text): Text, notes: Bean<Notes>) {
    notes.take(format!("text {text}"));
}

#[mq_listener(topic = "raw", group = "trigger")]
async fn no_payload(notes: Bean<Notes>) {
    notes.take("no payload");
}

#[mq_listener(topic = "%DLQ%json", group = "undertaker")]
async fn dead(Text(body): Text, Attempt(attempt): Attempt, notes: Bean<Notes>) {
    notes.take(format!("dead {body} {attempt}"));
}

#[tokio::test]
async fn each_form_of_the_body_is_given() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path())
        .listener(def!(json))
        .listener(def!(bytes))
        .listener(def!(text))
        .listener(def!(no_payload))
        .provide(notes);
    let running = app.start().await.expect("it starts");
    running.mq().to("raw").json(&Price { cents: 5 }).send().await.expect("it is stored");
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(taken.next().await);
    }
    seen.sort();
    assert_eq!(seen, ["bytes 11", "json 5", "no payload", r#"text {"cents":5}"#]);
    running.stop().await.expect("it stops");
}

#[tokio::test]
async fn a_body_that_does_not_decode_is_a_dead_letter_at_once() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).listener(def!(json)).listener(def!(dead)).provide(notes);
    let running = app.start().await.expect("it starts");
    running.mq().to("raw").text("five").send().await.expect("it is stored");
    running.mq().to("raw").json(&Price { cents: 6 }).send().await.expect("it is stored");
    let mut seen = [taken.next().await, taken.next().await];
    seen.sort();
    assert_eq!(seen[1], "json 6", "the next message is not held up");
    assert!(seen[0].starts_with("dead five"), "{seen:?}");
    running.stop().await.expect("it stops");
}
