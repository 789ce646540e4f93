//! A producer asks, a handler answers, and the answer finds the one who asked.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mq_core::client::{ConsumerOptions, Handler, Outcome, Producer};
use mq_core::error::Error;
use mq_core::message::{Delivery, Outgoing};
use support::{Cluster, Recorder, each_transport, member, unique};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

each_transport!(
    each_request_gets_its_own_reply,
    a_request_that_nobody_answers_ends,
    a_reply_to_nobody_is_refused,
    what_is_no_request_cannot_be_answered,
);

const PATIENCE: Duration = Duration::from_secs(50);
/// For a request that is stored, and not answered.
const SHORT: Duration = Duration::from_secs(2);

/// Makes the topic by sending to it, so that consumers find it at once, and requests need not.
async fn make(producer: &Producer, topic: &str) {
    let nothing = Outgoing::new(topic, "nothing").tag("none");
    producer.send(nothing).await.expect("it is stored");
}

fn question(topic: &str, body: impl Into<Bytes>) -> Outgoing {
    Outgoing::new(topic, body).tag("question")
}

/// A member of a new group that takes the questions.
fn server_of(topic: &str) -> ConsumerOptions {
    let mut options = member(&unique("g"), topic);
    options.subscriptions[0].expression = "question".to_owned();
    options
}

/// Replies with what it was sent, and more of it.
struct Echo(Producer);

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, request: Delivery) -> Outcome {
        let text = String::from_utf8_lossy(&request.body).into_owned();
        match self.0.reply(&request, format!("{text}!")).await {
            Ok(_) => Outcome::Ack,
            Err(error) => Outcome::DeadLetter { cause: error.to_string() },
        }
    }
}

async fn each_request_gets_its_own_reply(cluster: Cluster) {
    let (client, server, topic) = (cluster.client().await, cluster.client().await, unique("rpc"));
    let echo = Arc::new(Echo(server.producer("echo")));
    let producer = client.producer(&unique("askers"));
    make(&producer, &topic).await;
    let consumer = server.start_consumer(server_of(&topic), echo).await;
    let mut requests = JoinSet::new();
    for number in 0..50 {
        let (producer, topic) = (producer.clone(), topic.clone());
        requests.spawn(async move {
            // Some are longer than what is sent as it is.
            let body = format!("{number}-{}", "x".repeat(number * 200));
            let reply =
                producer.request(question(&topic, body.clone()), PATIENCE).await.expect("a reply");
            assert_eq!(reply.body, format!("{body}!"));
            assert_eq!(reply.property("MSG_TYPE"), Some("reply"));
        });
    }
    requests.join_all().await;
    drop(consumer);
    server.shutdown().await;
    client.shutdown().await;
}

/// Hands requests over, so that they are answered later or never.
struct Later(mpsc::UnboundedSender<Delivery>);

#[async_trait]
impl Handler for Later {
    async fn handle(&self, request: Delivery) -> Outcome {
        let _closed = self.0.send(request);
        Outcome::Ack
    }
}

async fn a_request_that_nobody_answers_ends(cluster: Cluster) {
    let (client, topic) = (cluster.client().await, unique("rpc"));
    let producer = client.producer(&unique("askers"));
    make(&producer, &topic).await;
    let asked = producer.request(question(&topic, "1"), SHORT).await;
    assert!(matches!(asked, Err(Error::Timeout { .. })), "{asked:?}");
    let (requests, mut taken) = mpsc::unbounded_channel();
    let consumer = client.start_consumer(server_of(&topic), Arc::new(Later(requests))).await;
    // The late reply is taken, and does not end up with the next request.
    let late = taken.recv().await.expect("the request is there");
    producer.reply(&late, "late").await.expect("the client lives");
    let asking = producer.request(question(&topic, "2"), PATIENCE);
    let answering = async {
        let request = taken.recv().await.expect("the second request comes");
        producer.reply(&late, "late again").await.expect("the client lives");
        producer.reply(&request, "in time").await.expect("the client lives");
    };
    let (reply, ()) = tokio::join!(asking, answering);
    assert_eq!(reply.expect("a reply").body, "in time");
    drop(consumer);
    client.shutdown().await;
}

async fn a_reply_to_nobody_is_refused(cluster: Cluster) {
    let (client, topic) = (cluster.client().await, unique("rpc"));
    let gone = cluster.client().await;
    let producer = gone.producer("askers");
    make(&producer, &topic).await;
    let asked = producer.request(question(&topic, "1"), SHORT).await;
    assert!(matches!(asked, Err(Error::Timeout { .. })), "{asked:?}");
    gone.shutdown().await;
    let reader = Recorder::new();
    let consumer = client.start_consumer(server_of(&topic), reader.clone()).await;
    let request = reader.given(1).await.remove(0);
    let replied = client.producer("repliers").reply(&request, "too late").await;
    assert!(matches!(replied, Err(Error::Refused { code: 1, .. })), "{replied:?}");
    drop(consumer);
    client.shutdown().await;
}

async fn what_is_no_request_cannot_be_answered(cluster: Cluster) {
    let (client, topic) = (cluster.client().await, unique("rpc"));
    let producer = client.producer("senders");
    producer.send(Outgoing::new(&topic, "news")).await.expect("it is stored");
    let reader = Recorder::new();
    let consumer = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    let news = reader.given(1).await.remove(0);
    let replied = producer.reply(&news, "thanks").await;
    assert!(matches!(replied, Err(Error::Message(_))), "{replied:?}");
    drop(consumer);
    client.shutdown().await;
}
