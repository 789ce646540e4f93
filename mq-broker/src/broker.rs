//! `Broker`: what it is made of, how it opens, which loops run beside its connections, how it
//! stops. Not here: what a request means (`dispatch`), the loops' single steps (`store`, `delay`,
//! `clients`).
//!
//! Invariants: no field is ever "not yet there"; every task and thread is started here, has a name,
//! and is joined at stop; a loop that fails takes the write permission with it (the store is
//! poisoned) and says so once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mq_core::Error;
use mq_core::clock::Clock;
use mq_core::embedded::{LocalLink, local_link};
use mq_core::properties::{key, push_pair};
use mq_core::protocol::record::stored_host;
use mq_core::server::{Peer, Server, ServerOptions};
use mq_core::watermark::Watermark;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::assignment::RequestModes;
use crate::catalog::Catalog;
use crate::clients::Clients;
use crate::config::{BrokerConfig, FlushDiskType};
use crate::delay::{self, Delay};
use crate::flights::Flights;
use crate::live_settings::LiveSettings;
use crate::locks::Locks;
use crate::namesrv::NameServer;
use crate::offsets::Offsets;
use crate::registration;
use crate::reset::Resets;
use crate::revive;
use crate::stats::{self, Stats};
use crate::store::disk::Disk;
use crate::store::{FlushMode, Store, StoreError, StoreOptions};
use crate::timer::{self, Timers};
use crate::transaction::{self, Transactions};
use crate::transaction_check;

/// How often silent members are looked for.
const EXPIRE_PERIOD: Duration = Duration::from_secs(10);
/// How long a storage thread sleeps at most before it looks whether it is to stop.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often the store's checkpoint is brought up to date.
const CHECKPOINT_PERIOD: Duration = Duration::from_millis(200);
/// Rest before a full disk is looked at again.
pub(crate) const FULL_PAUSE: Duration = Duration::from_secs(1);
/// The log grows by this much before the next space is prepared.
const PREPARE_BYTES: u64 = 1 << 20;
/// Ports tried for a broker that lets the system choose: the one two below must be free too.
const PORT_TRIES: usize = 20;
/// How long stopping waits for name servers to take the broker's name off.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// One broker. Everything a verb needs is a plain field.
#[derive(Debug)]
pub struct Broker {
    pub(crate) config: BrokerConfig,
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) stats: Stats,
    pub(crate) live_settings: LiveSettings,
    pub(crate) catalog: Catalog,
    pub(crate) clients: Clients,
    pub(crate) locks: Locks,
    pub(crate) offsets: Offsets,
    pub(crate) resets: Resets,
    pub(crate) delay: Delay,
    /// What pop has handed out.
    pub(crate) flights: Arc<Flights>,
    pub(crate) request_modes: RequestModes,
    pub(crate) transactions: Transactions,
    pub(crate) timers: Timers,
    /// Properties that every stored message carries.
    pub(crate) stamp: String,
    /// The log's end up to this many bytes is what RocketMQ would keep in memory.
    pub(crate) memory_bytes: u64,
    /// At 1 the broker stops: parked pulls are answered, loops end.
    pub(crate) stopping: Watermark,
    /// Grows when parked pulls are to be answered at once.
    pub(crate) recalled: Watermark,
    /// The name server of the same process, when there is one.
    pub(crate) name_server: Option<Arc<NameServer>>,
    /// Where it listens, when it does.
    pub(crate) address: Option<SocketAddr>,
    /// The version of the topics that a name server has heard of last.
    pub(crate) announced: Watermark,
    /// Registrations that name servers have taken.
    pub(crate) registered: Watermark,
    keys: UniqueKeys,
}

