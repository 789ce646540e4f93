//! What a run measured, on which cluster, with which parameters: as a table and as JSON. Not here:
//! measuring.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use mq_core::Error;
use mq_core::protocol::body::{KvTable, TopicRouteData, from_json};
use mq_core::protocol::header::RouteInfoRequest;
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::{Remote, RemoteOptions};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Cause, Run, Tally};

const TIMEOUT: Duration = Duration::from_secs(3);

/// The result of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    bench: &'static str,
    version: &'static str,
    cluster: Cluster,
    parameters: BTreeMap<&'static str, Value>,
    seconds: f64,
    messages: u64,
    messages_per_second: f64,
    bytes_per_second: f64,
    time_us: Latency,
    errors: BTreeMap<String, Cause>,
    #[serde(skip)]
    json: bool,
}

/// Percentiles, in microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    samples: u64,
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p999: u64,
    max: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            samples: histogram.len(),
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

impl Report {
    pub(super) fn new(bench: &'static str, run: &Run, tally: Tally) -> Self {
        let seconds = run.duration.as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "a rate has few digits that matter")]
        let per_second = |count: u64| (count as f64 / seconds).round();
        Self {
            bench,
            version: env!("CARGO_PKG_VERSION"),
            cluster: Cluster::in_process(),
            parameters: BTreeMap::new(),
            seconds,
            messages: tally.messages,
            messages_per_second: per_second(tally.messages),
            bytes_per_second: per_second(tally.bytes),
            time_us: Latency::of(&tally.latency_us),
            errors: tally.errors,
            json: run.json,
        }
        .with("warmup_seconds", run.warmup.as_secs_f64())
    }

    /// Notes a parameter of the run.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.parameters.insert(name, value.into());
        self
    }

    /// Notes the cluster.
    pub(super) fn on(mut self, cluster: Cluster) -> Self {
        self.cluster = cluster;
        self
    }

    /// Prints it. A run in which nothing came through is a failure.
    pub(super) fn print(&self) -> Result<(), Error> {
        match self.json {
            true => println!("{}", serde_json::json!(self)),
            false => print!("{}", self.table()),
        }
        match self.messages {
            0 => Err(Error::Closed("no message came through".to_owned())),
            _ => Ok(()),
        }
    }

    fn table(&self) -> String {
        let mut table = String::new();
        let mut line = |name: &str, text: &str| {
            writeln!(table, "{name:<12}{text}").expect("a String takes all");
        };
        let parameters = self.parameters.iter().map(|(name, value)| format!("{name} {value}"));
        line("bench", &format!("{} (mq {})", self.bench, self.version));
        line("parameters", &parameters.collect::<Vec<_>>().join(", "));
        line("cluster", &self.cluster.shown());
        let mib = self.bytes_per_second / (1024.0 * 1024.0);
        line("throughput", &format!("{:.0} messages/s, {mib:.1} MiB/s", self.messages_per_second));
        let at = &self.time_us;
        line(
            "latency",
            &format!(
                "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
                time(at.p50),
                time(at.p90),
                time(at.p99),
                time(at.p999),
                time(at.max)
            ),
        );
        if self.errors.is_empty() {
            line("errors", "none");
        }
        for (name, cause) in &self.errors {
            line("errors", &format!("{} x {name}, first: {}", cause.count, cause.example));
        }
        table
    }
}

/// Microseconds for the eye.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn time(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.2} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

/// Who was measured.
#[derive(Debug, Serialize)]
pub(super) struct Cluster {
    name_servers: String,
    brokers: Vec<BrokerFound>,
}

#[derive(Debug, Serialize)]
struct BrokerFound {
    name: String,
    address: String,
    version: String,
}

impl Cluster {
    pub(super) fn in_process() -> Self {
        Self { name_servers: "in process".to_owned(), brokers: Vec::new() }
    }

    /// Asks for the masters of a topic and what they are. A cluster that does not say is measured
    /// all the same.
    pub(super) async fn look(name_servers: &str, topic: &str) -> Self {
        let mut found = Self { name_servers: name_servers.to_owned(), brokers: Vec::new() };
        let Ok(route) = route(name_servers, topic).await else { return found };
        let masters: BTreeSet<_> = route
            .broker_datas
            .into_iter()
            .filter_map(|mut broker| Some((broker.broker_name, broker.broker_addrs.remove(&0)?)))
            .collect();
        for (name, address) in masters {
            let version = version(&address).await.unwrap_or_else(|_| "unknown".to_owned());
            found.brokers.push(BrokerFound { name, address, version });
        }
        found
    }

    fn shown(&self) -> String {
        let brokers = self
            .brokers
            .iter()
            .map(|broker| format!("{} at {} ({})", broker.name, broker.address, broker.version));
        match self.brokers.is_empty() {
            true => self.name_servers.clone(),
            false => format!("{}: {}", self.name_servers, brokers.collect::<Vec<_>>().join(", ")),
        }
    }
}

/// The route of a topic, from the first name server that answers.
pub(crate) async fn route(name_servers: &str, topic: &str) -> Result<TopicRouteData, Error> {
    let header = RouteInfoRequest { topic, ..RouteInfoRequest::default() };
    let request = Command::with(RequestCode::GetRouteinfoByTopic, &header);
    let mut failed = Error::Config("no name server is given".to_owned());
    for server in name_servers.split(';').map(str::trim).filter(|server| !server.is_empty()) {
        match ask(server, request.clone()).await {
            Ok(answer) => {
                return from_json(&answer.body).map_err(|error| Error::Closed(error.to_string()));
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// What a broker says it is, in words or by the number that all of its answers carry.
async fn version(address: &str) -> Result<String, Error> {
    let remote = dial(address).await?;
    let answer = remote.call(Command::request(RequestCode::GetBrokerRuntimeInfo), TIMEOUT).await?;
    let info: Option<KvTable> = from_json(&answer.body).ok();
    let described = info.and_then(|mut info| info.table.remove("brokerVersionDesc"));
    Ok(described.unwrap_or_else(|| format!("protocol version {}", answer.version)))
}

pub(crate) async fn dial(address: &str) -> Result<Remote, Error> {
    // Brokers ask nothing of a connection that has sent no heartbeat.
    let (inbound, _unread) = mpsc::channel(1);
    Remote::connect(address, &RemoteOptions::default(), inbound).await
}

async fn ask(address: &str, request: Command) -> Result<Command, Error> {
    accepted(dial(address).await?.call(request, TIMEOUT).await?)
}

/// The answer, if it is one of success.
pub(super) fn accepted(answer: Command) -> Result<Command, Error> {
    match answer.response_code() {
        ResponseCode::Success => Ok(answer),
        _ => Err(Error::Refused {
            code: answer.code,
            remark: answer.remark.unwrap_or_default().into(),
        }),
    }
}
