//! Unmodified Java programs, with RocketMQ's client 4.4.0, use our broker beside our own client.
//!
//! The programs are in `tests/interop/java`. With `MQ_NAME_SERVER` they use that cluster instead,
//! which shows whether the programs and these tests are right about RocketMQ.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use mq_core::client::{Client, ClientOptions, Consumer};
use mq_core::message::{Delivery, Outgoing};
use support::java::Java;
use support::program::{MqDev, Program};
use support::{Recorder, member};
use tempfile::TempDir;

/// How long a test waits for the next fact. A client of 4.4.0 looks for new queues every 20 s and
/// for new routes every 30 s; nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENT: &str = "4.4.0";

/// One test at a time: Java programs that start together on a small machine keep each other from
/// starting.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What a test runs against: a broker of its own, or the cluster it is told.
struct Cluster {
    name_server: String,
    own: Option<MqDev>,
    scratch: TempDir,
}

impl Cluster {
    fn start() -> Self {
        let scratch = TempDir::new().expect("a scratch folder");
        let told = std::env::var("MQ_NAME_SERVER").ok();
        let own = told.is_none().then(|| MqDev::start(&scratch.path().join("store")));
        let address = own.as_ref().map(|mq| mq.address.to_string());
        let name_server = told.or(address).unwrap_or_default();
        Self { name_server, own, scratch }
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn start_java(&self, java: &Java, class: &str) -> Program {
        let mut program = java.start(class, &self.name_server, self.scratch());
        program.wait_until(class, PATIENCE, |lines| lines.iter().any(|line| line == "STARTED"));
        program
    }

    fn run_java(&self, java: &Java, class: &str) -> Vec<String> {
        java.run(class, &self.name_server, self.scratch())
    }

    async fn client(&self) -> Client {
        let name_servers = vec![self.name_server.clone()];
        let options = ClientOptions { name_servers, ..ClientOptions::default() };
        Client::connect(options).await.expect("a client")
    }
}

/// A message as sender and receiver must agree on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    id: String,
    queue_id: i32,
    queue_offset: i64,
    body: String,
}

impl Seen {
    /// Of `SENT status id queue offset body`.
    fn sent(line: &str) -> Self {
        let words: Vec<&str> = line.splitn(6, ' ').collect();
        let ["SENT", "SEND_OK", id, queue, offset, body] = words[..] else { panic!("{line}") };
        Self::new(id, queue, offset, body)
    }

    /// Of `GOT topic id queue offset tags keys sentAt body`.
    fn got(line: &str) -> Self {
        let words: Vec<&str> = line.splitn(9, ' ').collect();
        let ["GOT", _, id, queue, offset, _, _, _, body] = words[..] else { panic!("{line}") };
        Self::new(id, queue, offset, body)
    }

    fn new(id: &str, queue_id: &str, queue_offset: &str, body: &str) -> Self {
        Self {
            id: id.to_owned(),
            queue_id: queue_id.parse().expect("a queue id"),
            queue_offset: queue_offset.parse().expect("a queue offset"),
            body: body.to_owned(),
        }
    }
}

impl From<&Delivery> for Seen {
    fn from(delivery: &Delivery) -> Self {
        Self {
            id: delivery.msg_id(),
            queue_id: delivery.queue.queue_id,
            queue_offset: delivery.queue_offset,
            body: String::from_utf8_lossy(&delivery.body).into_owned(),
        }
    }
}

fn sorted<T: Ord>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.into_iter().collect();
    all.sort();
    all
}

/// The messages of a topic that a Java consumer has printed, sorted.
fn printed(lines: &[String], topic: &str) -> Vec<Seen> {
    let of_topic = lines.iter().filter(|line| line.starts_with(&format!("GOT {topic} ")));
    sorted(of_topic.map(|line| Seen::got(line)))
}

fn of_topic<'a>(taken: &'a [Delivery], topic: &'a str) -> impl Iterator<Item = &'a Delivery> {
    taken.iter().filter(move |delivery| delivery.topic() == topic)
}

