//! `mq bench`: load for any RocketMQ-compatible cluster through the ordinary client, and what came
//! of it. Not here: the client, the broker.
//!
//! Invariants: only what was started after the warm-up and before the end is counted; each
//! connection is a client of its own; nothing is shared between senders while they run but one
//! counter for the progress line.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use mq_core::Error;
use mq_core::client::{
    Client, ClientOptions, ConsumerOptions, Handler, Outcome, Producer, Transport,
};
use mq_core::clock::Clock;
use mq_core::embedded::EmbeddedOptions;
use mq_core::message::{Delivery, Outgoing};
use mq_core::protocol::body::{TopicRouteData, from_json};
use mq_core::protocol::header::{PullRequest, PullResponse, RouteInfoRequest};
use mq_core::protocol::record::records;
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::{Remote, RemoteOptions};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Sends and waits for the acknowledgement, many at once.
    Send(SendLoad),
    /// Reads a filled topic from its beginning, request by request.
    Consume(PullLoad),
    /// Time from before a send until the message is in a consumer's hands, at a modest rate.
    Latency(LatencyLoad),
    /// Sends to a broker in this process, synced before they are acknowledged.
    Embedded(EmbeddedLoad),
}

#[derive(Debug, Args)]
struct Target {
    /// `host:port` of a name server.
    #[arg(long, default_value = "127.0.0.1:9876")]
    name_server: String,
    /// The topic; made by the first send where the broker allows it.
    #[arg(long, default_value = "mq-bench")]
    topic: String,
    /// Time that counts.
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Time before it that does not count.
    #[arg(long, default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SendLoad {
    #[command(flatten)]
    target: Target,
    /// Connections, each a client of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Sends under way on each connection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Bytes of a body.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    size: u32,
    /// Messages of one request; above 1 they are sent as a batch.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
}

#[derive(Debug, Args)]
struct PullLoad {
    #[command(flatten)]
    target: Target,
    /// Connections; the topic's queues are shared among them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Messages asked for by one request.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    batch: u32,
}

#[derive(Debug, Args)]
struct LatencyLoad {
    #[command(flatten)]
    target: Target,
    /// Messages a second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

#[derive(Debug, Args)]
struct EmbeddedLoad {
    /// Folder of the store. It is left as it is afterwards.
    #[arg(long)]
    store: PathBuf,
    /// Senders, each with one message under way.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    senders: u32,
    /// Bytes of a body.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    size: u32,
    /// A setting by its key in broker.conf; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = crate::pair)]
    sets: Vec<(String, String)>,
    /// Time that counts.
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Time before it that does not count.
    #[arg(long, default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// `250ms`, `10s` or `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match text.get(digits.len()..) {
        Some("ms") => 1,
        Some("s") => 1_000,
        Some("m") => 60_000,
        _ => return Err("expected a time such as 250ms, 10s or 2m".to_owned()),
    };
    let count: u32 = digits.parse().map_err(|_| "expected a whole number of ms, s or m")?;
    Ok(Duration::from_millis(u64::from(count) * unit_ms))
}

pub(crate) async fn run(bench: Bench) -> Result<(), Error> {
    match bench.what {
        What::Send(load) => send(load).await,
        What::Consume(load) => pull(load).await,
        What::Latency(load) => latency(load).await,
        What::Embedded(load) => embedded(load).await,
    }
}

/// When a run begins to count and when it ends.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Instant,
    to: Instant,
}

impl Window {
    fn after(warmup: Duration, duration: Duration) -> Self {
        let from = Instant::now() + warmup;
        Self { from, to: from + duration }
    }

    fn seconds(self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }
}

/// What one worker, or all of them, found. Times in microseconds.
#[derive(Debug)]
struct Found {
    messages: u64,
    times_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

/// Different errors that are told apart.
const ERRORS_MAX: usize = 16;
/// The longest time that is recorded as it is.
const TIME_US_MAX: u64 = 60_000_000;

impl Found {
    fn new() -> Self {
        let times_us = Histogram::new_with_bounds(1, TIME_US_MAX, 3).expect("bounds in order");
        Self { messages: 0, times_us, errors: BTreeMap::new() }
    }

    fn took(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.times_us.saturating_record(us.clamp(1, TIME_US_MAX));
    }

