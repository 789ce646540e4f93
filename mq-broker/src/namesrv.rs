//! The name server: what brokers, clients and administrators ask it, and what it forgets by
//! itself. One `match` on the request codes.
//!
//! Not here: the table of brokers and topics (`routes.rs`), what a broker says of itself
//! (`registration.rs`). Invariants: every answer is made under one lock of the table, so a route
//! is never half a change; locks are not held while anything waits, save while a value is
//! written to its file; bodies are strict JSON
//! without blanks, because one client splits routes as text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mq_core::clock::Clock;
use mq_core::protocol::body::{
    BrokerData, ClusterInfo, DataVersion, KvTable, QueueData, RegisterBrokerBody,
    TopicConfigSerializeWrapper, TopicList, TopicRouteData, from_json, to_json,
};
use mq_core::protocol::header::{
    AddWritePermResponse, BrokerHeartbeatRequest, BrokerIdentity, BrokerNameRequest,
    ClusterRequest, DeleteTopicInNamesrvRequest, KvConfigRequest, KvConfigResponse,
    KvNamespaceRequest, PutKvConfigRequest, QueryDataVersionResponse, RegisterBrokerRequest,
    RegisterBrokerResponse, RouteInfoRequest, TopicRequest, WipeWritePermResponse,
};
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::server::{Peer, Replies, Service};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::config::{NameServerConfig, Settings};
use crate::live_settings::{self, Changes};
use crate::refusal::Refusal;
use crate::routes::{
    BrokerMembers, MemberId, Origin, Queues, Registration, Route, Routes, Version,
};
use crate::store::StoreError;
use crate::store::disk::{Disk, parent_of};
use crate::store::table_file::TableFile;

/// Namespace of the values that give topics a queue order.
const ORDER_NAMESPACE: &str = "ORDER_TOPIC_CONFIG";

/// Stands for the host at which a client reached this process.
pub(crate) const REACHED_HOST: &str = "reached";

/// Pairs of all namespaces together.
const MAX_PAIRS: usize = 10_000;

/// First byte of what zlib has compressed.
const ZLIB: u8 = 0x78;

type Handled = Result<Command, Refusal>;

/// A name server. It serves alone, or beside a broker on the broker's port.
#[derive(Debug)]
pub struct NameServer {
    config: NameServerConfig,
    clock: Clock,
    routes: Mutex<Routes>,
    table: Mutex<PairTable>,
    pair_file: Option<TableFile>,
    /// Version of the topics that the broker of this process told last.
    learned: Mutex<Option<u64>>,
}

/// Values by key by namespace.
type Pairs = BTreeMap<String, BTreeMap<String, String>>;

/// kvConfig.json, with the settings that were changed while the name server ran.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PairTable {
    config_table: Pairs,
    #[serde(skip_serializing_if = "Changes::is_empty")]
    settings: Changes,
}

impl Service for NameServer {
    fn burst(this: &Arc<Self>, peer: &Arc<Peer>, burst: &mut Vec<Command>, replies: &mut Replies) {
        for request in burst.drain(..) {
            let answer = this
                .handle(peer, &request)
                .unwrap_or_else(|| Refusal::unsupported(request.code).answer(&request));
            if !request.is_oneway() {
                replies.now(answer);
            }
        }
    }

    fn closed(this: &Arc<Self>, peer: &Arc<Peer>) {
        this.peer_closed(peer);
    }
}

impl NameServer {
    /// A name server that knows nobody yet, and keeps what administrators put in memory.
    #[must_use]
    pub fn new(config: NameServerConfig, clock: Clock) -> Self {
        Self {
            config,
            clock,
            routes: Mutex::default(),
            table: Mutex::default(),
            pair_file: None,
            learned: Mutex::default(),
        }
    }

