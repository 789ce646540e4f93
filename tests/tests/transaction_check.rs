//! A broker asks the producers of a group about undecided transactions: when they are old enough,
//! again while they do not know, one after the other, and at last no more.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mq_core::client::{Client, TransactionChecker, TransactionProducer, TransactionState};
use mq_core::message::{Delivery, Outgoing};
use mq_core::properties::key;
use mq_core::protocol::code::{RequestCode, ResponseCode};
use mq_core::protocol::command::Command;
use mq_core::protocol::header::ResumeCheckHalfMessageRequest;
use mq_core::remote::{Remote, RemoteOptions};
use support::{Cluster, Recorder, each_transport, eventually, member, unique};
use tokio::sync::mpsc;

each_transport!(with moved time:
    an_undecided_message_is_asked_about_until_it_is_known,
    a_checker_that_panics_is_asked_again,
    after_the_last_check_a_message_is_given_up,
    checkers_take_turns_and_stand_in_for_each_other,
    a_message_says_when_it_may_be_asked_about,
    without_a_producer_nothing_is_given_up,
    a_decision_after_a_check_counts_once,
    a_lost_decision_costs_a_check,
    what_was_given_up_can_be_resumed,
);

/// The broker looks for undecided transactions this often.
const ROUND: Duration = Duration::from_secs(31);

/// Answers as it is told, and remembers what it was asked.
#[derive(Default)]
struct Oracle {
    asked: Mutex<Vec<Delivery>>,
    /// The answers to come; then unknown.
    answers: Mutex<VecDeque<TransactionState>>,
}

impl Oracle {
    fn saying(answers: impl IntoIterator<Item = TransactionState>) -> Arc<Self> {
        let answers = Mutex::new(answers.into_iter().collect());
        Arc::new(Self { answers, ..Self::default() })
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("no test panics in it").len()
    }

    async fn asked_times(&self, times: usize) {
        eventually(&format!("asked {times} times"), || self.asked() >= times).await;
    }
}

#[async_trait]
impl TransactionChecker for Oracle {
    async fn check(&self, half: Delivery) -> TransactionState {
        self.asked.lock().expect("no test panics in it").push(half);
        let answer = self.answers.lock().expect("no test panics in it").pop_front();
        answer.unwrap_or(TransactionState::Unknown)
    }
}

async fn producer(client: &Client, group: &str, oracle: &Arc<Oracle>) -> TransactionProducer {
    client.transaction_producer(group, oracle.clone()).await.expect("a producer")
}

/// Leaves a transaction undecided.
async fn leave(producer: &TransactionProducer, topic: &str, body: &'static str) {
    let message = Outgoing::new(topic, body).tag("t").key("k");
    drop(producer.prepare(message).await.expect("the half message is stored"));
}

async fn an_undecided_message_is_asked_about_until_it_is_known(cluster: Cluster) {
    let Some(()) = moved(&cluster) else { return };
    let (client, topic, group) = (cluster.client().await, unique("tx"), unique("tx"));
    let oracle = Oracle::saying([TransactionState::Unknown, TransactionState::Commit]);
    let producer = producer(&client, &group, &oracle).await;
    let message = Outgoing::new(&topic, "order").tag("paid").key("k");
    let half = producer.prepare(message).await.expect("the half message is stored");
    let id = half.receipt.msg_id.clone();
    drop(half);
    let reader = Recorder::new();
    let consumer = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    assert_eq!(oracle.asked(), 0, "it was too young");
    cluster.pass(ROUND).await;
    oracle.asked_times(1).await;
    cluster.pass(ROUND).await;
    let seen = reader.given(1).await.remove(0);
    assert_eq!((&seen.body[..], seen.tags(), seen.msg_id()), (&b"order"[..], Some("paid"), id));
    let asked = oracle.asked.lock().expect("no panic").clone();
    let shown = |half: &Delivery| {
        let (topic, times) = (half.topic(), half.property(key::TRANSACTION_CHECK_TIMES));
        (topic.to_owned(), half.body.clone(), times.map(str::to_owned))
    };
    let times = |times: &str| (topic.clone(), "order".into(), Some(times.to_owned()));
    assert_eq!(asked.iter().map(shown).collect::<Vec<_>>(), [times("1"), times("2")]);
    // Decided: nobody is asked any more, and nothing comes twice.
    cluster.pass(3 * ROUND).await;
    assert_eq!((oracle.asked(), reader.seen().len()), (2, 1));
    drop(consumer);
    client.shutdown().await;
}