    fn failed(&mut self, error: &Error) {
        let text = error.to_string();
        if self.errors.len() < ERRORS_MAX || self.errors.contains_key(&text) {
            *self.errors.entry(text).or_default() += 1;
        }
    }

    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.times_us.add(&other.times_us).expect("histograms of one shape");
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }
}

/// Runs workers to the window's end while a line on a terminal says how far they are.
async fn all(
    mut workers: JoinSet<Found>,
    done: Arc<AtomicU64>,
    window: Window,
) -> Result<Found, Error> {
    let mut sum = Found::new();
    let shows = std::io::stderr().is_terminal();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut last = 0;
    loop {
        tokio::select! {
            worker = workers.join_next() => match worker {
                Some(Ok(found)) => sum.add(&found),
                Some(Err(panic)) => return Err(Error::Closed(panic.to_string())),
                None => break,
            },
            _ = second.tick(), if shows => {
                let now = done.load(Ordering::Relaxed);
                let phase = if Instant::now() < window.from { "warm-up" } else { "running" };
                eprint!("\r{phase}: {:>9}/s ", now - last);
                let _unseen = std::io::stderr().flush();
                last = now;
            }
        }
    }
    if shows {
        eprintln!();
    }
    Ok(sum)
}

async fn client(name_server: &str) -> Result<Client, Error> {
    let name_servers = name_server.split(';').map(str::to_owned).collect();
    Client::connect(ClientOptions { name_servers, ..ClientOptions::default() }).await
}

async fn send(load: SendLoad) -> Result<(), Error> {
    let target = &load.target;
    let body = Bytes::from(vec![b'x'; load.size as usize]);
    let mut clients = Vec::new();
    for _ in 0..load.connections {
        let client = client(&target.name_server).await?;
        // The first send makes the topic and dials; it tells a wrong address at once.
        let producer = client.producer("mq-bench");
        producer.send(Outgoing::new(target.topic.clone(), body.clone())).await?;
        clients.push((client, producer));
    }
    let window = Window::after(target.warmup, target.duration);
    let done = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for (_, producer) in &clients {
        for _ in 0..load.in_flight {
            let sender = Sender {
                producer: producer.clone(),
                topic: target.topic.clone(),
                body: body.clone(),
                batch: load.batch as usize,
                window,
                done: Arc::clone(&done),
            };
            workers.spawn(sender.run());
        }
    }
    let found = all(workers, done, window).await?;
    for (client, _) in &clients {
        client.shutdown().await;
    }
    let parameters = json!({
        "cluster": target.name_server, "topic": target.topic, "connections": load.connections,
        "in_flight": load.in_flight, "size": load.size, "batch": load.batch,
    });
    report("send", &parameters, &found, window, target.json);
    Ok(())
}

struct Sender {
    producer: Producer,
    topic: String,
    body: Bytes,
    batch: usize,
    window: Window,
    done: Arc<AtomicU64>,
}

impl Sender {
    async fn run(self) -> Found {
        let mut found = Found::new();
        loop {
            let started = Instant::now();
            if started >= self.window.to {
                return found;
            }
            let sent = self.once().await;
            self.done.fetch_add(self.batch as u64, Ordering::Relaxed);
            match sent {
                Err(error) => found.failed(&error),
                Ok(()) if started >= self.window.from => {
                    found.took(started.elapsed());
                    found.messages += self.batch as u64;
                }
                Ok(()) => {}
            }
        }
    }

    async fn once(&self) -> Result<(), Error> {
        let message = || Outgoing::new(self.topic.clone(), self.body.clone());
        match self.batch {
            1 => self.producer.send(message()).await.map(drop),
            n => self.producer.send_batch((0..n).map(|_| message()).collect()).await.map(drop),
        }
    }
}

async fn embedded(load: EmbeddedLoad) -> Result<(), Error> {
    let broker = mq_broker::start_embedded(EmbeddedOptions {
        store: load.store.clone(),
        listen: None,
        settings: load.sets.iter().cloned().collect(),
        clock: Clock::System,
    })
    .await?;
    let transport = Transport::InProcess(Arc::clone(&broker));
    let client = Client::connect(ClientOptions { transport, ..ClientOptions::default() }).await?;
    let producer = client.producer("mq-bench");
    let body = Bytes::from(vec![b'x'; load.size as usize]);
    producer.send(Outgoing::new("mq-bench", body.clone())).await?;
    let window = Window::after(load.warmup, load.duration);
    let done = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..load.senders {
        let sender = Sender {
            producer: producer.clone(),
            topic: "mq-bench".to_owned(),
            body: body.clone(),
            batch: 1,
            window,
            done: Arc::clone(&done),
        };
        workers.spawn(sender.run());
    }
    let found = all(workers, done, window).await?;
    client.shutdown().await;
    broker.stop().await?;
    let sets: BTreeMap<_, _> = load.sets.into_iter().collect();
    let parameters = json!({ "senders": load.senders, "size": load.size, "settings": sets });
    report("embedded", &parameters, &found, window, load.json);
    Ok(())
}

