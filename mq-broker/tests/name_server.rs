//! The name server as brokers, clients and administrators meet it: over a socket.

#![expect(clippy::unwrap_used, reason = "a test fails when its set-up does")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use mq_broker::config::NameServerConfig;
use mq_broker::namesrv::NameServer;
use mq_broker::store::disk::OsDisk;
use mq_core::clock::{Clock, ManualClock};
use mq_core::protocol::body::{
    ClusterInfo, DataVersion, KvTable, RegisterBrokerBody, TopicConfig,
    TopicConfigSerializeWrapper, TopicList, TopicRouteData, from_json, to_json,
};
use mq_core::protocol::header::{
    BrokerIdentity, BrokerNameRequest, ClusterRequest, DeleteTopicInNamesrvRequest, Header,
    KvConfigRequest, KvConfigResponse, KvNamespaceRequest, PutKvConfigRequest,
    QueryDataVersionResponse, RegisterBrokerRequest, RegisterBrokerResponse, RouteInfoRequest,
    WipeWritePermResponse,
};
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::{Remote, RemoteOptions};
use mq_core::server::{Server, ServerOptions};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A running name server.
struct Running {
    name_server: Arc<NameServer>,
    address: String,
    hand: ManualClock,
    _server: Server,
}

impl Running {
    async fn start(config: NameServerConfig) -> Self {
        let (clock, hand) = Clock::manual(1_000_000);
        let name_server = Arc::new(NameServer::open(config, clock, Arc::new(OsDisk)).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut server = Server::new(ServerOptions::default());
        server.accept(listener, &name_server);
        Self { name_server, address, hand, _server: server }
    }

    async fn connect(&self) -> Caller {
        let (inbound, _) = mpsc::channel(1);
        let connected = Remote::connect(&self.address, &RemoteOptions::default(), inbound).await;
        Caller(connected.unwrap())
    }
}

/// A connection to the name server.
struct Caller(Remote);

impl Caller {
    async fn send(&self, request: Command) -> Command {
        self.0.call(request, TIMEOUT).await.unwrap()
    }

    async fn ask<'a>(&self, code: RequestCode, header: &impl Header<'a>) -> Command {
        self.send(Command::with(code, header)).await
    }

    async fn route(&self, topic: &str) -> Command {
        let header = RouteInfoRequest { topic, ..RouteInfoRequest::default() };
        self.ask(RequestCode::GetRouteinfoByTopic, &header).await
    }

    async fn register(&self, broker: Broker<'_>) -> Command {
        let body = to_json(&RegisterBrokerBody {
            topic_config_serialize_wrapper: broker.topics(),
            filter_server_list: Vec::new(),
        });
        let crc = i32::try_from(crc32fast::hash(&body) & 0x7FFF_FFFF).unwrap();
        let header = RegisterBrokerRequest { body_crc32: Some(crc), ..broker.header() };
        self.send(Command::with(RequestCode::RegisterBroker, &header).body(body)).await
    }
}

/// What a broker says of itself.
#[derive(Clone, Copy)]
struct Broker<'a> {
    name: &'a str,
    id: i64,
    address: &'a str,
    ha_address: &'a str,
    topics: &'a [&'a str],
    counter: i64,
}

const MASTER: Broker<'_> = Broker {
    name: "broker-a",
    id: 0,
    address: "127.0.0.1:10911",
    ha_address: "127.0.0.1:10912",
    topics: &["orders"],
    counter: 1,
};

const SLAVE: Broker<'_> = Broker {
    id: 1,
    address: "127.0.0.1:20911",
    ha_address: "127.0.0.1:20912",
    topics: &["of a slave"],
    ..MASTER
};

impl<'a> Broker<'a> {
    fn header(&self) -> RegisterBrokerRequest<'a> {
        RegisterBrokerRequest {
            broker_name: self.name,
            broker_addr: self.address,
            cluster_name: "DefaultCluster",
            ha_server_addr: self.ha_address,
            broker_id: self.id,
            ..RegisterBrokerRequest::default()
        }
    }

    fn identity(&self) -> BrokerIdentity<'a> {
        BrokerIdentity {
            broker_name: self.name,
            broker_addr: self.address,
            cluster_name: "DefaultCluster",
            broker_id: self.id,
        }
    }

    fn version(&self) -> DataVersion {
        DataVersion { counter: self.counter, ..DataVersion::default() }
    }

    fn topics(&self) -> TopicConfigSerializeWrapper {
        let topics = self.topics.iter().map(|topic| {
            let config = TopicConfig {
                topic_name: (*topic).to_owned(),
                read_queue_nums: 4,
                write_queue_nums: 4,
                perm: 6,
                ..TopicConfig::default()
            };
            ((*topic).to_owned(), config)
        });
        TopicConfigSerializeWrapper {
            topic_config_table: topics.collect(),
            data_version: self.version(),
        }
    }
}

