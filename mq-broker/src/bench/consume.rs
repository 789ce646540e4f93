//! `mq bench consume`: pulls of a filled topic, as fast as its brokers give. Each puller goes
//! through its share of a queue again and again. Not here: consumer groups, handlers.

use std::ops::Range;
use std::time::{Duration, Instant};

use mq_core::Error;
use mq_core::protocol::body::TopicRouteData;
use mq_core::protocol::header::{OffsetResponse, PullRequest, PullResponse, QueueRequest};
use mq_core::protocol::record::records;
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::Remote;
use tokio::task::JoinSet;

use super::report::{self, Cluster, Report};
use super::{Progress, PullLoad, Tally, Window};

const GROUP: &str = "mq-bench";
const TIMEOUT: Duration = Duration::from_secs(10);

/// sysFlag of a pull that carries its subscription.
const WITH_SUBSCRIPTION: i32 = 4;

/// Rest of a puller that was refused.
const PAUSE: Duration = Duration::from_millis(10);

const PERM_READ: i32 = 4;

pub(super) async fn run(args: &PullLoad) -> Result<(), Error> {
    let route = report::route(&args.target.name_server, &args.target.topic).await?;
    let queues = filled_queues(&route, &args.target.topic).await?;
    let cluster = Cluster::look(&args.target.name_server, &args.target.topic).await;
    let pullers = pullers(args, &queues).await?;
    let window = Window::after_warmup(&args.run);
    let progress = Progress::new(window, &args.run);
    let mut tasks = JoinSet::new();
    for puller in pullers {
        tasks.spawn(puller.run(window, progress.clone()));
    }
    let tally = super::gather(tasks, progress).await?;
    Report::new("consume", &args.run, tally)
        .with("topic", args.target.topic.as_str())
        .with("connections", args.connections)
        .with("in_flight", args.in_flight)
        .with("batch", args.batch)
        .with("queues", queues.len())
        .on(cluster)
        .print()
}

/// A queue with messages in it.
struct Queue {
    address: String,
    id: i32,
    offsets: Range<i64>,
}

async fn filled_queues(route: &TopicRouteData, topic: &str) -> Result<Vec<Queue>, Error> {
    let mut queues = Vec::new();
    for data in route.queue_datas.iter().filter(|data| data.perm & PERM_READ != 0) {
        let broker = route.broker_datas.iter().find(|b| b.broker_name == data.broker_name);
        let Some(address) = broker.and_then(|broker| broker.broker_addrs.values().next()) else {
            continue;
        };
        let remote = report::dial(address).await?;
        for id in 0..data.read_queue_nums {
            let min = offset(&remote, RequestCode::GetMinOffset, topic, id).await?;
            let max = offset(&remote, RequestCode::GetMaxOffset, topic, id).await?;
            if min < max {
                queues.push(Queue { address: address.clone(), id, offsets: min..max });
            }
        }
    }
    match queues.is_empty() {
        true => Err(Error::Closed(format!(
            "topic {topic} has no messages: fill it with `mq bench send --topic {topic}`"
        ))),
        false => Ok(queues),
    }
}

async fn offset(
    remote: &Remote,
    code: RequestCode,
    topic: &str,
    queue_id: i32,
) -> Result<i64, Error> {
    let request = Command::with(code, &QueueRequest { topic, queue_id });
    let answer = report::accepted(remote.call(request, TIMEOUT).await?)?;
    let found = answer.decode_header::<OffsetResponse>();
    found.map(|found| found.offset).map_err(|error| Error::Closed(error.to_string()))
}

