//! What the integration tests share: a cluster to test against, handlers that remember, waiting on
//! facts. Not here: a single test.
//!
//! Every test runs over TCP and in process; [`each_transport`] makes both of one function. Over TCP
//! the cluster is the bundled broker on a free port, or the one whose name server the environment
//! names in `MQ_NAME_SERVER` (then the runs in process are left out, and time cannot be moved;
//! `MQ_APACHE` says which version of Apache RocketMQ it is).
#![forbid(unsafe_code)]

/// The programs of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}

mod admin;
mod application;
pub mod foreign;
pub mod history;
pub mod java;
pub mod program;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mq_core::client::{
    Client, ClientOptions, ConsumeFrom, ConsumerOptions, Handler, Outcome, Transport,
};
use mq_core::clock::{Clock, ManualClock};
use mq_core::embedded::{EmbeddedBroker, EmbeddedOptions};
use mq_core::message::Delivery;
use tempfile::TempDir;
use tokio::sync::watch;

pub use admin::Admin;
pub use application::{Notes, Reader, application};

common_mq::component_crate!();

/// Nothing that a test waits for takes this long, not even a first rebalance of a real cluster.
const DEADLINE: Duration = Duration::from_secs(60);
/// How far time is moved at once, so that what hangs on it happens in its order.
const TIME_STEP: Duration = Duration::from_secs(1);
/// And when much of it passes: less than what makes a member silent.
const LONG_STEP: Duration = Duration::from_secs(20);
/// So much time is much.
const LONG: Duration = Duration::from_secs(60);

static NEXT_NAME: AtomicU32 = AtomicU32::new(0);

/// Whether the test moves the time of the bundled broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// It passes.
    Real,
    /// It stands until [`Cluster::pass`].
    Moved,
}

/// Makes two tests, `over_tcp` and `in_process`, of each function that takes a [`Cluster`].
#[macro_export]
macro_rules! each_transport {
    ($($name:ident),* $(,)?) => { $crate::each_transport!(@ $crate::Time::Real, $($name),*); };
    (with moved time: $($name:ident),* $(,)?) => {
        $crate::each_transport!(@ $crate::Time::Moved, $($name),*);
    };
    (@ $time:expr, $($name:ident),*) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn over_tcp() {
                super::$name($crate::Cluster::over_tcp($time).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn in_process() {
                if let Some(cluster) = $crate::Cluster::in_process($time).await {
                    super::$name(cluster).await;
                }
            }
        }
    )*};
}

/// Brokers to test against.
#[derive(Debug)]
pub struct Cluster {
    options: ClientOptions,
    /// The bundled broker, unless the cluster is somebody else's.
    pub broker: Option<Arc<dyn EmbeddedBroker>>,
    hand: Option<ManualClock>,
    _store: Option<TempDir>,
}

impl Cluster {
    /// The cluster of `MQ_NAME_SERVER`, or the bundled broker on a free port.
    pub async fn over_tcp(time: Time) -> Self {
        if let Ok(name_server) = std::env::var("MQ_NAME_SERVER") {
            let options = ClientOptions { name_servers: vec![name_server], ..patient() };
            return Self { options, broker: None, hand: None, _store: None };
        }
        let mut cluster = Self::bundled(time, Some("127.0.0.1:0"), &[]).await;
        let address = cluster.broker.as_ref().and_then(|broker| broker.address());
        let address = address.expect("a broker with a port has an address");
        cluster.options.name_servers = vec![address.to_string()];
        cluster
    }

    /// The bundled broker without a port; nothing when another cluster is to be tested.
    pub async fn in_process(time: Time) -> Option<Self> {
        Self::in_process_with(time, &[]).await
    }

    /// The same with keys of the broker's configuration set.
    pub async fn in_process_with(time: Time, settings: &[(&str, &str)]) -> Option<Self> {
        if std::env::var("MQ_NAME_SERVER").is_ok() {
            return None;
        }
        let mut cluster = Self::bundled(time, None, settings).await;
        cluster.options.transport = Transport::InProcess(cluster.broker.clone()?);
        Some(cluster)
    }

    async fn bundled(time: Time, listen: Option<&str>, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        let store = tempfile::tempdir().expect("a temporary directory can be made");
        let (clock, hand) = match time {
            Time::Real => (Clock::System, None),
            Time::Moved => {
                let now_ms = u64::try_from(Clock::System.now_ms()).expect("it is after 1970");
                let (clock, hand) = Clock::manual(now_ms);
                (clock, Some(hand))
            }
        };
        let broker = mq_broker::start_embedded(EmbeddedOptions {
            store: store.path().to_owned(),
            listen: listen.map(|address| address.parse().expect("an address")),
            settings: settings.collect(),
            clock: clock.clone(),
        })
        .await
        .expect("the bundled broker starts");
        let options = ClientOptions { clock, ..patient() };
        Self { options, broker: Some(broker), hand, _store: Some(store) }
    }