fn code(answer: &Command) -> ResponseCode {
    answer.response_code()
}

fn remark(answer: &Command) -> &str {
    answer.remark.as_deref().unwrap_or_default()
}

fn topics(answer: &Command) -> Vec<String> {
    from_json::<TopicList>(&answer.body).unwrap().topic_list
}

#[tokio::test]
async fn a_route_is_compact_strict_and_the_same_every_time() {
    let running = Running::start(NameServerConfig::default()).await;
    let (master, slave) = (running.connect().await, running.connect().await);
    let other = running.connect().await;
    assert_eq!(code(&slave.register(SLAVE).await), ResponseCode::Success);
    let b = Broker { name: "broker-b", address: "127.0.0.1:30911", ..MASTER };
    assert_eq!(code(&other.register(b).await), ResponseCode::Success);
    assert_eq!(code(&master.register(MASTER).await), ResponseCode::Success);
    let answer = master.route("orders").await;
    let expected = concat!(
        r#"{"queueDatas":[{"brokerName":"broker-a","readQueueNums":4,"writeQueueNums":4,"#,
        r#""perm":6,"topicSysFlag":0,"topicSynFlag":0},{"brokerName":"broker-b","#,
        r#""readQueueNums":4,"writeQueueNums":4,"perm":6,"topicSysFlag":0,"topicSynFlag":0}],"#,
        r#""brokerDatas":[{"cluster":"DefaultCluster","brokerName":"broker-a","brokerAddrs":"#,
        r#"{"0":"127.0.0.1:10911","1":"127.0.0.1:20911"}},{"cluster":"DefaultCluster","#,
        r#""brokerName":"broker-b","brokerAddrs":{"0":"127.0.0.1:30911"}}],"#,
        r#""filterServerTable":{}}"#
    );
    assert_eq!(std::str::from_utf8(&answer.body).unwrap(), expected);
    let unknown = master.route("of a slave").await;
    assert_eq!(code(&unknown), ResponseCode::TopicNotExist);
    assert!(remark(&unknown).starts_with("No topic route info in name server for the topic: "));
}

#[tokio::test]
async fn a_slave_is_told_its_master() {
    let running = Running::start(NameServerConfig::default()).await;
    let (master, slave) = (running.connect().await, running.connect().await);
    let alone = slave.register(SLAVE).await;
    assert_eq!(alone.decode_header::<RegisterBrokerResponse>().unwrap().master_addr, None);
    master.register(MASTER).await;
    let told = slave.register(SLAVE).await;
    let told: RegisterBrokerResponse = told.decode_header().unwrap();
    assert_eq!(told.master_addr, Some(MASTER.address));
    assert_eq!(told.ha_server_addr, Some(MASTER.ha_address));
}

