//! `mq bench`: load for any cluster that speaks RocketMQ's protocol, or for the broker in this
//! process, and what came of it. Here: arguments, and the parts that all runs share.
//!
//! Invariants: a measurement is taken by the task that made the request, into its own histogram,
//! so that measuring costs no lock; what happens during the warm-up, or after the time is up,
//! does not count.

mod consume;
mod latency;
pub(crate) mod report;
mod send;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use mq_core::Error;
use mq_core::client::{Client, ClientOptions, Transport};
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
    /// Reads a filled topic again and again, request by request.
    Consume(PullLoad),
    /// Time from when a message is due until it is in a consumer's hands, at a steady rate.
    Latency(LatencyLoad),
    /// Sends to a broker in this process, synced before they are acknowledged.
    Embedded(EmbeddedLoad),
}

#[derive(Debug, Args)]
struct Target {
    /// `host:port` of the name servers, separated by `;`.
    #[arg(long, default_value = "127.0.0.1:9876")]
    name_server: String,
    /// The topic; made by the first send where the broker allows it.
    #[arg(long, default_value = "mq-bench")]
    topic: String,
}

#[derive(Debug, Args)]
struct Run {
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

fn body_bytes() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=4_194_304)
}

#[derive(Debug, Args)]
struct Size {
    /// Bytes of a body.
    #[arg(long, default_value_t = 128, value_parser = body_bytes())]
    size: u32,
}

#[derive(Debug, Args)]
struct SendLoad {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    size: Size,
    /// Connections, each a client of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Sends under way on each connection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Messages of one request; above 1 they are sent as a batch.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
}

#[derive(Debug, Args)]
struct PullLoad {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    run: Run,
    /// Connections to each broker.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Pulls under way on each connection.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    in_flight: u32,
    /// Messages asked for by one request.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    batch: u32,
}

#[derive(Debug, Args)]
struct LatencyLoad {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    size: Size,
    /// Messages a second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
}

#[derive(Debug, Args)]
struct EmbeddedLoad {
    /// Folder of the store. It is left as it is afterwards.
    #[arg(long)]
    store: PathBuf,
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    size: Size,
    /// Senders, each with one message under way.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    senders: u32,
    /// A setting by its key in broker.conf; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = crate::pair)]
    sets: Vec<(String, String)>,
}

pub(crate) async fn run(bench: Bench) -> Result<(), Error> {
    match bench.what {
        What::Send(load) => send::run(&load).await,
        What::Consume(load) => consume::run(&load).await,
        What::Latency(load) => latency::run(&load).await,
        What::Embedded(load) => send::run_embedded(&load).await,
    }
}

/// `10s`, `500ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count = digits.parse::<u32>().map_err(|_| "expected a time such as 10s".to_owned())?;
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("expected a time in ms, s or m".to_owned()),
    };
    Ok(Duration::from_millis(u64::from(count) * unit_ms))
}

/// When to measure.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Instant,
    until: Instant,
}

impl Window {
    fn after_warmup(run: &Run) -> Self {
        let from = Instant::now() + run.warmup;
        Self { from, until: from + run.duration }
    }

    fn counts(&self, at: Instant) -> bool {
        self.from <= at && at < self.until
    }
}

/// What one task has measured.
#[derive(Debug)]
struct Tally {
    /// Time of each request, in microseconds.
    latency_us: Histogram<u64>,
    messages: u64,
    bytes: u64,
    errors: BTreeMap<String, Cause>,
}

/// How often something went wrong, and how it read the first time.
#[derive(Debug, serde::Serialize)]
struct Cause {
    count: u64,
    example: String,
}

impl Tally {
    fn new() -> Self {
        let latency_us = Histogram::new(3).expect("three significant digits are supported");
        Self { latency_us, messages: 0, bytes: 0, errors: BTreeMap::new() }
    }

    fn record(&mut self, latency: Duration, messages: u64, bytes: u64) {
        record_us(&mut self.latency_us, latency);
        self.messages += messages;
        self.bytes += bytes;
    }

    fn fail(&mut self, error: &Error) {
        let example = error.to_string();
        let cause = self.errors.entry(cause(error)).or_insert(Cause { count: 0, example });
        cause.count += 1;
    }

