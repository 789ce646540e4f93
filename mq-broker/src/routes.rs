//! The name server's table: which brokers are there, which queues of a topic they hold. Pure.
//!
//! Not here: the wire (`namesrv.rs`), clocks, sockets. Invariants, checked by the property test at
//! the foot: a broker has at least one member; an address belongs to one member; a topic has at
//! least one broker, and all its brokers are known; lists come out in one order, whatever came in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mq_core::names;

/// A member that was silent for longer than this is dropped.
pub const BROKER_EXPIRY_MS: i64 = 120_000;

/// Id of the master among the members of a broker.
pub const MASTER_ID: i64 = 0;

/// Members of all brokers together.
const MAX_MEMBERS: usize = 2_000;

/// Topics of all brokers together.
const MAX_TOPICS: usize = 200_000;

/// Bytes of a name or an address.
const MAX_NAME_BYTES: usize = 255;

const PERM_WRITE: i32 = 2;
const PERM_READ_WRITE: i32 = 6;

/// Who speaks for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The broker of this process. It does not expire.
    Local,
    /// The connection with this number, from this address.
    Peer(u64, IpAddr),
}

/// Version of a broker's topic table, compared for equality only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Changes when the broker's state machine starts anew (5.x).
    pub state_version: i64,
    /// Time of the last change, in ms.
    pub timestamp: i64,
    /// Number of changes.
    pub counter: i64,
}

/// What a broker says of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Queues with ids from 0 that can be read.
    pub read: i32,
    /// Queues with ids from 0 that can be written.
    pub write: i32,
    /// 4 read, 2 write, 1 template for other topics.
    pub perm: i32,
    /// Flags of unit mode.
    pub sys_flag: i32,
}

impl Queues {
    /// Whether the topic is for clients in unit mode.
    pub fn is_unit(&self) -> bool {
        self.sys_flag & 1 != 0
    }

    /// Whether clients in unit mode subscribe the topic.
    pub fn has_unit_subscribers(&self) -> bool {
        self.sys_flag & 2 != 0
    }
}

/// Names of a member, as every request about it carries them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberId {
    /// Cluster of the broker.
    pub cluster: String,
    /// Name shared by a master and its slaves.
    pub broker_name: String,
    /// 0 for the master.
    pub broker_id: i64,
    /// `host:port` for clients.
    pub address: String,
}

/// A member's news.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Who it is.
    pub id: MemberId,
    /// `host:port` for slaves.
    pub ha_address: String,
    /// Version of `topics`.
    pub version: Version,
    /// The topic table. Counts only when a master says it.
    pub topics: Vec<(String, Queues)>,
}

/// What a slave needs to find its master.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Master {
    /// Where clients find it.
    pub address: String,
    /// Where slaves find it.
    pub ha_address: String,
}

/// Where the queues of a topic are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// By broker name.
    pub queues: Vec<(Arc<str>, Queues)>,
    /// The same brokers in the same order.
    pub brokers: Vec<BrokerMembers>,
}

/// The members of one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerMembers {
    /// Cluster of the broker.
    pub cluster: Arc<str>,
    /// Name shared by the members.
    pub broker_name: Arc<str>,
    /// Addresses by broker id.
    pub addresses: BTreeMap<i64, String>,
}

#[derive(Clone, Debug)]
struct Member {
    address: String,
    ha_address: String,
    version: Version,
    origin: Origin,
    seen_ms: i64,
}

impl Member {
    /// Whether `origin` may speak for this member: its machine may, through any connection, and
    /// anybody once it is silent.
    fn obeys(&self, origin: Origin, now_ms: i64) -> bool {
        match (self.origin, origin) {
            (Origin::Peer(_, known), Origin::Peer(_, ip)) if known == ip => true,
            _ => self.yields_to(origin, now_ms),
        }
    }

    /// Whether a member at another place may take this one's name or address: when it speaks
    /// through the same connection, or this one is silent. A closed connection has no member.
    fn yields_to(&self, origin: Origin, now_ms: i64) -> bool {
        self.origin == origin || (self.origin != Origin::Local && self.is_silent(now_ms))
    }

    fn is_silent(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.seen_ms) > BROKER_EXPIRY_MS
    }
}

