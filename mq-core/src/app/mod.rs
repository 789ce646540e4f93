//! The application container: [`App`] is built, started and stopped here, each order in one
//! function. Not here: sockets and protocol (`client`), what the parts check and do (the other
//! files).
//!
//! Invariants: everything that can be found wrong is found before anything is started, and told at
//! once; a start that fails half-way stops what it had started; nothing is global.
//!
//! - `registry.rs`: definitions that macros leave in the program
//! - `config.rs`: configuration
//! - `component.rs`, `factory.rs`: what can be injected
//! - `graph.rs`: the order in which it is made
//! - `listener.rs`: listeners and the checks among them
//! - `handler.rs`, `payload.rs`: from a delivery to the user's function and back
//! - `middleware.rs`: layers around every call
//! - `mq.rs`: sending
//! - `test.rs`: the test kit (feature `test`)

mod component;
mod config;
mod entry;
mod factory;
mod graph;
mod handler;
mod listener;
mod middleware;
mod mq;
mod payload;
mod registry;
#[cfg(feature = "test")]
pub mod test;

use std::any::TypeId;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tower::{BoxError, Layer, Service};

use crate::client::{Client, ClientOptions, Consumer, Outcome, Transport};
use crate::clock::Clock;
use crate::embedded::{EmbeddedBroker, EmbeddedOptions, StartEmbedded};
use crate::error::Error;

pub use self::component::{
    Bean, BeanDef, BeanNeed, Build, Cfg, Component, ComponentMethods, ConfigSection, Ext, Hook,
    Inject, Injected, Instance, IntoHookResult, Key as BeanKey, Kind, Methods, NO_METHODS, Need,
    Plain, Probe, Provided, Scope, owner,
};
pub use self::config::Config;
pub use self::entry::enter;
pub use self::factory::{Infallible, Made, Owned, Returned, Target, returned};
pub use self::handler::{
    FromDelivery, Handling, IntoOutcome, Part, Undecodable, agrees, bodies, names_topic,
};
pub use self::listener::{ListenerDef, Table};
pub use self::middleware::{Call, Inner, ListenerInfo};
pub use self::mq::{Draft, Mq};
pub use self::payload::{Attempt, BornAt, Json, Key, Message, MsgId, Tag, Text};
pub use self::registry::{BrokerDef, COMMON_MQ_V1_DEFINITIONS, CrateDef, Definition, Place};

use self::config::{Layers, Settings};
use self::graph::{Sources, Wanted};
use self::handler::Erased;
use self::listener::Listener;

/// An application before its start.
///
/// [`App::new`] takes every listener and component that is registered in the program; [`App::bare`]
/// takes none but those it is given. That is the whole rule of selection: a test names what it
/// wants.
#[derive(Clone, Debug)]
#[must_use = "an application does nothing until it is run or started"]
pub struct App {
    registered: bool,
    listeners: Vec<&'static ListenerDef>,
    beans: Vec<&'static BeanDef>,
    provided: HashMap<TypeId, Instance>,
    sets: Vec<(String, String)>,
    scanned: &'static [&'static CrateDef],
    clock: Clock,
    layers: middleware::Layers,
    /// What was wrong before the start, such as an argument.
    mistakes: Vec<String>,
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

impl App {
    /// An application of everything that is registered in the program.
    pub fn new() -> Self {
        Self { registered: true, ..Self::bare() }
    }

    /// An application of what it is given alone, and of the components which that needs.
    pub fn bare() -> Self {
        Self {
            registered: false,
            listeners: Vec::new(),
            beans: Vec::new(),
            provided: HashMap::new(),
            sets: Vec::new(),
            scanned: &[],
            clock: Clock::System,
            layers: middleware::Layers::default(),
            mistakes: Vec::new(),
        }
    }

    /// The clock of delays, retries, heartbeats and everything else that is not a time-out of the
    /// network; one that is moved by hand lets a test pass an hour at once.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Adds a listener: `app.listener(def!(orders::on_paid))`.
    pub fn listener(mut self, definition: &'static ListenerDef) -> Self {
        self.listeners.push(definition);
        self
    }