fn bodies(kind: &str) -> BTreeSet<String> {
    (0..100).map(|number| format!("{kind} message {number}")).collect()
}

fn bodies_of(seen: &[Seen]) -> BTreeSet<String> {
    seen.iter().map(|message| message.body.clone()).collect()
}

const TOPICS: [&str; 3] = ["SyncTopic", "AsyncTopic", "OnewayTopic"];

async fn listen(client: &Client, listener: std::sync::Arc<Recorder>) -> Consumer {
    let [first, others @ ..] = TOPICS;
    let options = member("rust_consumer_group", first);
    let options = others.iter().fold(options, |options, topic| options.subscribe(topic, "*"));
    client.start_consumer(options, listener).await.expect("a consumer")
}

/// Sends 99 messages under three tags, of which the Java consumer wants two.
async fn send_from_rust(client: &Client) -> Vec<Seen> {
    let producer = client.producer("rust_producer_group");
    let mut wanted = Vec::new();
    for number in 0..99 {
        let tag = ["TagA", "TagB", "TagC"][number % 3];
        let body = format!("rust message {number}");
        let message = Outgoing::new("RustTopic", body.clone()).tag(tag).key(&format!("k{number}"));
        let message = message.property("sentAt", &number.to_string()).expect("a legal property");
        let sent = producer.send(message).await.expect("a send to RustTopic");
        if tag != "TagC" {
            let (queue_id, queue_offset) = (sent.queue.queue_id, sent.queue_offset);
            wanted.push(Seen { id: sent.msg_id, queue_id, queue_offset, body });
        }
    }
    wanted
}

