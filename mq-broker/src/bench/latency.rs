//! `mq bench latency`: the time from the moment a message is due to be sent to the moment
//! its handler has it, at a steady rate. Not here: arguments, the report.
//!
//! Invariant: sender and handler are in one process, so both read one clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{BufMut, BytesMut};
use mq_core::Error;
use mq_core::client::{ConsumerOptions, Handler, Outcome, Producer};
use mq_core::clock::Clock;
use mq_core::message::{Delivery, Outgoing};
use tokio::task::JoinSet;

use super::report::{Cluster, Report};
use super::{LatencyLoad, Progress, Tally, Window};

const GROUP: &str = "mq-bench-latency";

/// Bytes in front of a body: run and time.
const STAMP_BYTES: usize = 16;

/// How long a consumer may take until it gets all messages: an Apache broker lets it wait for the
/// second round of a timer, and it hears of new queues every 30 s.
const FIRST_TIMEOUT: Duration = Duration::from_secs(90);

/// Messages that are sent to see whether all arrive, and how long they have.
const PROBES: usize = 32;
const ROUND: Duration = Duration::from_secs(2);

/// How long the last messages may take.
const LAST_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends under way at once; beyond that the cluster does not keep up with the rate.
const MAX_UNDER_WAY: usize = 10_000;

pub(super) async fn run(args: &LatencyLoad) -> Result<(), Error> {
    // A topic of its own: behind a topic full of other messages nothing could be measured.
    let topic = format!("{}-latency", args.target.topic);
    let sending = super::connect(&args.target.name_server).await?;
    let receiving = super::connect(&args.target.name_server).await?;
    let receiver = Arc::new(Receiver::new());
    let sender = Sender {
        producer: sending.producer(GROUP),
        topic: topic.clone(),
        size: (args.size.size as usize).max(STAMP_BYTES),
        receiver: Arc::clone(&receiver),
    };
    sender.send(Instant::now()).await?;
    let options = ConsumerOptions::new(GROUP).subscribe(&topic, "*");
    let consumer = receiving.start_consumer(options, Arc::<Receiver>::clone(&receiver)).await?;
    sender.wait_for_all_queues().await?;
    let window = Window::after_warmup(&args.run);
    let progress = Progress::new(window, &args.run);
    let sent = sender.send_steadily(args.rate, window, &progress).await;
    let tally = receiver.finish(sent).await;
    let cluster = Cluster::look(&args.target.name_server, &topic).await;
    let drained = consumer.shutdown(LAST_TIMEOUT).await;
    tracing::debug!(?drained, "consumer stopped");
    sending.shutdown().await;
    receiving.shutdown().await;
    Report::new("latency", &args.run, tally)
        .with("topic", topic.as_str())
        .with("rate", args.rate)
        .with("size", sender.size)
        .on(cluster)
        .print()
}

/// Takes the messages of this run.
struct Receiver {
    run: i64,
    epoch: Instant,
    seen: Mutex<Seen>,
}

struct Seen {
    /// When the round of probes began.
    round: Instant,
    /// Messages that were due since then.
    probes: usize,
    window: Option<Window>,
    tally: Option<Tally>,
}

