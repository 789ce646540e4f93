//! Programs of `tests/interop` around clients that we did not write: building and starting them,
//! what they print, and what it must say. Not here: a single test.
//!
//! Where a language is missing its programs cannot run: that is told on standard error, and is a
//! failure when `MQ_REQUIRE_INTEROP=1` asks for them.

use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mq_core::client::{Client, ClientOptions, Producer};
use mq_core::message::{Delivery, Outgoing};
use mq_core::protocol::body::{TopicRouteData, from_json};
use mq_core::protocol::header::{CreateTopicRequest, Header, RouteInfoRequest};
use mq_core::protocol::{Command as Frame, RequestCode, ResponseCode};
use mq_core::remote::{Remote, RemoteOptions};
use tempfile::TempDir;

use crate::program::{MqDev, Program};
use crate::{DEADLINE, unique};

/// How long a program may be silent while the next line is waited for.
const PATIENCE: Duration = Duration::from_secs(90);

/// A built program: what to start it with.
#[derive(Clone, Debug)]
pub struct Foreign {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
}

impl Foreign {
    /// The program in Go; `None` where it cannot be built and nobody insists on it.
    #[must_use]
    pub fn go() -> Option<Self> {
        let folder = build("go", &["go version"], &[])?;
        Some(Self { program: folder.join("interop"), arguments: Vec::new() })
    }

    /// The program for Node.
    #[must_use]
    pub fn node() -> Option<Self> {
        let folder = build("node", &["node --version", "npm --version"], &[])?;
        let script = folder.join("interop.js").display().to_string();
        Some(Self { program: "node".into(), arguments: vec![script] })
    }

    /// The program in Python.
    #[must_use]
    pub fn python() -> Option<Self> {
        let folder = build("python", &["python3 --version"], &[])?;
        let script = folder.join("interop.py").display().to_string();
        Some(Self { program: folder.join("bin/python"), arguments: vec![script] })
    }
}

/// Builds the programs of a language, and says where they are.
pub(crate) fn build(language: &str, needs: &[&str], arguments: &[&str]) -> Option<PathBuf> {
    if let Some(missing) = needs.iter().find(|need| !runs(need)) {
        assert!(!is_required(), "MQ_REQUIRE_INTEROP=1, and `{missing}` does not run");
        // Past the capture of the test harness: a skipped test is to be seen.
        let line = format!("SKIPPED: a test needs `{missing}` to run\n");
        let _unseen = std::io::stderr().write_all(line.as_bytes());
        return None;
    }
    let test = env::current_exe().expect("a test knows its own file");
    let target = test.ancestors().nth(3).expect("a test lies in the target folder");
    let name = std::iter::once(&language).chain(arguments).copied().collect::<Vec<_>>().join("-");
    let folder = target.join("interop").join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(language).join("build");
    // One at a time, also among the tests of one file: they build the same thing.
    static BUILDING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let status = Command::new(script).arg(&folder).args(arguments).status();
    assert!(status.is_ok_and(|status| status.success()), "the {language} programs do not build");
    Some(folder)
}

fn runs(command: &str) -> bool {
    let mut words = command.split(' ');
    let output = words.next().and_then(|name| Command::new(name).args(words).output().ok());
    output.is_some_and(|output| output.status.success())
}

fn is_required() -> bool {
    env::var("MQ_REQUIRE_INTEROP").is_ok_and(|value| value == "1")
}

/// What the programs run against: `mq dev` in a process of its own, or the cluster of
/// `MQ_NAME_SERVER`, which shows whether programs and tests are right about RocketMQ.
#[derive(Debug)]
pub struct Site {
    /// Where clients begin.
    pub name_server: String,
    /// Our broker, unless the cluster is somebody else's.
    pub own: Option<MqDev>,
    scratch: TempDir,
    started: AtomicU32,
}

