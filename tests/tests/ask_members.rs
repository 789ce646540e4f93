//! Brokers ask members on an administrator's behalf: what a member does, where it is, and to handle
//! a message now.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::client::{Handler, Outcome, PullOptions};
use mq_core::message::{Delivery, Outgoing};
use mq_core::protocol::body::{
    ConsumeMessageDirectlyResult, ConsumerRunningInfo, ConsumerStatusBody, from_json,
};
use mq_core::protocol::header::{
    ConsumeMessageDirectlyRequest, ConsumerRunningInfoRequest, ConsumerStatusRequest,
};
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use support::{Admin, Cluster, Recorder, eventually, member, numbered, unique};
use tokio::sync::Semaphore;

support::each_transport!(a_member_tells_what_it_does, a_message_is_handled_on_demand);

const SECONDS_5: Duration = Duration::from_secs(5);

fn running_info(group: &str, client_id: &str) -> Command {
    let header =
        ConsumerRunningInfoRequest { consumer_group: group, client_id, jstack_enable: Some(false) };
    Command::with(RequestCode::GetConsumerRunningInfo, &header)
}

fn status(group: &str, topic: &str) -> Command {
    let header = ConsumerStatusRequest { group, topic, client_addr: None };
    Command::with(RequestCode::InvokeBrokerToGetConsumerStatus, &header)
}

fn directly(group: &str, client_id: &str, msg_id: &str) -> Command {
    let header = ConsumeMessageDirectlyRequest {
        consumer_group: group,
        client_id: Some(client_id),
        msg_id: Some(msg_id),
        ..ConsumeMessageDirectlyRequest::default()
    };
    Command::with(RequestCode::ConsumeMessageDirectly, &header)
}

async fn a_member_tells_what_it_does(cluster: Cluster) {
    let (topic, group, polling) = (unique("topic"), unique("group"), unique("polling"));
    let client = cluster.client().await;
    let producer = client.producer("p");
    for body in numbered(20) {
        producer.send(Outgoing::new(&topic, body)).await.unwrap();
    }
    let queues = client.read_queues(&topic).await.unwrap();
    let recorder = Recorder::new();
    let consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    recorder.given(20).await;
    let wanted = PullOptions::new(&polling).subscribe(&topic, "*");
    let polls = client.start_pull_consumer(wanted).await.unwrap();
    eventually("all queues are polled", || polls.assignment().len() == queues.len()).await;

    let admin = Admin::of(&cluster, &topic).await;
    for (group, kind) in [(&group, "CONSUME_PASSIVELY"), (&polling, "CONSUME_ACTIVELY")] {
        let answer = admin.ask(running_info(group, client.id())).await;
        assert_eq!(answer.response_code(), ResponseCode::Success, "{:?}", answer.remark);
        let info: ConsumerRunningInfo = from_json(&answer.body).unwrap();
        assert_eq!(info.properties["PROP_CONSUME_TYPE"], kind);
        assert!(info.properties["PROP_CONSUMER_START_TIMESTAMP"].parse::<i64>().unwrap() > 0);
        let told: Vec<_> = info.mq_table.0.keys().filter(|q| *q.topic == *topic).collect();
        assert_eq!(told, queues.iter().collect::<Vec<_>>());
        assert!(info.subscription_set.iter().any(|wanted| wanted.topic == topic));
    }
    let answer = admin.ask(running_info(&group, "nobody@nowhere")).await;
    assert_eq!(answer.response_code(), ResponseCode::SystemError);
    assert!(answer.remark.unwrap().contains("not online"));

    let answer = admin.ask(status(&group, &topic)).await;
    assert_eq!(answer.response_code(), ResponseCode::Success, "{:?}", answer.remark);
    let told: ConsumerStatusBody = from_json(&answer.body).unwrap();
    let offsets = &told.consumer_table[client.id()];
    assert_eq!(offsets.0.values().sum::<i64>(), 20, "{offsets:?}");
    assert_eq!(offsets.0.keys().collect::<Vec<_>>(), queues.iter().collect::<Vec<_>>());
    polls.shutdown().await.unwrap();
    consumer.shutdown(SECONDS_5).await;
}

/// Fails what says so, and holds what says so until it is let go.
struct Moody {
    seen: Arc<Recorder>,
    gate: Semaphore,
}

#[async_trait]
impl Handler for Moody {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        let first = !self.seen.seen().iter().any(|seen| seen.body == delivery.body);
        let body = delivery.body.clone();
        self.seen.handle(delivery).await;
        match &body[..] {
            b"fail" if !first => Outcome::Retry { delay_level: 0, cause: "no".to_owned() },
            b"panic" if !first => panic!("on demand"),
            b"hold" if !first => {
                self.gate.acquire().await.unwrap().forget();
                Outcome::Ack
            }
            _ => Outcome::Ack,
        }
    }
}

async fn a_message_is_handled_on_demand(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let producer = client.producer("p");
    let mut ids = BTreeMap::new();
    for body in ["good", "fail", "panic", "hold"] {
        let receipt = producer.send(Outgoing::new(&topic, body)).await.unwrap();
        ids.insert(body, receipt.offset_msg_id);
    }
    let handler = Arc::new(Moody { seen: Recorder::new(), gate: Semaphore::new(0) });
    let consumer = client.start_consumer(member(&group, &topic), handler.clone()).await.unwrap();
    handler.seen.given(4).await;
    let admin = Admin::of(&cluster, &topic).await;
    for (body, result) in
        [("good", "CR_SUCCESS"), ("fail", "CR_LATER"), ("panic", "CR_THROW_EXCEPTION")]
    {
        let answer = admin.ask(directly(&group, client.id(), &ids[body])).await;
        assert_eq!(answer.response_code(), ResponseCode::Success, "{:?}", answer.remark);
        let told: ConsumeMessageDirectlyResult = from_json(&answer.body).unwrap();
        assert_eq!(told.consume_result, result, "{told:?}");
    }
    assert_eq!(handler.seen.seen().len(), 7, "each once more, and no retries");

    let other = Admin::of(&cluster, &topic).await;
    let held = async {
        let answer = admin.ask(directly(&group, client.id(), &ids["hold"])).await;
        from_json::<ConsumeMessageDirectlyResult>(&answer.body).unwrap().consume_result
    };
    let meanwhile = async {
        handler.seen.given(8).await;
        let answer = other.ask(running_info(&group, client.id())).await;
        assert_eq!(answer.response_code(), ResponseCode::Success, "nothing waits for a handler");
        handler.gate.add_permits(1);
    };
    let (result, ()) = tokio::join!(held, meanwhile);
    assert_eq!(result, "CR_SUCCESS");
    consumer.shutdown(SECONDS_5).await;
}