async fn a_checker_that_panics_is_asked_again(cluster: Cluster) {
    let Some(()) = moved(&cluster) else { return };
    struct Nervous(Mutex<u32>);
    #[async_trait]
    impl TransactionChecker for Nervous {
        async fn check(&self, _: Delivery) -> TransactionState {
            let first = {
                let mut asked = self.0.lock().expect("it panics outside");
                *asked += 1;
                *asked == 1
            };
            assert!(!first, "not now");
            TransactionState::Commit
        }
    }
    let (client, topic) = (cluster.client().await, unique("tx"));
    let nervous = Arc::new(Nervous(Mutex::new(0)));
    let producer = client.transaction_producer(&unique("tx"), nervous.clone()).await;
    let producer = producer.expect("a producer");
    leave(&producer, &topic, "order").await;
    let reader = Recorder::new();
    let consumer = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    cluster.pass(ROUND).await;
    eventually("asked", || *nervous.0.lock().expect("it panics outside") == 1).await;
    cluster.pass(ROUND).await;
    assert_eq!(reader.given(1).await.len(), 1);
    drop(consumer);
    client.shutdown().await;
}

async fn after_the_last_check_a_message_is_given_up(cluster: Cluster) {
    let Some(()) = moved(&cluster) else { return };
    const CHECKS: usize = 15;
    let (client, topic, group) = (cluster.client().await, unique("tx"), unique("tx"));
    let oracle = Oracle::saying([]);
    let producer = producer(&client, &group, &oracle).await;
    let half = producer.prepare(Outgoing::new(&topic, "order")).await.expect("stored");
    for check in 1..=CHECKS {
        cluster.pass(ROUND).await;
        oracle.asked_times(check).await;
    }
    cluster.pass(4 * ROUND).await;
    assert_eq!(oracle.asked(), CHECKS);
    let given_up = Recorder::new();
    let options = member(&unique("g"), "TRANS_CHECK_MAX_TIME_TOPIC");
    let consumer = client.start_consumer(options, given_up.clone()).await;
    let seen = given_up.given(1).await.remove(0);
    assert_eq!(&seen.body[..], b"order");
    assert_eq!(seen.property(key::REAL_TOPIC), Some(&*topic));
    // Better late than never.
    half.commit().await.expect("told");
    let reader = Recorder::new();
    let late = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    assert_eq!(reader.given(1).await.len(), 1);
    drop((consumer, late));
    client.shutdown().await;
}

async fn what_was_given_up_can_be_resumed(cluster: Cluster) {
    let Some(()) = moved(&cluster) else { return };
    let Some(address) = cluster.broker.as_ref().and_then(|broker| broker.address()) else { return };
    let (client, topic, group) = (cluster.client().await, unique("tx"), unique("tx"));
    let checks = [TransactionState::Unknown; 15].into_iter();
    let oracle = Oracle::saying(checks.chain([TransactionState::Commit]));
    let producer = producer(&client, &group, &oracle).await;
    leave(&producer, &topic, "order").await;
    for check in 1..=15 {
        cluster.pass(ROUND).await;
        oracle.asked_times(check).await;
    }
    cluster.pass(ROUND).await;
    let given_up = Recorder::new();
    let options = member(&unique("g"), "TRANS_CHECK_MAX_TIME_TOPIC");
    let consumer = client.start_consumer(options, given_up.clone()).await;
    let id = given_up.given(1).await.remove(0).offset_msg_id();
    let (inbound, _requests) = mpsc::channel(1);
    let admin = Remote::connect(&address.to_string(), &RemoteOptions::default(), inbound).await;
    let resume = ResumeCheckHalfMessageRequest { topic: None, msg_id: Some(&id) };
    let resume = Command::with(RequestCode::ResumeCheckHalfMessage, &resume);
    let admin = admin.expect("a connection");
    let ask = || admin.call(resume.clone(), Duration::from_secs(10));
    assert_eq!(ask().await.expect("an answer").response_code(), ResponseCode::Success);
    // It is among the undecided now: once is enough.
    assert_eq!(ask().await.expect("an answer").response_code(), ResponseCode::SystemError);
    let reader = Recorder::new();
    let late = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    cluster.pass(ROUND).await;
    assert_eq!(reader.given(1).await.len(), 1);
    drop((consumer, late));
    client.shutdown().await;
}

async fn checkers_take_turns_and_stand_in_for_each_other(cluster: Cluster) {
    let Some(()) = moved(&cluster) else { return };
    let (topic, group) = (unique("tx"), unique("tx"));
    let oracles = [Oracle::saying([]), Oracle::saying([]), Oracle::saying([])];
    let mut members = Vec::new();
    for oracle in &oracles {
        let client = cluster.client().await;
        members.push((producer(&client, &group, oracle).await, client));
    }
    for _ in 0..6 {
        leave(&members[0].0, &topic, "order").await;
    }
    let asked = || oracles.iter().map(|oracle| oracle.asked()).collect::<Vec<_>>();
    cluster.pass(ROUND).await;
    eventually("all are asked", || asked() == [2, 2, 2]).await;
    // The sender goes; the others answer for it.
    members.remove(0).1.shutdown().await;
    cluster.pass(ROUND).await;
    eventually("the others are asked", || asked() == [2, 5, 5]).await;
    for (_, client) in members {
        client.shutdown().await;
    }
}