impl Site {
    /// A broker with `settings`, each `KEY=VALUE` as in broker.conf.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn open(settings: &[&str]) -> Self {
        let scratch = TempDir::new().expect("a scratch folder");
        let told = env::var("MQ_NAME_SERVER").ok();
        let store = scratch.path().join("store");
        let own = told.is_none().then(|| MqDev::start_at(&store, "127.0.0.1:0", settings));
        let address = own.as_ref().map(|mq| mq.address.to_string());
        let name_server = told.or(address).unwrap_or_default();
        Self { name_server, own, scratch, started: AtomicU32::new(0) }
    }

    /// Our client, connected.
    ///
    /// # Panics
    /// When it cannot be.
    pub async fn client(&self) -> Client {
        let name_servers = vec![self.name_server.clone()];
        let options =
            ClientOptions { name_servers, send_timeout: DEADLINE / 2, ..ClientOptions::default() };
        Client::connect(options).await.expect("a client")
    }

    /// The address of the broker.
    ///
    /// # Panics
    /// When the name server knows none.
    pub async fn broker(&self) -> String {
        let header = RouteInfoRequest { topic: "TBW102", ..RouteInfoRequest::default() };
        let answer = ask(&self.name_server, RequestCode::GetRouteinfoByTopic, &header).await;
        let route: TopicRouteData = from_json(&answer.body).expect("a route");
        let brokers = route.broker_datas.first().expect("the name server knows a broker");
        brokers.broker_addrs.get(&0).expect("the broker has a master").clone()
    }

    /// Makes a topic with 4 queues that nobody else has.
    pub async fn topic(&self, what: &str) -> String {
        let topic = unique(what);
        self.make_topic(&topic).await;
        topic
    }

    /// Makes a topic with 4 queues, for clients that cannot make one by sending.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn make_topic(&self, topic: &str) {
        let header = CreateTopicRequest {
            topic,
            default_topic: "TBW102",
            read_queue_nums: 4,
            write_queue_nums: 4,
            perm: 6,
            topic_filter_type: "SINGLE_TAG",
            ..CreateTopicRequest::default()
        };
        let broker = self.broker().await;
        let answer = ask(&broker, RequestCode::UpdateAndCreateTopic, &header).await;
        assert_eq!(answer.response_code(), ResponseCode::Success, "{:?}", answer.remark);
        let header = RouteInfoRequest { topic, ..RouteInfoRequest::default() };
        loop {
            let answer = ask(&self.name_server, RequestCode::GetRouteinfoByTopic, &header).await;
            if answer.response_code() == ResponseCode::Success {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts `command` of a program; the name server's address is its first word.
    pub fn start(&self, foreign: &Foreign, command: &str, words: &[&str]) -> Program {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let home = self.scratch.path().join(format!("home-{number}"));
        std::fs::create_dir(&home).expect("a home folder");
        let mut process = Command::new(&foreign.program);
        process.args(&foreign.arguments).arg(command).arg(&self.name_server).args(words);
        // Clients keep logs, and progress of their own, in the home folder.
        process.env("HOME", &home).env("ROCKETMQ_GO_LOG_LEVEL", "error").current_dir(&home);
        Program::start(&mut process, self.scratch.path().join(format!("{command}-{number}.log")))
    }

    /// Runs a command to its end and returns what it has printed.
    pub fn run(&self, foreign: &Foreign, command: &str, words: &[&str]) -> Vec<String> {
        self.start(foreign, command, words).finish(PATIENCE)
    }

    /// Starts a listener: a command that prints `STARTED`, and then what it gets.
    pub fn listen(&self, foreign: &Foreign, command: &str, words: &[&str]) -> Listener {
        let mut program = self.start(foreign, command, words);
        let is_started = |lines: &[String]| lines.iter().any(|line| line == "STARTED");
        program.wait_until("a listener starts", PATIENCE, is_started);
        Listener { program }
    }

    /// Starts a command that prints, and runs until it is told to stop.
    pub fn command(&self, foreign: &Foreign, command: &str, words: &[&str]) -> Listener {
        Listener { program: self.start(foreign, command, words) }
    }

    /// Sends `probe` messages to a topic until all listeners have got one: then they have queues,
    /// and get what comes from now on.
    ///
    /// # Panics
    /// When one gets none.
    pub async fn warm(&self, producer: &Producer, topic: &str, listeners: &mut [&mut Listener]) {
        for number in 0.. {
            assert!(number < 600, "a listener gets nothing");
            producer.send(message(topic, "probe", number)).await.expect("a probe");
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut all = listeners.iter_mut();
            if all.all(|listener| listener.so_far().iter().any(|got| got.is_of("probe"))) {
                return;
            }
        }
    }
}

/// Two listeners of one group that is broadcasting both get all that our client sends. `check`
/// compares as much as the program's client tells.
///
/// # Panics
/// When one does not.
pub async fn every_broadcast_listener_gets_all(foreign: &Foreign, check: fn(&[Sent], &[Got])) {
    const COUNT: usize = 20;
    let site = Site::open(&[]);
    let client = site.client().await;
    let topic = site.topic("broadcast").await;
    let words = [&*unique("broadcast"), &topic, "*", "broadcast"];
    let mut one = site.listen(foreign, "listen", &words);
    let mut other = site.listen(foreign, "listen", &words);
    let producer = client.producer("p");
    site.warm(&producer, &topic, &mut [&mut one, &mut other]).await;
    let from_rust = send(&producer, &topic, "rust", COUNT).await;
    check(&from_rust, &one.given("rust", COUNT));
    check(&from_rust, &other.given("rust", COUNT));
    client.shutdown().await;
}

/// A message that was delayed by 5 s, and has the time of its sending in its body, came no sooner.
///
/// # Panics
/// When it did.
pub fn check_delay(delayed: &[Sent], arrived: &[Got]) {
    let began_ms: i64 = delayed[0].body.rsplit(' ').next().expect("a time").parse().expect("ms");
    assert!(arrived[0].at_ms >= began_ms + 5_000, "{delayed:?} {arrived:?}");
}

/// One question to one server.
async fn ask<'a>(address: &str, code: RequestCode, header: &impl Header<'a>) -> Frame {
    let (inbound, _none) = tokio::sync::mpsc::channel(8);
    let options = RemoteOptions::default();
    let remote = Remote::connect(address, &options, inbound).await.expect("a server answers");
    remote.call(Frame::with(code, header), DEADLINE).await.expect("an answer")
}