#[tokio::test]
async fn a_broker_is_dropped_when_its_connection_closes() {
    let running = Running::start(NameServerConfig::default()).await;
    let (broker, client) = (running.connect().await, running.connect().await);
    broker.register(MASTER).await;
    assert_eq!(code(&client.route("orders").await), ResponseCode::Success);
    broker.0.close(TIMEOUT).await;
    drop(broker);
    let gone = async {
        while code(&client.route("orders").await) != ResponseCode::TopicNotExist {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, gone).await.unwrap();
}

#[tokio::test]
async fn a_silent_broker_is_dropped_after_120_seconds() {
    let running = Running::start(NameServerConfig::default()).await;
    let name_server = Arc::clone(&running.name_server);
    let scan = async move { name_server.expire_forever().await };
    let mut scan = Box::pin(scan);
    let client = running.connect().await;
    client.register(MASTER).await;
    for step in 1..=12 {
        assert!((&mut scan).now_or_never().is_none());
        running.hand.advance(Duration::from_secs(10));
        assert!((&mut scan).now_or_never().is_none());
        assert_eq!(code(&client.route("orders").await), ResponseCode::Success, "step {step}");
    }
    running.hand.advance(Duration::from_secs(10));
    assert!((&mut scan).now_or_never().is_none());
    assert_eq!(code(&client.route("orders").await), ResponseCode::TopicNotExist);
}

#[tokio::test]
async fn the_question_for_the_version_keeps_a_broker_alive() {
    let running = Running::start(NameServerConfig::default()).await;
    let broker = running.connect().await;
    broker.register(MASTER).await;
    let ask = async |counter| {
        let version = Broker { counter, ..MASTER }.version();
        let request = Command::with(RequestCode::QueryDataVersion, &MASTER.identity());
        let answer = broker.send(request.body(to_json(&version))).await;
        let known: DataVersion = from_json(&answer.body).unwrap();
        (answer.decode_header::<QueryDataVersionResponse>().unwrap().changed, known.counter)
    };
    assert_eq!(ask(2).await, (true, 1));
    for _ in 0..3 {
        running.hand.advance(Duration::from_secs(100));
        assert_eq!(ask(1).await, (false, 1));
        running.name_server.expire();
    }
    assert_eq!(code(&broker.route("orders").await), ResponseCode::Success);
}

#[tokio::test]
async fn a_broker_unregisters() {
    let running = Running::start(NameServerConfig::default()).await;
    let broker = running.connect().await;
    broker.register(MASTER).await;
    let answer = broker.ask(RequestCode::UnregisterBroker, &MASTER.identity()).await;
    assert_eq!(code(&answer), ResponseCode::Success);
    assert_eq!(code(&broker.route("orders").await), ResponseCode::TopicNotExist);
}

#[tokio::test]
async fn a_second_broker_of_the_same_name_is_told_so() {
    let running = Running::start(NameServerConfig::default()).await;
    let (first, second) = (running.connect().await, running.connect().await);
    first.register(MASTER).await;
    let answer = second.register(Broker { address: "127.0.0.1:11911", ..MASTER }).await;
    assert_eq!(code(&answer), ResponseCode::SystemError);
    assert!(remark(&answer).contains("choose another brokerName"), "{}", remark(&answer));
}

#[tokio::test]
async fn damaged_registrations_are_refused_and_the_connection_stays() {
    let running = Running::start(NameServerConfig::default()).await;
    let broker = running.connect().await;
    let send = async |header: RegisterBrokerRequest<'_>, body: &'static [u8]| {
        broker.send(Command::with(RequestCode::RegisterBroker, &header).body(body)).await
    };
    let header = MASTER.header();
    let crc = send(RegisterBrokerRequest { body_crc32: Some(7), ..header }, b"{}").await;
    assert_eq!((code(&crc), remark(&crc)), (ResponseCode::SystemError, "crc32 not match"));
    let zip = send(RegisterBrokerRequest { compressed: Some(true), ..header }, b"{}").await;
    assert_eq!(code(&zip), ResponseCode::SystemError);
    assert_eq!(code(&send(header, b"{").await), ResponseCode::SystemError);
    assert_eq!(code(&send(header, b"7").await), ResponseCode::SystemError);
    assert_eq!(
        code(&broker.ask(RequestCode::RegisterBroker, &()).await),
        ResponseCode::SystemError
    );
    assert_eq!(code(&broker.route("orders").await), ResponseCode::TopicNotExist);
}

#[tokio::test]
async fn an_old_broker_sends_its_topics_bare() {
    let running = Running::start(NameServerConfig::default()).await;
    let broker = running.connect().await;
    let mut request = Command::with(RequestCode::RegisterBroker, &MASTER.header())
        .body(to_json(&MASTER.topics()));
    request.version = 28;
    assert_eq!(code(&broker.send(request).await), ResponseCode::Success);
    assert_eq!(code(&broker.route("orders").await), ResponseCode::Success);
}

#[tokio::test]
async fn values_are_put_found_and_deleted() {
    let running = Running::start(NameServerConfig::default()).await;
    let admin = running.connect().await;
    let header = PutKvConfigRequest { namespace: "n", key: "k", value: "v" };
    assert_eq!(code(&admin.ask(RequestCode::PutKvConfig, &header).await), ResponseCode::Success);
    let at = KvConfigRequest { namespace: "n", key: "k" };
    let found = admin.ask(RequestCode::GetKvConfig, &at).await;
    assert_eq!(found.decode_header::<KvConfigResponse>().unwrap().value, Some("v"));
    let of = KvNamespaceRequest { namespace: "n" };
    let table = admin.ask(RequestCode::GetKvlistByNamespace, &of).await;
    assert_eq!(from_json::<KvTable>(&table.body).unwrap().table["k"], "v");
    assert_eq!(code(&admin.ask(RequestCode::DeleteKvConfig, &at).await), ResponseCode::Success);
    for asked in [RequestCode::GetKvConfig, RequestCode::GetKvlistByNamespace] {
        assert_eq!(code(&admin.ask(asked, &at).await), ResponseCode::QueryNotFound);
    }
}

#[tokio::test]
async fn values_outlive_the_name_server_that_has_a_file_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let kv_config_path = folder.path().join("kv").join("kvConfig.json");
    let config = NameServerConfig { kv_config_path, ..NameServerConfig::default() };
    let running = Running::start(config.clone()).await;
    let admin = running.connect().await;
    for namespace in ["n", "other"] {
        let put = PutKvConfigRequest { namespace, key: "k", value: "v" };
        assert_eq!(code(&admin.ask(RequestCode::PutKvConfig, &put).await), ResponseCode::Success);
    }
    let delete = KvConfigRequest { namespace: "other", key: "k" };
    admin.ask(RequestCode::DeleteKvConfig, &delete).await;
    drop(running);
    let text = std::fs::read_to_string(&config.kv_config_path).unwrap();
    let saved: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(saved, serde_json::json!({"configTable": {"n": {"k": "v"}}}));
    let running = Running::start(config).await;
    let of = KvConfigRequest { namespace: "n", key: "k" };
    let found = running.connect().await.ask(RequestCode::GetKvConfig, &of).await;
    assert_eq!(found.decode_header::<KvConfigResponse>().unwrap().value, Some("v"));
}

