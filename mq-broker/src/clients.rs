//! Who is connected: producers and consumers by group, their subscriptions, and the notice (40)
//! that makes a group share its queues anew. Verbs 34, 35, 38 and 46. Not here: sockets, consumer
//! progress, group settings.
//!
//! Invariants (protocol sections 2.5 and 9):
//! - A member is a connection, not a client id: one client id may be registered through several
//!   connections, and sends or pulls need not arrive on a registered one.
//! - A member is registered before its heartbeat is answered, and every member of the group is
//!   told, the new one included.
//! - A connection that ends takes its memberships with it at once; a silent one after 120 s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mq_core::clock::Clock;
use mq_core::names;
use mq_core::protocol::body::{
    CheckClientRequest, Connection, ConsumeFromWhere, ConsumeType, ConsumerConnection,
    ConsumerData, ConsumerIdList, HeartbeatData, MessageModel, ProducerConnection, ProducerInfo,
    ProducerTableInfo, SubscriptionData, from_json, to_json,
};
use mq_core::protocol::code::{Language, RequestCode, ResponseCode};
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{ConsumerGroupRequest, UnregisterClientRequest};
use mq_core::server::Peer;
use tracing::{info, warn};

use crate::broker::Broker;
use crate::dispatch::{Answer, Handled};
use crate::filter::Filter;
use crate::refusal::Refusal;
use crate::stats::{Stats, Taken};

/// Silence after which a member is dropped.
const MEMBER_EXPIRY_MS: i64 = 120_000;
/// Clients that replies can be pushed to: a peer chooses the names.
const CLIENTS_MAX: usize = 100_000;

/// Members of a group that are named when they subscribe differently.
const DIFFERING_TOLD_MAX: usize = 16;

/// The registry. One lock: changes are rare, and reads are a lookup.
#[derive(Debug)]
pub(crate) struct Clients {
    groups: RwLock<Groups>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Groups {
    consumers: HashMap<String, ConsumerGroup>,
    producers: HashMap<String, HashMap<u64, Member>>,
    /// The connection on which a producer was last heard, by its client id.
    by_client: HashMap<String, Member>,
}

#[derive(Clone, Debug)]
struct Member {
    peer: Arc<Peer>,
    client_id: String,
    language: Language,
    version: i32,
    seen_ms: i64,
    /// What a consumer subscribes, its retry topic left out.
    said: String,
}

/// A member as those see it who have something to ask of it.
#[derive(Debug)]
pub(crate) struct Online {
    pub(crate) peer: Arc<Peer>,
    pub(crate) client_id: String,
    pub(crate) language: Language,
    pub(crate) version: i32,
}

#[derive(Debug, Default)]
struct ConsumerGroup {
    members: HashMap<u64, Member>,
    /// What the last heartbeat says of the group.
    consume_type: ConsumeType,
    message_model: MessageModel,
    consume_from_where: ConsumeFromWhere,
    /// Topic to its subscription: the last heartbeat's set, as every member must hold the same.
    subscriptions: HashMap<String, Arc<Subscription>>,
    /// Of these the topics that nobody has made yet.
    missing: BTreeSet<String>,
}

/// What a group wants of one topic.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// Or why its expression is none.
    pub(crate) filter: Result<Filter, String>,
    pub(crate) version: i64,
    /// What the group took of the topic.
    pub(crate) taken: Arc<Taken>,
    data: SubscriptionData,
}