#[derive(Clone, Debug)]
struct Broker {
    cluster: Arc<str>,
    members: BTreeMap<i64, Member>,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    brokers: BTreeMap<Arc<str>, Broker>,
    topics: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Queues>>,
}

impl Routes {
    /// Takes a member's news. `complete` makes topics that it does not list be forgotten. The
    /// error is for the broker's log. Gives the master, when a slave asks and there is one.
    pub fn register(
        &mut self,
        origin: Origin,
        news: Registration,
        complete: bool,
        now_ms: i64,
    ) -> Result<Option<Master>, String> {
        check_names(&news.id)?;
        self.check_room(&news)?;
        self.check_conflicts(origin, &news.id, now_ms)?;
        let Registration { id, ha_address, version, topics } = news;
        self.free_address(&id);
        let name: Arc<str> = id.broker_name.into();
        let broker = self.brokers.entry(Arc::clone(&name)).or_insert_with(|| Broker {
            cluster: id.cluster.as_str().into(),
            members: BTreeMap::new(),
        });
        let member = Member { address: id.address, ha_address, version, origin, seen_ms: now_ms };
        let before = broker.members.insert(id.broker_id, member);
        if id.broker_id != MASTER_ID {
            return Ok(broker.members.get(&MASTER_ID).map(|master| Master {
                address: master.address.clone(),
                ha_address: master.ha_address.clone(),
            }));
        }
        if before.is_none_or(|before| before.version != version) {
            self.take_topics(&name, topics, complete);
        }
        Ok(None)
    }

    /// Drops a member at its own word. The error says why somebody else may not.
    pub fn unregister(&mut self, origin: Origin, id: &MemberId, now_ms: i64) -> Result<(), String> {
        let Some(member) = self.member(id) else { return Ok(()) };
        if !member.obeys(origin, now_ms) {
            return Err(format!(
                "{} is registered from another machine: it unregisters from there, or expires",
                shown(id)
            ));
        }
        self.remove(&id.broker_name, id.broker_id);
        Ok(())
    }

    /// The version of the topic table that a member registered last.
    pub fn version(&self, id: &MemberId) -> Option<Version> {
        self.member(id).map(|member| member.version)
    }

    /// Notes that a member is alive.
    pub fn touch(&mut self, origin: Origin, id: &MemberId, now_ms: i64) {
        let broker = self.brokers.get_mut(id.broker_name.as_str());
        let member = broker.and_then(|broker| broker.members.get_mut(&id.broker_id));
        if let Some(member) = member
            && member.address == id.address
            && member.obeys(origin, now_ms)
        {
            member.origin = origin;
            member.seen_ms = now_ms;
        }
    }

    /// Drops the members that have fallen silent. Gives their addresses.
    pub fn expire(&mut self, now_ms: i64) -> Vec<String> {
        self.drop_members(|member| member.origin != Origin::Local && member.is_silent(now_ms))
    }

    /// Drops the members that spoke through a connection which has ended. Gives their addresses.
    pub fn close(&mut self, peer: u64) -> Vec<String> {
        self.drop_members(|member| matches!(member.origin, Origin::Peer(id, _) if id == peer))
    }

    /// Where the queues of `topic` are. `None` when no broker has any.
    pub fn route(&self, topic: &str) -> Option<Route> {
        let queues = self.topics.get(topic)?;
        let queues: Vec<_> = queues.iter().map(|(name, at)| (Arc::clone(name), *at)).collect();
        let brokers = queues.iter().filter_map(|(name, _)| self.broker(name)).collect();
        Some(Route { queues, brokers })
    }

    /// All brokers by name.
    pub fn brokers(&self) -> Vec<BrokerMembers> {
        self.brokers.keys().filter_map(|name| self.broker(name)).collect()
    }

    /// All topics by name.
    pub fn topics(&self) -> Vec<Arc<str>> {
        self.topics.keys().cloned().collect()
    }

    /// The topics that brokers of `cluster` hold. `None` for an unknown cluster.
    pub fn topics_of_cluster(&self, cluster: &str) -> Option<Vec<Arc<str>>> {
        if !self.brokers.values().any(|broker| &*broker.cluster == cluster) {
            return None;
        }
        let here = |name: &Arc<str>| self.is_in_cluster(name, cluster);
        let topics = self.topics.iter().filter(|(_, queues)| queues.keys().any(here));
        Some(topics.map(|(topic, _)| Arc::clone(topic)).collect())
    }

