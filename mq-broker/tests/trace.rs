//! `mq trace` tells a message's path from what clients have written to the trace topic.

#![expect(clippy::unwrap_used, reason = "a test fails when its set-up does")]

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::client::{Client, ClientOptions, ConsumeFrom, ConsumerOptions, Handler, Outcome};
use mq_core::clock::Clock;
use mq_core::embedded::EmbeddedOptions;
use mq_core::message::{Delivery, Outgoing};
use mq_core::names::TRACE_TOPIC;
use tokio::sync::Notify;

struct Done(Notify);

#[async_trait]
impl Handler for Done {
    async fn handle(&self, _: Delivery) -> Outcome {
        self.0.notify_one();
        Outcome::Ack
    }
}

fn mq_trace(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mq")).arg("trace").args(arguments).output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_messages_path_is_told_by_key_and_by_id() {
    let store = tempfile::tempdir().unwrap();
    let broker = mq_broker::start_embedded(EmbeddedOptions {
        store: store.path().to_owned(),
        listen: Some("127.0.0.1:0".parse().unwrap()),
        settings: BTreeMap::from([("traceTopicEnable".to_owned(), "true".to_owned())]),
        clock: Clock::System,
    })
    .await
    .unwrap();
    let address = broker.address().unwrap().to_string();
    let options = ClientOptions {
        name_servers: vec![address.clone()],
        trace: Some(TRACE_TOPIC.to_owned()),
        ..ClientOptions::default()
    };
    let client = Client::connect(options).await.unwrap();
    let message = Outgoing::new("orders", "hello").tag("new").key("order-7");
    let receipt = client.producer("shop").send(message).await.unwrap();
    client.producer("shop").send(Outgoing::new("other", "x").key("order-8")).await.unwrap();
    let mut options = ConsumerOptions::new("billing").subscribe("orders", "*");
    options.from = ConsumeFrom::First;
    let done = Arc::new(Done(Notify::new()));
    let consumer = client.start_consumer(options, done.clone()).await.unwrap();
    done.0.notified().await;
    consumer.shutdown(Duration::from_secs(5)).await;
    client.shutdown().await;

    let by_key = mq_trace(&["-n", &address, "--key", "order-7"]);
    let told = String::from_utf8(by_key.stdout).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}{}", String::from_utf8_lossy(&by_key.stderr));
    assert_eq!(lines[0], format!("message {}", receipt.msg_id));
    let sent = format!("sent to `orders` by group `shop`, stored by {address} in ");
    assert!(lines[1].contains(&sent), "{told}");
    let rest = format!("5 bytes, tag new, keys order-7, at {}", receipt.offset_msg_id);
    assert!(lines[1].ends_with(&rest), "{told}");
    assert!(lines[2].ends_with("begun by group `billing`, attempt 1"), "{told}");
    assert!(lines[3].contains("done by group `billing` in "), "{told}");

    let by_id = mq_trace(&["-n", &address, "--msg-id", &receipt.msg_id, "--topic", "orders"]);
    assert_eq!(String::from_utf8(by_id.stdout).unwrap(), told);
    for nothing in [
        ["--key", "order-9", "--topic", "orders"],
        ["--msg-id", &receipt.msg_id, "--topic", "other"],
    ] {
        let output = mq_trace(&[&["-n", &address][..], &nothing[..]].concat());
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("do the clients write traces?"), "{error}");
    }
    assert_eq!(mq_trace(&["-n", &address]).status.code(), Some(78));
}