async fn latency(load: LatencyLoad) -> Result<(), Error> {
    let target = &load.target;
    let client = client(&target.name_server).await?;
    let producer = client.producer("mq-bench");
    producer.send(Outgoing::new(target.topic.clone(), vec![0; 8])).await?;
    let (arrivals, mut arrived) = mpsc::unbounded_channel();
    let group = format!("mq-bench-{}", std::process::id());
    let options = ConsumerOptions::new(group).subscribe(&target.topic, "*");
    let origin = Instant::now();
    let consumer = client.start_consumer(options, Arc::new(Arrivals { origin, arrivals })).await?;
    let window = Window::after(target.warmup, target.duration);
    let mut found = Found::new();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / load.rate);
    while Instant::now() < window.to {
        pace.tick().await;
        let sent_ns = nanos(origin.elapsed());
        let message = Outgoing::new(target.topic.clone(), sent_ns.to_be_bytes().to_vec());
        if let Err(error) = producer.send(message).await {
            found.failed(&error);
        }
        while let Ok((sent, took)) = arrived.try_recv() {
            if origin + sent >= window.from {
                found.took(took);
                found.messages += 1;
            }
        }
    }
    consumer.shutdown(Duration::from_secs(5)).await;
    client.shutdown().await;
    let parameters =
        json!({ "cluster": target.name_server, "topic": target.topic, "rate": load.rate });
    report("produce to consume", &parameters, &found, window, target.json);
    Ok(())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Takes the send time out of each body.
struct Arrivals {
    origin: Instant,
    arrivals: mpsc::UnboundedSender<(Duration, Duration)>,
}

#[async_trait]
impl Handler for Arrivals {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        let now = self.origin.elapsed();
        // Messages of earlier runs are not in this run's time.
        if let Ok(sent_ns) = <[u8; 8]>::try_from(&*delivery.body) {
            let sent = Duration::from_nanos(u64::from_be_bytes(sent_ns));
            if let Some(took) = now.checked_sub(sent).filter(|_| !sent.is_zero()) {
                let _ended = self.arrivals.send((sent, took));
            }
        }
        Outcome::Ack
    }
}

/// A queue and the broker that has it.
#[derive(Clone, Debug)]
struct Queue {
    address: String,
    queue_id: i32,
}

async fn pull(load: PullLoad) -> Result<(), Error> {
    let target = &load.target;
    let queues = queues(target).await?;
    let window = Window::after(target.warmup, target.duration);
    let done = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    let connections = (load.connections as usize).min(queues.len());
    for first in 0..connections {
        let own: Vec<_> = queues.iter().skip(first).step_by(connections).cloned().collect();
        let remotes = connect(&own).await?;
        for queue in own {
            let Some(remote) = remotes.get(&queue.address).cloned() else { continue };
            let puller = Puller {
                remote,
                topic: target.topic.clone(),
                queue_id: queue.queue_id,
                batch: i32::try_from(load.batch).unwrap_or(i32::MAX),
                window,
                done: Arc::clone(&done),
            };
            workers.spawn(puller.run());
        }
    }
    let found = all(workers, done, window).await?;
    let parameters = json!({
        "cluster": target.name_server, "topic": target.topic, "connections": connections,
        "queues": queues.len(), "batch": load.batch,
    });
    report("consume", &parameters, &found, window, target.json);
    Ok(())
}

async fn connect(queues: &[Queue]) -> Result<BTreeMap<String, Remote>, Error> {
    let addresses: BTreeSet<&String> = queues.iter().map(|queue| &queue.address).collect();
    let mut remotes = BTreeMap::new();
    for address in addresses {
        remotes.insert(address.clone(), dial(address).await?);
    }
    Ok(remotes)
}

async fn dial(address: &str) -> Result<Remote, Error> {
    // Whoever only pulls is asked nothing.
    let (inbound, _unread) = mpsc::channel(1);
    Remote::connect(address, &RemoteOptions::default(), inbound).await
}

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

