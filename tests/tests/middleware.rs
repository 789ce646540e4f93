//! Tower layers stand around every call of a listener: they see whose message it is, decide, and
//! what they fail with brings the message back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use common_mq::prelude::*;
use common_mq::{Call, Outcome};
use support::{Notes, application};
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service};

#[mq_listener(topic = "slow", group = "slow-readers")]
async fn read_slowly(attempt: Attempt, notes: Bean<Notes>) {
    if attempt == Attempt(1) {
        tokio::time::sleep(Duration::from_secs(3_600)).await;
    }
    notes.take(format!("attempt {}", attempt.0));
}

#[tokio::test]
async fn a_time_out_fails_the_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let (notes, mut reader) = Notes::new();
    let app = application(folder.path())
        .provide(notes)
        .listener(def!(read_slowly))
        .layer(TimeoutLayer::new(Duration::from_millis(50)));
    let running = app.start().await.unwrap();
    running.mq().to("slow").text("x").send().await.unwrap();
    assert_eq!(reader.next().await, "attempt 2");
    running.stop().await.unwrap();
}

/// Writes down who is called, and lets every other call through.
#[derive(Clone)]
struct EveryOther {
    name: &'static str,
    notes: Notes,
    calls: Arc<AtomicU32>,
}

#[derive(Clone)]
struct Gate<S>(EveryOther, S);

impl<S> Layer<S> for EveryOther {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate(self.clone(), inner)
    }
}

impl<S: Service<Call, Response = Outcome>> Service<Call> for Gate<S>
where
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Outcome;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Outcome, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.1.poll_ready(context)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let EveryOther { name, notes, calls } = &self.0;
        let listener = &call.listener;
        notes.take(format!("{name}: {} of {}", listener.name, listener.group));
        if calls.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            return Box::pin(async { Ok(Outcome::Ack) });
        }
        Box::pin(self.1.call(call))
    }
}

#[mq_listener(topic = "fast", group = "fast-readers", concurrency = 1)]
async fn read(text: Text, notes: Bean<Notes>) {
    notes.take(format!("read {}", text.0));
}

#[tokio::test]
async fn layers_nest_in_the_order_they_were_given_and_may_decide_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (notes, mut reader) = Notes::new();
    let gate = |name| EveryOther { name, notes: notes.clone(), calls: Arc::default() };
    let app = application(folder.path()).listener(def!(read)).layer(gate("a")).layer(gate("b"));
    let running = app.provide(notes.clone()).start().await.unwrap();
    for body in ["1", "2", "3"] {
        running.mq().to("fast").text(body).send().await.unwrap();
        let seen = match body {
            "1" => vec!["a: read of fast-readers", "b: read of fast-readers", "read 1"],
            // The outer layer answers by itself.
            "2" => vec!["a: read of fast-readers"],
            // The inner one does.
            _ => vec!["a: read of fast-readers", "b: read of fast-readers"],
        };
        for note in seen {
            assert_eq!(reader.next().await, note);
        }
    }
    running.stop().await.unwrap();
    assert_eq!(reader.rest(), Vec::<String>::new());
}
