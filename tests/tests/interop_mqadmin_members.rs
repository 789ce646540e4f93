//! The unmodified admin tool of Apache RocketMQ 4.9.7 asks members of a group through our broker:
//! what they do, to handle a message; and moves the group while it consumes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use mq_core::client::{Client, ClientOptions};
use mq_core::message::Outgoing;
use support::java::Java;
use support::program::MqDev;
use support::{Recorder, member, numbered};

const TOOL: &str = "4.9.7";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_tool_of_rocketmq_asks_and_moves_members() {
    let Some(java) = Java::with_admin_tool(TOOL) else { return };
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mq = MqDev::start(&scratch.path().join("store"));
    let name_server = mq.address.to_string();
    let options =
        ClientOptions { name_servers: vec![name_server.clone()], ..ClientOptions::default() };
    let client = Client::connect(options).await.expect("a client");
    let producer = client.producer("p");
    let mut receipts = Vec::new();
    for body in numbered(20) {
        receipts.push(producer.send(Outgoing::new("AskT", body)).await.expect("it is stored"));
    }
    let recorder = Recorder::new();
    let consumer = client.start_consumer(member("AskG", "AskT"), recorder.clone()).await;
    let consumer = consumer.expect("a consumer");
    recorder.given(20).await;

    let (me, id) = (client.id(), &receipts[3].offset_msg_id);
    let lines = [
        format!("consumerStatus -g AskG -i {me}"),
        format!("queryMsgById -i {id} -g AskG -d {me}"),
        "resetOffsetByTime -g AskG -t AskT -s 0 -f true".to_owned(),
    ];
    let printed = java.administer(&name_server, scratch.path(), &lines);
    let has = |line: usize, wanted: &[&str]| {
        for wanted in wanted {
            assert!(printed[line].contains(wanted), "no {wanted:?}\n{}", printed[line]);
        }
    };
    has(0, &["PROP_CONSUME_TYPE", "CONSUME_PASSIVELY", "AskT", "%RETRY%AskG", "broker-a"]);
    has(1, &["CR_SUCCESS", "spentTimeMills"]);
    has(2, &["broker-a", "AskG"]);
    // Each twice, and the one that was handled on demand once more.
    let seen = recorder.given(41).await;
    let mut times = BTreeMap::new();
    for delivery in &seen {
        *times.entry(delivery.body.clone()).or_insert(0) += 1;
    }
    assert_eq!(times.len(), 20);
    assert!(times.iter().all(|(body, times)| *times == if body == "0003" { 3 } else { 2 }));
    consumer.shutdown(Duration::from_secs(10)).await;
}