/// A program that prints what it gets.
#[derive(Debug)]
pub struct Listener {
    program: Program,
}

impl Listener {
    /// Waits until `count` messages of `who` have come, and returns all of `who`.
    ///
    /// # Panics
    /// When they do not come.
    pub fn given(&mut self, who: &str, count: usize) -> Vec<Got> {
        let of_who = |lines: &[String]| all_of(lines, who);
        let what = format!("{count} messages of {who}");
        self.program.wait_until(&what, PATIENCE, |lines| of_who(lines).len() >= count);
        of_who(&self.program.seen)
    }

    /// As [`given`](Self::given), of a listener among several that begins its lines with its name.
    pub fn given_to(&mut self, name: &str, who: &str, count: usize) -> Vec<Got> {
        let of_who = |lines: &[String]| all_of(&of_listener(lines, name), who);
        let what = format!("{count} messages of {who} for {name}");
        self.program.wait_until(&what, PATIENCE, |lines| of_who(lines).len() >= count);
        of_who(&self.program.seen)
    }

    /// Waits until a listener among several has got `count` messages, and returns all of them.
    ///
    /// # Panics
    /// When they do not come.
    pub fn all_to(&mut self, name: &str, count: usize) -> Vec<Got> {
        let all = |lines: &[String]| got(&of_listener(lines, name));
        let what = format!("{count} messages for {name}");
        self.program.wait_until(&what, PATIENCE, |lines| all(lines).len() >= count);
        all(&self.program.seen)
    }

