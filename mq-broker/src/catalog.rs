//! Topics and consumer groups: creation, change, removal, permissions, versions, topics.json and
//! subscriptionGroup.json. Not here: the verbs that ask for it (`admin_topics.rs`,
//! `admin_groups.rs`), who is connected, queues' contents.
//!
//! Invariants: a topic or group is on disk before anything that needs it is acknowledged; `version`
//! grows with every change of the topics, and the registration with the name servers waits on it;
//! the topics that RocketMQ itself needs are made at every start and cannot be removed.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use mq_core::clock::Clock;
use mq_core::names;
use mq_core::protocol::body::{
    DataVersion, SubscriptionGroupConfig, SubscriptionGroupWrapper, TopicConfig,
    TopicConfigSerializeWrapper,
};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::RouteInfoRequest;
use mq_core::watermark::Watermark;
use tracing::{debug, info};

use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::hot::Hot;
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::store::disk::Disk;
use crate::store::table_file::TableFile;

/// Permission bits of a topic (protocol section 2.2).
pub(crate) mod perm {
    pub(crate) const INHERIT: i32 = 1;
    pub(crate) const WRITE: i32 = 2;
    pub(crate) const READ: i32 = 4;
}

/// Queues that a topic may have: they cost files.
pub(crate) const QUEUES_MAX: i32 = 64;
/// Topics and groups, each: names are chosen by peers.
const NAMES_MAX: usize = 20_000;
/// A retry or dead letter topic has one queue.
const RETRY_QUEUES: i32 = 1;

/// All topics and groups.
#[derive(Debug)]
pub(crate) struct Catalog {
    topics: RwLock<HashMap<String, Arc<TopicConfig>>>,
    groups: RwLock<HashMap<String, Arc<SubscriptionGroupConfig>>>,
    /// Held over change and save, so that files never go back.
    saving: Mutex<Versions>,
    /// Changes of the topics since the start.
    pub(crate) version: Watermark,
    topic_file: TableFile,
    group_file: TableFile,
    /// Topics of this broker and its cluster, which bear their names.
    own: [String; 2],
    create_topics: Hot<bool>,
    create_groups: Hot<bool>,
    permission: Hot<u64>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Versions {
    topics: DataVersion,
    groups: DataVersion,
}

impl Catalog {
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        config: &BrokerConfig,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let topic_file = TableFile::new(Arc::clone(disk), folder.join("topics.json"));
        let group_file = TableFile::new(Arc::clone(disk), folder.join("subscriptionGroup.json"));
        let topics: TopicConfigSerializeWrapper = topic_file.load()?.unwrap_or_default();
        let groups: SubscriptionGroupWrapper = group_file.load()?.unwrap_or_default();
        let catalog = Self {
            topics: RwLock::new(shared(topics.topic_config_table)),
            groups: RwLock::new(shared(groups.subscription_group_table)),
            saving: Mutex::new(Versions {
                topics: topics.data_version,
                groups: groups.data_version,
            }),
            version: Watermark::new(0),
            topic_file,
            group_file,
            own: [config.broker_name.clone(), config.broker_cluster_name.clone()],
            create_topics: config.auto_create_topic_enable.clone(),
            create_groups: config.auto_create_subscription_group.clone(),
            permission: config.broker_permission.clone(),
            clock,
        };
        catalog.add_system_topics(config);
        Ok(catalog)
    }

    /// The topics that are on a fresh broker (protocol section 5.8). They need no file: they are
    /// made at every start.
    fn add_system_topics(&self, config: &BrokerConfig) {
        let template = config.default_topic_queue_nums;
        let levels = i32::try_from(config.message_delay_level.levels_ms.len()).unwrap_or(i32::MAX);
        let all = perm::READ | perm::WRITE;
        let mut topics = vec![
            topic_config(names::SELF_TEST_TOPIC, 1, all),
            topic_config(names::SCHEDULE_TOPIC, levels, all),
            topic_config(names::HALF_TOPIC, 1, all),
            topic_config(names::TIMER_TOPIC, 1, all),
            topic_config(&names::reply_topic(&config.broker_cluster_name), 1, all),
            topic_config(&config.broker_name, 1, all | perm::INHERIT),
            topic_config(&config.broker_cluster_name, 16, all | perm::INHERIT),
            topic_config(names::DEFAULT_TOPIC, template, all | perm::INHERIT),
        ];
        if config.trace_topic_enable {
            topics.push(topic_config(names::TRACE_TOPIC, 1, all));
        }
        let mut table = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        for topic in topics {
            table.insert(topic.topic_name.clone(), Arc::new(topic));
        }
    }