/// Whether this machine has a connection to a port of the loopback interface.
fn is_connected_to(port: u16) -> bool {
    let wanted = format!("0100007F:{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    tables.into_iter().flatten().any(|table| {
        table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(2);
            let remote = words.next().unwrap_or_default();
            // A dual-stack socket shows the same address behind a prefix. 01 is an established one.
            remote.ends_with(&wanted) && words.next() == Some("01")
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn java_and_rust_get_each_others_messages() {
    let _turn = TURN.lock().await;
    let Some(java) = Java::with_client(CLIENT) else { return };
    let cluster = Cluster::start();
    let client = cluster.client().await;

    let mut sync: Vec<Seen> = Vec::new();
    sync.extend(cluster.run_java(&java, "SyncProducer").iter().map(|line| Seen::sent(line)));
    let sent = cluster.run_java(&java, "AsyncProducer");
    let asynchronous = sorted(sent.iter().map(|line| Seen::sent(line)));
    cluster.run_java(&java, "OnewayProducer");
    let from_rust = sorted(send_from_rust(&client).await);

    let mut java_consumer = cluster.start_java(&java, "Consumer");
    let rust = Recorder::new();
    let rust_consumer = listen(&client, rust.clone()).await;
    let got = |lines: &[String]| lines.iter().filter(|line| line.starts_with("GOT ")).count();
    java_consumer.wait_until("what was there", PATIENCE, |lines| got(lines) >= 366);
    rust.given(300).await;

    // Both are waiting for messages now, and get them as they come.
    sync.extend(cluster.run_java(&java, "SyncProducer").iter().map(|line| Seen::sent(line)));
    java_consumer.wait_until("what comes", PATIENCE, |lines| got(lines) >= 466);
    let taken = rust.given(400).await;
    if let Some(mq) = &cluster.own {
        assert!(is_connected_to(mq.address.port() - 2), "4.4.0 uses the port two below");
    }

    let lines = &java_consumer.seen;
    let sync = sorted(sync);
    assert_eq!(sync.len(), 200);
    assert_eq!(bodies_of(&sync), bodies("sync"));
    assert_eq!(bodies_of(&asynchronous), bodies("async"));
    assert_eq!(printed(lines, "SyncTopic"), sync);
    assert_eq!(printed(lines, "AsyncTopic"), asynchronous);
    assert_eq!(printed(lines, "RustTopic"), from_rust);
    assert_eq!(bodies_of(&printed(lines, "OnewayTopic")), bodies("oneway"));
    assert_eq!(sorted(of_topic(&taken, "SyncTopic").map(Seen::from)), sync);
    assert_eq!(sorted(of_topic(&taken, "AsyncTopic").map(Seen::from)), asynchronous);
    let oneway = sorted(of_topic(&taken, "OnewayTopic").map(Seen::from));
    assert_eq!(oneway, printed(lines, "OnewayTopic"));
    check_attributes(lines, &taken);

    rust_consumer.shutdown(Duration::from_secs(5)).await;
    client.shutdown().await;
}

/// Tags, keys and user properties arrive as they were sent.
fn check_attributes(lines: &[String], taken: &[Delivery]) {
    for line in lines.iter().filter(|line| line.starts_with("GOT RustTopic ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let number: usize = words[words.len() - 1].parse().expect("a body ends in its number");
        let (tag, key) = (["TagA", "TagB", "TagC"][number % 3], format!("k{number}"));
        assert_eq!(words[5..8], [tag, &key, &number.to_string()], "{line}");
    }
    for delivery in of_topic(taken, "SyncTopic") {
        let body = String::from_utf8_lossy(&delivery.body).into_owned();
        let number: usize = body.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        assert_eq!(delivery.tags(), Some(["TagA", "TagB"][number % 2]));
        assert_eq!(delivery.keys().collect::<Vec<_>>(), [format!("key-{number}")]);
        let sent_at: i64 =
            delivery.property("sentAt").and_then(|t| t.parse().ok()).expect("sentAt");
        assert!(sent_at > 0 && sent_at <= delivery.store_timestamp_ms + 1_000);
    }
}

#[test]
fn a_topic_made_by_sending_has_4_queues() {
    let _turn = TURN.blocking_lock();
    let Some(java) = Java::with_client(CLIENT) else { return };
    let cluster = Cluster::start();
    let queues = cluster.run_java(&java, "RoutePrinter");
    let ids = sorted(queues.iter().map(|line| line.rsplit(' ').next().unwrap_or_default()));
    assert_eq!(ids, ["0", "1", "2", "3"], "{queues:?}");
}

#[test]
fn a_listener_that_fails_in_java_gets_its_message_again_after_10_seconds() {
    let _turn = TURN.blocking_lock();
    let Some(java) = Java::with_client(CLIENT) else { return };
    let cluster = Cluster::start();
    let sent = cluster.run_java(&java, "RetryProducer");
    let mut consumer = cluster.start_java(&java, "RetryConsumer");
    let tries = |lines: &[String]| lines.iter().filter(|line| line.starts_with("GOT ")).count();
    consumer.wait_until("three messages, twice each", PATIENCE, |lines| tries(lines) >= 6);

    let mut by_failure: BTreeMap<&str, Vec<(&str, i64)>> = BTreeMap::new();
    for line in consumer.seen.iter().filter(|line| line.starts_with("GOT ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let ["GOT", "RetryTopic", id, times, at_ms, failure] = words[..] else { panic!("{line}") };
        let earlier = by_failure.entry(failure).or_default();
        assert_eq!(times, earlier.len().to_string(), "{line}");
        earlier.push((id, at_ms.parse().expect("a time")));
    }
    assert_eq!(by_failure.keys().copied().collect::<Vec<_>>(), ["later", "null", "throw"]);
    for (failure, tries) in by_failure {
        let [(first_id, first_ms), (second_id, second_ms)] = tries[..] else { panic!("{tries:?}") };
        assert_eq!(first_id, second_id, "{failure}");
        assert!(sent.iter().any(|line| line.contains(first_id)), "{failure}");
        let waited_ms = second_ms - first_ms;
        // No later than the wait above allows; how much later is the machine's affair.
        assert!(waited_ms >= 10_000, "{failure}: after {waited_ms} ms");
    }
}
