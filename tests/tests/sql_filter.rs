//! A subscription by an SQL92 condition gives the messages whose properties fulfil it, in order and
//! no others; one that is none does not start.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use mq_core::client::{Client, ConsumeFrom, ConsumerOptions, Outcome};
use mq_core::error::Error;
use mq_core::message::Outgoing;
use mq_core::protocol::body::{
    CheckClientRequest, ConsumerData, HeartbeatData, SubscriptionData, to_json,
};
use mq_core::protocol::header::PullRequest;
use mq_core::protocol::{Command, RequestCode, ResponseCode, record};
use mq_core::remote::Remote;
use support::{Cluster, Recorder, Time, sorted_bodies, unique};
use tokio::sync::mpsc;

support::each_transport!(
    only_what_fulfils_the_condition_arrives,
    a_wrong_condition_does_not_start,
    what_only_the_broker_refuses_does_not_start,
    a_message_that_failed_comes_again_whatever_the_condition,
    few_are_found_among_many,
);

fn wanting(topic: &str, condition: &str) -> ConsumerOptions {
    let mut options = ConsumerOptions::new(unique("group")).subscribe_sql(topic, condition);
    options.from = ConsumeFrom::First;
    options
}

/// Sends orders of sizes 0 to 9, in turn from two regions; the first has no properties at all.
async fn send_orders(client: &Client, topic: &str) {
    let producer = client.producer("p");
    for size in 0..10 {
        let mut order = Outgoing::new(topic, format!("{size}"));
        if size > 0 {
            let region = if size % 2 == 0 { "eu" } else { "us" };
            order = order.property("region", region).unwrap();
            order = order.property("size", &size.to_string()).unwrap();
            order = order.tag(if size < 5 { "small" } else { "large" });
        }
        producer.send(order).await.unwrap();
    }
}

async fn only_what_fulfils_the_condition_arrives(cluster: Cluster) {
    let topic = unique("topic");
    let client = cluster.client().await;
    send_orders(&client, &topic).await;
    let cases = [
        ("region = 'eu' AND size > 3", "4 6 8"),
        ("size BETWEEN 2 AND 4 OR region IS NULL", "0 2 3 4"),
        ("size NOT IN ('1', '2') AND NOT (size >= 5)", "3 4"),
        ("TAGS = 'large' AND region <> 'eu'", "5 7 9"),
        ("region IN ('us', 'cn') AND size = -1 OR size = 9", "9"),
    ];
    for (condition, expected) in cases {
        let recorder = Recorder::new();
        let options = wanting(&topic, condition);
        let consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
        let expected: Vec<&str> = expected.split(' ').collect();
        // A message behind all others ends the wait for those that must not come.
        let given = recorder.given(expected.len()).await;
        assert_eq!(sorted_bodies(&given), expected, "{condition}");
        consumer.shutdown(std::time::Duration::from_secs(5)).await;
        assert_eq!(recorder.bodies(), expected, "{condition}");
    }
}

async fn a_wrong_condition_does_not_start(cluster: Cluster) {
    let client = cluster.client().await;
    let options = wanting(&unique("topic"), "region == 'eu'");
    let error = client.start_consumer(options, Recorder::new()).await.unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error}");
    assert!(error.to_string().contains("character 9: `=`"), "{error}");
}

/// Apache 4.9.7 does not know the word.
async fn what_only_the_broker_refuses_does_not_start(cluster: Cluster) {
    let topic = unique("topic");
    let client = cluster.client().await;
    send_orders(&client, &topic).await;
    let options = wanting(&topic, "region NOT CONTAINS 'e'");
    let recorder = Recorder::new();
    let started = client.start_consumer(options, recorder.clone()).await;
    if cluster.has("5.0.0", "CONTAINS: it must refuse the condition") {
        let _consumer = started.unwrap();
        assert_eq!(sorted_bodies(&recorder.given(5).await), ["1", "3", "5", "7", "9"]);
    } else {
        let refused = ResponseCode::SubscriptionParseFailed.code();
        let error = started.unwrap_err();
        assert!(matches!(error, Error::Refused { code, .. } if code == refused), "{error}");
    }
}

/// Retries are subscribed as a whole.
async fn a_message_that_failed_comes_again_whatever_the_condition(cluster: Cluster) {
    let topic = unique("topic");
    let client = cluster.client().await;
    send_orders(&client, &topic).await;
    let recorder = Recorder::answering(|delivery| match delivery.reconsume_times {
        0 => Outcome::Retry { delay_level: 1, cause: "once".to_owned() },
        _ => Outcome::Ack,
    });
    let options = wanting(&topic, "size = 7");
    let _consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
    assert_eq!(sorted_bodies(&recorder.given(2).await), ["7", "7"]);
}