/// Deals the queues to all requests under way. Where there are more requests than queues, several
/// go through one queue, each beginning somewhere else.
async fn pullers(args: &PullLoad, queues: &[Queue]) -> Result<Vec<Puller>, Error> {
    let total = (args.connections * args.in_flight) as usize;
    let mut pullers = Vec::new();
    for connection in 0..args.connections {
        let mut remotes: Vec<(&str, Remote)> = Vec::new();
        for request in 0..args.in_flight {
            let number = (connection + args.connections * request) as usize;
            // With fewer requests than queues each takes every n-th queue in turn.
            let mine = queues.iter().skip(number % queues.len()).step_by(total);
            let mut shares = Vec::new();
            for queue in mine {
                let known = remotes.iter().find(|(address, _)| *address == queue.address);
                let remote = match known {
                    Some((_, remote)) => remote.clone(),
                    None => {
                        let remote = report::dial(&queue.address).await?;
                        remotes.push((&queue.address, remote.clone()));
                        remote
                    }
                };
                shares.push(Share { remote, id: queue.id, offsets: queue.offsets.clone() });
            }
            let lap = (number / queues.len()) as i64;
            let laps = total.div_ceil(queues.len()) as i64;
            pullers.push(Puller {
                topic: args.target.topic.clone(),
                batch: i32::try_from(args.batch).unwrap_or(i32::MAX),
                shares,
                start: (lap, laps),
            });
        }
    }
    Ok(pullers)
}

struct Share {
    remote: Remote,
    id: i32,
    offsets: Range<i64>,
}

/// One request under way.
struct Puller {
    topic: String,
    batch: i32,
    shares: Vec<Share>,
    /// Which of how many equal parts of its first queue to begin with.
    start: (i64, i64),
}

/// What one pull brought.
struct Pulled {
    messages: u64,
    bytes: u64,
    next: i64,
}

impl Puller {
    async fn run(self, window: Window, progress: Progress) -> Tally {
        let mut tally = Tally::new();
        let (part, parts) = self.start;
        let mut skip = true;
        let mut begun = Instant::now();
        for share in self.shares.iter().cycle() {
            let length = share.offsets.end - share.offsets.start;
            let mut offset = share.offsets.start + if skip { length * part / parts } else { 0 };
            skip = false;
            while offset < share.offsets.end {
                if begun >= window.until {
                    return tally;
                }
                let pulled = self.pull(share, offset).await;
                let now = Instant::now();
                match pulled {
                    Ok(pulled) => {
                        progress.add(pulled.messages);
                        if window.counts(now) {
                            tally.record(now - begun, pulled.messages, pulled.bytes);
                        }
                        offset = pulled.next.max(offset + 1);
                    }
                    Err(error) => {
                        if window.counts(now) {
                            tally.fail(&error);
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                begun = Instant::now();
            }
        }
        tally
    }

    async fn pull(&self, share: &Share, queue_offset: i64) -> Result<Pulled, Error> {
        let request = PullRequest {
            consumer_group: GROUP,
            topic: &self.topic,
            queue_id: share.id,
            queue_offset,
            max_msg_nums: self.batch,
            sys_flag: WITH_SUBSCRIPTION,
            subscription: Some("*"),
            expression_type: Some("TAG"),
            ..PullRequest::default()
        };
        let answer =
            share.remote.call(Command::with(RequestCode::PullMessage, &request), TIMEOUT).await?;
        let next = answer.decode_header::<PullResponse>().map(|found| found.next_begin_offset);
        match answer.response_code() {
            ResponseCode::PullNotFound | ResponseCode::PullOffsetMoved => {
                Ok(Pulled { messages: 0, bytes: 0, next: next.unwrap_or(i64::MAX) })
            }
            _ => count(&report::accepted(answer)?, queue_offset),
        }
    }
}

/// Reads every record as a consumer would.
fn count(answer: &Command, queue_offset: i64) -> Result<Pulled, Error> {
    let mut pulled = Pulled { messages: 0, bytes: 0, next: queue_offset };
    for record in records(&answer.body) {
        let record = record.map_err(|error| Error::Closed(error.to_string()))?;
        pulled.messages += 1;
        pulled.bytes += record.body.len() as u64;
        pulled.next = record.queue_offset + 1;
    }
    Ok(pulled)
}
