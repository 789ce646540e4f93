//! `Client`: one member of a cluster's life. It knows brokers, keeps connections, tells every
//! broker by heartbeat who produces and consumes here, and hears what brokers ask of clients. Not
//! here: sending (`producer.rs`), consuming (`consumer.rs`), routes (`route.rs`, `topics.rs`).
//!
//! Invariants: a broker hears who we are before anything else on a new connection; cloning is cheap
//! and all clones are one client; dropping the last one ends its tasks and connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::embedded::EmbeddedBroker;
use crate::error::Error;
use crate::names::{DEFAULT_TOPIC, INNER_PRODUCER_GROUP, MessageQueue};
use crate::protocol::body::{HeartbeatData, ProducerData, to_json};
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::{Command, SerializeType};
use crate::protocol::header::{ConsumerGroupRequest, UnregisterClientRequest};
use crate::remote::{Inbound, Remote, RemoteOptions};

mod answers;
mod caught_up;
mod consumer;
mod handling;
mod id;
mod lane;
mod links;
mod local_offsets;
mod offsets;
mod ordered;
mod producer;
mod pull_consumer;
mod queries;
mod rebalance;
mod request;
mod route;
mod status;
mod topics;
mod trace;
mod transaction;
mod window;
mod worker;

pub use crate::protocol::body::MessageModel;
pub use consumer::{
    BatchHandler, ConsumeFrom, ConsumeMode, Consumer, ConsumerOptions, DrainReport, ExpressionType,
    Handler, Outcome, PullThreshold, Subscription,
};
pub use producer::Producer;
pub use pull_consumer::{PullConsumer, PullOptions};
pub use queries::{PullResult, QueueProgress};
pub use rebalance::allocate;
pub use status::{ConsumerStatus, QueueStatus};
pub use transaction::{
    Transaction, TransactionChecker, TransactionProducer, TransactionReceipt, TransactionState,
};

use consumer::Membership;
use handling::Callee;
use id::UniqueKeys;
use links::{Dial, Link, Links};
use request::Requests;
use topics::Topics;
use trace::Tracer;

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
const FIRST_HEARTBEAT: Duration = Duration::from_secs(1);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked whether a route must be asked for.
const ROUTE_TICK: Duration = Duration::from_secs(1);
const UNREGISTER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the last frames may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests of brokers that may wait to be looked at.
const INBOUND_MAX: usize = 1_024;

/// How a client reaches its cluster.
#[derive(Clone, Debug, Default)]
pub enum Transport {
    /// Through the name servers, over TCP.
    #[default]
    Tcp,
    /// The embedded broker is all there is; no address is used.
    InProcess(Arc<dyn EmbeddedBroker>),
}

/// How a client behaves. Everything has a default but the name servers.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host:port` of every name server; any of them may be down. Not used in process.
    pub name_servers: Vec<String>,
    /// The way to the brokers.
    pub transport: Transport,
    /// How long a send may take, all its attempts together.
    pub send_timeout: Duration,
    /// How often a failed send is tried again, on another broker where there is one.
    pub send_retries: u32,
    /// The second half of the client id, `address@instance`; by default one that no other client
    /// has.
    pub instance: Option<String>,
    /// Queues a topic gets when sending creates it.
    pub default_queues: i32,
    /// A message whose body is longer is refused before it is sent.
    pub message_bytes: usize,
    /// A body of at least this many bytes is compressed, if that makes it shorter; not in batches.
    pub compress_over: usize,
    /// Whether a broker that was slow, or failed, gets fewer messages for a while, when there is
    /// another: RocketMQ's `sendLatencyFaultEnable`.
    pub avoid_slow_brokers: bool,
    /// The topic to which it is written what happens to messages, if it is; RocketMQ's is
    /// [`TRACE_TOPIC`](crate::names::TRACE_TOPIC). Sends in a batch are traced one by one.
    pub trace: Option<String>,
    /// The form of request headers to brokers. The binary one costs both sides half as much and is
    /// understood by every RocketMQ broker; JSON is for whatever else speaks the protocol.
    pub serialize: SerializeType,
    /// Dialling and frame limits.
    pub remote: RemoteOptions,
    /// The clock of heartbeats, offset commits and time stamps.
    pub clock: Clock,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            name_servers: Vec::new(),
            transport: Transport::Tcp,
            send_timeout: Duration::from_secs(3),
            send_retries: 2,
            instance: None,
            default_queues: 4,
            message_bytes: 4 * 1024 * 1024,
            compress_over: 4096,
            avoid_slow_brokers: false,
            trace: None,
            serialize: SerializeType::Binary,
            remote: RemoteOptions::default(),
            clock: Clock::System,
        }
    }
}

