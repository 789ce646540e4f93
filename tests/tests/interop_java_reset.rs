//! A group of unmodified Java consumers is moved while it consumes: clients of 4.4.0 hear of it by
//! 220, those of 5.5.0 by the answer to a pull. Each message comes exactly once more.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use mq_core::client::{Client, ClientOptions};
use mq_core::message::Outgoing;
use support::java::Java;
use support::program::{MqDev, Program};
use support::{Admin, numbered};

/// What the Java program consumes, and as whom.
const TOPIC: &str = "SyncTopic";
const GROUP: &str = "java_consumer_group";
const COUNT: usize = 20;
/// A client of 4.4.0 rests for 10 s before it goes on.
const PATIENCE: Duration = Duration::from_secs(60);

fn got(lines: &[String]) -> impl Iterator<Item = &str> {
    lines.iter().filter(|line| line.starts_with("GOT ")).filter_map(|line| line.rsplit(' ').next())
}

/// Waits until the group has told that it is through.
async fn settled(client: &Client) {
    let told = async {
        loop {
            let progress = client.progress(GROUP, TOPIC).await.expect("the broker answers");
            if progress.iter().all(|queue| queue.committed == Some(queue.max_offset)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the group tells its progress");
}

async fn a_reset_is_followed(version: &str) {
    let Some(java) = Java::with_client(version) else { return };
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mq = MqDev::start(&scratch.path().join("store"));
    let address = mq.address.to_string();
    let options = ClientOptions { name_servers: vec![address.clone()], ..Default::default() };
    let client = Client::connect(options).await.expect("a client");
    let producer = client.producer("p");
    for body in numbered(COUNT) {
        producer.send(Outgoing::new(TOPIC, body)).await.expect("it is stored");
    }
    let mut consumer: Program = java.start("Consumer", &address, scratch.path());
    consumer.wait_until("all once", PATIENCE, |lines| got(lines).count() >= COUNT);
    settled(&client).await;
    Admin::at(&address).await.reset(GROUP, TOPIC, 0).await;
    consumer.wait_until("all twice", PATIENCE, |lines| got(lines).count() >= 2 * COUNT);
    settled(&client).await;
    producer.send(Outgoing::new(TOPIC, "last")).await.expect("it is stored");
    consumer.wait_until("the last", PATIENCE, |lines| got(lines).any(|body| body == "last"));
    let mut times = BTreeMap::new();
    for body in got(&consumer.seen).filter(|body| *body != "last") {
        *times.entry(body).or_insert(0) += 1;
    }
    assert_eq!(times.len(), COUNT);
    assert!(times.values().all(|times| *times == 2), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_clients_follow_a_reset() {
    a_reset_is_followed("4.4.0").await;
    a_reset_is_followed("5.5.0").await;
}