/// A broker with its loops and connections.
#[derive(Debug)]
pub struct RunningBroker {
    broker: Arc<Broker>,
    server: Server,
    loops: JoinSet<()>,
    registration: JoinSet<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Broker {
    /// Opens the store and starts the broker on `listeners` (its port and the fast port), or on
    /// none.
    ///
    /// # Errors
    /// [`Error::Config`] when the store cannot be used; the text names the file and the mend.
    pub fn start(
        config: BrokerConfig,
        clock: Clock,
        disk: Arc<dyn Disk>,
        listeners: Vec<TcpListener>,
        name_server: Option<Arc<NameServer>>,
    ) -> Result<RunningBroker, Error> {
        let address = listeners.first().and_then(|listener| listener.local_addr().ok());
        let broker = Self::open(config, clock, disk, address, name_server)
            .map_err(|error| refused(&error))?;
        let broker = Arc::new(broker);
        broker.look_at_counters();
        let mut server = Server::new(ServerOptions::default());
        for listener in listeners {
            server.accept(listener, &broker);
        }
        let threads = broker.start_threads();
        let loops = broker.start_loops();
        let mut registration = JoinSet::new();
        registration.spawn(registration::run(Arc::clone(&broker)));
        Ok(RunningBroker { broker, server, loops, registration, threads })
    }

    fn open(
        config: BrokerConfig,
        clock: Clock,
        disk: Arc<dyn Disk>,
        address: Option<SocketAddr>,
        name_server: Option<Arc<NameServer>>,
    ) -> Result<Self, StoreError> {
        let options = store_options(&config);
        let folder = config.store_path_root_dir.join("config");
        let (store, recovery) = Store::open(Arc::clone(&disk), options, clock.clone())?;
        info!(?recovery, "store opened");
        let delays = config.message_delay_level.levels_ms.clone();
        let mut stamp = String::new();
        push_pair(&mut stamp, key::CLUSTER, &config.broker_cluster_name);
        let offsets = Offsets::open(Arc::clone(&disk), folder.join("consumerOffset.json"))?;
        let decided = transaction::kept(&offsets);
        Ok(Self {
            stats: Stats::new(&clock),
            live_settings: LiveSettings::open(&disk, &folder, &config)?,
            catalog: Catalog::open(&disk, &folder, &config, clock.clone())?,
            delay: Delay::open(Arc::clone(&disk), folder.join("delayOffset.json"), &delays)?,
            flights: Arc::new(Flights::new(clock.now_ms())),
            request_modes: RequestModes::open(
                Arc::clone(&disk),
                folder.join("messageRequestMode.json"),
            )?,
            timers: Timers::open(disk, folder.join("timerProgress.json"))?,
            transactions: Transactions::open(&store, clock.clone(), decided)?,
            offsets,
            clients: Clients::new(clock.clone()),
            memory_bytes: memory_bytes(config.access_message_in_memory_max_ratio),
            resets: Resets::default(),
            locks: Locks::new(clock.clone()),
            stopping: Watermark::new(0),
            recalled: Watermark::new(0),
            announced: Watermark::new(0),
            registered: Watermark::new(0),
            keys: UniqueKeys::new(&clock),
            store,
            stamp,
            config,
            clock,
            address,
            name_server,
        })
    }

    /// Returns once a name server knows this broker.
    pub async fn registered_somewhere(&self) {
        // The mark is never closed.
        let _registered = self.registered.reached(1).await;
    }

    /// Where a message sent by `peer` is stored, as its offset id says: an address at which clients
    /// reach this broker.
    pub(crate) fn store_host(&self, peer: &Peer) -> SocketAddr {
        let port = self.address.map_or(peer.local.port(), |address| address.port());
        let ip = self.config.broker_ip1.parse().unwrap_or(peer.local.ip());
        // Records keep IPv4 hosts, and an id must say what the record says.
        SocketAddr::V4(stored_host(SocketAddr::new(ip, port)))
    }

    /// A message id for a sender that gave none.
    pub(crate) fn unique_key(&self) -> String {
        self.keys.next()
    }

    /// What is due and not done, for those who wait for it: a test that moves the clock.
    pub(crate) fn behind(&self) -> u64 {
        let unread = self.store.log.appended.get().saturating_sub(self.store.indexed.get());
        let late = self.flights.is_late(self.clock.now_ms()) || self.timers.is_late(self);
        unread + self.delay.due(self) + u64::from(late)
    }

    /// A background loop cannot go on. The store refuses writes by itself from then on; reads go
    /// on.
    pub(crate) fn fail(&self, name: &str, error: &StoreError) {
        if self.stopping.get() == 0 {
            error!(name, %error, "a background loop has ended: the broker only serves reads now");
        }
    }

    fn start_threads(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let start = |name: &str, run: fn(&Self) -> Result<(), StoreError>| {
            let broker = Arc::clone(self);
            let named = name.to_owned();
            std::thread::Builder::new().name(format!("mq-{name}")).spawn(move || {
                if let Err(error) = run(&broker) {
                    broker.fail(&named, &error);
                }
            })
        };
        let threads = [
            start("flush", Self::flush),
            start("index", Self::index),
            start("prepare", Self::prepare),
            start("snapshot", Self::snapshot),
        ];
        threads.into_iter().map(|thread| thread.expect("the system starts threads")).collect()
    }

    /// From here on nothing waits any more.
    pub(crate) fn begin_stop(&self) {
        self.stopping.advance(1);
        self.recall_pulls();
    }

    /// Answers all parked pulls, so that their clients pull again.
    pub(crate) fn recall_pulls(&self) {
        self.recalled.advance(self.recalled.get() + 1);
    }

    pub(crate) fn stops(&self) -> bool {
        self.stopping.get() > 0
    }

    /// A full disk stops nothing for good: the step is tried again after a rest.
    fn unless_full(
        &self,
        name: &str,
        stepped: Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let Err(error @ StoreError::Full) = stepped else { return stepped };
        warn!(name, %error, "sends are refused and readers wait until there is room");
        wait_stop(&self.stopping, FULL_PAUSE);
        Ok(true)
    }

    /// Group commit: one sync covers everything that was appended while the one before it ran.
    fn flush(&self) -> Result<(), StoreError> {
        let log = &self.store.log;
        while !self.stops() {
            let pause = Duration::from_millis(self.config.flush_interval_commit_log_ms.now());
            match self.config.flush_disk_type {
                FlushDiskType::Sync => wait(&log.appended, log.flushed.get() + 1),
                FlushDiskType::Async => wait_stop(&self.stopping, pause),
            }
            self.unless_full("flush", self.store.flush_step())?;
        }
        Ok(())
    }

    /// Fills queues and key index as the log becomes readable.
    fn index(&self) -> Result<(), StoreError> {
        while !self.stops() {
            if self.unless_full("index", self.store.index_step())? {
                // Where the cores are busy more gathers meanwhile, and the next step does more at
                // once.
                std::thread::yield_now();
            } else {
                wait(self.store.log.readable_mark(), self.store.indexed.get() + 1);
            }
        }
        Ok(())
    }

    /// Keeps space ready ahead of the log's end.
    fn prepare(&self) -> Result<(), StoreError> {
        while !self.stops() {
            if !self.unless_full("prepare", self.store.prefill_step())? {
                wait(&self.store.log.appended, self.store.log.appended.get() + PREPARE_BYTES);
            }
        }
        Ok(())
    }

    /// Checkpoint, consumer offsets and the delay levels' progress, each in its own rhythm.
    fn snapshot(&self) -> Result<(), StoreError> {
        let offsets_ms = || to_ms(self.config.flush_consumer_offset_interval_ms.now());
        let delays_ms = || to_ms(self.config.flush_delay_offset_interval_ms.now());
        let now = self.clock.now_ms();
        let (mut offsets_at, mut delays_at) = (now + offsets_ms(), now + delays_ms());
        while !self.stops() {
            wait_stop(&self.stopping, CHECKPOINT_PERIOD);
            self.unless_full("snapshot", self.store.checkpoint_step())?;
            let now = self.clock.now_ms();
            if now >= offsets_at {
                offsets_at = now + offsets_ms();
                tell("consumer offsets", self.persist_offsets());
            }
            if now >= delays_at {
                delays_at = now + delays_ms();
                tell("delay progress", self.persist_delays());
            }
        }
        Ok(())
    }

    /// With the progress of transactions, once what it stands for is synced.
    pub(crate) fn persist_offsets(&self) -> Result<(), StoreError> {
        let progress = self.transactions.progress();
        self.store.flush_step()?;
        transaction::keep(&self.offsets, progress);
        self.offsets.persist()
    }

    /// Progress is written only once the copies that it stands for are synced.
    fn persist_delays(&self) -> Result<(), StoreError> {
        let levels = self.delay.progress();
        let timers = self.timers.progress(self.clock.now_ms());
        self.store.flush_step()?;
        self.delay.save(&levels)?;
        self.timers.save(timers)
    }

    fn start_loops(self: &Arc<Self>) -> JoinSet<()> {
        let mut loops = JoinSet::new();
        for level in self.delay.levels() {
            loops.spawn(delay::deliver(Arc::clone(self), level));
        }
        loops.spawn(revive::run(Arc::clone(self)));
        loops.spawn(transaction_check::run(Arc::clone(self)));
        loops.spawn(timer::run(Arc::clone(self)));
        loops.spawn(registration::announce(Arc::clone(self)));
        if let Some(name_server) = self.name_server.clone() {
            loops.spawn(async move { name_server.expire_forever().await });
        }
        let broker = Arc::clone(self);
        loops.spawn(async move {
            loop {
                broker.clock.sleep(stats::PERIOD).await;
                broker.look_at_counters();
            }
        });
        let broker = Arc::clone(self);
        loops.spawn(async move {
            loop {
                broker.clock.sleep(EXPIRE_PERIOD).await;
                broker.clients.expire();
                broker.locks.expire();
            }
        });
        loops
    }
}

impl RunningBroker {
    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Where it listens, when it does.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.broker.address
    }