/// A client of a RocketMQ cluster or of the embedded broker.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: String,
    options: ClientOptions,
    links: Links,
    topics: Topics,
    groups: Mutex<Groups>,
    keys: UniqueKeys,
    requests: Requests,
    tracer: Option<Tracer>,
    tasks: Mutex<JoinSet<()>>,
    closed: AtomicBool,
}

/// Who produces and consumes here.
#[derive(Debug, Default)]
struct Groups {
    producers: BTreeSet<String>,
    consumers: BTreeMap<String, Arc<Membership>>,
    /// Where questions about transactions of a producer group go.
    checkers: BTreeMap<String, mpsc::Sender<Inbound>>,
}

impl Groups {
    /// False: the group has one.
    fn add_checker(&mut self, group: &str, checker: mpsc::Sender<Inbound>) -> bool {
        if self.checkers.contains_key(group) {
            return false;
        }
        self.checkers.insert(group.to_owned(), checker);
        true
    }

    fn checker(&self, group: &str) -> Option<mpsc::Sender<Inbound>> {
        self.checkers.get(group).cloned()
    }
}

impl Client {
    /// Makes a client. Connections are dialled when they are first needed.
    ///
    /// # Errors
    /// [`Error::Config`] without a name server to ask.
    pub async fn connect(mut options: ClientOptions) -> Result<Self, Error> {
        let (inbound, requests) = mpsc::channel(INBOUND_MAX);
        let dial = match &options.transport {
            Transport::Tcp => Dial::Tcp(options.remote.clone()),
            Transport::InProcess(broker) => {
                options.name_servers = vec!["in-process".to_owned()];
                Dial::InProcess(broker.clone())
            }
        };
        if options.name_servers.is_empty() {
            let mend = "no name server: give `name_servers` at least one host:port".to_owned();
            return Err(Error::Config(mend));
        }
        let address = match &options.transport {
            Transport::Tcp => id::own_address(options.name_servers.first()).await,
            Transport::InProcess(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        };
        let links = Links::new(dial, inbound);
        let servers = options.name_servers.iter().map(|address| links.link(address)).collect();
        let (tracer, notes) = options.trace.as_deref().map(Tracer::new).unzip();
        let client = Self(Arc::new(Shared {
            id: id::client_id(address, options.instance.as_deref()),
            topics: Topics::new(servers, options.default_queues),
            links,
            groups: Mutex::default(),
            keys: UniqueKeys::new(address, options.clock.now_ms()),
            requests: Requests::default(),
            tracer,
            tasks: Mutex::default(),
            closed: AtomicBool::new(false),
            options,
        }));
        client.start(requests);
        if let Some((notes, topic)) = notes.zip(client.0.options.trace.clone()) {
            client.spawn(trace::write_down(Arc::downgrade(&client.0), notes, topic));
        }
        Ok(client)
    }

    fn start(&self, requests: mpsc::Receiver<Inbound>) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let client = || Arc::downgrade(&self.0);
        tasks.spawn(hear_brokers(client(), requests));
        tasks.spawn(keep_registered(client(), self.0.options.clock.clone()));
        tasks.spawn(keep_routes(client()));
    }

    /// `address@instance`, the name under which brokers know this client.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// A producer of a group. The group matters to transactions and to those who look at who is
    /// connected.
    #[must_use]
    pub fn producer(&self, group: &str) -> Producer {
        self.groups().producers.insert(group.to_owned());
        Producer::new(self.clone(), group)
    }

