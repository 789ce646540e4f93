//! The test kit: an application on a broker and a store of its own, and on a clock that the test
//! moves. Not here: assertions on what the application keeps; beans are asked for that.
//!
//! Invariants: nothing is waited for by sleeping a guessed time: [`TestMq::settled`] counts what is
//! due and not done. The clock moves from one due moment to the next and lets what hangs on each
//! happen before it goes on, so that things happen in their order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use crate::app::component::{Bean, Component};
use crate::app::listener::ListenerDef;
use crate::app::middleware::{Call, Inner};
use crate::app::mq::Mq;
use crate::app::payload::Message;
use crate::app::{App, Listening, Running};
use crate::client::Outcome;
use crate::clock::{Clock, ManualClock};
use crate::message::Delivery;

/// Nothing that a test waits for takes this long.
const DEADLINE: Duration = Duration::from_secs(60);
/// The rest between two looks at whether everything is done.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// The clock begins here: a Monday morning, 2024-01-01T08:00:00Z.
const MORNING_MS: u64 = 1_704_096_000_000;

/// An application under test.
///
/// ```no_run
/// # use mq_core::app::{App, test::TestMq};
/// # use std::time::Duration;
/// # async fn f(app: App) {
/// let mut test = TestMq::start(app).await;
/// test.mq().to("orders").text("7").send().await.unwrap();
/// test.advance(Duration::from_secs(15 * 60)).await; // delays and retries fall due in their order
/// test.settled().await; // everything that is due is handled
/// # }
/// ```
#[derive(Debug)]
pub struct TestMq {
    app: App,
    running: Option<Running>,
    hand: ManualClock,
    log: Arc<Log>,
    _store: TempDir,
}

/// What listeners were called with, and what they said.
#[derive(Debug, Default)]
struct Log(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    handled: HashMap<&'static str, Vec<Handled>>,
    to_fail: usize,
}

/// One call of a listener.
#[derive(Clone, Debug)]
pub struct Handled {
    /// What came.
    pub delivery: Delivery,
    /// What became of it.
    pub outcome: Outcome,
    /// When, in milliseconds since the epoch by the test's clock.
    pub at_ms: i64,
}

impl Handled {
    /// Was the message done?
    #[must_use]
    pub fn is_acked(&self) -> bool {
        matches!(self.outcome, Outcome::Ack)
    }
}

impl TestMq {
    /// Starts an application on a broker of its own. Its store is a new directory that goes with
    /// the test; its clock stands at 2024-01-01T08:00:00Z until it is moved.
    ///
    /// # Panics
    /// When the application does not start; the text has all findings.
    pub async fn start(app: App) -> Self {
        let store = tempfile::tempdir().expect("a temporary directory can be made");
        let (clock, hand) = Clock::manual(MORNING_MS);
        let log = Arc::<Log>::default();
        let app = app
            .set("mq.embedded.store", store.path().display().to_string())
            .clock(clock.clone())
            .layer(Witness { log: Arc::clone(&log), clock });
        let running = start(&app).await;
        Self { app, running: Some(running), hand, log, _store: store }
    }

    /// Sends messages as a part of the application would.
    #[must_use]
    pub fn mq(&self) -> Mq {
        self.running().mq()
    }

    /// Sends a typed message.
    ///
    /// # Panics
    /// When the broker does not take it.
    pub async fn send<T: Message>(&self, message: &T) {
        let sent = self.mq().send(message).await;
        sent.unwrap_or_else(|error| panic!("a `{}` was not sent: {error}", T::TOPIC));
    }

    /// The component of a type.
    ///
    /// # Panics
    /// When the application has none.
    #[must_use]
    pub fn bean<T: Component>(&self) -> Bean<T> {
        let name = std::any::type_name::<T>();
        self.running().bean().unwrap_or_else(|| panic!("the application has no `{name}`"))
    }

