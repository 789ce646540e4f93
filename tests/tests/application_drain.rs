//! An application that stops finishes what its handlers have begun, and what it had no time for is
//! there when it comes back.

use std::time::Duration;

use common_mq::prelude::*;
use support::{Notes, application};

#[mq_listener(topic = "jobs", group = "workers", concurrency = 1)]
async fn work(Text(job): Text, notes: Bean<Notes>) {
    notes.take(format!("{job} begins"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    notes.take(format!("{job} ends"));
}

fn app(store: &tempfile::TempDir, notes: Notes) -> App {
    application(store.path()).listener(def!(work)).provide(notes)
}

#[tokio::test]
async fn what_has_begun_ends_and_the_rest_comes_again() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let running = app(&store, notes.clone()).start().await.expect("it starts");
    for job in ["a", "b", "c"] {
        running.mq().to("jobs").text(job).send().await.expect("it is stored");
    }
    let first = taken.next().await;
    running.stop().await.expect("it stops");
    let job = first.strip_suffix(" begins").expect("a job begins first");
    assert_eq!(taken.rest(), [format!("{job} ends")], "it ends, and no other begins");

    let running = app(&store, notes).start().await.expect("it starts again");
    let mut again = Vec::new();
    while again.len() < 4 {
        again.push(taken.next().await);
    }
    assert!(!again.iter().any(|note| note.starts_with(job)), "{job} was done: {again:?}");
    running.stop().await.expect("it stops");
}

#[tokio::test]
async fn one_deadline_ends_the_wait_for_handlers() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = app(&store, notes.clone()).set("mq.drain", "50ms");
    let running = app.start().await.expect("it starts");
    running.mq().to("jobs").text("slow").send().await.expect("it is stored");
    assert_eq!(taken.next().await, "slow begins");
    running.stop().await.expect("it stops");
    assert_eq!(taken.rest(), Vec::<String>::new(), "the handler was cut off");
    let running = self::app(&store, notes).start().await.expect("it starts again");
    assert_eq!([taken.next().await, taken.next().await], ["slow begins", "slow ends"]);
    running.stop().await.expect("it stops");
}