    /// Starts a member of a consumer group. It runs until it is shut down or dropped.
    ///
    /// # Errors
    /// [`Error::Config`] for options that cannot work, or a group that has a member in this client
    /// already; [`Error::Refused`] for a condition that the broker does not evaluate.
    pub async fn start_consumer(
        &self,
        options: ConsumerOptions,
        handler: Arc<dyn Handler>,
    ) -> Result<Consumer, Error> {
        self.check_open()?;
        Consumer::start(self.clone(), options, Callee::One(handler)).await
    }

    /// Starts a member of a consumer group whose handler takes up to `most` messages of one queue
    /// at once: what is waiting, so that no message waits for others to come.
    ///
    /// # Errors
    /// As [`Self::start_consumer`].
    pub async fn start_batch_consumer(
        &self,
        options: ConsumerOptions,
        most: usize,
        handler: Arc<dyn BatchHandler>,
    ) -> Result<Consumer, Error> {
        self.check_open()?;
        let callee = Callee::Batch { handler, most: most.max(1) };
        Consumer::start(self.clone(), options, callee).await
    }

    /// Starts a consumer that gives out messages when it is asked for them. It runs until it is
    /// shut down or dropped.
    ///
    /// # Errors
    /// As [`Self::start_consumer`].
    pub async fn start_pull_consumer(&self, options: PullOptions) -> Result<PullConsumer, Error> {
        self.check_open()?;
        PullConsumer::start(self.clone(), options).await
    }

    /// Tells the brokers that the producers are gone and ends all connections. Shut consumers down
    /// before.
    pub async fn shutdown(&self) {
        if let Some(tracer) = &self.0.tracer {
            tracer.flush().await;
        }
        if self.0.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let producers = std::mem::take(&mut self.groups().producers);
        for group in &producers {
            self.unregister(&UnregisterClientRequest {
                client_id: &self.0.id,
                producer_group: Some(group),
                consumer_group: None,
            })
            .await;
        }
        let mut tasks = {
            let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        tasks.shutdown().await;
        let closing = self.0.links.all().into_iter().filter_map(|link| link.current());
        join_all(closing.map(|remote| async move { remote.close(CLOSE_TIMEOUT).await })).await;
    }

    /// A task that ends with the client.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.0.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<(), Error> {
        match self.0.closed.load(Ordering::Acquire) {
            true => Err(Error::Closed("the client was shut down".to_owned())),
            false => Ok(()),
        }
    }

    /// Enters a consumer group, so that heartbeats name it. False: it is there already.
    fn join(&self, membership: &Arc<Membership>) -> bool {
        let mut groups = self.groups();
        let group = membership.group.clone();
        if groups.consumers.contains_key(&group) {
            return false;
        }
        groups.consumers.insert(group, membership.clone());
        true
    }

    /// Heartbeats no longer name the group.
    fn leave(&self, group: &str) {
        self.groups().consumers.remove(group);
    }

    /// Takes a consumer group's name off all brokers.
    async fn unregister_consumer(&self, group: &str) {
        self.unregister(&UnregisterClientRequest {
            client_id: &self.0.id,
            producer_group: None,
            consumer_group: Some(group),
        })
        .await;
    }

    async fn unregister(&self, header: &UnregisterClientRequest<'_>) {
        let live = self.broker_links().into_iter().filter_map(|link| link.current());
        let told = live.map(|remote| {
            let request = Command::with(RequestCode::UnregisterClient, header);
            async move { remote.call(request, UNREGISTER_TIMEOUT).await }
        });
        for failed in join_all(told).await.into_iter().filter_map(Result::err) {
            // The end of the connection tells the broker as well.
            tracing::debug!(%failed, "a broker was not told that a group's member is gone");
        }
    }

