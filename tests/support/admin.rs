//! What an administrator asks of brokers, by raw commands. Not here: what a client asks by itself.

use mq_core::client::Transport;
use mq_core::protocol::body::{QueueMap, ResetOffsetBody, TopicRouteData, from_json};
use mq_core::protocol::header::{ResetOffsetRequest, RouteInfoRequest};
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::{Remote, RemoteOptions};
use tokio::sync::mpsc;

use crate::{Cluster, DEADLINE};

/// A connection to the broker of a topic that speaks for nobody.
#[derive(Debug)]
pub struct Admin(Remote);

impl Admin {
    /// Dials the master of the topic's first broker.
    ///
    /// # Panics
    /// When no name server knows the topic.
    pub async fn of(cluster: &Cluster, topic: &str) -> Self {
        let options = cluster.options();
        let (inbound, _unheard) = mpsc::channel(1);
        if let Transport::InProcess(broker) = &options.transport {
            return Self(Remote::local(broker.connect(), inbound));
        }
        let address = options.name_servers.first().expect("a cluster has a name server");
        let name_server = dial(address).await;
        let header = RouteInfoRequest { topic, ..RouteInfoRequest::default() };
        let question = Command::with(RequestCode::GetRouteinfoByTopic, &header);
        let answer = name_server.call(question, DEADLINE).await.expect("it answers");
        let route: TopicRouteData = from_json(&answer.body).expect("the topic has a route");
        let broker = route.broker_datas.first().expect("a route names a broker");
        Self(dial(&broker.broker_addrs[&0]).await)
    }

    /// Dials a broker by its address.
    ///
    /// # Panics
    /// When nobody listens there.
    pub async fn at(address: &str) -> Self {
        Self(dial(address).await)
    }

    /// Asks, and returns whatever is answered.
    ///
    /// # Panics
    /// When nothing is.
    pub async fn ask(&self, question: Command) -> Command {
        self.0.call(question, DEADLINE).await.expect("the broker answers")
    }

    /// Moves a group to the messages stored at or after a time, or to the end for -1.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn reset(&self, group: &str, topic: &str, timestamp: i64) -> QueueMap<i64> {
        let header = ResetOffsetRequest {
            group,
            topic,
            timestamp,
            is_force: true,
            queue_id: None,
            offset: None,
        };
        let question = Command::with(RequestCode::InvokeBrokerToResetOffset, &header);
        let answer = self.ask(question).await;
        assert_eq!(answer.response_code(), ResponseCode::Success, "{:?}", answer.remark);
        let body: ResetOffsetBody = from_json(&answer.body).expect("the offsets");
        body.offset_table
    }
}

async fn dial(address: &str) -> Remote {
    let (inbound, _unheard) = mpsc::channel(1);
    let options = RemoteOptions::default();
    Remote::connect(address, &options, inbound).await.expect("the cluster can be dialled")
}