async fn a_message_says_when_it_may_be_asked_about(cluster: Cluster) {
    let Some(()) = moved(&cluster) else { return };
    let (client, topic, group) = (cluster.client().await, unique("tx"), unique("tx"));
    let oracle = Oracle::saying([]);
    let producer = producer(&client, &group, &oracle).await;
    let slow = Outgoing::new(&topic, "slow").property(key::CHECK_IMMUNITY_TIME_IN_SECONDS, "100");
    drop(producer.prepare(slow.expect("a property")).await.expect("stored"));
    leave(&producer, &topic, "quick").await;
    let bodies = || {
        let asked = oracle.asked.lock().expect("no panic");
        asked.iter().map(|half| half.body.clone()).collect::<Vec<_>>()
    };
    for round in 1..=3 {
        cluster.pass(Duration::from_secs(30)).await;
        oracle.asked_times(round).await;
    }
    assert_eq!(bodies(), ["quick", "quick", "quick"]);
    cluster.pass(Duration::from_secs(30)).await;
    oracle.asked_times(5).await;
    assert!(bodies().contains(&"slow".into()), "{:?}", bodies());
    client.shutdown().await;
}

async fn without_a_producer_nothing_is_given_up(cluster: Cluster) {
    let Some(()) = moved(&cluster) else { return };
    let (topic, group) = (unique("tx"), unique("tx"));
    let gone = cluster.client().await;
    leave(&producer(&gone, &group, &Oracle::saying([])).await, &topic, "order").await;
    gone.shutdown().await;
    cluster.pass(30 * ROUND).await;
    let client = cluster.client().await;
    let oracle = Oracle::saying([TransactionState::Commit]);
    let _producer = producer(&client, &group, &oracle).await;
    let reader = Recorder::new();
    let consumer = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    // The route is asked for now and then, and the group is told with the first connection.
    for _ in 0..20 {
        cluster.pass(ROUND).await;
        if oracle.asked() > 0 {
            break;
        }
    }
    assert_eq!(reader.given(1).await.len(), 1);
    let asked = oracle.asked.lock().expect("no panic").remove(0);
    assert_eq!(asked.property(key::TRANSACTION_CHECK_TIMES), Some("1"));
    drop(consumer);
    client.shutdown().await;
}

async fn a_decision_after_a_check_counts_once(cluster: Cluster) {
    let Some(()) = moved(&cluster) else { return };
    let (client, topic, group) = (cluster.client().await, unique("tx"), unique("tx"));
    let oracle = Oracle::saying([TransactionState::Unknown, TransactionState::Unknown]);
    let producer = producer(&client, &group, &oracle).await;
    let half = producer.prepare(Outgoing::new(&topic, "order")).await.expect("stored");
    for check in 1..=2 {
        cluster.pass(ROUND).await;
        oracle.asked_times(check).await;
    }
    // It names the place where the half message was at first.
    half.commit().await.expect("told");
    let reader = Recorder::new();
    let consumer = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    reader.given(1).await;
    cluster.pass(3 * ROUND).await;
    assert_eq!((oracle.asked(), reader.seen().len()), (2, 1));
    drop(consumer);
    client.shutdown().await;
}

async fn a_lost_decision_costs_a_check(cluster: Cluster) {
    let (client, topic, group) = (cluster.client().await, unique("tx"), unique("tx"));
    let oracle = Oracle::saying([
        TransactionState::Unknown,
        TransactionState::Commit,
        TransactionState::Rollback,
    ]);
    let producer = producer(&client, &group, &oracle).await;
    leave(&producer, &topic, "committed").await;
    for asked in 1..=2 {
        next_round(&cluster).await;
        oracle.asked_times(asked).await;
    }
    leave(&producer, &topic, "rolled back").await;
    next_round(&cluster).await;
    oracle.asked_times(3).await;
    let reader = Recorder::new();
    let consumer = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    let seen = reader.given(1).await.remove(0);
    assert_eq!((&seen.body[..], seen.tags()), (&b"committed"[..], Some("t")));
    let asked = oracle.asked.lock().expect("no panic").remove(0);
    assert_eq!((asked.topic(), asked.msg_id()), (&*topic, seen.msg_id()));
    drop(consumer);
    client.shutdown().await;
}

/// Apache RocketMQ is started with a short interval for these tests; there it is waited for.
async fn next_round(cluster: &Cluster) {
    if cluster.broker.is_some() {
        cluster.pass(ROUND).await;
    }
}

/// The schedule is the broker's; only on ours time can be moved.
fn moved(cluster: &Cluster) -> Option<()> {
    cluster.broker.as_ref().map(drop).or_else(|| {
        println!("SKIPPED: time cannot be moved on Apache RocketMQ");
        None
    })
}