#[tokio::test]
async fn a_queue_order_reaches_routes_and_brokers() {
    let config =
        NameServerConfig { order_message_enable: true.into(), ..NameServerConfig::default() };
    let running = Running::start(config).await;
    let broker = running.connect().await;
    let namespace = "ORDER_TOPIC_CONFIG";
    let header = PutKvConfigRequest { namespace, key: "orders", value: "broker-a:4" };
    broker.ask(RequestCode::PutKvConfig, &header).await;
    let registered = broker.register(MASTER).await;
    assert_eq!(from_json::<KvTable>(&registered.body).unwrap().table["orders"], "broker-a:4");
    let route: TopicRouteData = from_json(&broker.route("orders").await.body).unwrap();
    assert_eq!(route.order_topic_conf.as_deref(), Some("broker-a:4"));
}

#[tokio::test]
async fn administrators_see_and_change_the_table() {
    let running = Running::start(NameServerConfig::default()).await;
    let admin = running.connect().await;
    admin.register(MASTER).await;
    let info = admin.ask(RequestCode::GetBrokerClusterInfo, &()).await;
    let info: ClusterInfo = from_json(&info.body).unwrap();
    assert!(info.cluster_addr_table["DefaultCluster"].contains("broker-a"));
    assert_eq!(info.broker_addr_table["broker-a"].broker_addrs[&0], MASTER.address);
    assert_eq!(
        topics(&admin.ask(RequestCode::GetAllTopicListFromNameserver, &()).await),
        ["orders"]
    );
    let of = ClusterRequest { cluster: "DefaultCluster" };
    assert_eq!(topics(&admin.ask(RequestCode::GetTopicsByCluster, &of).await), ["orders"]);
    let system = admin.ask(RequestCode::GetSystemTopicListFromNs, &()).await;
    assert_eq!(topics(&system), ["DefaultCluster", "broker-a"]);
    let broker = BrokerNameRequest { broker_name: "broker-a" };
    let wiped = admin.ask(RequestCode::WipeWritePermOfBroker, &broker).await;
    let wiped: WipeWritePermResponse = wiped.decode_header().unwrap();
    assert_eq!(wiped.wipe_topic_count, 1);
    let route: TopicRouteData = from_json(&admin.route("orders").await.body).unwrap();
    assert_eq!(route.queue_datas[0].perm, 4);
    let delete = DeleteTopicInNamesrvRequest { topic: "orders", cluster_name: None };
    admin.ask(RequestCode::DeleteTopicInNamesrv, &delete).await;
    assert_eq!(code(&admin.route("orders").await), ResponseCode::TopicNotExist);
}

#[tokio::test]
async fn codes_of_others_are_not_supported() {
    let running = Running::start(NameServerConfig::default()).await;
    let caller = running.connect().await;
    let answer = caller.ask(RequestCode::PullMessage, &()).await;
    assert_eq!(code(&answer), ResponseCode::RequestCodeNotSupported);
    assert_eq!(remark(&answer), " request type 11 not supported");
    let answer = caller.ask(RequestCode::UpdateNamesrvConfig, &()).await;
    assert_eq!(code(&answer), ResponseCode::SystemError);
    assert_eq!(remark(&answer), "no setting is given: give lines of key=value");
}
