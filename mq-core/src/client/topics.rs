//! What the client knows of topics and brokers: routes as name servers tell them, kept and asked
//! again. Not here: what a route means (`route.rs`), who needs one.
//!
//! Invariants: a known route stays when name servers fail or no longer know the topic; of several
//! name servers any may be down, the one that answered last is asked first; a topic that nobody
//! knows yet is asked for again after 1, 2, 4 ... 30 seconds, so that it is found soon after it is
//! made.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::id::random;
use super::links::{Link, Links};
use super::refused;
use super::route::{Addresses, Route, master, reader};
use crate::error::Error;
use crate::names::DEFAULT_TOPIC;
use crate::protocol::body::{TopicRouteData, from_json};
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::Command;
use crate::protocol::header::RouteInfoRequest;
use crate::remote::Remote;

/// Known routes are asked again this often.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(30);
const NAME_SERVER_TIMEOUT: Duration = Duration::from_secs(3);
/// A route that is missing or borrowed is asked again after this, twice this, ...
const UNSETTLED_WAIT: Duration = Duration::from_secs(1);

/// One topic as it is known now.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) route: Route,
    /// The link to the master of each of `route.to_write`.
    pub(super) masters: Vec<Arc<Link>>,
    pub(super) turn: AtomicUsize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// As a name server told it.
    Known,
    /// The default topic's, until the topic has been made by sending to it.
    Borrowed,
    /// No name server knows the topic.
    Missing,
}

/// The next time an unsettled topic is asked for.
#[derive(Debug)]
struct Recheck {
    at: Instant,
    wait: Duration,
}

/// All topics and brokers a client has met.
#[derive(Debug)]
pub(super) struct Topics {
    name_servers: Vec<Arc<Link>>,
    /// Counts up; the remainder is the name server that is asked first.
    preferred: AtomicUsize,
    known: RwLock<HashMap<String, Arc<Topic>>>,
    brokers: RwLock<HashMap<Arc<str>, Addresses>>,
    /// Held while a first route is fetched, so that many senders ask once.
    fetching: Mutex<()>,
    unsettled: std::sync::Mutex<HashMap<String, Recheck>>,
    /// Topics whose route is new, until [`Self::take_changed`].
    changed: std::sync::Mutex<Vec<String>>,
    /// Unsettled topics are worth asking for now.
    pub(super) hurry: Arc<Notify>,
    default_queues: i32,
}

impl Topics {
    pub(super) fn new(name_servers: Vec<Arc<Link>>, default_queues: i32) -> Self {
        Self {
            name_servers,
            preferred: AtomicUsize::new(0),
            known: RwLock::default(),
            brokers: RwLock::default(),
            fetching: Mutex::default(),
            unsettled: std::sync::Mutex::default(),
            changed: std::sync::Mutex::default(),
            hurry: Arc::default(),
            default_queues,
        }
    }

    pub(super) fn get(&self, topic: &str) -> Option<Arc<Topic>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// The topic, with a queue to write to. Fetched when it is not known; borrowed from the default
    /// topic when name servers do not know it.
    pub(super) async fn to_write(&self, links: &Links, topic: &str) -> Result<Arc<Topic>, Error> {
        if let Some(known) = self.writable(topic) {
            return Ok(known);
        }
        let _fetching = self.fetching.lock().await;
        if let Some(known) = self.writable(topic) {
            return Ok(known);
        }
        self.refresh(links, topic).await?;
        if let Some(known) = self.writable(topic) {
            return Ok(known);
        }
        if self.get(topic).is_none_or(|known| known.state == State::Missing)
            && let Some(data) = self.fetch(links, DEFAULT_TOPIC).await?
        {
            let route = Route::borrowed(topic, &data, self.default_queues);
            self.put(links, topic, route, State::Borrowed);
        }
        self.writable(topic).ok_or_else(|| Error::NoRoute { topic: topic.to_owned() })
    }

    /// The topic if it is known and has a queue to write to.
    pub(super) fn writable(&self, topic: &str) -> Option<Arc<Topic>> {
        self.get(topic).filter(|known| !known.masters.is_empty())
    }

    /// The topics whose route has changed since the last call.
    pub(super) fn take_changed(&self) -> Vec<String> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks name servers for a topic's route. A topic that is not there is remembered, so that it
    /// is asked for again.
    pub(super) async fn refresh(&self, links: &Links, topic: &str) -> Result<(), Error> {
        match self.fetch(links, topic).await? {
            Some(data) => {
                let route = Route::new(topic, &data);
                let known = self.get(topic);
                let same = known.is_some_and(|k| k.state == State::Known && k.route == route);
                if !same {
                    self.put(links, topic, route, State::Known);
                }
            }
            None => {
                if self.get(topic).is_none() {
                    self.put(links, topic, Route::default(), State::Missing);
                }
            }
        }
        Ok(())
    }

