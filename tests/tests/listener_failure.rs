//! A handler that fails gets the message again: after an error and after a panic alike, while other
//! messages go on. An outcome is done as it says.

use common_mq::prelude::*;
use support::{Notes, application};

#[mq_listener(topic = "work", group = "workers")]
async fn work(
    Text(task): Text,
    Attempt(attempt): Attempt,
    notes: Bean<Notes>,
) -> Result<Outcome, String> {
    notes.take(format!("{task} {attempt}"));
    match (&*task, attempt) {
        ("panic", 1) => panic!("as the task says"),
        ("error", 1) => Err("as the task says".to_owned()),
        ("bury", _) => Ok(Outcome::DeadLetter { cause: "as the task says".to_owned() }),
        _ => Ok(Outcome::Ack),
    }
}

#[mq_listener(topic = "%DLQ%workers", group = "undertaker")]
async fn dead(Text(task): Text, notes: Bean<Notes>) {
    notes.take(format!("dead {task}"));
}

async fn run(task: &str) -> Vec<String> {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).listener(def!(work)).listener(def!(dead)).provide(notes);
    let running = app.start().await.expect("it starts");
    running.mq().to("work").text(task).send().await.expect("it is stored");
    let seen = vec![taken.next().await, taken.next().await];
    running.mq().to("work").text("next").send().await.expect("it is stored");
    assert_eq!(taken.next().await, "next 1", "the listener goes on");
    running.stop().await.expect("it stops");
    seen
}

#[tokio::test]
async fn a_panic_is_an_error_of_that_message() {
    assert_eq!(run("panic").await, ["panic 1", "panic 2"]);
}

#[tokio::test]
async fn an_error_asks_for_another_attempt() {
    assert_eq!(run("error").await, ["error 1", "error 2"]);
}

#[tokio::test]
async fn an_outcome_is_done_as_it_says() {
    assert_eq!(run("bury").await, ["bury 1", "dead bury"]);
}