impl Clients {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { groups: RwLock::default(), clock }
    }

    /// The group's subscription to `topic`; `None` inside when the group is there but does not
    /// subscribe it.
    pub(crate) fn subscription(
        &self,
        group: &str,
        topic: &str,
    ) -> Option<Option<Arc<Subscription>>> {
        let groups = self.read();
        let group = groups.consumers.get(group)?;
        Some(group.subscriptions.get(topic).cloned())
    }

    /// The connections of a producer group, in a fixed order.
    pub(crate) fn producers(&self, group: &str) -> Vec<Arc<Peer>> {
        let groups = self.read();
        let members = groups.producers.get(group).into_iter().flat_map(HashMap::values);
        let mut peers: Vec<_> = members.map(|member| Arc::clone(&member.peer)).collect();
        peers.sort_unstable_by_key(|peer| peer.id);
        peers
    }

    /// The group waits for topics to be made.
    fn expect(&self, group: &str, missing: BTreeSet<String>) {
        if let Some(group) = self.write().consumers.get_mut(group) {
            group.missing = missing;
        }
    }

    /// Tells the groups whose topics have been made, so that they do not wait for their own next
    /// look.
    pub(crate) fn announce(&self, is_made: impl Fn(&str) -> bool) {
        for (name, group) in &mut self.write().consumers {
            let before = group.missing.len();
            group.missing.retain(|topic| !is_made(topic));
            if group.missing.len() < before {
                group.notify(name);
            }
        }
    }

    /// The connection of a client that is a producer, of whichever group.
    pub(crate) fn producer_of(&self, client_id: &str) -> Option<Arc<Peer>> {
        self.read().by_client.get(client_id).map(|member| Arc::clone(&member.peer))
    }

    /// Drops every membership of a connection and tells the groups that lost one.
    pub(crate) fn forget(&self, peer: &Peer) {
        self.remove_members(|member| member.peer.id == peer.id);
    }

    /// Drops the members that were silent too long.
    pub(crate) fn expire(&self) {
        let oldest = self.clock.now_ms() - MEMBER_EXPIRY_MS;
        self.remove_members(|member| member.seen_ms < oldest);
    }

    fn remove_members(&self, gone: impl Fn(&Member) -> bool) {
        let mut groups = self.write();
        groups.by_client.retain(|_, member| !gone(member));
        for members in groups.producers.values_mut() {
            members.retain(|_, member| !gone(member));
        }
        groups.producers.retain(|_, members| !members.is_empty());
        groups.consumers.retain(|name, group| {
            let before = group.members.len();
            group.members.retain(|_, member| !gone(member));
            if group.members.len() < before {
                group.notify(name);
            }
            !group.members.is_empty()
        });
    }

    fn register_producer(&self, group: &str, member: Member) {
        let mut groups = self.write();
        let client_id = &member.client_id;
        if groups.by_client.len() < CLIENTS_MAX || groups.by_client.contains_key(client_id) {
            groups.by_client.insert(client_id.clone(), member.clone());
        }
        groups.producers.entry(group.to_owned()).or_default().insert(member.peer.id, member);
    }

    /// Returns a complaint about an expression that is none.
    fn register_consumer(
        &self,
        data: &ConsumerData,
        member: Member,
        stats: &Stats,
    ) -> Option<String> {
        let subscriptions = compile(&data.group_name, &data.subscription_data_set, stats);
        let complaint = subscriptions.iter().find_map(|(topic, subscription)| {
            let remark = subscription.filter.as_ref().err()?;
            Some(format!("group {}, topic {topic}: {remark}", data.group_name))
        });
        let member = Member { said: said(&data.subscription_data_set), ..member };
        let mut groups = self.write();
        let group = groups.consumers.entry(data.group_name.clone()).or_default();
        let now = member.said.clone();
        let before = group.members.insert(member.peer.id, member);
        let joined = before.is_none();
        if before.is_none_or(|before| before.said != now)
            && let Some(said) = group.differing()
        {
            warn!(
                group = data.group_name,
                said,
                "members of one group subscribe differently, messages will be missed: give one of \
                 them a group of its own"
            );
        }
        group.consume_type = data.consume_type;
        group.message_model = data.message_model;
        group.consume_from_where = data.consume_from_where;
        let moved = group.subscribe(subscriptions);
        if joined || moved {
            group.notify(&data.group_name);
        }
        complaint
    }

    fn unregister(&self, peer: &Peer, producer: Option<&str>, consumer: Option<&str>) {
        let mut groups = self.write();
        if let Some(members) = producer.and_then(|name| groups.producers.get_mut(name)) {
            members.remove(&peer.id);
        }
        let Some(name) = consumer else { return };
        let Some(group) = groups.consumers.get_mut(name) else { return };
        if group.members.remove(&peer.id).is_some() {
            group.notify(name);
        }
        if group.members.is_empty() {
            groups.consumers.remove(name);
        }
    }

    /// Client ids of a group's members, each once, sorted.
    pub(crate) fn client_ids(&self, group: &str) -> Vec<String> {
        let groups = self.read();
        let members = groups.consumers.get(group).map(|group| &group.members);
        let ids: BTreeSet<&str> =
            members.into_iter().flat_map(HashMap::values).map(|m| m.client_id.as_str()).collect();
        ids.into_iter().map(str::to_owned).collect()
    }

    /// The connections of a consumer group's members.
    pub(crate) fn online(&self, group: &str) -> Vec<Online> {
        let groups = self.read();
        let members = groups.consumers.get(group).map(|group| &group.members);
        let online = |member: &Member| Online {
            peer: Arc::clone(&member.peer),
            client_id: member.client_id.clone(),
            language: member.language,
            version: member.version,
        };
        members.into_iter().flat_map(HashMap::values).map(online).collect()
    }

    /// Is a client connected as a member of the group?
    pub(crate) fn is_member(&self, group: &str, client_id: &str) -> bool {
        let groups = self.read();
        let members = groups.consumers.get(group).map(|group| &group.members);
        members.into_iter().flat_map(HashMap::values).any(|member| member.client_id == client_id)
    }

    /// Who consumes in a group, and what; `None` when nobody does.
    pub(crate) fn consumer_connection(&self, group: &str) -> Option<ConsumerConnection> {
        let groups = self.read();
        let group = groups.consumers.get(group)?;
        let subscriptions = group.subscriptions.iter();
        Some(ConsumerConnection {
            connection_set: connections(&group.members),
            subscription_table: subscriptions
                .map(|(topic, subscription)| (topic.clone(), subscription.data.clone()))
                .collect(),
            consume_type: group.consume_type,
            message_model: group.message_model,
            consume_from_where: group.consume_from_where,
        })
    }

    /// Who sends in a group; `None` when nobody does.
    pub(crate) fn producer_connection(&self, group: &str) -> Option<ProducerConnection> {
        let groups = self.read();
        let members = groups.producers.get(group)?;
        Some(ProducerConnection { connection_set: connections(members) })
    }

    /// Who sends, by group.
    pub(crate) fn all_producers(&self) -> ProducerTableInfo {
        let groups = self.read();
        let info = |member: &Member| ProducerInfo {
            client_id: member.client_id.clone(),
            remote_ip: member.peer.remote.to_string(),
            language: member.language.name().to_owned(),
            version: member.version,
            last_update_timestamp: member.seen_ms,
        };
        let of_group = |(name, members): (&String, &HashMap<u64, Member>)| {
            (name.clone(), members.values().map(info).collect())
        };
        ProducerTableInfo { data: groups.producers.iter().map(of_group).collect() }
    }

    /// The groups that subscribe a topic now.
    pub(crate) fn groups_of(&self, topic: &str) -> Vec<String> {
        let groups = self.read();
        let subscribing =
            groups.consumers.iter().filter(|(_, group)| group.subscriptions.contains_key(topic));
        subscribing.map(|(name, _)| name.clone()).collect()
    }

    /// What a group wants of a topic, as its members said it.
    pub(crate) fn subscription_data(&self, group: &str, topic: &str) -> Option<SubscriptionData> {
        Some(self.subscription(group, topic)??.data.clone())
    }

    /// The groups whose members do not all subscribe the same, so that messages are missed, and
    /// which client says what.
    pub(crate) fn differing(&self) -> BTreeMap<String, String> {
        let groups = self.read();
        let differing =
            |(name, group): (&String, &ConsumerGroup)| Some((name.clone(), group.differing()?));
        groups.consumers.iter().filter_map(differing).collect()
    }

    /// Whether a group's members have left a topic: they are there, and subscribe others only.
    pub(crate) fn has_left(&self, group: &str, topic: &str) -> bool {
        let groups = self.read();
        groups.consumers.get(group).is_some_and(|group| {
            !group.subscriptions.is_empty() && !group.subscriptions.contains_key(topic)
        })
    }

    fn member(&self, peer: &Arc<Peer>, client_id: &str, request: &Command) -> Member {
        Member {
            peer: Arc::clone(peer),
            client_id: client_id.to_owned(),
            language: request.language,
            version: request.version,
            seen_ms: self.clock.now_ms(),
            said: String::new(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Groups> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Groups> {
        self.groups.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsumerGroup {
    /// Takes over the newest heartbeat's subscriptions; true when the set of topics changed.
    fn subscribe(&mut self, new: HashMap<String, Arc<Subscription>>) -> bool {
        let same_topics = self.subscriptions.len() == new.len()
            && new.keys().all(|topic| self.subscriptions.contains_key(topic));
        self.subscriptions = new;
        !same_topics
    }

    /// Which client says what, when they do not all say the same.
    fn differing(&self) -> Option<String> {
        let mut members = self.members.values();
        let first = members.next()?;
        if members.all(|member| member.said == first.said) {
            return None;
        }
        let line = |member: &Member| format!("{}: {}", member.client_id, member.said);
        let lines: BTreeSet<String> = self.members.values().map(line).collect();
        let told: Vec<String> = lines.into_iter().take(DIFFERING_TOLD_MAX).collect();
        Some(told.join("; "))
    }

    /// Tells every member that the queues are to be shared anew.
    fn notify(&self, group: &str) {
        let notice = Command::with(
            RequestCode::NotifyConsumerIdsChanged,
            &ConsumerGroupRequest { consumer_group: group },
        );
        for member in self.members.values() {
            member.peer.notify(notice.clone());
        }
    }
}

/// Topics and expressions, in one line.
fn said(data: &[SubscriptionData]) -> String {
    let own = data.iter().filter(|one| !one.topic.starts_with(names::RETRY_PREFIX));
    let said: BTreeSet<String> = own
        .map(|one| match one.is_by_tags() {
            true => format!("{} `{}`", one.topic, one.sub_string),
            false => format!("{} {} `{}`", one.topic, one.expression_type, one.sub_string),
        })
        .collect();
    said.into_iter().collect::<Vec<_>>().join(", ")
}

fn connections(members: &HashMap<u64, Member>) -> Vec<Connection> {
    let connection = |member: &Member| Connection {
        client_id: member.client_id.clone(),
        client_addr: member.peer.remote.to_string(),
        language: member.language.name().to_owned(),
        version: member.version,
    };
    members.values().map(connection).collect()
}

fn compile(
    group: &str,
    data: &[SubscriptionData],
    stats: &Stats,
) -> HashMap<String, Arc<Subscription>> {
    let compiled = data.iter().map(|one| {
        let subscription = Subscription {
            filter: Filter::of(one),
            version: one.sub_version,
            taken: stats.taken(group, &one.topic),
            data: one.clone(),
        };
        (one.topic.clone(), Arc::new(subscription))
    });
    compiled.collect()
}

/// 34: registers all groups of a client on this connection. An expression that is none keeps no
/// other subscription from being registered; it is what is answered.
pub(crate) fn heartbeat(broker: &Arc<Broker>, peer: &Arc<Peer>, request: &Command) -> Handled {
    let data: HeartbeatData = from_json(&request.body)?;
    let mut unusable = None;
    for consumer in &data.consumer_data_set {
        names::check_group(&consumer.group_name)
            .map_err(|remark| Refusal::new(ResponseCode::SystemError, remark))?;
        broker.catalog.group_with_retry_topic(&consumer.group_name)?;
        let member = broker.clients.member(peer, &data.client_id, request);
        let complaint = broker.clients.register_consumer(consumer, member, &broker.stats);
        unusable = unusable.or(complaint);
        let subscribed = consumer.subscription_data_set.iter().map(|wanted| &wanted.topic);
        let missing = subscribed.filter(|topic| broker.catalog.topic(topic).is_none());
        broker.clients.expect(&consumer.group_name, missing.cloned().collect());
    }
    for producer in &data.producer_data_set {
        let member = broker.clients.member(peer, &data.client_id, request);
        broker.clients.register_producer(&producer.group_name, member);
    }
    if let Some(remark) = unusable {
        return Err(Refusal::new(ResponseCode::SubscriptionParseFailed, remark));
    }
    Ok(Answer::Now(Command::success(request)))
}

/// 35: takes a client's groups off this connection.
pub(crate) fn unregister(broker: &Arc<Broker>, peer: &Arc<Peer>, request: &Command) -> Handled {
    let header: UnregisterClientRequest<'_> = request.decode_header()?;
    info!(client = header.client_id, "client unregistered");
    broker.clients.unregister(peer, header.producer_group, header.consumer_group);
    Ok(Answer::Now(Command::success(request)))
}

/// 38: the client ids that share a group's queues.
pub(crate) fn consumer_list(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ConsumerGroupRequest<'_> = request.decode_header()?;
    let group = header.consumer_group;
    let consumer_id_list = broker.clients.client_ids(group);
    if consumer_id_list.is_empty() {
        let remark = format!("no consumer for this group, {group}");
        return Err(Refusal::new(ResponseCode::SystemError, remark));
    }
    let body = to_json(&ConsumerIdList { consumer_id_list });
    Ok(Answer::Now(Command::success(request).body(body)))
}

/// 46: can the broker evaluate this subscription?
pub(crate) fn check_config(broker: &Broker, request: &Command) -> Handled {
    let body: CheckClientRequest = from_json(&request.body)?;
    let SubscriptionData { sub_string, expression_type, .. } = &body.subscription_data;
    Filter::requested(&broker.config, sub_string, Some(expression_type))?;
    Ok(Answer::Now(Command::success(request)))
}