    /// Waits until a line begins with `start`, `count` times; returns those lines.
    pub fn lines(&mut self, start: &str, count: usize) -> Vec<String> {
        let begin = |lines: &[String]| {
            let lines = lines.iter().filter(|line| line.starts_with(start));
            lines.cloned().collect::<Vec<_>>()
        };
        self.program.wait_until(start, PATIENCE, |lines| begin(lines).len() >= count);
        begin(&self.program.seen)
    }

    /// Waits until `done` holds for all lines so far.
    pub fn until(&mut self, what: &str, done: impl Fn(&[String]) -> bool) {
        self.program.wait_until(what, PATIENCE, done);
    }

    /// What has come so far.
    pub fn so_far(&mut self) -> Vec<Got> {
        self.program.read_more();
        got(&self.program.seen)
    }
}

/// The lines of one listener among several, without its name.
#[must_use]
pub fn of_listener(lines: &[String], name: &str) -> Vec<String> {
    let own = |line: &String| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
    lines.iter().filter_map(own).collect()
}

fn all_of(lines: &[String], who: &str) -> Vec<Got> {
    got(lines).into_iter().filter(|got| got.is_of(who)).collect()
}

/// What is in a message, as its sender meant it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    /// The tag.
    pub tags: String,
    /// The key.
    pub keys: String,
    /// A property.
    pub number: String,
    /// The body, or the length and checksum of a long one.
    pub body: String,
}

impl Content {
    /// Message `number` of `who`, as all programs make it.
    #[must_use]
    pub fn of(who: &str, number: usize) -> Self {
        Self {
            tags: ["TagA", "TagB"][number % 2].to_owned(),
            keys: format!("{who}-{number}"),
            number: number.to_string(),
            body: format!("{who} {number}"),
        }
    }

    /// The first `count` messages of `who`, sorted.
    #[must_use]
    pub fn all(who: &str, count: usize) -> Vec<Self> {
        sorted((0..count).map(|number| Self::of(who, number)))
    }
}

/// A message as a receiver has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The topic it was sent to.
    pub topic: String,
    /// Its id, of either kind.
    pub id: String,
    /// Its queue.
    pub queue_id: i32,
    /// Its place in the queue.
    pub queue_offset: i64,
    /// How often it was consumed in vain.
    pub times: i32,
    /// When it came.
    pub at_ms: i64,
    /// What is in it.
    pub content: Content,
}

impl Got {
    /// Of `GOT topic id queue offset times at_ms tags keys number body`.
    fn read(line: &str) -> Self {
        let words: Vec<&str> = line.splitn(11, ' ').collect();
        let ["GOT", topic, id, queue, offset, times, at_ms, tags, keys, number, body] = words[..]
        else {
            panic!("{line}")
        };
        Self {
            topic: topic.to_owned(),
            id: id.to_owned(),
            queue_id: queue.parse().expect("a queue id"),
            queue_offset: offset.parse().expect("a queue offset"),
            times: times.parse().expect("how often"),
            at_ms: at_ms.parse().expect("a time"),
            content: Content {
                tags: tags.to_owned(),
                keys: keys.to_owned(),
                number: number.to_owned(),
                body: body.to_owned(),
            },
        }
    }

    /// Has `who` sent it?
    #[must_use]
    pub fn is_of(&self, who: &str) -> bool {
        self.content.keys.rsplit_once('-').is_some_and(|(sender, _)| sender == who)
    }
}

impl From<&Delivery> for Got {
    fn from(delivery: &Delivery) -> Self {
        let text = |name| delivery.property(name).unwrap_or("-").to_owned();
        Self {
            topic: delivery.topic().to_owned(),
            id: delivery.msg_id(),
            queue_id: delivery.queue.queue_id,
            queue_offset: delivery.queue_offset,
            times: delivery.reconsume_times,
            at_ms: 0,
            content: Content {
                tags: delivery.tags().unwrap_or("-").to_owned(),
                keys: delivery.keys().collect::<Vec<_>>().join(" "),
                number: text("number"),
                body: shown(&delivery.body),
            },
        }
    }
}