/// What is filtered moves the offset, over many reads of the queue.
async fn few_are_found_among_many(cluster: Cluster) {
    let topic = unique("topic");
    let client = cluster.client().await;
    let producer = client.producer("p");
    for block in 0..30 {
        let batch = (0..100).map(|number| {
            let number = block * 100 + number;
            let message = Outgoing::new(&topic, format!("{number:04}"));
            message.property("n", &number.to_string()).unwrap()
        });
        producer.send_batch(batch.collect()).await.unwrap();
    }
    let recorder = Recorder::new();
    let options = wanting(&topic, "n IN ('0', '1234', '2998')");
    let _consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
    assert_eq!(sorted_bodies(&recorder.given(3).await), ["0000", "1234", "2998"]);
}

/// What clients see that do not check for themselves.
struct Wire {
    remote: Remote,
    topic: String,
}

impl Wire {
    async fn open(cluster: &Cluster) -> Self {
        let topic = unique("topic");
        send_orders(&cluster.client().await, &topic).await;
        let (inbound, _none) = mpsc::channel(8);
        let broker = cluster.broker.as_ref().expect("the bundled broker");
        Self { remote: Remote::local(broker.connect(), inbound), topic }
    }

    async fn ask(&self, request: Command) -> Command {
        self.remote.call(request, std::time::Duration::from_secs(30)).await.unwrap()
    }

    async fn check(&self, condition: &str) -> ResponseCode {
        let body = CheckClientRequest {
            subscription_data: SubscriptionData::by_sql(&self.topic, condition, 1),
            ..CheckClientRequest::default()
        };
        let request = Command::request(RequestCode::CheckClientConfig).body(to_json(&body));
        self.ask(request).await.response_code()
    }

    async fn heartbeat(&self, conditions: &[(&str, &str)]) -> Command {
        let consumer = |(group, condition): &(&str, &str)| ConsumerData {
            group_name: (*group).to_owned(),
            subscription_data_set: vec![SubscriptionData::by_sql(&self.topic, condition, 1)],
            ..ConsumerData::default()
        };
        let heartbeat = HeartbeatData {
            client_id: "client".to_owned(),
            consumer_data_set: conditions.iter().map(consumer).collect(),
            ..HeartbeatData::default()
        };
        self.ask(Command::request(RequestCode::HeartBeat).body(to_json(&heartbeat))).await
    }

    /// Pulls all queues: the code of the first answer, and the bodies of all.
    async fn pull(&self, group: &str, condition: Option<&str>) -> (ResponseCode, Vec<String>) {
        let (mut code, mut bodies) = (ResponseCode::Success, Vec::new());
        for queue_id in (0..4).rev() {
            let header = PullRequest {
                consumer_group: group,
                topic: &self.topic,
                queue_id,
                queue_offset: 0,
                max_msg_nums: 32,
                sys_flag: if condition.is_some() { 4 } else { 0 },
                commit_offset: 0,
                suspend_timeout_millis: 0,
                subscription: condition,
                sub_version: 0,
                expression_type: Some("SQL92"),
                max_msg_bytes: None,
            };
            let answer = self.ask(Command::with(RequestCode::PullMessage, &header)).await;
            code = answer.response_code();
            let found = record::records(&answer.body).map(|record| record.unwrap());
            bodies.extend(found.map(|record| String::from_utf8_lossy(record.body).into_owned()));
        }
        bodies.sort();
        (code, bodies)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_check_is_told_by_every_verb() {
    let Some(cluster) = Cluster::in_process(Time::Real).await else { return };
    let wire = Wire::open(&cluster).await;
    assert_eq!(wire.check("size > 3").await, ResponseCode::Success);
    assert_eq!(wire.check("size > ").await, ResponseCode::SubscriptionParseFailed);
    // A broker takes what a writer hardly means.
    assert_eq!(wire.check("size > 3 what follows").await, ResponseCode::Success);
    assert_eq!(wire.pull("g", Some("size > 7")).await.1, ["8", "9"]);
    let (code, none) = wire.pull("g", Some("size >> 7")).await;
    assert_eq!((code, none), (ResponseCode::SubscriptionParseFailed, vec![]));
    let answer = wire.heartbeat(&[("bad", "size >"), ("good", "size < 3")]).await;
    assert_eq!(answer.response_code(), ResponseCode::SubscriptionParseFailed);
    let remark = answer.remark.as_deref().unwrap_or_default();
    assert!(remark.contains("group bad") && remark.contains("character 7"), "{remark}");
    // The other group is there all the same.
    assert_eq!(wire.pull("good", None).await.1, ["1", "2"]);
    assert_eq!(wire.pull("bad", None).await.0, ResponseCode::FilterDataNotExist);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_can_be_switched_off() {
    let settings = [("enablePropertyFilter", "false")];
    let Some(cluster) = Cluster::in_process_with(Time::Real, &settings).await else { return };
    let wire = Wire::open(&cluster).await;
    assert_eq!(wire.check("size > 3").await, ResponseCode::SystemError);
    assert_eq!(wire.pull("g", Some("size > 7")).await.0, ResponseCode::SystemError);
    let answer = wire.heartbeat(&[("registered", "size < 3")]).await;
    assert_eq!(answer.response_code(), ResponseCode::Success);
    assert_eq!(wire.pull("registered", None).await.0, ResponseCode::SystemError);
}