    /// A new connection in this process, served on `runtime`.
    pub fn connect_on(&mut self, runtime: &Handle) -> LocalLink {
        let (link, peer) = local_link();
        self.loops.spawn_on(self.server.serve_local(peer, &self.broker), runtime);
        link
    }

    /// Stops in order: name servers are told, no new requests, answers that wait, loops, snapshots,
    /// store.
    ///
    /// # Errors
    /// What could not be written.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.broker.begin_stop();
        // Before the port closes, so that clients are not sent to it any more. A name server that
        // does not answer sees the connection end.
        let farewell = self.registration.join_next();
        let _told = tokio::time::timeout(FAREWELL_MAX, farewell).await;
        self.server.stop().await;
        self.loops.shutdown().await;
        let (broker, threads) = (self.broker, self.threads);
        let closing = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic of a storage thread was reported by the panic hook already.
                let _panicked = thread.join();
            }
            broker.persist_offsets()?;
            broker.persist_delays()?;
            broker.store.close()
        });
        match closing.await {
            Ok(closed) => closed.map_err(|error| Error::Closed(error.to_string())),
            Err(panic) => Err(Error::Closed(panic.to_string())),
        }
    }
}

/// Opens a broker's port and the fast port two below it, which Java clients up to 4.4 use by
/// default.
///
/// # Errors
/// [`Error::Config`] that names the port and the mend.
pub async fn bind(address: SocketAddr) -> Result<Vec<TcpListener>, Error> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_both(address).await {
            Ok(listeners) => return Ok(listeners),
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

async fn bind_both(address: SocketAddr) -> Result<Vec<TcpListener>, Error> {
    let main = listen(address).await?;
    let port = main.local_addr().map_err(|error| port_taken(address, &error))?.port();
    let Some(fast) = port.checked_sub(2).filter(|port| *port > 0) else {
        return Ok(vec![main]);
    };
    let fast = listen(SocketAddr::new(address.ip(), fast)).await?;
    Ok(vec![main, fast])
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|error| port_taken(address, &error))
}