    fn broker_links(&self) -> Vec<Arc<Link>> {
        let slaves = !self.groups().consumers.is_empty();
        let addresses = self.0.topics.addresses(slaves);
        let links: BTreeMap<String, Arc<Link>> = addresses
            .iter()
            .map(|address| self.0.links.link(address))
            .map(|link| (link.address.clone(), link))
            .collect();
        links.into_values().collect()
    }

    /// The live connection to a broker; a new one begins with a heartbeat.
    async fn remote(&self, link: &Link) -> Result<Remote, Error> {
        if let Some(remote) = link.current() {
            return Ok(remote);
        }
        self.check_open()?;
        self.0.links.remote(link, async |remote: &Remote| self.greet(remote).await).await
    }

    /// The live connection to the master of a broker.
    async fn master(&self, broker_name: &str) -> Result<Remote, Error> {
        let address = self.0.topics.master_of(broker_name);
        self.remote_at(address, broker_name).await
    }

    /// The live connection to pull from: the broker's suggested id, where there is one.
    async fn reader(&self, broker_name: &str, suggested: i64) -> Result<Remote, Error> {
        let address = self.0.topics.reader_of(broker_name, suggested);
        self.remote_at(address, broker_name).await
    }

    async fn remote_at(&self, address: Option<String>, broker: &str) -> Result<Remote, Error> {
        let address = address
            .ok_or_else(|| Error::Closed(format!("no route names broker `{broker}` any more")))?;
        self.remote(&self.0.links.link(&address)).await
    }

    /// A request in the form this client uses towards brokers.
    fn form(&self, mut request: Command) -> Command {
        request.serialize = self.0.options.serialize;
        request
    }

    async fn greet(&self, remote: &Remote) {
        let Some(heartbeat) = self.heartbeat() else { return };
        if let Err(failed) = remote.call(heartbeat, HEARTBEAT_TIMEOUT).await {
            tracing::warn!(%failed, "a broker did not answer our first heartbeat");
        }
    }

    /// The heartbeat, unless there is nothing to tell.
    fn heartbeat(&self) -> Option<Command> {
        let groups = self.groups();
        if groups.producers.is_empty() && groups.consumers.is_empty() {
            return None;
        }
        let inner = std::iter::once(INNER_PRODUCER_GROUP);
        let producers = groups.producers.iter().map(String::as_str).chain(inner);
        let data = HeartbeatData {
            client_id: self.0.id.clone(),
            producer_data_set: producers
                .map(|group| ProducerData { group_name: group.to_owned() })
                .collect(),
            consumer_data_set: groups.consumers.values().map(|m| m.data.clone()).collect(),
            ..HeartbeatData::default()
        };
        drop(groups);
        Some(Command::request(RequestCode::HeartBeat).body(to_json(&data)))
    }

    /// Tells all known brokers who is here, now.
    async fn heartbeat_all(&self) {
        if self.heartbeat().is_none() {
            return;
        }
        let beats = self.broker_links().into_iter().map(|link| async move {
            match link.current() {
                // Dialling begins with a heartbeat.
                None => self.remote(&link).await.map(drop),
                Some(remote) => match self.heartbeat() {
                    Some(heartbeat) => remote.call(heartbeat, HEARTBEAT_TIMEOUT).await.map(drop),
                    None => Ok(()),
                },
            }
        });
        for failed in join_all(beats).await.into_iter().filter_map(Result::err) {
            tracing::warn!(%failed, "a heartbeat failed");
        }
    }

    /// Asks for a route now.
    async fn refresh(&self, topic: &str) -> Result<(), Error> {
        self.0.topics.refresh(&self.0.links, topic).await?;
        self.tell_changed();
        Ok(())
    }

    /// Consumers of topics whose routes have changed deal their queues anew.
    fn tell_changed(&self) {
        for topic in self.0.topics.take_changed() {
            for membership in self.groups().consumers.values() {
                if membership.topics.contains(&topic) {
                    membership.wake.notify_one();
                }
            }
        }
    }

    /// Asks for routes; stops at the first failure, since no name server answers then.
    async fn refresh_all(&self, topics: Vec<String>) {
        for topic in topics {
            if let Err(failed) = self.refresh(&topic).await {
                return tracing::warn!(%failed, topic, "a route could not be asked for");
            }
        }
    }