    pub(crate) fn topic(&self, topic: &str) -> Option<Arc<TopicConfig>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned()
    }

    /// The topic, made after its template if need be (protocol section 2.2, auto-create flow).
    pub(crate) fn topic_for_send(
        &self,
        topic: &str,
        template: &str,
        queues: i32,
    ) -> Result<Arc<TopicConfig>, Refusal> {
        if let Some(found) = self.topic(topic) {
            return Ok(found);
        }
        names::check_topic(topic).map_err(illegal)?;
        if topic.starts_with(names::RETRY_PREFIX) {
            return self.ensure_topic(topic, RETRY_QUEUES);
        }
        let template = self
            .topic(template)
            .filter(|t| self.create_topics.now() && t.perm & perm::INHERIT != 0);
        let Some(template) = template else {
            return Err(topic_unknown(topic));
        };
        let queues = queues.clamp(1, template.write_queue_nums.min(QUEUES_MAX));
        let permission = template.perm & !perm::INHERIT;
        self.put_topic(topic_config(topic, queues, permission))
    }

    /// The topic, made readable and writable with `queues` queues if it is not there.
    pub(crate) fn ensure_topic(
        &self,
        topic: &str,
        queues: i32,
    ) -> Result<Arc<TopicConfig>, Refusal> {
        match self.topic(topic) {
            Some(found) => Ok(found),
            None => self.put_topic(topic_config(topic, queues, perm::READ | perm::WRITE)),
        }
    }

    /// The group's settings, made with defaults if that is allowed.
    pub(crate) fn group(&self, group: &str) -> Result<Arc<SubscriptionGroupConfig>, Refusal> {
        if let Some(found) = self.known_group(group) {
            return Ok(found);
        }
        names::check_group(group).map_err(illegal)?;
        if !self.create_groups.now() {
            return Err(Refusal::new(
                ResponseCode::SubscriptionGroupNotExist,
                format!(
                    "subscription group not exist, {group}: create it, or set autoCreateSubscriptionGroup=true"
                ),
            ));
        }
        self.put_group(SubscriptionGroupConfig {
            group_name: group.to_owned(),
            ..SubscriptionGroupConfig::default()
        })
    }

    /// The group's settings, if it is there.
    pub(crate) fn known_group(&self, group: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).get(group).cloned()
    }

    /// The group and its retry topic: both are needed as soon as a member is there (protocol 9.15).
    pub(crate) fn group_with_retry_topic(&self, group: &str) -> Result<(), Refusal> {
        let settings = self.group(group)?;
        let topic = names::retry_topic(group);
        names::check_topic(&topic).map_err(illegal)?;
        if settings.retry_queue_nums > 0 {
            self.ensure_topic(&topic, settings.retry_queue_nums.min(QUEUES_MAX))?;
        }
        Ok(())
    }

    /// Everything that a registration tells a name server: the template of topics only while they
    /// are made by sending, and no permission that the broker itself has not.
    pub(crate) fn topics_for_registration(&self) -> TopicConfigSerializeWrapper {
        let mut topics = self.topics();
        if !self.create_topics.now() {
            topics.topic_config_table.remove(names::DEFAULT_TOPIC);
        }
        let permission = i32::try_from(self.permission.now()).unwrap_or(0);
        if permission != perm::READ | perm::WRITE {
            topics.topic_config_table.values_mut().for_each(|topic| topic.perm &= permission);
        }
        topics
    }

    /// All topics.
    pub(crate) fn topics(&self) -> TopicConfigSerializeWrapper {
        let data_version = self.versions().topics.clone();
        TopicConfigSerializeWrapper { topic_config_table: self.topic_table(), data_version }
    }

    /// All groups.
    pub(crate) fn groups(&self) -> SubscriptionGroupWrapper {
        let data_version = self.versions().groups.clone();
        SubscriptionGroupWrapper { subscription_group_table: self.group_table(), data_version }
    }

    /// Whether a topic is RocketMQ's own or bears the name of this broker or its cluster.
    pub(crate) fn is_own(&self, topic: &str) -> bool {
        names::is_system_topic(topic) || self.own.iter().any(|own| own == topic)
    }

    /// What routes say has changed, though no topic has.
    pub(crate) fn touch(&self) {
        let mut versions = self.versions();
        versions.topics = self.next(&versions.topics);
        self.version.advance(self.version.get() + 1);
    }

    /// Makes or changes a topic.
    pub(crate) fn put_topic(&self, topic: TopicConfig) -> Result<Arc<TopicConfig>, Refusal> {
        let mut versions = self.versions();
        if let Some(found) = self.topic(&topic.topic_name).filter(|found| **found == topic) {
            return Ok(found);
        }
        let mut table = self.topic_table();
        if table.len() >= NAMES_MAX && !table.contains_key(&topic.topic_name) {
            return Err(illegal(format!("this broker holds {NAMES_MAX} topics: no more are made")));
        }
        table.insert(topic.topic_name.clone(), topic.clone());
        // On disk first: a topic that is known may be sent to.
        self.save_topics(&mut versions, table)?;
        let topic = Arc::new(topic);
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.insert(topic.topic_name.clone(), Arc::clone(&topic));
        drop(topics);
        self.version.advance(self.version.get() + 1);
        info!(
            topic = topic.topic_name,
            queues = topic.write_queue_nums,
            "topic created or changed"
        );
        Ok(topic)
    }

    /// Forgets a topic; false when it is not there.
    pub(crate) fn remove_topic(&self, topic: &str) -> Result<bool, Refusal> {
        let mut versions = self.versions();
        let mut table = self.topic_table();
        if table.remove(topic).is_none() {
            return Ok(false);
        }
        self.save_topics(&mut versions, table)?;
        self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(topic);
        self.version.advance(self.version.get() + 1);
        info!(topic, "topic removed");
        Ok(true)
    }

    /// Makes or changes a group.
    pub(crate) fn put_group(
        &self,
        settings: SubscriptionGroupConfig,
    ) -> Result<Arc<SubscriptionGroupConfig>, Refusal> {
        let group = settings.group_name.clone();
        let mut versions = self.versions();
        if let Some(found) = self.known_group(&group).filter(|found| **found == settings) {
            return Ok(found);
        }
        let mut table = self.group_table();
        if table.len() >= NAMES_MAX && !table.contains_key(&group) {
            return Err(illegal(format!("this broker holds {NAMES_MAX} groups: no more are made")));
        }
        table.insert(group.clone(), settings.clone());
        self.save_groups(&mut versions, table)?;
        let settings = Arc::new(settings);
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        info!(group, "consumer group created or changed");
        groups.insert(group, Arc::clone(&settings));
        Ok(settings)
    }

    /// Forgets a group; false when it is not there.
    pub(crate) fn remove_group(&self, group: &str) -> Result<bool, Refusal> {
        let mut versions = self.versions();
        let mut table = self.group_table();
        if table.remove(group).is_none() {
            return Ok(false);
        }
        self.save_groups(&mut versions, table)?;
        self.groups.write().unwrap_or_else(PoisonError::into_inner).remove(group);
        info!(group, "consumer group removed");
        Ok(true)
    }

    fn save_topics(
        &self,
        versions: &mut Versions,
        table: BTreeMap<String, TopicConfig>,
    ) -> Result<(), Refusal> {
        let data_version = self.next(&versions.topics);
        let wrapper = TopicConfigSerializeWrapper { topic_config_table: table, data_version };
        self.topic_file.save(&wrapper)?;
        versions.topics = wrapper.data_version;
        Ok(())
    }

    fn save_groups(
        &self,
        versions: &mut Versions,
        table: BTreeMap<String, SubscriptionGroupConfig>,
    ) -> Result<(), Refusal> {
        let data_version = self.next(&versions.groups);
        let wrapper = SubscriptionGroupWrapper { subscription_group_table: table, data_version };
        self.group_file.save(&wrapper)?;
        versions.groups = wrapper.data_version;
        Ok(())
    }

    fn topic_table(&self) -> BTreeMap<String, TopicConfig> {
        let table = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        table.iter().map(|(name, topic)| (name.clone(), (**topic).clone())).collect()
    }

    fn group_table(&self) -> BTreeMap<String, SubscriptionGroupConfig> {
        let table = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        table.iter().map(|(name, group)| (name.clone(), (**group).clone())).collect()
    }

    fn versions(&self) -> MutexGuard<'_, Versions> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, version: &DataVersion) -> DataVersion {
        let counter = version.counter + 1;
        DataVersion { counter, timestamp: self.clock.now_ms(), ..version.clone() }
    }
}

