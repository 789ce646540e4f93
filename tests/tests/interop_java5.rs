//! Unmodified Java programs, with RocketMQ's client 5.5.0, use what RocketMQ has from 5.x on:
//! popping with the balance left to the broker, and taking messages back.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use mq_core::client::{Client, ClientOptions};
use mq_core::message::Outgoing;
use mq_core::protocol::body::{MessageRequestMode, SetMessageRequestModeRequest, to_json};
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::{Remote, RemoteOptions};
use support::java::Java;
use support::program::{MqDev, Program};
use support::{Recorder, member};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(90);
const CLIENT: &str = "5.5.0";
const COUNT: usize = 40;

async fn connect(mq: &MqDev) -> Client {
    let name_servers = vec![mq.address.to_string()];
    let options = ClientOptions { name_servers, ..ClientOptions::default() };
    Client::connect(options).await.expect("a client")
}

/// Tells the broker that the Java program's group pops.
async fn let_the_group_pop(mq: &MqDev) {
    let (inbound, _none) = mpsc::channel(1);
    let options = RemoteOptions::default();
    let remote = Remote::connect(&mq.address.to_string(), &options, inbound).await;
    let mode = SetMessageRequestModeRequest {
        topic: "PopTopic".to_owned(),
        consumer_group: "java_pop_group".to_owned(),
        mode: MessageRequestMode::Pop,
        pop_share_queue_num: 0,
    };
    let request = Command::request(RequestCode::SetMessageRequestMode).body(to_json(&mode));
    let answer = remote.expect("a connection").call(request, PATIENCE).await.expect("an answer");
    assert_eq!(answer.response_code(), ResponseCode::Success, "{answer:?}");
}

fn got(lines: &[String]) -> Vec<&str> {
    lines.iter().filter_map(|line| line.strip_prefix("GOT PopTopic POP ")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_consumer_pops_everything_and_a_failed_message_comes_again() {
    let Some(java) = Java::with_client(CLIENT) else { return };
    let scratch = TempDir::new().expect("a scratch folder");
    let mq = MqDev::start(&scratch.path().join("store"));
    let client = connect(&mq).await;
    let producer = client.producer("p");
    for body in support::numbered(COUNT).into_iter().chain(["again".to_owned()]) {
        producer.send(Outgoing::new("PopTopic", body)).await.expect("it is stored");
    }
    let_the_group_pop(&mq).await;
    let mut program: Program = java.start_5("PopConsumer", &mq.address.to_string(), scratch.path());
    program.wait_until("all came, and `again` once more", PATIENCE, |lines| {
        let bodies: BTreeSet<&str> = got(lines).into_iter().collect();
        bodies.len() == COUNT + 2
    });
    let mut expected: Vec<String> =
        support::numbered(COUNT).iter().map(|body| format!("0 {body}")).collect();
    expected.extend(["0 again".to_owned(), "1 again".to_owned()]);
    let mut seen = got(&program.seen);
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected, "each message once, and the failed one twice");
    program.kill();
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_takes_a_message_back() {
    let Some(java) = Java::with_client(CLIENT) else { return };
    let scratch = TempDir::new().expect("a scratch folder");
    let mq = MqDev::start(&scratch.path().join("store"));
    let program = java.start_5("RecallProducer", &mq.address.to_string(), scratch.path());
    let lines = program.finish(PATIENCE);
    let expected = [
        "SENT SEND_OK false at once",
        "SENT SEND_OK true stays",
        "SENT SEND_OK true goes",
        "RECALLED true",
        "SENT SEND_OK true soon",
        "LATE 604",
    ];
    assert_eq!(lines, expected);
    let (recorder, client) = (Recorder::new(), connect(&mq).await);
    let consumer = client.start_consumer(member("g", "RecallTopic"), recorder.clone()).await;
    recorder.given(3).await;
    assert_eq!(recorder.bodies(), ["at once", "soon", "stays"]);
    consumer.expect("a consumer").shutdown(PATIENCE).await;
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_begin_where_they_say() {
    let Some(java) = Java::with_client(CLIENT) else { return };
    let scratch = TempDir::new().expect("a scratch folder");
    // No queue is young, or every group would begin with its first message.
    let settings = ["accessMessageInMemoryMaxRatio=0"];
    let mq = MqDev::start_at(&scratch.path().join("store"), "127.0.0.1:0", &settings);
    let program = java.start_5("StartPositions", &mq.address.to_string(), scratch.path());
    let mut lines = program.finish(PATIENCE);
    lines.sort();
    let expected =
        ["FIRST first", "FIRST second", "FIRST third", "LAST third", "TIME second", "TIME third"];
    assert_eq!(lines, expected);
}