    fn put(&self, links: &Links, topic: &str, route: Route, state: State) {
        {
            let mut brokers = self.brokers.write().unwrap_or_else(PoisonError::into_inner);
            for (name, addresses) in &route.brokers {
                brokers.insert(name.clone(), addresses.clone());
            }
        }
        let link =
            |name: &Arc<str>| route.brokers.get(name).and_then(master).map(|a| links.link(a));
        let masters = route.to_write.iter().filter_map(|queue| link(&queue.broker_name)).collect();
        // Clients that start together do not all begin with the first queue.
        let turn = AtomicUsize::new(usize::try_from(random() >> 40).unwrap_or(0));
        let entry = Arc::new(Topic { route, masters, turn, state });
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned(), entry);
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        if state == State::Known {
            unsettled.remove(topic);
            let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
            changed.push(topic.to_owned());
        } else {
            let at = Instant::now() + UNSETTLED_WAIT;
            unsettled.insert(topic.to_owned(), Recheck { at, wait: UNSETTLED_WAIT });
        }
    }

    /// The unsettled topics to ask for now; with `all`, every one.
    pub(super) fn due(&self, all: bool) -> Vec<String> {
        let now = Instant::now();
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        for (topic, recheck) in unsettled.iter_mut().filter(|(_, r)| all || r.at <= now) {
            recheck.wait = recheck.wait.saturating_mul(2).min(POLL_INTERVAL);
            recheck.at = now + recheck.wait;
            due.push(topic.clone());
        }
        due
    }

    /// Forgets brokers that no route names any more; returns the addresses of the others.
    pub(super) fn prune(&self) -> BTreeSet<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let named: BTreeSet<&Arc<str>> =
            known.values().flat_map(|topic| topic.route.brokers.keys()).collect();
        let mut brokers = self.brokers.write().unwrap_or_else(PoisonError::into_inner);
        brokers.retain(|name, _| named.contains(name));
        let servers = self.name_servers.iter().map(|link| link.address.clone());
        brokers.values().flat_map(|addresses| addresses.values().cloned()).chain(servers).collect()
    }

    /// The addresses a heartbeat goes to: all masters, and with `slaves` all others too.
    pub(super) fn addresses(&self, slaves: bool) -> BTreeSet<String> {
        let brokers = self.brokers.read().unwrap_or_else(PoisonError::into_inner);
        let of = |addresses: &Addresses| -> Vec<String> {
            match slaves {
                true => addresses.values().cloned().collect(),
                false => master(addresses).map(str::to_owned).into_iter().collect(),
            }
        };
        brokers.values().flat_map(of).collect()
    }

    pub(super) fn master_of(&self, broker_name: &str) -> Option<String> {
        let brokers = self.brokers.read().unwrap_or_else(PoisonError::into_inner);
        brokers.get(broker_name).and_then(master).map(str::to_owned)
    }

    /// The name of the broker at an address; of the only broker, whatever its address.
    pub(super) fn broker_at(&self, address: &str) -> Option<Arc<str>> {
        let brokers = self.brokers.read().unwrap_or_else(PoisonError::into_inner);
        let mut named = brokers.iter();
        let at = named.find(|(_, addresses)| addresses.values().any(|known| known == address));
        let at = at.map(|(name, _)| name);
        let only = || brokers.keys().next().filter(|_| brokers.len() == 1);
        at.or_else(only).cloned()
    }

    pub(super) fn reader_of(&self, broker_name: &str, suggested: i64) -> Option<String> {
        let brokers = self.brokers.read().unwrap_or_else(PoisonError::into_inner);
        brokers.get(broker_name).and_then(|a| reader(a, suggested)).map(str::to_owned)
    }

    /// The route of a topic, `None` when no name server that answers knows it.
    async fn fetch(&self, links: &Links, topic: &str) -> Result<Option<TopicRouteData>, Error> {
        let header = RouteInfoRequest { topic, ..RouteInfoRequest::default() };
        let request = Command::with(RequestCode::GetRouteinfoByTopic, &header);
        let answer = self.ask(links, &request).await?;
        match answer.response_code() {
            ResponseCode::Success => from_json(&answer.body)
                .map(Some)
                .map_err(|error| Error::Refused { code: answer.code, remark: error.to_string() }),
            ResponseCode::TopicNotExist => Ok(None),
            _ => Err(refused(&answer)),
        }
    }

    /// Asks the name servers in turn until one answers.
    async fn ask(&self, links: &Links, request: &Command) -> Result<Command, Error> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failure =
            Error::Config("no name server is configured: set name_servers".to_owned());
        for attempt in 0..self.name_servers.len() {
            let turn = first.wrapping_add(attempt);
            let index = turn.checked_rem(self.name_servers.len()).unwrap_or(0);
            let Some(link) = self.name_servers.get(index) else { break };
            match self.ask_one(links, link, request.clone()).await {
                Ok(answer) => {
                    self.preferred.store(turn, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn ask_one(
        &self,
        links: &Links,
        link: &Link,
        request: Command,
    ) -> Result<Command, Error> {
        let remote = links.remote(link, async |_: &Remote| {}).await?;
        remote.call(request, NAME_SERVER_TIMEOUT).await
    }
}