    /// The topics of which a broker holds such queues.
    pub fn topics_with(&self, wanted: impl Fn(&Queues) -> bool) -> Vec<Arc<str>> {
        let topics = self.topics.iter().filter(|(_, queues)| queues.values().any(&wanted));
        topics.map(|(topic, _)| Arc::clone(topic)).collect()
    }

    /// Notes queues of a topic before their broker tells of them. The broker must be known.
    pub fn register_topic(
        &mut self,
        topic: &str,
        broker_name: &str,
        queues: Queues,
    ) -> Result<(), String> {
        names::check_topic(topic)?;
        let Some((name, _)) = self.brokers.get_key_value(broker_name) else {
            return Err(format!("the broker {} is not registered", broker_name.escape_debug()));
        };
        if self.topics.len() >= MAX_TOPICS && !self.topics.contains_key(topic) {
            return Err(format!("the name server would hold more than {MAX_TOPICS} topics"));
        }
        let name = Arc::clone(name);
        self.topics.entry(topic.into()).or_default().insert(name, queues);
        Ok(())
    }

    /// Forgets a topic, or only what brokers of `cluster` hold of it.
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(mut queues) = self.topics.remove(topic) else { return };
        queues.retain(|name, _| cluster.is_some_and(|cluster| !self.is_in_cluster(name, cluster)));
        if !queues.is_empty() {
            self.topics.insert(topic.into(), queues);
        }
    }

    /// Takes the write permission from all queues of a broker, until its topics change. Gives how
    /// many topics it holds.
    pub fn wipe_write_permission(&mut self, broker_name: &str) -> usize {
        self.set_permission(broker_name, |perm| perm & !PERM_WRITE)
    }

    /// Gives all queues of a broker read and write permission. Gives how many topics it holds.
    pub fn add_write_permission(&mut self, broker_name: &str) -> usize {
        self.set_permission(broker_name, |_| PERM_READ_WRITE)
    }

    fn set_permission(&mut self, broker_name: &str, change: impl Fn(i32) -> i32) -> usize {
        let held = self.topics.values_mut().filter_map(|queues| queues.get_mut(broker_name));
        held.map(|queues| queues.perm = change(queues.perm)).count()
    }

    fn broker(&self, name: &Arc<str>) -> Option<BrokerMembers> {
        let broker = self.brokers.get(name)?;
        let members = broker.members.iter();
        Some(BrokerMembers {
            cluster: Arc::clone(&broker.cluster),
            broker_name: Arc::clone(name),
            addresses: members.map(|(id, member)| (*id, member.address.clone())).collect(),
        })
    }

    fn member(&self, id: &MemberId) -> Option<&Member> {
        let broker = self.brokers.get(id.broker_name.as_str())?;
        broker.members.get(&id.broker_id).filter(|member| member.address == id.address)
    }

    fn is_in_cluster(&self, broker_name: &Arc<str>, cluster: &str) -> bool {
        self.brokers.get(broker_name).is_some_and(|broker| &*broker.cluster == cluster)
    }

    fn check_room(&self, news: &Registration) -> Result<(), String> {
        let members: usize = self.brokers.values().map(|broker| broker.members.len()).sum();
        if members >= MAX_MEMBERS && self.member(&news.id).is_none() {
            return Err(format!("the name server holds {MAX_MEMBERS} brokers, its limit"));
        }
        let known = |topic: &str| self.topics.contains_key(topic);
        let fresh = news.topics.iter().filter(|(topic, _)| !known(topic)).count();
        if self.topics.len() + fresh > MAX_TOPICS {
            return Err(format!("the name server would hold more than {MAX_TOPICS} topics"));
        }
        Ok(())
    }

    /// Two live brokers under one name or address would take turns in every client's route.
    fn check_conflicts(&self, origin: Origin, id: &MemberId, now_ms: i64) -> Result<(), String> {
        if let Some(broker) = self.brokers.get(id.broker_name.as_str()) {
            if *broker.cluster != *id.cluster {
                return Err(format!(
                    "brokerName {} is in use in cluster {}: choose another name",
                    id.broker_name, broker.cluster
                ));
            }
            let holder = broker.members.get(&id.broker_id);
            if let Some(holder) = holder.filter(|holder| holder.address != id.address)
                && !holder.yields_to(origin, now_ms)
            {
                return Err(format!(
                    "{} is registered by {}, which is alive: choose another brokerName or brokerId",
                    shown(id),
                    holder.address
                ));
            }
        }
        self.check_address(origin, id, now_ms)
    }

    fn check_address(&self, origin: Origin, id: &MemberId, now_ms: i64) -> Result<(), String> {
        let holder = self.members().find(|(_, _, member)| member.address == id.address);
        let Some((name, broker_id, holder)) = holder else { return Ok(()) };
        let may_take = match **name == *id.broker_name && broker_id == id.broker_id {
            true => holder.obeys(origin, now_ms),
            false => holder.yields_to(origin, now_ms),
        };
        match may_take {
            true => Ok(()),
            false => Err(format!(
                "address {} is registered by {name}:{broker_id}, which is alive: set brokerIP1 and \
                 listenPort to an address of this broker alone",
                id.address
            )),
        }
    }

    fn members(&self) -> impl Iterator<Item = (&Arc<str>, i64, &Member)> {
        self.brokers
            .iter()
            .flat_map(|(name, broker)| broker.members.iter().map(move |(id, m)| (name, *id, m)))
    }

    /// A slave that became master, or a broker that was renamed, is still there under its old name.
    fn free_address(&mut self, id: &MemberId) {
        let same_place =
            |name: &str, broker_id| *name == *id.broker_name && broker_id == id.broker_id;
        let stale = self
            .members()
            .find(|(name, at, m)| m.address == id.address && !same_place(name, *at))
            .map(|(name, at, _)| (Arc::clone(name), at));
        if let Some((name, broker_id)) = stale {
            self.remove(&name, broker_id);
        }
    }

    fn take_topics(&mut self, name: &Arc<str>, topics: Vec<(String, Queues)>, complete: bool) {
        if complete {
            self.forget_topics(name);
        }
        for (topic, queues) in topics {
            if (1..=MAX_NAME_BYTES).contains(&topic.len()) {
                self.topics.entry(topic.into()).or_default().insert(Arc::clone(name), queues);
            }
        }
    }

    fn forget_topics(&mut self, broker_name: &str) {
        self.topics.retain(|_, queues| {
            queues.remove(broker_name);
            !queues.is_empty()
        });
    }

    fn drop_members(&mut self, gone: impl Fn(&Member) -> bool) -> Vec<String> {
        let dropped: Vec<_> = self
            .members()
            .filter(|(_, _, member)| gone(member))
            .map(|(name, id, member)| (Arc::clone(name), id, member.address.clone()))
            .collect();
        for (name, id, _) in &dropped {
            self.remove(name, *id);
        }
        dropped.into_iter().map(|(_, _, address)| address).collect()
    }

    fn remove(&mut self, broker_name: &str, broker_id: i64) {
        let Some(broker) = self.brokers.get_mut(broker_name) else { return };
        broker.members.remove(&broker_id);
        if broker.members.is_empty() {
            self.brokers.remove(broker_name);
            self.forget_topics(broker_name);
        }
    }
}