    /// Where programs in other languages reach the broker, if the application was started with
    /// `.set("mq.embedded.listen", "127.0.0.1:0")`.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.running().address()
    }

    /// Milliseconds since the epoch, by the test's clock.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.hand.now_ms()
    }

    /// The calls of a listener so far, in the order they ended:
    /// `test.calls(def!(orders::on_paid))`.
    #[must_use]
    pub fn calls(&self, listener: &'static ListenerDef) -> Vec<Handled> {
        self.log.entries().handled.get(listener.name).cloned().unwrap_or_default()
    }

    /// The next `count` calls of any listeners fail before they reach them.
    pub fn fail_next(&self, count: usize) {
        self.log.entries().to_fail += count;
    }

    /// Lets time pass. What falls due on the way happens at its time and is settled before time
    /// goes on.
    ///
    /// # Panics
    /// As [`Self::settled`].
    pub async fn advance(&self, time: Duration) {
        let goal_ms = self.now_ms().saturating_add(crate::clock::millis(time));
        loop {
            self.settled().await;
            let next_ms = self.hand.next_due_ms().filter(|due_ms| *due_ms < goal_ms);
            self.hand.advance_to(next_ms.unwrap_or(goal_ms));
            if next_ms.is_none() {
                return self.settled().await;
            }
        }
    }

    /// Returns once everything that is due is done: sent messages are stored, delays that are over
    /// are delivered, and every listener has finished what it subscribes.
    ///
    /// # Panics
    /// When that takes longer than a minute; the text says who is behind.
    pub async fn settled(&self) {
        let deadline = Instant::now() + DEADLINE;
        while let Some(behind) = self.behind().await {
            assert!(Instant::now() < deadline, "not settled within {DEADLINE:?}: {behind}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Who is not done yet.
    async fn behind(&self) -> Option<String> {
        let running = self.running();
        if let Some(broker) = &running.broker
            && broker.behind() > 0
        {
            return Some("the broker has work that is due".to_owned());
        }
        for Listening { id, consumer, .. } in &running.consumers {
            match consumer.is_caught_up().await {
                Ok(true) => {}
                Ok(false) => return Some(format!("listener `{id}` has messages")),
                Err(error) => return Some(format!("listener `{id}`: {error}")),
            }
        }
        // What the last listener did may have made work again for the broker.
        let late = running.broker.as_ref().is_some_and(|broker| broker.behind() > 0);
        late.then(|| "the broker has new work".to_owned())
    }

    /// Stops the application in order and starts it again on the same store.
    ///
    /// # Panics
    /// When it does not stop or start.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.running = Some(start(&self.app).await);
    }

    /// Drops the application as a crash would, and starts it again on the same store.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn crash(&mut self) {
        drop(self.running.take());
        self.running = Some(start(&self.app).await);
    }

    /// Stops the application in order; what went wrong fails the test.
    ///
    /// # Panics
    /// When a hook fails, or the broker cannot write.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take()
            && let Err(error) = running.stop().await
        {
            panic!("the application did not stop in order: {error}");
        }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the application runs: it was not stopped")
    }
}

/// The body of a test under `#[common_mq::test]`.
///
/// # Panics
/// When the application does not start, or the test fails.
pub fn run<F, Test>(app: App, test: F) -> Test::Output
where
    F: FnOnce(TestMq) -> Test,
    Test: Future,
{
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime can be made");
    runtime.block_on(async { test(TestMq::start(app).await).await })
}

async fn start(app: &App) -> Running {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match app.clone().start().await {
            Ok(running) => return running,
            // The broker that was dropped holds the store for a moment more.
            Err(error) if error.to_string().contains("lock") && Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => panic!("the application does not start: {error}"),
        }
    }
}

impl Log {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outermost layer of an application under test.
struct Witness {
    log: Arc<Log>,
    clock: Clock,
}

impl Layer<Inner> for Witness {
    type Service = Watched;

    fn layer(&self, inner: Inner) -> Watched {
        Watched { log: Arc::clone(&self.log), clock: self.clock.clone(), inner }
    }
}

#[derive(Clone)]
struct Watched {
    log: Arc<Log>,
    clock: Clock,
    inner: Inner,
}

impl Service<Call> for Watched {
    type Response = Outcome;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Outcome, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let (log, clock) = (Arc::clone(&self.log), self.clock.clone());
        let (name, delivery) = (call.listener.name, call.delivery.clone());
        let fails = {
            let mut entries = log.entries();
            let fails = entries.to_fail > 0;
            entries.to_fail = entries.to_fail.saturating_sub(1);
            fails
        };
        let inner = (!fails).then(|| self.inner.call(call));
        Box::pin(async move {
            let outcome = match inner {
                Some(inner) => inner.await?,
                None => Outcome::Retry { delay_level: 0, cause: "failed by the test".to_owned() },
            };
            let handled = Handled { delivery, outcome: outcome.clone(), at_ms: clock.now_ms() };
            log.entries().handled.entry(name).or_default().push(handled);
            Ok(outcome)
        })
    }
}