fn shared<T>(table: BTreeMap<String, T>) -> HashMap<String, Arc<T>> {
    table.into_iter().map(|(name, value)| (name, Arc::new(value))).collect()
}

pub(crate) fn topic_config(name: &str, queues: i32, perm: i32) -> TopicConfig {
    TopicConfig {
        topic_name: name.to_owned(),
        read_queue_nums: queues,
        write_queue_nums: queues,
        perm,
        ..TopicConfig::default()
    }
}

pub(crate) fn illegal(remark: String) -> Refusal {
    Refusal::new(ResponseCode::SystemError, remark)
}

pub(crate) fn topic_unknown(topic: &str) -> Refusal {
    Refusal::new(
        ResponseCode::TopicNotExist,
        format!("topic[{topic}] not exist: create it, or set autoCreateTopicEnable=true"),
    )
}

/// A client that asks for the route of a group's retry topic is about to consume. It asks before
/// its heartbeat and again only after 30 s: without the topic now, its first retries would come
/// that much later. A name that cannot be a group's gets the usual answer.
pub(crate) fn expect_group(broker: &Broker, request: &Command) {
    let Ok(RouteInfoRequest { topic, .. }) = request.decode_header() else { return };
    if let Some(group) = topic.strip_prefix(names::RETRY_PREFIX)
        && let Err(refusal) = broker.catalog.group_with_retry_topic(group)
    {
        debug!(group, refusal.remark, "no retry topic was made for a route request");
    }
}