impl Receiver {
    fn new() -> Self {
        let epoch = Instant::now();
        let seen = Seen { round: epoch, probes: 0, window: None, tally: None };
        Self { run: Clock::System.now_ms(), epoch, seen: Mutex::new(seen) }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_round(&self, round: Instant) {
        let mut seen = self.seen();
        (seen.round, seen.probes) = (round, 0);
    }

    /// When a message of this run was due; `None` for any other message.
    fn due(&self, body: &[u8]) -> Option<Instant> {
        let (run, rest) = body.split_first_chunk()?;
        let (micros, _) = rest.split_first_chunk()?;
        let due = self.epoch.checked_add(Duration::from_micros(u64::from_be_bytes(*micros)))?;
        (i64::from_be_bytes(*run) == self.run).then_some(due)
    }

    /// Waits for what is under way, and gives what was measured.
    async fn finish(&self, sent: Tally) -> Tally {
        let (expected, began) = (sent.messages, Instant::now());
        loop {
            let received = self.seen().tally.as_ref().map_or(0, |tally| tally.messages);
            if received >= expected || began.elapsed() > LAST_TIMEOUT {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut tally = self.seen().tally.take().unwrap_or_else(Tally::new);
        for _ in tally.messages..expected {
            let after_ms = u64::try_from(LAST_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
            tally.fail(&Error::Timeout { what: "a sent message's handler".to_owned(), after_ms });
        }
        tally.merge(Tally { messages: 0, bytes: 0, ..sent });
        tally
    }
}

#[async_trait]
impl Handler for Receiver {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        let now = Instant::now();
        if let Some(due) = self.due(&delivery.body) {
            let mut seen = self.seen();
            seen.probes += usize::from(due >= seen.round);
            if seen.window.is_some_and(|window| window.counts(due)) {
                let tally = seen.tally.get_or_insert_with(Tally::new);
                let latency = now.saturating_duration_since(due);
                tally.record(latency, 1, delivery.body.len() as u64);
            }
        }
        Outcome::Ack
    }
}

/// Sends the messages of this run.
struct Sender {
    producer: Producer,
    topic: String,
    size: usize,
    receiver: Arc<Receiver>,
}

impl Sender {
    fn send(&self, due: Instant) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let micros = due.saturating_duration_since(self.receiver.epoch).as_micros();
        let mut body = BytesMut::with_capacity(self.size);
        body.put_i64(self.receiver.run);
        body.put_u64(u64::try_from(micros).unwrap_or(u64::MAX));
        body.resize(self.size, b'm');
        let message = Outgoing::new(self.topic.as_str(), body.freeze());
        let producer = self.producer.clone();
        async move { producer.send(message).await.map(drop) }
    }

    /// Sends rounds of probes until the receiver gets a whole one: where several brokers make the
    /// topic one after the other, it hears of some of the queues later than of others.
    async fn wait_for_all_queues(&self) -> Result<(), Error> {
        let began = Instant::now();
        while began.elapsed() < FIRST_TIMEOUT {
            let round = Instant::now();
            self.receiver.begin_round(round);
            // Due times travel as whole microseconds.
            tokio::time::sleep(Duration::from_millis(1)).await;
            for _ in 0..PROBES {
                self.send(Instant::now()).await?;
            }
            while round.elapsed() < ROUND {
                if self.receiver.seen().probes >= PROBES {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Err(Error::Closed(format!(
            "not all messages of {} were consumed within {} s: is another consumer in group {GROUP}?",
            self.topic,
            FIRST_TIMEOUT.as_secs()
        )))
    }

    /// Sends at the rate, whether or not earlier messages have been acknowledged. Gives how many
    /// were, and what went wrong.
    async fn send_steadily(&self, rate: u32, window: Window, progress: &Progress) -> Tally {
        self.receiver.seen().window = Some(window);
        let (began, mut due_count) = (Instant::now(), 0);
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let (mut under_way, mut sent) = (JoinSet::new(), Tally::new());
        let mut shown = began;
        loop {
            tick.tick().await;
            let now = Instant::now();
            while let Some(done) = under_way.try_join_next() {
                note(&mut sent, done);
            }
            if now >= window.until {
                break;
            }
            if now - shown > Duration::from_secs(1) {
                shown = now;
                progress.show();
            }
            let due = (now - began).as_secs_f64() * f64::from(rate);
            while f64::from(due_count) < due && under_way.len() < MAX_UNDER_WAY {
                due_count += 1;
                progress.add(1);
                let (send, counts) = (self.send(now), window.counts(now));
                under_way.spawn(async move { (counts, send.await) });
            }
        }
        while let Some(done) = under_way.join_next().await {
            note(&mut sent, done);
        }
        progress.clear();
        sent
    }
}

type Sent = Result<(bool, Result<(), Error>), tokio::task::JoinError>;

fn note(sent: &mut Tally, done: Sent) {
    match done {
        Ok((true, Ok(()))) => sent.messages += 1,
        Ok((true, Err(error))) => sent.fail(&error),
        Ok((false, _)) => {}
        Err(died) => sent.fail(&Error::Closed(died.to_string())),
    }
}
