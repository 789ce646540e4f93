//! `mq bench send` and `mq bench embedded`: senders that each wait for the acknowledgement before
//! they send again. Not here: arguments, the report.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mq_broker::start_embedded;
use mq_core::Error;
use mq_core::client::{Client, ClientOptions, Producer, Transport};
use mq_core::clock::Clock;
use mq_core::embedded::{EmbeddedBroker, EmbeddedOptions};
use mq_core::message::Outgoing;
use tokio::task::JoinSet;

use super::report::{Cluster, Report};
use super::{EmbeddedLoad, Progress, Run, SendLoad, Tally, Window};

const GROUP: &str = "mq-bench";

/// Rest of a sender whose message was refused: a cluster in trouble is not asked faster.
const PAUSE: Duration = Duration::from_millis(10);

/// How long the first message may take, which may have to create the topic.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &SendLoad) -> Result<(), Error> {
    let mut clients = Vec::new();
    for _ in 0..args.connections {
        clients.push(super::connect(&args.target.name_server).await?);
    }
    let load =
        Load { topic: &args.target.topic, size: args.size.size, batch: args.batch, run: &args.run };
    let tally = load.drive(&clients, args.in_flight).await?;
    let cluster = Cluster::look(&args.target.name_server, &args.target.topic).await;
    shutdown(&clients).await;
    Report::new("send", &args.run, tally)
        .with("topic", args.target.topic.as_str())
        .with("connections", args.connections)
        .with("in_flight", args.in_flight)
        .with("size", args.size.size)
        .with("batch", args.batch)
        .on(cluster)
        .print()
}

pub(super) async fn run_embedded(args: &EmbeddedLoad) -> Result<(), Error> {
    let broker = start_embedded(EmbeddedOptions {
        store: args.store.clone(),
        listen: None,
        settings: args.sets.iter().cloned().collect(),
        clock: Clock::System,
    })
    .await?;
    let sent = send_embedded(args, &broker).await;
    broker.stop().await?;
    let settings = args.sets.iter().map(|(key, value)| (key.clone(), value.as_str().into()));
    Report::new("embedded", &args.run, sent?)
        .with("senders", args.senders)
        .with("size", args.size.size)
        .with("settings", settings.collect::<serde_json::Map<_, _>>())
        .print()
}

async fn send_embedded(
    args: &EmbeddedLoad,
    broker: &Arc<dyn EmbeddedBroker>,
) -> Result<Tally, Error> {
    let transport = Transport::InProcess(Arc::clone(broker));
    let options = ClientOptions { transport, send_retries: 0, ..ClientOptions::default() };
    let clients = [Client::connect(options).await?];
    let load = Load { topic: GROUP, size: args.size.size, batch: 1, run: &args.run };
    let tally = load.drive(&clients, args.senders).await;
    shutdown(&clients).await;
    tally
}

async fn shutdown(clients: &[Client]) {
    for client in clients {
        client.shutdown().await;
    }
}

/// What all senders do.
struct Load<'a> {
    topic: &'a str,
    size: u32,
    batch: u32,
    run: &'a Run,
}

impl Load<'_> {
    async fn drive(&self, clients: &[Client], in_flight: u32) -> Result<Tally, Error> {
        let message = Outgoing::new(self.topic, vec![b'm'; self.size as usize]);
        for client in clients {
            reach(&client.producer(GROUP), &message).await?;
        }
        let window = Window::after_warmup(self.run);
        let progress = Progress::new(window, self.run);
        let mut tasks = JoinSet::new();
        for client in clients {
            for _ in 0..in_flight {
                let sender = Sender {
                    producer: client.producer(GROUP),
                    message: message.clone(),
                    batch: self.batch,
                    window,
                    progress: progress.clone(),
                };
                tasks.spawn(sender.run());
            }
        }
        super::gather(tasks, progress).await
    }
}

/// Sends until one message is stored: what is wrong from the start is told at once.
async fn reach(producer: &Producer, message: &Outgoing) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        match producer.send(message.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > FIRST_TIMEOUT || !may_pass(&error) => {
                return Err(error);
            }
            Err(_) => tokio::time::sleep(PAUSE * 10).await,
        }
    }
}

/// A cluster that is starting, or has just created the topic, refuses a message or two.
fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Refused { .. } | Error::Timeout { .. } | Error::Closed(_))
}

/// One request under way.
struct Sender {
    producer: Producer,
    message: Outgoing,
    batch: u32,
    window: Window,
    progress: Progress,
}

impl Sender {
    async fn run(self) -> Tally {
        let mut tally = Tally::new();
        let (messages, bytes) = (u64::from(self.batch), self.message.body.len() as u64);
        let mut begun = Instant::now();
        while begun < self.window.until {
            let sent = self.send().await;
            let now = Instant::now();
            match sent {
                Ok(()) => {
                    self.progress.add(messages);
                    if self.window.counts(now) {
                        tally.record(now - begun, messages, messages * bytes);
                    }
                    begun = now;
                }
                Err(error) => {
                    if self.window.counts(now) {
                        tally.fail(&error);
                    }
                    tokio::time::sleep(PAUSE).await;
                    begun = Instant::now();
                }
            }
        }
        tally
    }

    async fn send(&self) -> Result<(), Error> {
        match self.batch {
            1 => self.producer.send(self.message.clone()).await.map(drop),
            n => {
                let batch = (0..n).map(|_| self.message.clone()).collect();
                self.producer.send_batch(batch).await.map(drop)
            }
        }
    }
}