    fn merge(&mut self, other: Self) {
        self.latency_us.add(&other.latency_us).expect("the histogram grows by itself");
        self.messages += other.messages;
        self.bytes += other.bytes;
        for (name, theirs) in other.errors {
            match self.errors.get_mut(&name) {
                Some(ours) => ours.count += theirs.count,
                None => drop(self.errors.insert(name, theirs)),
            }
        }
    }
}

fn record_us(histogram: &mut Histogram<u64>, latency: Duration) {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX / 2);
    histogram.record(micros.max(1)).expect("the histogram grows by itself");
}

/// Errors that have one cause have one name, whatever the rest of their text.
fn cause(error: &Error) -> String {
    match error {
        Error::Refused { code, .. } => format!("refused with code {code}"),
        Error::Timeout { .. } => "timeout".to_owned(),
        Error::Connect { .. } => "no connection".to_owned(),
        Error::NoRoute { .. } => "no route".to_owned(),
        Error::Closed(_) => "connection closed".to_owned(),
        _ => "other".to_owned(),
    }
}

/// Runs tasks to their end and adds up what they measured.
async fn gather(mut tasks: JoinSet<Tally>, progress: Progress) -> Result<Tally, Error> {
    let mut total = Tally::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            done = tasks.join_next() => match done {
                Some(Ok(tally)) => total.merge(tally),
                // The figures would be those of fewer tasks.
                Some(Err(died)) => return Err(Error::Closed(died.to_string())),
                None => break,
            },
            _ = tick.tick() => progress.show(),
        }
    }
    progress.clear();
    Ok(total)
}

/// A line on the terminal that says how it goes; nothing when there is no terminal.
#[derive(Clone, Debug)]
struct Progress {
    done: Arc<AtomicU64>,
    window: Window,
    shown: bool,
    began: Instant,
}

impl Progress {
    fn new(window: Window, run: &Run) -> Self {
        let shown = !run.json && std::io::stdout().is_terminal();
        Self { done: Arc::default(), window, shown, began: Instant::now() }
    }

    /// Counts, when somebody looks.
    fn add(&self, messages: u64) {
        if self.shown {
            self.done.fetch_add(messages, Ordering::Relaxed);
        }
    }

    fn show(&self) {
        if !self.shown {
            return;
        }
        let elapsed = self.began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
        let rate = self.done.load(Ordering::Relaxed) as f64 / elapsed.max(0.001);
        let phase = if self.window.counts(Instant::now()) { "measuring" } else { "warming up" };
        print!("\r\x1b[K{elapsed:5.0} s  {phase}  {rate:10.0} messages/s on average");
        // A terminal that is gone needs no progress.
        let _gone = std::io::stdout().flush();
    }

    fn clear(&self) {
        if self.shown {
            print!("\r\x1b[K");
        }
    }
}

async fn connect(name_server: &str) -> Result<Client, Error> {
    let servers = name_server.split(';').map(str::trim).filter(|server| !server.is_empty());
    let options = ClientOptions {
        name_servers: servers.map(str::to_owned).collect(),
        transport: Transport::Tcp,
        // A second attempt would hide the first one's failure.
        send_retries: 0,
        ..ClientOptions::default()
    };
    Client::connect(options).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "10", "10h", "-1s", "1.5s", "10 s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tallies_add_up() {
        let refused = |code, remark: &str| Error::Refused { code, remark: remark.to_owned() };
        let (mut one, mut two) = (Tally::new(), Tally::new());
        one.record(Duration::from_micros(100), 1, 128);
        one.fail(&refused(2, "first"));
        two.record(Duration::from_secs(100), 2, 256);
        two.fail(&refused(2, "second"));
        two.fail(&refused(1, "other"));
        one.merge(two);
        assert_eq!((one.messages, one.bytes), (3, 384));
        assert_eq!(one.latency_us.len(), 2);
        assert!(one.latency_us.max() >= 100_000_000);
        let busy = &one.errors["refused with code 2"];
        assert_eq!((busy.count, busy.example.contains("first")), (2, true));
        assert_eq!(one.errors.len(), 2);
    }
}