    /// A new client of the cluster.
    pub async fn client(&self) -> Client {
        Client::connect(self.options.clone()).await.expect("a client can be made")
    }

    /// What a client of this cluster is made of.
    #[must_use]
    pub fn options(&self) -> ClientOptions {
        self.options.clone()
    }

    /// Whether what is tested exists here. The bundled broker has everything; an Apache RocketMQ,
    /// whose version `MQ_APACHE` names, has it from `since` on. Says what is left out.
    #[must_use]
    pub fn has(&self, since: &str, what: &str) -> bool {
        let Ok(version) = std::env::var("MQ_APACHE") else { return true };
        let has = self.broker.is_some() || numbers(&version) >= numbers(since);
        if !has {
            println!("SKIPPED: Apache RocketMQ {version} has no {what}");
        }
        has
    }

    /// Lets time pass, by the hand where there is one.
    pub async fn pass(&self, time: Duration) {
        let Some(hand) = &self.hand else { return tokio::time::sleep(time).await };
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(if left > LONG { LONG_STEP } else { TIME_STEP });
            hand.advance(step);
            left -= step;
            // Whoever was woken gets its turn before time goes on.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').filter_map(|number| number.parse().ok()).collect()
}

/// A machine that runs many tests at once may take its time.
fn patient() -> ClientOptions {
    ClientOptions { send_timeout: DEADLINE / 2, ..ClientOptions::default() }
}

/// A name that no other test, and no other run against the same cluster, has.
#[must_use]
pub fn unique(what: &str) -> String {
    let number = NEXT_NAME.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{}-{number}", std::process::id(), Clock::System.now_ms())
}

/// A member of `group` that takes all of `topic` from its beginning.
#[must_use]
pub fn member(group: &str, topic: &str) -> ConsumerOptions {
    let mut options = ConsumerOptions::new(group).subscribe(topic, "*");
    options.from = ConsumeFrom::First;
    options
}

type Answer = dyn Fn(&Delivery) -> Outcome + Send + Sync;

/// A handler that remembers what it was given.
pub struct Recorder {
    seen: watch::Sender<Vec<Delivery>>,
    answer: Box<Answer>,
    takes: Duration,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("seen", &self.seen.borrow().len()).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Acknowledges everything.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::answering(|_| Outcome::Ack)
    }

    /// Answers as `answer` says.
    #[must_use]
    pub fn answering(answer: impl Fn(&Delivery) -> Outcome + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            seen: watch::Sender::default(),
            answer: Box::new(answer),
            takes: Duration::ZERO,
        })
    }

    /// Acknowledges everything after a while.
    #[must_use]
    pub fn taking(takes: Duration) -> Arc<Self> {
        let answer = Box::new(|_: &Delivery| Outcome::Ack);
        Arc::new(Self { seen: watch::Sender::default(), answer, takes })
    }

    /// What was given so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Delivery> {
        self.seen.borrow().clone()
    }

    /// The bodies given so far, as text and sorted.
    #[must_use]
    pub fn bodies(&self) -> Vec<String> {
        sorted_bodies(&self.seen.borrow())
    }

    /// Waits until at least `count` messages were given; returns them.
    pub async fn given(&self, count: usize) -> Vec<Delivery> {
        let mut seen = self.seen.subscribe();
        let enough = seen.wait_for(|seen| seen.len() >= count);
        let enough = tokio::time::timeout(DEADLINE, enough).await;
        match enough {
            Ok(seen) => seen.expect("the recorder holds the sender").clone(),
            Err(_) => panic!("{} of {count} messages came", self.seen.borrow().len()),
        }
    }
}

#[async_trait]
impl Handler for Recorder {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        let outcome = (self.answer)(&delivery);
        self.seen.send_modify(|seen| seen.push(delivery));
        outcome
    }
}

/// The bodies as text, sorted.
#[must_use]
pub fn sorted_bodies(deliveries: &[Delivery]) -> Vec<String> {
    let text = |delivery: &Delivery| String::from_utf8_lossy(&delivery.body).into_owned();
    let mut bodies: Vec<String> = deliveries.iter().map(text).collect();
    bodies.sort();
    bodies
}

/// `0000`, `0001`, ...: bodies that sort as they count.
#[must_use]
pub fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:04}")).collect()
}

/// Waits until `fact` holds.
///
/// # Panics
/// When it does not in time; `what` says what it was.
pub async fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !fact() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