    /// Learns of brokers without any topic of its own, so that a first heartbeat has somewhere to
    /// go.
    async fn meet_brokers(&self) {
        if let Err(failed) = self.refresh(DEFAULT_TOPIC).await {
            tracing::debug!(%failed, "the default topic's route could not be asked for");
        }
    }

    /// The `match` on what brokers ask of clients.
    async fn hear(&self, request: Inbound, handling: &mut JoinSet<()>) {
        match request.command.request_code() {
            RequestCode::NotifyConsumerIdsChanged => self.members_changed(&request.command),
            RequestCode::ResetConsumerClientOffset => consumer::reset(self, &request.command),
            RequestCode::GetConsumerRunningInfo => {
                let answer = self.tell_running_info(&request.command);
                request.answer(answer).await;
            }
            RequestCode::GetConsumerStatusFromClient => {
                let answer = self.tell_offsets(&request.command);
                request.answer(answer).await;
            }
            RequestCode::ConsumeMessageDirectly => self.handle_directly(request, handling).await,
            RequestCode::PushReplyMessageToClient => {
                let answer = request::replied(self, &request.command);
                request.answer(answer).await;
            }
            RequestCode::CheckTransactionState => transaction::asked(self, request),
            code => {
                let remark = format!("{code:?} is not supported by this client");
                let refusal =
                    Command::response_to(&request.command, ResponseCode::RequestCodeNotSupported);
                request.answer(refusal.remark(remark)).await;
            }
        }
    }

    fn members_changed(&self, notice: &Command) {
        let Ok(header) = notice.decode_header::<ConsumerGroupRequest<'_>>() else { return };
        if let Some(membership) = self.groups().consumers.get(header.consumer_group) {
            membership.wake.notify_one();
        }
        // The group may have changed because a topic was made.
        self.0.topics.hurry.notify_one();
    }

    /// The queues of a topic that can be written, as a name server knows them now.
    async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, Error> {
        let known = self.0.topics.to_write(&self.0.links, topic).await;
        self.tell_changed();
        Ok(known?.route.to_write.clone())
    }
}

/// An answer whose code the caller cannot do anything with.
fn refused(answer: &Command) -> Error {
    let remark = answer.remark.as_deref().unwrap_or_default().to_owned();
    Error::Refused { code: answer.code, remark }
}

async fn hear_brokers(client: Weak<Shared>, mut requests: mpsc::Receiver<Inbound>) {
    let mut handling = JoinSet::new();
    while let Some(request) = requests.recv().await {
        let Some(shared) = client.upgrade() else { return };
        Client(shared).hear(request, &mut handling).await;
    }
}

async fn keep_registered(client: Weak<Shared>, clock: Clock) {
    // A connection that was opened to ask for routes told nobody who is here.
    let mut pause = FIRST_HEARTBEAT;
    loop {
        clock.sleep(std::mem::replace(&mut pause, HEARTBEAT_INTERVAL)).await;
        let Some(shared) = client.upgrade() else { return };
        Client(shared).heartbeat_all().await;
    }
}

async fn keep_routes(client: Weak<Shared>) {
    let mut polled_ms = None;
    let Some(hurry) = client.upgrade().map(|shared| shared.topics.hurry.clone()) else { return };
    loop {
        let hurried = tokio::time::timeout(ROUTE_TICK, hurry.notified()).await.is_ok();
        let Some(client) = client.upgrade().map(Client) else { return };
        let now_ms = client.0.options.clock.now_ms();
        let since = now_ms - *polled_ms.get_or_insert(now_ms);
        if since >= crate::clock::millis(topics::POLL_INTERVAL) {
            polled_ms = Some(now_ms);
            client.refresh_all(client.0.topics.names()).await;
            let kept = client.0.topics.prune();
            client.0.links.retain(|address| kept.contains(address));
        } else {
            client.refresh_all(client.0.topics.due(hurried)).await;
        }
    }
}