async fn queues(target: &Target) -> Result<Vec<Queue>, Error> {
    let name_server = target.name_server.split(';').next().unwrap_or_default();
    let header = RouteInfoRequest { topic: &target.topic, ..RouteInfoRequest::default() };
    let request = Command::with(RequestCode::GetRouteinfoByTopic, &header);
    let answer = dial(name_server).await?.call(request, CALL_TIMEOUT).await?;
    if answer.response_code() != ResponseCode::Success {
        return Err(Error::NoRoute { topic: target.topic.clone() });
    }
    let route: TopicRouteData =
        from_json(&answer.body).map_err(|error| Error::Closed(error.to_string()))?;
    let mut queues = Vec::new();
    for broker in &route.broker_datas {
        let Some(address) = broker.broker_addrs.get(&0) else { continue };
        for data in route.queue_datas.iter().filter(|q| q.broker_name == broker.broker_name) {
            let address = || address.clone();
            queues.extend(
                (0..data.read_queue_nums).map(|id| Queue { address: address(), queue_id: id }),
            );
        }
    }
    Ok(queues)
}

/// Reads one queue again and again from its beginning.
struct Puller {
    remote: Remote,
    topic: String,
    queue_id: i32,
    batch: i32,
    window: Window,
    done: Arc<AtomicU64>,
}

impl Puller {
    async fn run(self) -> Found {
        let mut found = Found::new();
        let mut offset = 0;
        loop {
            let started = Instant::now();
            if started >= self.window.to {
                return found;
            }
            let asked = offset;
            match self.once(&mut offset).await {
                // An empty queue.
                Ok(0) if asked == 0 => return found,
                Ok(count) => {
                    self.done.fetch_add(count, Ordering::Relaxed);
                    if started >= self.window.from {
                        found.took(started.elapsed());
                        found.messages += count;
                    }
                }
                Err(error) => {
                    found.failed(&error);
                    return found;
                }
            }
        }
    }

    /// Pulls at `offset` and moves it on; at the end of the queue back to its beginning.
    async fn once(&self, offset: &mut i64) -> Result<u64, Error> {
        let request = Command::with(
            RequestCode::PullMessage,
            &PullRequest {
                consumer_group: "mq-bench",
                topic: &self.topic,
                queue_id: self.queue_id,
                queue_offset: *offset,
                max_msg_nums: self.batch,
                sys_flag: 4,
                subscription: Some("*"),
                expression_type: Some("TAG"),
                ..PullRequest::default()
            },
        );
        let answer = self.remote.call(request, CALL_TIMEOUT).await?;
        match answer.response_code() {
            ResponseCode::Success => {
                let header: PullResponse =
                    answer.decode_header().map_err(|error| Error::Closed(error.to_string()))?;
                *offset = header.next_begin_offset;
                Ok(records(&answer.body).filter(Result::is_ok).count() as u64)
            }
            ResponseCode::PullNotFound | ResponseCode::PullOffsetMoved => {
                *offset = 0;
                Ok(0)
            }
            _ => Err(Error::Refused {
                code: answer.code,
                remark: answer.remark.unwrap_or_default().into(),
            }),
        }
    }
}

const PERCENTILES: [(&str, f64); 4] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

fn report(what: &str, parameters: &Value, found: &Found, window: Window, as_json: bool) {
    let a_second = found.messages as f64 / window.seconds();
    let mut times = serde_json::Map::new();
    for (name, percentile) in PERCENTILES {
        times.insert(name.to_owned(), json!(found.times_us.value_at_percentile(percentile)));
    }
    times.insert("max".to_owned(), json!(found.times_us.max()));
    if as_json {
        let line = json!({
            "bench": what, "version": env!("CARGO_PKG_VERSION"), "parameters": parameters,
            "messages": found.messages, "seconds": window.seconds(),
            "messages_per_second": a_second.round(), "time_us": times, "errors": found.errors,
        });
        println!("{line}");
        return;
    }
    println!("{what}  {parameters}");
    println!("{:>12} messages in {:.1} s", found.messages, window.seconds());
    println!("{a_second:>12.0} messages/s");
    for (name, time) in times {
        println!("{time:>12} us {name}");
    }
    for (error, count) in &found.errors {
        println!("{count:>12} times: {error}");
    }
}