fn shown(id: &MemberId) -> String {
    format!("broker {}:{}", id.broker_name, id.broker_id)
}

/// Addresses go into routes whose text some clients split at `,` and `:`.
fn check_names(id: &MemberId) -> Result<(), String> {
    let legal = |name: &str| {
        let length = 1..=MAX_NAME_BYTES;
        length.contains(&name.len())
            && !name.contains(|c: char| c.is_control() || "\"\\,;{}".contains(c))
    };
    let has_port = id.address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let wrong = [
        (legal(&id.cluster), "clusterName"),
        (legal(&id.broker_name), "brokerName"),
        (legal(&id.address) && has_port, "brokerAddr"),
        (id.broker_id >= MASTER_ID, "brokerId"),
    ];
    match wrong.iter().find(|(fine, _)| !fine) {
        None => Ok(()),
        Some((_, field)) => Err(format!("{field} is not one that a client can use")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    const EIGHT: Queues = Queues { read: 8, write: 8, perm: 7, sys_flag: 0 };
    const FOUR: Queues = Queues { read: 4, write: 4, perm: 6, sys_flag: 0 };

    fn peer(id: u64, host: u8) -> Origin {
        Origin::Peer(id, IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)))
    }

    fn member(name: &str, broker_id: i64, host: u8) -> MemberId {
        MemberId {
            cluster: "c".into(),
            broker_name: name.into(),
            broker_id,
            address: format!("10.0.0.{host}:10911"),
        }
    }

    fn news(id: MemberId, counter: i64, topics: &[(&str, Queues)]) -> Registration {
        Registration {
            ha_address: format!("{}ha", id.address),
            id,
            version: Version { counter, ..Version::default() },
            topics: topics.iter().map(|(topic, queues)| ((*topic).into(), *queues)).collect(),
        }
    }

    fn names(topics: &[Arc<str>]) -> Vec<&str> {
        topics.iter().map(|topic| &**topic).collect()
    }

    #[test]
    fn a_master_and_its_slave_make_a_route() {
        let mut routes = Routes::default();
        let topics = [("t", FOUR), ("TBW102", EIGHT)];
        let master = news(member("a", 0, 1), 1, &topics);
        assert_eq!(routes.register(peer(1, 1), master, false, 0), Ok(None));
        let slave = news(member("a", 1, 2), 1, &[("ignored", FOUR)]);
        let told = routes.register(peer(2, 2), slave, false, 0).unwrap().unwrap();
        assert_eq!(told.address, "10.0.0.1:10911");
        assert_eq!(told.ha_address, "10.0.0.1:10911ha");
        let route = routes.route("t").unwrap();
        assert_eq!(route.queues, [("a".into(), FOUR)]);
        assert_eq!(route.brokers.len(), 1);
        assert_eq!(route.brokers[0].addresses[&1], "10.0.0.2:10911");
        assert_eq!(routes.route("ignored"), None);
        assert_eq!(names(&routes.topics()), ["TBW102", "t"]);
    }

    #[test]
    fn a_broker_is_dropped_when_its_connection_closes_or_it_is_silent() {
        let mut routes = Routes::default();
        routes.register(peer(1, 1), news(member("a", 0, 1), 1, &[("t", FOUR)]), false, 0).unwrap();
        routes.register(peer(2, 2), news(member("b", 0, 2), 1, &[("t", FOUR)]), false, 0).unwrap();
        assert_eq!(routes.close(1), ["10.0.0.1:10911"]);
        assert_eq!(routes.route("t").unwrap().brokers.len(), 1);
        assert!(routes.expire(BROKER_EXPIRY_MS).is_empty());
        routes.touch(peer(2, 2), &member("b", 0, 2), BROKER_EXPIRY_MS);
        assert!(routes.expire(2 * BROKER_EXPIRY_MS).is_empty());
        assert_eq!(routes.expire(2 * BROKER_EXPIRY_MS + 1), ["10.0.0.2:10911"]);
        assert_eq!(routes.route("t"), None);
        assert!(routes.topics().is_empty());
    }

    #[test]
    fn the_broker_of_this_process_does_not_expire() {
        let mut routes = Routes::default();
        let local = news(member("a", 0, 1), 1, &[("t", FOUR)]);
        routes.register(Origin::Local, local, true, 0).unwrap();
        assert!(routes.expire(i64::MAX).is_empty());
        let thief = news(member("a", 0, 9), 1, &[]);
        assert!(routes.register(peer(1, 9), thief, false, i64::MAX).is_err());
        assert!(routes.route("t").is_some());
    }

    #[test]
    fn topics_change_with_the_version_only() {
        let mut routes = Routes::default();
        let mut say = |counter, topics: &[(&str, Queues)], complete| {
            let said = news(member("a", 0, 1), counter, topics);
            routes.register(peer(1, 1), said, complete, 0).unwrap();
            names(&routes.topics()).join(" ")
        };
        assert_eq!(say(1, &[("t", FOUR)], false), "t");
        assert_eq!(say(1, &[("t", FOUR), ("u", FOUR)], false), "t");
        assert_eq!(say(2, &[("u", FOUR)], false), "t u");
        assert_eq!(say(3, &[("u", FOUR)], true), "u");
    }

    #[test]
    fn a_wiped_broker_stays_wiped_until_its_topics_change() {
        let mut routes = Routes::default();
        let say = |routes: &mut Routes, counter| {
            let said = news(member("a", 0, 1), counter, &[("t", FOUR)]);
            routes.register(peer(1, 1), said, false, 0).unwrap();
            routes.route("t").unwrap().queues[0].1.perm
        };
        assert_eq!(say(&mut routes, 1), 6);
        assert_eq!(routes.wipe_write_permission("a"), 1);
        assert_eq!(say(&mut routes, 1), 4);
        assert_eq!(routes.add_write_permission("a"), 1);
        assert_eq!(say(&mut routes, 1), 6);
        assert_eq!(routes.wipe_write_permission("b"), 0);
    }

    #[test]
    fn two_live_brokers_cannot_share_a_name_or_an_address() {
        let mut routes = Routes::default();
        routes.register(peer(1, 1), news(member("a", 0, 1), 1, &[]), false, 0).unwrap();
        let mut refused = |origin, id, now_ms| {
            routes.register(origin, news(id, 1, &[]), false, now_ms).err().unwrap_or_default()
        };
        assert!(refused(peer(2, 2), member("a", 0, 2), 1).contains("choose another brokerName"));
        assert!(refused(peer(2, 2), member("b", 0, 1), 1).contains("set brokerIP1"));
        assert!(refused(peer(2, 1), member("a", 0, 2), 1).contains("choose another brokerName"));
        assert!(refused(peer(2, 1), member("b", 0, 1), 1).contains("set brokerIP1"));
        assert!(refused(peer(2, 2), member("a", 0, 1), 1).contains("set brokerIP1"));
        let elsewhere = MemberId { cluster: "d".into(), ..member("a", 1, 2) };
        assert!(refused(peer(2, 2), elsewhere, 1).contains("cluster c"));
        assert_eq!(refused(peer(2, 1), member("a", 0, 1), 1), "", "a new connection");
        assert_eq!(refused(peer(2, 1), member("a", 0, 2), 1), "", "a new address");
        assert_eq!(refused(peer(3, 3), member("a", 0, 3), BROKER_EXPIRY_MS + 2), "", "silence");
    }

    #[test]
    fn only_its_own_machine_unregisters_a_broker() {
        let mut routes = Routes::default();
        let id = member("a", 0, 1);
        routes.register(peer(1, 1), news(id.clone(), 1, &[("t", FOUR)]), false, 0).unwrap();
        assert!(routes.unregister(peer(2, 2), &id, 0).is_err());
        assert!(routes.unregister(peer(3, 1), &id, 0).is_ok());
        assert_eq!(routes.route("t"), None);
        assert!(routes.unregister(peer(2, 2), &id, 0).is_ok(), "nothing is there to protect");
    }

    #[test]
    fn a_slave_that_becomes_master_leaves_its_old_place() {
        let mut routes = Routes::default();
        routes.register(peer(1, 1), news(member("a", 1, 1), 1, &[]), false, 0).unwrap();
        routes.register(peer(1, 1), news(member("a", 0, 1), 1, &[("t", FOUR)]), false, 0).unwrap();
        let addresses = &routes.route("t").unwrap().brokers[0].addresses;
        assert_eq!(addresses.keys().copied().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_topic_is_deleted_everywhere_or_in_one_cluster() {
        let mut routes = Routes::default();
        let other = MemberId { cluster: "d".into(), ..member("b", 0, 2) };
        routes.register(peer(1, 1), news(member("a", 0, 1), 1, &[("t", FOUR)]), false, 0).unwrap();
        routes.register(peer(2, 2), news(other, 1, &[("t", FOUR)]), false, 0).unwrap();
        assert_eq!(names(&routes.topics_of_cluster("d").unwrap()), ["t"]);
        assert_eq!(routes.topics_of_cluster("e"), None);
        routes.delete_topic("t", Some("d"));
        assert_eq!(&*routes.route("t").unwrap().queues[0].0, "a");
        routes.delete_topic("t", None);
        assert_eq!(routes.route("t"), None);
    }

    #[test]
    fn names_that_clients_cannot_use_are_refused() {
        let mut routes = Routes::default();
        let bad = [
            MemberId { cluster: String::new(), ..member("a", 0, 1) },
            MemberId { address: "10.0.0.1".into(), ..member("a", 0, 1) },
            MemberId { address: "10.0.0.1,x:1".into(), ..member("a", 0, 1) },
            MemberId { broker_name: "x".repeat(256), ..member("a", 0, 1) },
            member("a", -1, 1),
        ];
        for id in bad {
            let said = news(id.clone(), 1, &[]);
            assert!(routes.register(peer(1, 1), said, false, 0).is_err(), "{id:?}");
        }
        let long = "x".repeat(256);
        let said = news(member("a", 0, 1), 1, &[("", FOUR), (&long, FOUR), ("t", FOUR)]);
        routes.register(peer(1, 1), said, false, 0).unwrap();
        assert_eq!(names(&routes.topics()), ["t"]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Register { peer: u8, name: u8, id: i64, host: u8, counter: i64, topics: Vec<u8> },
        Unregister { peer: u8, name: u8, id: i64, host: u8 },
        Close(u8),
        Expire,
        Delete(u8),
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = (0..4u8, 0..3u8, 0..2i64, 0..4u8);
        let topics = prop::collection::vec(0..4u8, 0..3);
        prop_oneof![
            4 => (place.clone(), 0..3i64, topics).prop_map(
                |((peer, name, id, host), counter, topics)| Step::Register {
                    peer, name, id, host, counter, topics
                }
            ),
            1 => place.prop_map(|(peer, name, id, host)| Step::Unregister { peer, name, id, host }),
            1 => (0..4u8).prop_map(Step::Close),
            1 => Just(Step::Expire),
            1 => (0..4u8).prop_map(Step::Delete),
            1 => (0..BROKER_EXPIRY_MS).prop_map(Step::Wait),
        ]
    }

    fn check_invariants(routes: &Routes) {
        let mut addresses = BTreeSet::new();
        for (name, broker) in &routes.brokers {
            assert!(!broker.members.is_empty(), "{name} has no member");
            for member in broker.members.values() {
                assert!(addresses.insert(&member.address), "{} twice", member.address);
            }
        }
        for (topic, queues) in &routes.topics {
            assert!(!queues.is_empty(), "{topic} is nowhere");
            assert!(queues.keys().all(|name| routes.brokers.contains_key(name)), "{topic}");
            let route = routes.route(topic).unwrap();
            let of_brokers = route.brokers.iter().map(|broker| &broker.broker_name);
            assert!(route.queues.iter().map(|(name, _)| name).eq(of_brokers));
        }
    }

    proptest! {
        #[test]
        fn the_invariants_hold_after_every_step(steps in prop::collection::vec(step(), 0..60)) {
            let mut routes = Routes::default();
            let mut now_ms = 0;
            for step in steps {
                match step {
                    Step::Register { peer: p, name, id, host, counter, topics } => {
                        let topics: Vec<_> = topics.iter().map(|t| format!("t{t}")).collect();
                        let topics: Vec<_> = topics.iter().map(|t| (t.as_str(), FOUR)).collect();
                        let said = news(member(&format!("b{name}"), id, host), counter, &topics);
                        let _refused = routes.register(peer(u64::from(p), p), said, false, now_ms);
                    }
                    Step::Unregister { peer: p, name, id, host } => {
                        let id = member(&format!("b{name}"), id, host);
                        let _refused = routes.unregister(peer(u64::from(p), p), &id, now_ms);
                    }
                    Step::Close(p) => drop(routes.close(u64::from(p))),
                    Step::Expire => drop(routes.expire(now_ms)),
                    Step::Delete(topic) => routes.delete_topic(&format!("t{topic}"), None),
                    Step::Wait(ms) => now_ms += ms,
                }
                check_invariants(&routes);
            }
            routes.expire(now_ms + BROKER_EXPIRY_MS + 1);
            prop_assert!(routes.topics().is_empty() && routes.brokers().is_empty());
        }
    }
}