    /// A name server with what administrators put into it before.
    ///
    /// # Errors
    /// When the file of `kvConfigPath` cannot be read, or its folder not be made.
    pub fn open(
        config: NameServerConfig,
        clock: Clock,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, StoreError> {
        let path = config.kv_config_path.clone();
        let mut name_server = Self::new(config, clock);
        if !path.as_os_str().is_empty() {
            let folder = parent_of(&path);
            disk.create_dir_all(&folder)
                .map_err(|error| StoreError::io(&folder, "create", error))?;
            let file = TableFile::new(disk, path);
            let saved: PairTable = file.load()?.unwrap_or_default();
            live_settings::restore(&name_server.config, &saved.settings, "kvConfigPath");
            name_server.table = Mutex::new(saved);
            name_server.pair_file = Some(file);
        }
        Ok(name_server)
    }

    /// Answers a request. `None` for a code that is no name server's.
    pub fn handle(&self, peer: &Peer, request: &Command) -> Option<Command> {
        let origin = Origin::Peer(peer.id, peer.remote.ip());
        let handled = match request.request_code() {
            RequestCode::PutKvConfig => self.put_pair(request),
            RequestCode::GetKvConfig => self.pair(request),
            RequestCode::DeleteKvConfig => self.delete_pair(request),
            RequestCode::RegisterBroker => self.register(origin, request).inspect_err(|refusal| {
                warn!(peer = %peer.remote, why = refusal.remark, "a registration was refused");
            }),
            RequestCode::UnregisterBroker => self.unregister(origin, request),
            RequestCode::GetRouteinfoByTopic => self.route(peer, request),
            RequestCode::GetBrokerClusterInfo => Ok(self.cluster_info(peer, request)),
            RequestCode::WipeWritePermOfBroker => self.wipe_write_permission(request),
            RequestCode::AddWritePermOfBroker => self.add_write_permission(request),
            RequestCode::GetAllTopicListFromNameserver => self.all_topics(request),
            RequestCode::DeleteTopicInNamesrv => self.delete_topic(request),
            RequestCode::GetKvlistByNamespace => self.pairs_of(request),
            RequestCode::GetTopicsByCluster => self.topics_of_cluster(request),
            RequestCode::GetSystemTopicListFromNs => Ok(self.system_topics(request)),
            RequestCode::GetUnitTopicList => Ok(self.topics_with(request, Queues::is_unit)),
            RequestCode::GetHasUnitSubTopicList => {
                Ok(self.topics_with(request, Queues::has_unit_subscribers))
            }
            RequestCode::GetHasUnitSubUnunitTopicList => Ok(self
                .topics_with(request, |queues| queues.has_unit_subscribers() && !queues.is_unit())),
            RequestCode::RegisterTopicInNamesrv => self.register_topic(request),
            RequestCode::QueryDataVersion => self.data_version(origin, request),
            RequestCode::BrokerHeartbeat => self.heartbeat(origin, request),
            RequestCode::GetNamesrvConfig => {
                Ok(Command::success(request).body(self.config.to_properties()))
            }
            RequestCode::UpdateNamesrvConfig => self.change_settings(request),
            _ => return None,
        };
        Some(handled.unwrap_or_else(|refusal| refusal.answer(request)))
    }

    /// A connection has ended: the brokers that spoke through it are gone.
    pub fn peer_closed(&self, peer: &Peer) {
        for address in self.routes().close(peer.id) {
            info!(address, "a broker's connection ended: it is dropped");
        }
    }

    /// Drops the brokers that have been silent for 120 s, once.
    pub fn expire(&self) {
        for address in self.routes().expire(self.clock.now_ms()) {
            warn!(address, "a broker has been silent for 120 s: it is dropped");
        }
    }

    /// Drops silent brokers again and again. Whoever serves runs this beside the server.
    pub async fn expire_forever(&self) {
        loop {
            let period =
                Duration::from_millis(self.config.scan_not_active_broker_interval_ms.now());
            self.clock.sleep(period).await;
            self.expire();
        }
    }

    /// Takes the topics of the broker in this process, unless it has those of this version. That
    /// broker is known as long as the process lives.
    pub fn learn(
        &self,
        version: u64,
        tell: impl FnOnce() -> (MemberId, TopicConfigSerializeWrapper),
    ) {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if *learned == Some(version) {
            return;
        }
        let (id, topics) = tell();
        let news = Registration {
            ha_address: id.address.clone(),
            id,
            version: table_version(&topics.data_version),
            topics: queues(&topics),
        };
        let now_ms = self.clock.now_ms();
        match self.routes().register(Origin::Local, news, true, now_ms) {
            Ok(_master) => *learned = Some(version),
            Err(why) => warn!(why, "the broker of this process cannot be registered"),
        }
    }

    fn register(&self, origin: Origin, request: &Command) -> Handled {
        let header: RegisterBrokerRequest<'_> = request.decode_header()?;
        check_crc(&header, request)?;
        let topics = registered_topics(&header, request)?;
        let news = Registration {
            id: MemberId {
                cluster: header.cluster_name.to_owned(),
                broker_name: header.broker_name.to_owned(),
                broker_id: header.broker_id,
                address: header.broker_addr.to_owned(),
            },
            ha_address: header.ha_server_addr.to_owned(),
            version: table_version(&topics.data_version),
            topics: queues(&topics),
        };
        let complete = self.config.delete_topic_with_broker_registration.now();
        let now_ms = self.clock.now_ms();
        let master = self
            .routes()
            .register(origin, news, complete, now_ms)
            .map_err(|why| Refusal::new(ResponseCode::SystemError, why))?;
        let answer = Command::success(request).header(&RegisterBrokerResponse {
            ha_server_addr: master.as_ref().map(|master| master.ha_address.as_str()),
            master_addr: master.as_ref().map(|master| master.address.as_str()),
        });
        match self.config.return_order_topic_config_to_broker.now() {
            true => Ok(answer.body(to_json(&self.table_of(ORDER_NAMESPACE).unwrap_or_default()))),
            false => Ok(answer),
        }
    }

    fn unregister(&self, origin: Origin, request: &Command) -> Handled {
        let id = member_id(&request.decode_header()?);
        let now_ms = self.clock.now_ms();
        self.routes()
            .unregister(origin, &id, now_ms)
            .map_err(|why| Refusal::new(ResponseCode::NoPermission, why))?;
        info!(broker = id.broker_name, address = id.address, "a broker has unregistered");
        Ok(Command::success(request))
    }

    fn data_version(&self, origin: Origin, request: &Command) -> Handled {
        let id = member_id(&request.decode_header()?);
        let asked = table_version(&parse::<DataVersion>(request)?);
        let mut routes = self.routes();
        let known = routes.version(&id);
        if known == Some(asked) {
            routes.touch(origin, &id, self.clock.now_ms());
        }
        let answer = Command::success(request)
            .header(&QueryDataVersionResponse { changed: known != Some(asked) });
        Ok(match known {
            Some(known) => answer.body(to_json(&data_version(known))),
            None => answer,
        })
    }

    fn heartbeat(&self, origin: Origin, request: &Command) -> Handled {
        let header: BrokerHeartbeatRequest<'_> = request.decode_header()?;
        let id = MemberId {
            cluster: header.cluster_name.to_owned(),
            broker_name: header.broker_name.to_owned(),
            broker_id: header.broker_id.unwrap_or_default(),
            address: header.broker_addr.to_owned(),
        };
        self.routes().touch(origin, &id, self.clock.now_ms());
        Ok(Command::success(request))
    }

    fn route(&self, peer: &Peer, request: &Command) -> Handled {
        let RouteInfoRequest { topic, .. } = request.decode_header()?;
        let Some(route) = self.routes().route(topic) else {
            return Err(Refusal::new(
                ResponseCode::TopicNotExist,
                format!(
                    "No topic route info in name server for the topic: {}: create the topic, or \
                     let the broker do so with autoCreateTopicEnable",
                    topic.escape_debug()
                ),
            ));
        };
        let mut route = route_data(peer, route);
        if self.config.order_message_enable.now() {
            let table = self.table();
            let orders = table.config_table.get(ORDER_NAMESPACE);
            route.order_topic_conf = orders.and_then(|orders| orders.get(topic)).cloned();
        }
        Ok(Command::success(request).body(to_json(&route)))
    }

    fn cluster_info(&self, peer: &Peer, request: &Command) -> Command {
        let mut info = ClusterInfo::default();
        for broker in self.routes().brokers() {
            let name = broker.broker_name.to_string();
            let cluster = broker.cluster.to_string();
            info.cluster_addr_table.entry(cluster).or_default().insert(name.clone());
            info.broker_addr_table.insert(name, broker_data(peer, broker));
        }
        Command::success(request).body(to_json(&info))
    }

    fn all_topics(&self, request: &Command) -> Handled {
        if !self.config.enable_all_topic_list.now() {
            return Err(Refusal::new(
                ResponseCode::SystemError,
                "the list of all topics is disabled: set enableAllTopicList=true",
            ));
        }
        Ok(Command::success(request).body(to_json(&topic_list(&self.routes().topics(), None))))
    }

    fn topics_of_cluster(&self, request: &Command) -> Handled {
        let ClusterRequest { cluster } = request.decode_header()?;
        let topics = self.routes().topics_of_cluster(cluster).unwrap_or_default();
        Ok(Command::success(request).body(to_json(&topic_list(&topics, None))))
    }

    fn topics_with(&self, request: &Command, wanted: impl Fn(&Queues) -> bool) -> Command {
        let topics = self.routes().topics_with(wanted);
        Command::success(request).body(to_json(&topic_list(&topics, None)))
    }

    /// Puts queues of a topic into the routes ahead of the brokers' own registrations.
    fn register_topic(&self, request: &Command) -> Handled {
        let TopicRequest { topic } = request.decode_header()?;
        let route: TopicRouteData = parse(request)?;
        for data in route.queue_datas {
            let queues = Queues {
                read: data.read_queue_nums,
                write: data.write_queue_nums,
                perm: data.perm,
                sys_flag: data.topic_sys_flag,
            };
            self.routes()
                .register_topic(topic, &data.broker_name, queues)
                .map_err(|why| Refusal::new(ResponseCode::SystemError, why))?;
        }
        Ok(Command::success(request))
    }

    /// Clusters and brokers: each has a topic of its name.
    fn system_topics(&self, request: &Command) -> Command {
        let brokers = self.routes().brokers();
        let address = brokers.first().and_then(|broker| broker.addresses.values().next().cloned());
        let names = brokers.into_iter().flat_map(|broker| [broker.cluster, broker.broker_name]);
        let names: Vec<_> = names.collect::<BTreeSet<_>>().into_iter().collect();
        Command::success(request).body(to_json(&topic_list(&names, address)))
    }

    fn delete_topic(&self, request: &Command) -> Handled {
        let header: DeleteTopicInNamesrvRequest<'_> = request.decode_header()?;
        self.routes().delete_topic(header.topic, header.cluster_name);
        Ok(Command::success(request))
    }

    fn wipe_write_permission(&self, request: &Command) -> Handled {
        let BrokerNameRequest { broker_name } = request.decode_header()?;
        let topics = self.routes().wipe_write_permission(broker_name);
        let wipe_topic_count = i32::try_from(topics).unwrap_or(i32::MAX);
        Ok(Command::success(request).header(&WipeWritePermResponse { wipe_topic_count }))
    }

    fn add_write_permission(&self, request: &Command) -> Handled {
        let BrokerNameRequest { broker_name } = request.decode_header()?;
        let topics = self.routes().add_write_permission(broker_name);
        let add_topic_count = i32::try_from(topics).unwrap_or(i32::MAX);
        Ok(Command::success(request).header(&AddWritePermResponse { add_topic_count }))
    }

    fn put_pair(&self, request: &Command) -> Handled {
        let PutKvConfigRequest { namespace, key, value } = request.decode_header()?;
        let mut table = self.table();
        if table.config_table.values().map(BTreeMap::len).sum::<usize>() >= MAX_PAIRS {
            return Err(Refusal::new(
                ResponseCode::SystemError,
                format!("the name server holds {MAX_PAIRS} values, its limit: delete some"),
            ));
        }
        let mut changed = table.clone();
        let values = changed.config_table.entry(namespace.to_owned()).or_default();
        values.insert(key.to_owned(), value.to_owned());
        self.replace(&mut table, changed)?;
        Ok(Command::success(request))
    }

    /// What cannot be saved is not changed.
    fn replace(&self, table: &mut PairTable, changed: PairTable) -> Result<(), Refusal> {
        match &self.pair_file {
            Some(file) => file.save(&changed)?,
            None => warn!("put values are lost at the end: set kvConfigPath to keep them"),
        }
        *table = changed;
        Ok(())
    }

    fn change_settings(&self, request: &Command) -> Handled {
        let changes = live_settings::parse(&request.body)?;
        let mut table = self.table();
        live_settings::check(&self.config, &changes)?;
        let mut changed = table.clone();
        changed.settings.extend(changes.clone());
        self.replace(&mut table, changed)?;
        live_settings::apply(&self.config, &changes);
        Ok(Command::success(request))
    }

    fn pair(&self, request: &Command) -> Handled {
        let KvConfigRequest { namespace, key } = request.decode_header()?;
        let table = self.table();
        let Some(value) = table.config_table.get(namespace).and_then(|pairs| pairs.get(key)) else {
            return Err(Refusal::new(
                ResponseCode::QueryNotFound,
                format!("No config item, Namespace: {namespace} Key: {key}"),
            ));
        };
        Ok(Command::success(request).header(&KvConfigResponse { value: Some(value) }))
    }

    fn delete_pair(&self, request: &Command) -> Handled {
        let KvConfigRequest { namespace, key } = request.decode_header()?;
        let mut table = self.table();
        let mut changed = table.clone();
        let values = changed.config_table.get_mut(namespace);
        if values.and_then(|values| values.remove(key)).is_some() {
            changed.config_table.retain(|_, values| !values.is_empty());
            self.replace(&mut table, changed)?;
        }
        Ok(Command::success(request))
    }

    fn pairs_of(&self, request: &Command) -> Handled {
        let KvNamespaceRequest { namespace } = request.decode_header()?;
        let Some(table) = self.table_of(namespace) else {
            return Err(Refusal::new(
                ResponseCode::QueryNotFound,
                format!("No config item, Namespace: {namespace}"),
            ));
        };
        Ok(Command::success(request).body(to_json(&table)))
    }

    fn table_of(&self, namespace: &str) -> Option<KvTable> {
        self.table().config_table.get(namespace).map(|table| KvTable { table: table.clone() })
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, PairTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_crc(header: &RegisterBrokerRequest<'_>, request: &Command) -> Result<(), Refusal> {
    let said = header.body_crc32.unwrap_or_default();
    let found = crc32fast::hash(&request.body) & 0x7FFF_FFFF;
    match said == 0 || u32::try_from(said) == Ok(found) {
        true => Ok(()),
        false => Err(Refusal::new(ResponseCode::SystemError, "crc32 not match")),
    }
}

fn registered_topics(
    header: &RegisterBrokerRequest<'_>,
    request: &Command,
) -> Result<TopicConfigSerializeWrapper, Refusal> {
    if request.body.is_empty() {
        return Ok(TopicConfigSerializeWrapper::default());
    }
    // A 5.5 broker with compressedRegister=true says that it has not compressed. JSON has no such
    // first byte.
    let compressed = header.compressed == Some(true) || request.body.first() == Some(&ZLIB);
    RegisterBrokerBody::decode(&request.body, compressed, request.version)
        .map(|body| body.topic_config_serialize_wrapper)
        .map_err(|error| Refusal::new(ResponseCode::SystemError, error.to_string()))
}

fn parse<T: DeserializeOwned>(request: &Command) -> Result<T, Refusal> {
    from_json(&request.body)
        .map_err(|error| Refusal::new(ResponseCode::SystemError, error.to_string()))
}

fn member_id(identity: &BrokerIdentity<'_>) -> MemberId {
    MemberId {
        cluster: identity.cluster_name.to_owned(),
        broker_name: identity.broker_name.to_owned(),
        broker_id: identity.broker_id,
        address: identity.broker_addr.to_owned(),
    }
}

fn table_version(said: &DataVersion) -> Version {
    Version { state_version: said.state_version, timestamp: said.timestamp, counter: said.counter }
}

fn data_version(known: Version) -> DataVersion {
    DataVersion {
        state_version: known.state_version,
        timestamp: known.timestamp,
        counter: known.counter,
    }
}

fn queues(topics: &TopicConfigSerializeWrapper) -> Vec<(String, Queues)> {
    let topics = topics.topic_config_table.iter().map(|(topic, config)| {
        let queues = Queues {
            read: config.read_queue_nums,
            write: config.write_queue_nums,
            perm: config.perm,
            sys_flag: config.topic_sys_flag,
        };
        (topic.clone(), queues)
    });
    topics.collect()
}

fn route_data(peer: &Peer, route: Route) -> TopicRouteData {
    let queues = route.queues.into_iter().map(|(broker_name, queues)| QueueData {
        broker_name: broker_name.to_string(),
        read_queue_nums: queues.read,
        write_queue_nums: queues.write,
        perm: queues.perm,
        topic_sys_flag: queues.sys_flag,
        topic_syn_flag: queues.sys_flag,
    });
    TopicRouteData {
        queue_datas: queues.collect(),
        broker_datas: route.brokers.into_iter().map(|broker| broker_data(peer, broker)).collect(),
        ..TopicRouteData::default()
    }
}

fn broker_data(peer: &Peer, broker: BrokerMembers) -> BrokerData {
    let addresses = broker.addresses.into_iter();
    BrokerData {
        cluster: broker.cluster.to_string(),
        broker_name: broker.broker_name.to_string(),
        broker_addrs: addresses.map(|(id, address)| (id, address_for(peer, address))).collect(),
    }
}

/// The broker of this process that was told no address of its own is where the asker reached it.
fn address_for(peer: &Peer, address: String) -> String {
    match address.strip_prefix(REACHED_HOST) {
        Some(port) => format!("{}{port}", peer.local.ip()),
        None => address,
    }
}

fn topic_list(topics: &[Arc<str>], broker_addr: Option<String>) -> TopicList {
    TopicList { topic_list: topics.iter().map(ToString::to_string).collect(), broker_addr }
}