/// All messages that lines tell of.
#[must_use]
pub fn got(lines: &[String]) -> Vec<Got> {
    lines.iter().filter(|line| line.starts_with("GOT ")).map(|line| Got::read(line)).collect()
}

/// What is in messages, sorted.
#[must_use]
pub fn contents(got: &[Got]) -> Vec<Content> {
    sorted(got.iter().map(|got| got.content.clone()))
}

/// A message as its sender was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its id, if the answer had one.
    pub id: String,
    /// Its queue, if the client tells.
    pub queue_id: Option<i32>,
    /// Its place in the queue.
    pub queue_offset: i64,
    /// Its body, or what the program wants to say of it.
    pub body: String,
}

/// All messages that were stored: `SENT status id queue offset body`.
///
/// # Panics
/// When a status is not that of success.
#[must_use]
pub fn sent(lines: &[String]) -> Vec<Sent> {
    let lines = lines.iter().filter(|line| line.starts_with("SENT "));
    let read = |line: &String| {
        let words: Vec<&str> = line.splitn(6, ' ').collect();
        let ["SENT", "SEND_OK" | "OK", id, queue, offset, body] = words[..] else {
            panic!("{line}")
        };
        Sent {
            id: id.to_owned(),
            queue_id: queue.parse().ok(),
            queue_offset: offset.parse().expect("a queue offset"),
            body: body.to_owned(),
        }
    };
    lines.map(read).collect()
}

/// Every message that was sent was received once, where its sender was told it lies.
///
/// # Panics
/// When one was not.
pub fn check_places(sent: &[Sent], got: &[Got]) {
    let mut by_body: BTreeMap<&str, Vec<&Got>> = BTreeMap::new();
    for one in got {
        by_body.entry(&one.content.body).or_default().push(one);
    }
    assert_eq!(sent.len(), got.len());
    for one in sent {
        let [found] = by_body.get(&*one.body).map_or(&[][..], Vec::as_slice) else {
            panic!("{one:?}: {:?}", by_body.get(&*one.body))
        };
        assert_eq!(one.queue_offset, found.queue_offset, "{one:?} {found:?}");
        assert!(one.queue_id.is_none_or(|id| id == found.queue_id), "{one:?} {found:?}");
    }
}

/// As [`check_places`], and both name the message alike.
///
/// # Panics
/// When they do not.
pub fn check_sent(sent: &[Sent], got: &[Got]) {
    check_places(sent, got);
    let ids_sent = sorted(sent.iter().map(|one| (&one.body, one.id.to_uppercase())));
    let ids_got = sorted(got.iter().map(|one| (&one.content.body, one.id.to_uppercase())));
    assert_eq!(ids_sent, ids_got);
}

/// Message `number` of `who`, from our client.
///
/// # Panics
/// When it is no legal message.
#[must_use]
pub fn message(topic: &str, who: &str, number: usize) -> Outgoing {
    let content = Content::of(who, number);
    let message = Outgoing::new(topic, content.body).tag(&content.tags).key(&content.keys);
    message.property("number", &content.number).expect("a legal property")
}

/// Sends the first `count` messages of `who`.
///
/// # Panics
/// When one is not stored.
pub async fn send(producer: &Producer, topic: &str, who: &str, count: usize) -> Vec<Sent> {
    let mut all = Vec::with_capacity(count);
    for number in 0..count {
        let receipt = producer.send(message(topic, who, number)).await.expect("a send");
        all.push(Sent {
            id: receipt.msg_id,
            queue_id: Some(receipt.queue.queue_id),
            queue_offset: receipt.queue_offset,
            body: Content::of(who, number).body,
        });
    }
    all
}

/// A body as the programs print it: a long one by its length and checksum.
fn shown(body: &[u8]) -> String {
    if body.len() <= 100 {
        return String::from_utf8_lossy(body).into_owned();
    }
    format!("{}/{:08x}", body.len(), crc32(body))
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// All in order.
#[must_use]
pub fn sorted<T: Ord>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.into_iter().collect();
    all.sort();
    all
}