fn port_taken(address: SocketAddr, error: &io::Error) -> Error {
    Error::Config(format!(
        "cannot listen on {address}: {error}; a broker needs its port and the one two below it: \
         stop what holds it, or choose another listenPort"
    ))
}

fn refused(error: &StoreError) -> Error {
    Error::Config(format!("the store cannot be opened: {error}"))
}

fn store_options(config: &BrokerConfig) -> StoreOptions {
    StoreOptions {
        root: config.store_path_root_dir.clone(),
        flush: match config.flush_disk_type {
            FlushDiskType::Sync => FlushMode::Sync,
            FlushDiskType::Async => FlushMode::Async,
        },
        segment_bytes: config.mapped_file_size_commit_log,
        queue_file_bytes: config.mapped_file_size_consume_queue,
        index_slots: config.max_hash_slot_num,
        index_entries: config.max_index_num,
        delay_levels_ms: config.message_delay_level.levels_ms.clone(),
    }
}

/// A closed mark means that the store has failed: the step that follows says so.
fn wait(mark: &Watermark, target: u64) {
    let _closed = mark.wait_reached(target, LOOK_AGAIN);
}

/// `percent` of the machine's memory.
fn memory_bytes(percent: u64) -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit) * info.totalram / 100 * percent
}

fn wait_stop(stopping: &Watermark, pause: Duration) {
    let _closed = stopping.wait_reached(1, pause);
}

fn to_ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// A snapshot that failed is tried again with the next round; the log is the truth.
fn tell(what: &str, saved: Result<(), StoreError>) {
    if let Err(error) = saved {
        warn!(%error, "{what} could not be written");
    }
}

/// Ids for messages whose senders gave none: 32 hex digits, unique over restarts by the start time.
#[derive(Debug)]
struct UniqueKeys {
    started_ms: i64,
    next: AtomicU64,
}

impl UniqueKeys {
    fn new(clock: &Clock) -> Self {
        Self { started_ms: clock.now_ms(), next: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        format!("{:016X}{:016X}", self.started_ms, self.next.fetch_add(1, Ordering::Relaxed))
    }
}
