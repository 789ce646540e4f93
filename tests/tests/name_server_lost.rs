//! Of two name servers one is lost under load: no send fails, new topics are found, and consumers
//! go on. The real programs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mq_core::client::{Client, ClientOptions, Producer};
use mq_core::message::Outgoing;
use support::program::serving;
use support::{Recorder, eventually, member, unique};
use tokio::task::JoinSet;

/// Messages that are sent before and after each event.
const MANY: usize = 500;

struct Load {
    sent: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    senders: JoinSet<usize>,
}

impl Load {
    /// Sends from several tasks, each to its own topics, of which it makes new ones all the time.
    fn start(producer: &Producer, topic: &str) -> Self {
        let mut load = Self { sent: Arc::default(), stop: Arc::default(), senders: JoinSet::new() };
        for sender in 0..4 {
            let (producer, topic) = (producer.clone(), topic.to_owned());
            let (sent, stop) = (load.sent.clone(), load.stop.clone());
            load.senders.spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let topic = match count % 100 {
                        99 => format!("{topic}-{sender}-{count}"),
                        _ => topic.clone(),
                    };
                    producer.send(Outgoing::new(topic, "x")).await.expect("no send fails");
                    count += 1;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                count - count / 100
            });
        }
        load
    }

    async fn more(&self) {
        let before = self.sent.load(Ordering::Relaxed);
        let enough = || self.sent.load(Ordering::Relaxed) >= before + MANY;
        eventually("sends go on", enough).await;
    }

    /// How many messages were sent to the shared topic.
    async fn finish(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut shared = 0;
        while let Some(count) = self.senders.join_next().await {
            shared += count.expect("no send fails");
        }
        shared
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_a_name_server_fails_no_send() {
    let folder = tempfile::tempdir().unwrap();
    let log = |name: &str| folder.path().join(format!("{name}.log"));
    let name_server = |name| serving(&["namesrv", "--set", "listenPort=0"], log(name));
    let ((first, first_at), (second, second_at)) = (name_server("first"), name_server("second"));
    let name_servers = format!("{first_at};{second_at}");
    let store = format!("storePathRootDir={}", folder.path().join("store").display());
    let settings = ["--set", "listenPort=0", "--set", "bindAddress=127.0.0.1", "--set", &store];
    let broker = ["broker", "-n", &name_servers, "--set", "brokerIP1=127.0.0.1"];
    let (broker, _) = serving(&[&broker[..], &settings[..]].concat(), log("broker"));

    let options = ClientOptions {
        name_servers: vec![first_at.to_string(), second_at.to_string()],
        ..ClientOptions::default()
    };
    let client = Client::connect(options).await.unwrap();
    let (topic, recorder) = (unique("topic"), Recorder::new());
    let load = Load::start(&client.producer("p"), &topic);
    load.more().await;
    let consumer =
        client.start_consumer(member(&unique("group"), &topic), recorder.clone()).await.unwrap();
    recorder.given(1).await;
    first.kill();
    load.more().await;
    let sent = load.finish().await;
    recorder.given(sent).await;
    assert_eq!(recorder.seen().len(), sent, "each once");
    consumer.shutdown(Duration::from_secs(5)).await;

    // The last name server goes, too: who knows its routes goes on.
    second.kill();
    let producer = client.producer("p");
    for _ in 0..MANY {
        producer.send(Outgoing::new(&topic, "x")).await.unwrap();
    }
    drop(broker);
}