    /// Adds a component with its listeners and hooks.
    pub fn component<T: Component>(mut self) -> Self {
        let definition = T::definition();
        self.beans.push(definition);
        self.listeners.extend((definition.methods)().listeners);
        self
    }

    /// Adds a component by its instance, which is then not built: one made by the program, or a
    /// stand-in for a test. Its hooks run; its listeners are those that are registered or named.
    pub fn provide<T: Component>(mut self, component: T) -> Self {
        self.beans.push(T::definition());
        self.provided.insert(BeanKey::of::<T, ()>().id(), Instance::new(Arc::new(component)));
        self
    }

    /// Adds a `#[bean]` factory; over a registered one of the same type it has precedence.
    ///
    /// ```no_run
    /// # use mq_core::app::{App, BeanDef};
    /// # fn f(stub_rates: &'static BeanDef) {
    /// let app = App::bare().bean(stub_rates); // def!(stub_rates), where the function is
    /// # }
    /// ```
    pub fn bean(mut self, factory: &'static BeanDef) -> Self {
        self.beans.push(factory);
        self
    }

    /// Adds what a factory would make by its instance: one made by the program, or a stand-in for a
    /// test. A registered factory of the same type is then not called.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use mq_core::app::{App, Ext};
    /// # struct Readonly;
    /// let app = App::bare()
    ///     .provide_ext(Ext::new("a pool".to_owned()))
    ///     .provide_ext(Ext::new("a replica".to_owned()).qualified::<Readonly>())
    ///     .provide_ext(Ext::from(Arc::new(7) as Arc<dyn ToString + Send + Sync>));
    /// ```
    pub fn provide_ext<T, Q: 'static>(mut self, bean: Ext<T, Q>) -> Self
    where
        T: Send + Sync + ?Sized + 'static,
    {
        self.provided.insert(BeanKey::of::<T, Q>().id(), Instance::new(bean.into_shared()));
        self
    }

