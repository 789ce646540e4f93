//! Registration: tells every name server who this broker is and which topics it holds, every
//! 30 s, at once after a change, and once more at the end.
//!
//! Not here: the name server (`namesrv.rs`), the topics (`catalog.rs`). Invariants: each name
//! server has a task of its own, so that one that is down delays nothing; a change that comes
//! while a registration is under way makes another one follow; groups that wait for a topic hear
//! of it when a name server has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mq_core::error::Error;
use mq_core::protocol::body::{RegisterBrokerBody, to_json};
use mq_core::protocol::header::{BrokerIdentity, RegisterBrokerRequest};
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::{Remote, RemoteOptions};
use mq_core::server::Peer;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::namesrv::REACHED_HOST;
use crate::routes::{MASTER_ID, MemberId};

/// Rest after a registration that failed.
const RETRY: Duration = Duration::from_secs(3);

/// Port of a route that leads to a broker without a listener. Only links in the process use it.
const NO_PORT: u16 = 10_911;

/// Registers with all configured name servers until the broker stops, then unregisters.
pub(crate) async fn run(broker: Arc<Broker>) {
    let mut tellers = JoinSet::new();
    for server in &broker.config.namesrv_addr {
        let teller = Teller {
            broker: Arc::clone(&broker),
            server: server.clone(),
            remote: None,
            trouble: String::new(),
        };
        tellers.spawn(teller.run());
    }
    while tellers.join_next().await.is_some() {}
}

/// Tells the groups that wait for a topic when it has a route.
pub(crate) async fn announce(broker: Arc<Broker>) {
    // The name server of this process knows all topics as soon as they are there.
    let known = match broker.name_server {
        Some(_) => &broker.catalog.version,
        None => &broker.announced,
    };
    let mut seen = known.get();
    while known.reached(seen + 1).await.is_ok() {
        seen = known.get();
        broker.clients.announce(|topic| broker.catalog.topic(topic).is_some());
    }
}

impl Broker {
    /// What the name server of this process answers, if there is one and the code is its own. It
    /// hears of the topics before it answers, so a topic has a route as soon as it exists.
    pub(crate) fn name_server_answer(&self, peer: &Peer, request: &Command) -> Option<Command> {
        let name_server = self.name_server.as_ref()?;
        name_server.learn(self.catalog.version.get(), || {
            let host = match self.config.broker_ip1.as_str() {
                "" => REACHED_HOST,
                told => told,
            };
            let id = member_id(&self.config, host, self.address);
            (id, self.catalog.topics_for_registration())
        });
        name_server.handle(peer, request)
    }

    fn member_id(&self) -> MemberId {
        member_id(&self.config, &self.config.advertised_host(), self.address)
    }
}

fn member_id(config: &BrokerConfig, host: &str, address: Option<SocketAddr>) -> MemberId {
    let port = address.map_or(NO_PORT, |address| address.port());
    MemberId {
        cluster: config.broker_cluster_name.clone(),
        broker_name: config.broker_name.clone(),
        broker_id: MASTER_ID,
        address: format!("{host}:{port}"),
    }
}

/// The task for one name server.
struct Teller {
    broker: Arc<Broker>,
    server: String,
    remote: Option<Remote>,
    /// What went wrong last, told once.
    trouble: String,
}

impl Teller {
    async fn run(mut self) {
        let broker = Arc::clone(&self.broker);
        let version = &broker.catalog.version;
        loop {
            let told = version.get();
            let pause = tokio::select! {
                _ = broker.stopping.reached(1) => break,
                outcome = self.register() => {
                    if outcome.is_ok() {
                        broker.announced.advance(told);
                    }
                    self.note(outcome)
                }
            };
            tokio::select! {
                _ = broker.stopping.reached(1) => break,
                () = broker.clock.sleep(pause) => {}
                Ok(_) = version.reached(told + 1), if self.trouble.is_empty() => {}
            }
        }
        self.unregister().await;
    }

    /// How long to rest after a registration.
    fn note(&mut self, told: Result<(), Error>) -> Duration {
        let server = &self.server;
        match told {
            Ok(()) => {
                if !self.trouble.is_empty() || self.broker.registered.get() == 0 {
                    info!(server, "registered with the name server");
                }
                self.trouble.clear();
                self.broker.registered.advance(1);
                Duration::from_millis(self.broker.config.register_name_server_period_ms.now())
            }
            Err(error) => {
                let trouble = error.to_string();
                match trouble == self.trouble {
                    true => debug!(server, trouble, "still not registered"),
                    false => warn!(server, trouble, "not registered with the name server"),
                }
                self.trouble = trouble;
                self.remote = None;
                RETRY
            }
        }
    }

    async fn register(&mut self) -> Result<(), Error> {
        let id = self.broker.member_id();
        let port = self.broker.address.map_or(NO_PORT, |address| address.port());
        let ha_server_addr =
            format!("{}:{}", self.broker.config.advertised_host(), port.wrapping_add(1));
        let body = to_json(&RegisterBrokerBody {
            topic_config_serialize_wrapper: self.broker.catalog.topics_for_registration(),
            filter_server_list: Vec::new(),
        });
        let request = Command::with(
            RequestCode::RegisterBroker,
            &RegisterBrokerRequest {
                broker_name: &id.broker_name,
                broker_addr: &id.address,
                cluster_name: &id.cluster,
                ha_server_addr: &ha_server_addr,
                broker_id: id.broker_id,
                compressed: Some(false),
                body_crc32: i32::try_from(crc32fast::hash(&body) & 0x7FFF_FFFF).ok(),
                ..RegisterBrokerRequest::default()
            },
        );
        self.call(request.body(body)).await
    }

    async fn unregister(&mut self) {
        if self.remote.is_none() {
            return;
        }
        let id = self.broker.member_id();
        let request = Command::with(
            RequestCode::UnregisterBroker,
            &BrokerIdentity {
                broker_name: &id.broker_name,
                broker_addr: &id.address,
                cluster_name: &id.cluster,
                broker_id: id.broker_id,
            },
        );
        if let Err(error) = self.call(request).await {
            warn!(server = self.server, %error, "could not unregister: the name server will see");
        }
    }

    async fn call(&mut self, request: Command) -> Result<(), Error> {
        let timeout = Duration::from_millis(self.broker.config.register_broker_timeout_ms.now());
        let remote = match self.remote.take().filter(|remote| !remote.is_closed()) {
            Some(remote) => remote,
            None => self.dial().await?,
        };
        let answer = self.remote.insert(remote).call(request, timeout).await?;
        match answer.response_code() {
            ResponseCode::Success => Ok(()),
            _ => Err(Error::Refused {
                code: answer.code,
                remark: answer.remark.unwrap_or_default().into(),
            }),
        }
    }

    async fn dial(&self) -> Result<Remote, Error> {
        // A name server asks a broker of one release nothing.
        let (inbound, _unread) = mpsc::channel(1);
        Remote::connect(&self.server, &RemoteOptions::default(), inbound).await
    }
}