    /// Overrides a configuration key, as `--set key=value` does on the command line.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.sets.push((key.into(), value.into()));
        self
    }

    /// Puts a tower layer around every call of a listener: a time-out, a limit, a circuit breaker,
    /// or one of your own. The layer given first is the outermost. What a layer fails with counts
    /// as a failed attempt: the message comes again.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use mq_core::app::App;
    /// # use tower::timeout::TimeoutLayer;
    /// let app = App::new().layer(TimeoutLayer::new(Duration::from_secs(5)));
    /// ```
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Inner> + Send + Sync + 'static,
        L::Service: Service<Call, Response = Outcome> + Clone + Send + Sync + 'static,
        <L::Service as Service<Call>>::Error: Into<BoxError>,
        <L::Service as Service<Call>>::Future: Send,
    {
        self.layers.push(layer);
        self
    }

    /// Runs until SIGTERM or ctrl-c, then drains and stops; a second signal ends the wait.
    ///
    /// # Errors
    /// [`Error::Config`] if the application is wired or configured wrongly, else what failed.
    pub async fn run(self) -> Result<(), Error> {
        entry::install_tracing();
        let running = self.start().await?;
        let mut signals = entry::Signals::new()?;
        println!("{}", running.table());
        signals.next().await;
        tracing::info!(drain = ?running.drain, "stopping");
        tokio::select! {
            stopped = running.stop() => stopped,
            () = signals.next() => Err(Error::Closed("stopped by a second signal".to_owned())),
        }
    }

    /// Starts: checks everything, then broker, client, components, hooks, listeners.
    ///
    /// # Errors
    /// [`Error::Config`] with all findings, or what failed; what had been started is stopped again.
    pub async fn start(self) -> Result<Running, Error> {
        let plan = self.plan()?;
        let broker = plan.start_broker().await?;
        let client = match plan.connect(broker.as_ref()).await {
            Ok(client) => client,
            Err(error) => {
                stop_broker(broker.as_ref()).await?;
                return Err(error);
            }
        };
        let mq = Mq::new(client.producer(&entry::producer_group()));
        let scope = Scope::new(plan.provided, mq, plan.config);
        let mut running = Running {
            drain: plan.settings.drain,
            table: Table::new(&plan.listeners),
            scope: Arc::new(scope),
            ready: Vec::new(),
            consumers: Vec::new(),
            client,
            broker,
        };
        let up = async {
            running.construct(&plan.beans).await?;
            running.listen(plan.listeners, &plan.layers).await
        };
        match up.await {
            Ok(()) => Ok(running),
            Err(error) => {
                if let Err(also) = running.stop().await {
                    tracing::error!(%also, "stopping after a failed start");
                }
                Err(error)
            }
        }
    }

    /// Finds out all that can be known before anything is started.
    fn plan(mut self) -> Result<Plan, Error> {
        let sets = std::mem::take(&mut self.sets);
        let config = Config::load(&Layers::of_process(sets)).map_err(|error| refused(&[error]))?;
        let mut findings = std::mem::take(&mut self.mistakes);
        let settings = Settings::read(&config, &mut findings);
        let registered = registry::registered(&mut findings);
        self.check_scanned(&registered, &mut findings);
        let start = broker_of(&registered, &settings, &mut findings);
        let known = listener_ids(&registered, &self.listeners, &config);
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        findings.extend(config.unknown_keys(&known));
        let definitions = self.select_listeners(&registered);
        let resolve =
            |definition: &&'static ListenerDef| definition.resolve(&config, &mut findings);
        let mut listeners: Vec<Listener> = definitions.iter().filter_map(resolve).collect();
        listeners.iter_mut().for_each(|listener| listener.configure(&settings));
        listener::check(&listeners, &mut findings);
        let beans = self.plan_beans(&registered, &definitions, &mut findings);
        graph::check_sections(&beans, &config, &mut findings);
        match findings.is_empty() {
            true => {
                let Self { clock, layers, provided, .. } = self;
                Ok(Plan { config, settings, start, beans, listeners, provided, clock, layers })
            }
            false => Err(refused(&findings)),
        }
    }

    /// The listeners of this application, each once, in order.
    fn select_listeners(&self, registered: &[Definition]) -> Vec<&'static ListenerDef> {
        let mut listeners = self.listeners.clone();
        listeners.extend(registered.iter().filter_map(|definition| match definition {
            Definition::Listener(listener) if self.registered => Some(*listener),
            _ => None,
        }));
        listeners.sort_by_key(|listener| (listener.phase, listener.place.order()));
        listeners.dedup_by(|a, b| std::ptr::eq(*a, *b));
        listeners
    }

    /// The beans of this application, in the order to make them in.
    fn plan_beans(
        &self,
        registered: &[Definition],
        listeners: &[&'static ListenerDef],
        findings: &mut Vec<String>,
    ) -> Vec<&'static BeanDef> {
        let registered = registered.iter().filter_map(|definition| match definition {
            Definition::Bean(bean) => Some(*bean),
            Definition::Listener(_) | Definition::Broker(_) => None,
        });
        let registered: Vec<&BeanDef> = registered.collect();
        let instances = self.provided.keys().copied().collect();
        let sources = Sources::new(instances, &self.beans, &registered);
        let mut roots = self.beans.clone();
        roots.extend(registered.iter().filter(|_| self.registered));
        let wanted: Vec<Wanted> = listeners.iter().flat_map(|listener| listener.wanted()).collect();
        graph::plan(&roots, wanted, &sources, findings)
    }

    fn check_scanned(&self, registered: &[Definition], findings: &mut Vec<String>) {
        for CrateDef { name } in self.scanned {
            if !registered.iter().any(|definition| definition.place().crate_name() == *name) {
                findings.push(format!(
                    "crate `{name}` is scanned but has neither listeners nor beans: remove it \
                     from `scan(..)`, or declare its modules"
                ));
            }
        }
    }
}

/// The broker to start in this process; none if the configuration names a cluster.
fn broker_of(
    registered: &[Definition],
    settings: &Settings,
    findings: &mut Vec<String>,
) -> Option<StartEmbedded> {
    if !settings.name_servers.is_empty() {
        return None;
    }
    let start = registered.iter().find_map(|definition| match definition {
        Definition::Broker(broker) => Some(broker.start),
        Definition::Listener(_) | Definition::Bean(_) => None,
    });
    if start.is_none() {
        let text = "this program has no broker inside: set `mq.name_servers` to a cluster, or switch \
                    on the feature `broker` of common-mq";
        findings.push(text.to_owned());
    }
    start
}

/// The ids of all listeners in the program, selected or not: configuration may speak of each.
fn listener_ids(
    registered: &[Definition],
    explicit: &[&'static ListenerDef],
    config: &Config,
) -> Vec<String> {
    let of_registry = registered.iter().filter_map(|definition| match definition {
        Definition::Listener(listener) => Some(*listener),
        Definition::Bean(_) | Definition::Broker(_) => None,
    });
    let all = of_registry.chain(explicit.iter().copied());
    all.filter_map(|listener| listener.id(config)).collect()
}

fn refused(findings: &[String]) -> Error {
    let count = match findings.len() {
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    Error::Config(format!("START-UP REFUSED, {count}\n\n{}", findings.join("\n\n")))
}

/// An application that is found to be in order.
struct Plan {
    config: Config,
    settings: Settings,
    start: Option<StartEmbedded>,
    beans: Vec<&'static BeanDef>,
    listeners: Vec<Listener>,
    provided: HashMap<TypeId, Instance>,
    clock: Clock,
    layers: middleware::Layers,
}

impl Plan {
    async fn start_broker(&self) -> Result<Option<Arc<dyn EmbeddedBroker>>, Error> {
        let Some(start) = self.start else { return Ok(None) };
        let options = EmbeddedOptions {
            store: self.settings.store.clone(),
            listen: self.settings.listen,
            settings: self.settings.broker.clone(),
            clock: self.clock.clone(),
        };
        start(options).await.map(Some)
    }

    async fn connect(&self, broker: Option<&Arc<dyn EmbeddedBroker>>) -> Result<Client, Error> {
        let transport = match broker {
            Some(broker) => Transport::InProcess(Arc::clone(broker)),
            None => Transport::Tcp,
        };
        let (name_servers, clock) = (self.settings.name_servers.clone(), self.clock.clone());
        let options = ClientOptions { name_servers, transport, clock, ..Default::default() };
        Client::connect(options).await
    }
}

/// A running application. It runs until [`Running::stop`]; dropping it abandons what is in flight.
#[derive(Debug)]
#[must_use = "an application that is dropped is not drained; stop it"]
pub struct Running {
    drain: Duration,
    table: Table,
    scope: Arc<Scope>,
    /// Beans that were made and whose `post_construct` went well, in order.
    ready: Vec<&'static BeanDef>,
    consumers: Vec<Listening>,
    client: Client,
    broker: Option<Arc<dyn EmbeddedBroker>>,
}

impl Running {
    /// Sends messages.
    #[must_use]
    pub fn mq(&self) -> Mq {
        self.scope.mq.clone()
    }

    /// The component of a type, if the application has it.
    #[must_use]
    pub fn bean<T: Component + ?Sized>(&self) -> Option<Bean<T>> {
        self.scope.bean()
    }

    /// What a `#[bean]` factory made, if the application has it.
    #[must_use]
    pub fn ext<T: ?Sized + 'static, Q: 'static>(&self) -> Option<Ext<T, Q>> {
        self.scope.ext()
    }

    /// Where the embedded broker listens, if `mq.embedded.listen` says so.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.broker.as_ref().and_then(|broker| broker.address())
    }

    /// The listeners.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Stops: listeners drain, the last phase first; `pre_destroy` and `destroy` in reverse;
    /// client, broker; one deadline for the drain and the hooks, `mq.drain`.
    ///
    /// # Errors
    /// The first hook that failed, or what the broker could not write.
    pub async fn stop(mut self) -> Result<(), Error> {
        let clock = Clock::System;
        let deadline_ms = clock.now_ms().saturating_add(crate::clock::millis(self.drain));
        let left = || {
            let left_ms = deadline_ms.saturating_sub(clock.now_ms());
            Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
        };
        while let Some(phase) = self.consumers.last().map(|last| last.phase) {
            let begin = self.consumers.partition_point(|listening| listening.phase < phase);
            let last = self.consumers.split_off(begin);
            join_all(last.into_iter().map(|listening| listening.drain(left()))).await;
        }
        let mut failed = Ok(());
        for bean in self.ready.drain(..).rev() {
            let hooks = (bean.methods)().pre_destroy;
            let done = tokio::time::timeout(left(), call_hooks(bean, hooks, &self.scope)).await;
            let done = done.unwrap_or_else(|_| Err(late(bean, self.drain)));
            failed = failed.and(done.inspect_err(|error| tracing::error!("{error}")));
        }
        self.client.shutdown().await;
        let stopped = stop_broker(self.broker.as_ref()).await;
        failed.and(stopped)
    }

    /// Makes the beans in order, and runs the hooks of each before the next is made.
    async fn construct(&mut self, beans: &[&'static BeanDef]) -> Result<(), Error> {
        for bean in beans {
            let scope = Arc::get_mut(&mut self.scope);
            build(bean, scope.expect("listeners come later, and nothing else keeps it")).await?;
            call_hooks(bean, (bean.methods)().post_construct, &self.scope).await?;
            self.ready.push(bean);
        }
        Ok(())
    }

    /// Starts one consumer for each listener.
    async fn listen(
        &mut self,
        listeners: Vec<Listener>,
        layers: &middleware::Layers,
    ) -> Result<(), Error> {
        for listener in listeners.into_iter().filter(|listener| listener.autostart) {
            let scope = Arc::clone(&self.scope);
            let handler = layers.around(&listener, Erased { listener: listener.definition, scope });
            let consumer = self.client.start_consumer(listener.consumer(), handler).await?;
            let phase = listener.definition.phase;
            self.consumers.push(Listening { phase, id: listener.id, consumer });
        }
        Ok(())
    }
}

/// A listener's consumer.
#[derive(Debug)]
struct Listening {
    phase: i32,
    id: String,
    consumer: Consumer,
}

impl Listening {
    async fn drain(self, deadline: Duration) {
        let report = self.consumer.shutdown(deadline).await;
        tracing::info!(listener = self.id, ?report, "drained");
    }
}

async fn build(bean: &BeanDef, scope: &mut Scope) -> Result<(), Error> {
    let built = AssertUnwindSafe(scope.build(bean)).catch_unwind().await;
    let built = built.unwrap_or_else(|_| Err(Error::Start("it panicked".to_owned())));
    built.map_err(|error| {
        let BeanDef { name, place, .. } = bean;
        Error::Start(format!("`{name}` could not be made: {error}\n  {place}  {name}"))
    })
}

async fn call_hooks(bean: &BeanDef, hooks: &[Hook], scope: &Scope) -> Result<(), Error> {
    for Hook { name, call } in hooks {
        let called = AssertUnwindSafe(call(scope)).catch_unwind().await;
        let called = called.unwrap_or_else(|_| Err("it panicked".to_owned()));
        called.map_err(|error| {
            let BeanDef { name: owner, place, .. } = bean;
            Error::Start(format!("{owner}::{name} failed: {error}\n  {place}  {owner}"))
        })?;
    }
    Ok(())
}

fn late(bean: &BeanDef, drain: Duration) -> Error {
    let name = bean.name;
    Error::Start(format!("`pre_destroy` of {name} did not end within {drain:?} (`mq.drain`)"))
}

async fn stop_broker(broker: Option<&Arc<dyn EmbeddedBroker>>) -> Result<(), Error> {
    match broker {
        Some(broker) => broker.stop().await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scanned_crate_without_anything_and_a_program_without_broker_are_refused() {
        let app = App { scanned: &[&CrateDef { name: "nobody" }], ..App::bare() };
        let Err(Error::Config(text)) = app.plan() else { panic!("it is refused") };
        assert!(text.starts_with("START-UP REFUSED, 2 findings\n\n"), "{text}");
        assert!(text.contains("crate `nobody` is scanned") && text.contains("no broker inside"));
    }

    #[test]
    fn a_cluster_needs_no_broker_inside() {
        let plan = App::bare().set("mq.name_servers", "10.0.0.1:9876").plan();
        assert!(plan.is_ok_and(|plan| plan.start.is_none()));
    }
}
