//! The unmodified admin tool of Apache RocketMQ 4.9.7 administers our broker: topics, groups,
//! progress, clients, messages, settings, statistics.
//!
//! The tool's driver is in `tests/interop/mqadmin`. With `MQ_NAME_SERVER` it administers that
//! cluster instead, which shows whether this test is right about RocketMQ.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mq_core::client::{Client, ClientOptions};
use mq_core::message::{Outgoing, SendReceipt};
use support::java::Java;
use support::program::MqDev;
use support::{Recorder, member};
use tempfile::TempDir;

const TOOL: &str = "4.9.7";
const QUEUES: usize = 4;

/// What is administered: a broker of its own, or the cluster that the environment names.
struct Site {
    name_server: String,
    broker: String,
    own: Option<MqDev>,
    java: Java,
    scratch: TempDir,
}

/// What the command lines printed, by command line.
struct Printed(BTreeMap<String, String>);

impl Printed {
    /// What a command printed, which was no failure.
    fn of(&self, command: &str) -> &str {
        let text = &self.0[command];
        assert!(!is_failure(text), "{command}\n{text}");
        text
    }

    /// The failure that a command reported.
    fn refusal(&self, command: &str) -> &str {
        let text = &self.0[command];
        assert!(is_failure(text), "{command}\n{text}");
        text
    }

    fn has(&self, command: &str, wanted: &[&str]) {
        let text = self.of(command);
        for wanted in wanted {
            assert!(text.contains(wanted), "{command} has no {wanted:?}\n{text}");
        }
    }

    /// The rows of a table that begin with `start`, as words.
    fn rows(&self, command: &str, start: &str) -> Vec<Vec<&str>> {
        let lines = self.of(command).lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.split_whitespace().collect()).collect()
    }
}

/// Whether a stack trace stands there.
fn is_failure(text: &str) -> bool {
    let of_java = |line: &str| line.starts_with("org.apache.") || line.starts_with("java.");
    text.lines().any(|line| of_java(line) && line.contains("Exception"))
}

impl Site {
    fn start() -> Option<Self> {
        if std::env::var("MQ_APACHE").is_ok_and(|version| version != TOOL) {
            println!("SKIPPED: the admin tool {TOOL} is for the servers of its release, and ours");
            return None;
        }
        let java = Java::with_admin_tool(TOOL)?;
        let scratch = TempDir::new().expect("a scratch folder");
        let told = std::env::var("MQ_NAME_SERVER").ok();
        let own = told.is_none().then(|| MqDev::start(&scratch.path().join("store")));
        let address = own.as_ref().map(|mq| mq.address.to_string());
        let name_server = told.or(address).unwrap_or_default();
        let mut site = Self { broker: String::new(), name_server, own, java, scratch };
        let list = site.run(&["clusterList"]);
        let row = &list.rows("clusterList", "DefaultCluster")[0];
        site.broker = row[3].to_owned();
        assert_eq!(row[1..3], ["broker-a", "0"]);
        Some(site)
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Runs command lines; `BROKER`, `NAMESRV` and `EXPORT` stand for what they are here, and what
    /// follows a `#` tells lines apart.
    fn run(&self, commands: &[&str]) -> Printed {
        let export = self.scratch().join("export").display().to_string();
        let line = |command: &&str| {
            let command = command.split(" #").next().unwrap_or_default();
            let line = command.replace("BROKER", &self.broker);
            line.replace("NAMESRV", &self.name_server).replace("EXPORT", &export)
        };
        let lines: Vec<String> = commands.iter().map(line).collect();
        let printed = self.java.administer(&self.name_server, self.scratch(), &lines);
        let commands = commands.iter().map(ToString::to_string);
        Printed(commands.zip(printed).collect())
    }

    async fn client(&self) -> Client {
        let name_servers = vec![self.name_server.clone()];
        let options = ClientOptions { name_servers, ..ClientOptions::default() };
        Client::connect(options).await.expect("a client")
    }

    /// Whether it is our own broker.
    fn is_ours(&self) -> bool {
        self.own.is_some()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_tool_of_rocketmq_administers_a_broker() {
    let Some(site) = Site::start() else { return };
    topics(&site);
    let client = site.client().await;
    let sent = send_ten(&client).await;
    let asleep = Recorder::new();
    let consumer = client.start_consumer(member("AdmSleeping", "AdmT"), asleep.clone());
    let consumer = consumer.await.expect("a consumer");
    asleep.given(10).await;
    consumer.shutdown(Duration::from_secs(10)).await;
    let producer = client.producer("AdmProducers");
    let more = producer.send_to(tagged("more", "k10"), &sent[1].queue);
    more.await.expect("the message is taken");
    let awake = Recorder::new();
    let running = client.start_consumer(member("AdmAwake", "AdmT"), awake.clone());
    let running = running.await.expect("a consumer");
    awake.given(11).await;
    groups(&site, client.id());
    messages(&site, &sent[1]);
    statistics(&site);
    settings(&site);
    running.shutdown(Duration::from_secs(10)).await;
    removal(&site);
    // Made anew, it has nothing of the topic that was there.
    let again = producer.send_to(tagged("again", "k"), &sent[0].queue).await;
    assert_eq!(again.expect("the message is taken").queue_offset, 0);
}

fn tagged(body: &str, key: &str) -> Outgoing {
    Outgoing::new("AdmT", body.to_owned()).tag("tagA").key(key)
}

/// Ten messages, `m0` to `m9`: an offset in every queue, then another.
async fn send_ten(client: &Client) -> Vec<SendReceipt> {
    let producer = client.producer("AdmProducers");
    let queues = producer.queues("AdmT").await.expect("the topic has queues");
    let mut sent = Vec::new();
    for n in 0..10 {
        let message = tagged(&format!("m{n}"), &format!("k{n}"));
        let receipt = producer.send_to(message, &queues[n % QUEUES]).await;
        sent.push(receipt.expect("the message is taken"));
    }
    sent
}

fn topics(site: &Site) {
    let printed = site.run(&[
        "updateTopic -c DefaultCluster -t AdmT -r 4 -w 4",
        "updateTopic -b BROKER -t AdmO -r 2 -w 2 -o true",
        "topicList",
        "topicList -c",
        "topicClusterList -t AdmT",
        "topicRoute -t AdmO",
        "updateTopicPerm -c DefaultCluster -t AdmO -p 4",
        "topicRoute -t AdmO #2",
        "updateTopicPerm -b BROKER -t AdmO -p 6",
        "updateOrderConf -m put -t AdmO -v broker-a:3",
        "updateOrderConf -m get -t AdmO",
        "updateOrderConf -m delete -t AdmO",
        "updateOrderConf -m get -t AdmO #2",
        "wipeWritePerm -b broker-a -n NAMESRV",
        "topicRoute -t AdmO #3",
        "addWritePerm -b broker-a -n NAMESRV",
        "topicRoute -t AdmO #4",
        "updateTopic -b BROKER -t SELF_TEST_TOPIC -r 4 -w 4",
        "updateTopic -b BROKER -t no/topic -r 4 -w 4",
        "allocateMQ -t AdmT -i 10.0.0.1,10.0.0.2",
    ]);
    let made = "readQueueNums=4, writeQueueNums=4, perm=RW-, topicFilterType=SINGLE_TAG";
    printed.has("updateTopic -c DefaultCluster -t AdmT -r 4 -w 4", &["success", made]);
    printed.has("topicList", &["AdmT\n", "AdmO\n", "TBW102\n", "DefaultCluster\n"]);
    let with_cluster = printed.rows("topicList -c", "DefaultCluster");
    assert!(with_cluster.contains(&vec!["DefaultCluster", "AdmT"]));
    printed.has("topicClusterList -t AdmT", &["DefaultCluster"]);
    let two = ["\"readQueueNums\":2", "\"writeQueueNums\":2", "\"brokerName\":\"broker-a\""];
    printed.has("topicRoute -t AdmO", &two);
    printed.has("topicRoute -t AdmO", &["\"perm\":6", &format!("0:\"{}\"", site.broker)]);
    let narrowed = "update topic perm from 6 to 4";
    printed.has("updateTopicPerm -c DefaultCluster -t AdmO -p 4", &[narrowed]);
    printed.has("topicRoute -t AdmO #2", &["\"perm\":4"]);
    printed.has("updateTopicPerm -b BROKER -t AdmO -p 6", &["from 4 to 6"]);
    printed.has("updateOrderConf -m get -t AdmO", &["orderConf=[broker-a:3]"]);
    assert!(printed.refusal("updateOrderConf -m get -t AdmO #2").contains("CODE: 22"));
    printed.has("wipeWritePerm -b broker-a -n NAMESRV", &["OK"]);
    printed.has("topicRoute -t AdmO #3", &["\"perm\":4"]);
    printed.has("addWritePerm -b broker-a -n NAMESRV", &["OK"]);
    printed.has("topicRoute -t AdmO #4", &["\"perm\":6"]);
    printed.refusal("updateTopic -b BROKER -t SELF_TEST_TOPIC -r 4 -w 4");
    printed.refusal("updateTopic -b BROKER -t no/topic -r 4 -w 4");
    let allocated = printed.of("allocateMQ -t AdmT -i 10.0.0.1,10.0.0.2");
    assert_eq!(allocated.matches("\"topic\":\"AdmT\"").count(), QUEUES, "{allocated}");
}

fn groups(site: &Site, client_id: &str) {
    let printed = site.run(&[
        "topicStatus -t AdmT",
        "updateSubGroup -c DefaultCluster -g AdmMade -r 3",
        "getConsumerConfig -g AdmMade",
        "consumerProgress -g AdmSleeping",
        "consumerProgress",
        "consumerConnection -g AdmAwake",
        "consumerConnection -g AdmSleeping",
        "producerConnection -g AdmProducers -t AdmT",
        "producerConnection -g nobody -t AdmT",
        "producer -b BROKER",
        "brokerConsumeStats -b BROKER",
        "cloneGroupOffset -s AdmSleeping -d AdmClone -t AdmT",
        "topicList -c",
        "consumerStatus -g AdmAwake",
        "resetOffsetByTime -g AdmSleeping -t AdmT -s 0",
        "consumerProgress -g AdmSleeping #2",
        "skipAccumulatedMessage -g AdmSleeping -t AdmT",
        "consumerProgress -g AdmSleeping #3",
    ]);
    let queues = printed.rows("topicStatus -t AdmT", "broker-a");
    let ends: Vec<_> = queues.iter().map(|row| row[1..4].join(" ")).collect();
    assert_eq!(ends, ["0 0 3", "1 0 4", "2 0 2", "3 0 2"]);
    printed.has("updateSubGroup -c DefaultCluster -g AdmMade -r 3", &["retryMaxTimes=3"]);
    let config = printed.rows("getConsumerConfig -g AdmMade", "retryMaxTimes");
    assert_eq!(config[0][2], "3");
    let progress = printed.rows("consumerProgress -g AdmSleeping", "AdmT");
    let lags: Vec<_> = progress.iter().map(|row| [row[2], row[3], row[4]].join(" ")).collect();
    assert_eq!(lags, ["0 3 3", "1 4 3", "2 2 2", "3 2 2"]);
    printed.has("consumerProgress -g AdmSleeping", &["Diff Total: 1"]);
    let all = printed.rows("consumerProgress", "AdmSleeping");
    assert_eq!((all[0][1], all[0][2], all[0][4]), ("0", "OFFLINE", "1"));
    let awake = &printed.rows("consumerProgress", "AdmAwake")[0];
    assert_eq!((awake[1], awake[3], awake[4]), ("1", "PUSH", "CLUSTERING"));
    printed.has("consumerConnection -g AdmAwake", &[client_id]);
    let subscribed = printed.rows("consumerConnection -g AdmAwake", "AdmT");
    assert_eq!(subscribed, [["AdmT", "*"]]);
    printed.has("consumerConnection -g AdmAwake", &["CONSUME_PASSIVELY", "CLUSTERING"]);
    assert!(printed.refusal("consumerConnection -g AdmSleeping").contains("CODE: 206"));
    printed.has("producerConnection -g AdmProducers -t AdmT", &[client_id]);
    assert!(printed.refusal("producerConnection -g nobody -t AdmT").contains("CODE: 1 "));
    printed.has("producer -b BROKER", &["producer group (AdmProducers)", client_id]);
    let stats = printed.rows("brokerConsumeStats -b BROKER", "AdmT");
    let behind = stats.iter().find(|row| row[1] == "AdmSleeping" && row[3] == "1");
    assert_eq!(behind.expect("the group has progress")[4..7], ["4", "3", "1"]);
    printed.has("cloneGroupOffset -s AdmSleeping -d AdmClone -t AdmT", &["success"]);
    let consumers = printed.rows("topicList -c", "DefaultCluster");
    assert!(consumers.contains(&vec!["DefaultCluster", "AdmT", "AdmClone"]), "{consumers:?}");
    printed.has("consumerStatus -g AdmAwake", &[client_id]);
    printed.of("resetOffsetByTime -g AdmSleeping -t AdmT -s 0");
    printed.has("consumerProgress -g AdmSleeping #2", &["Diff Total: 11"]);
    printed.of("skipAccumulatedMessage -g AdmSleeping -t AdmT");
    printed.has("consumerProgress -g AdmSleeping #3", &["Diff Total: 0"]);
}

/// `sent` is `m1`, the first of queue 1.
fn messages(site: &Site, sent: &SendReceipt) {
    let by_id = format!("queryMsgById -i {}", sent.offset_msg_id);
    let by_unique = format!("queryMsgByUniqueKey -t AdmT -i {}", sent.msg_id);
    let printed = site.run(&[
        &by_id,
        &by_unique,
        "queryMsgByKey -t AdmT -k k1",
        "queryMsgByOffset -t AdmT -b broker-a -i 1 -o 1",
        "printMsg -t AdmT -d true",
        "printMsgByQueue -t AdmT -a broker-a -i 1 -p true -d true -f true",
        "queryCq -t AdmT -q 1 -i 1 -c 2 -b BROKER",
        "sendMessage -t AdmT -p fromTool -k toolKey -c tagB -b broker-a -i 2",
        "consumeMessage -t AdmT -g AdmTool -b broker-a -i 2 -o 2 -c 1",
        "checkMsgSendRT -t AdmO -a 3 -s 10",
        "sendMsgStatus -b broker-a -c 3 -s 10",
    ]);
    for command in [&by_id, &by_unique] {
        printed.has(command, &["Topic:               AdmT", "Tags:                [tagA]"]);
        printed.has(command, &["Queue ID:            1", "Queue Offset:        0", "[k1]"]);
    }
    let found = &printed.rows("queryMsgByKey -t AdmT -k k1", &sent.msg_id)[0];
    assert_eq!(found[1..], ["1", "0"]);
    let second = "queryMsgByOffset -t AdmT -b broker-a -i 1 -o 1";
    printed.has(second, &["Keys:                [k5]", "Queue Offset:        1"]);
    let all = printed.of("printMsg -t AdmT -d true");
    assert_eq!(all.matches("MSGID: ").count(), 11, "{all}");
    for body in (0..10).map(|n| format!("BODY: m{n}\n")) {
        assert!(format!("{all}\n").contains(&body), "{body}{all}");
    }
    let queue = printed.of("printMsgByQueue -t AdmT -a broker-a -i 1 -p true -d true -f true");
    let order: Vec<_> = ["m1", "m5", "m9", "more"].map(|body| queue.find(body)).into();
    assert!(order.is_sorted() && order[0].is_some(), "{queue}");
    printed.has("queryCq -t AdmT -q 1 -i 1 -c 2 -b BROKER", &["max: 4, min: 0", "idx: 2"]);
    let send = "sendMessage -t AdmT -p fromTool -k toolKey -c tagB -b broker-a -i 2";
    assert_eq!(printed.rows(send, "broker-a")[0][1..3], ["2", "SEND_OK"]);
    let consume = "consumeMessage -t AdmT -g AdmTool -b broker-a -i 2 -o 2 -c 1";
    printed.has(consume, &["Consume ok", "queueOffset=2", "KEYS=toolKey", "TAGS=tagB"]);
    let sends = printed.rows("checkMsgSendRT -t AdmO -a 3 -s 10", "broker-a");
    assert_eq!(sends.iter().filter(|row| row[2] == "true").count(), 3);
    let status = printed.of("sendMsgStatus -b broker-a -c 3 -s 10");
    assert_eq!(status.matches("sendStatus=SEND_OK").count(), 3, "{status}");
}

fn statistics(site: &Site) {
    let printed = site.run(&[
        "clusterList -m",
        "brokerStatus -b BROKER",
        "statsAll -t AdmT",
        "exportMetadata -c DefaultCluster -f EXPORT",
        "exportConfigs -c DefaultCluster -f EXPORT",
        "exportMetrics -c DefaultCluster -f EXPORT",
        "cleanExpiredCQ -b BROKER",
        "cleanUnusedTopic -b BROKER",
        "deleteExpiredCommitLog -b BROKER",
        "topicStatus -t AdmT",
    ]);
    assert_eq!(printed.rows("clusterList -m", "DefaultCluster")[0][1], "broker-a");
    let status = "brokerStatus -b BROKER";
    for key in ["brokerVersionDesc", "putTps", "getTransferedTps", "commitLogMaxOffset"] {
        assert!(!printed.rows(status, key).is_empty(), "{key}");
    }
    let awake = printed.rows("statsAll -t AdmT", "AdmT");
    let awake = awake.iter().find(|row| row[1] == "AdmAwake").expect("the group consumes");
    if site.is_ours() {
        // RocketMQ has looked at its counters once only, and knows no difference yet.
        // How far the group is was told within the last second.
        assert!(awake[2].parse::<u32>().is_ok_and(|behind| behind < 12), "{awake:?}");
        assert_eq!(awake[5], "12", "{awake:?}");
        assert!(awake[6].parse::<u32>().is_ok_and(|taken| taken >= 11), "{awake:?}");
    }
    let read = |file: &str| {
        let path = site.scratch().join("export").join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    };
    printed.of("exportMetadata -c DefaultCluster -f EXPORT");
    let metadata = read("metadata.json");
    assert!(metadata.contains("AdmT") && metadata.contains("AdmMade"), "{metadata}");
    printed.of("exportConfigs -c DefaultCluster -f EXPORT");
    assert!(read("configs.json").contains("maxMessageSize"));
    printed.of("exportMetrics -c DefaultCluster -f EXPORT");
    assert!(read("metrics.json").contains("normalInTps"));
    for command in ["cleanExpiredCQ", "cleanUnusedTopic", "deleteExpiredCommitLog"] {
        printed.has(&format!("{command} -b BROKER"), &["success"]);
    }
    assert_eq!(printed.rows("topicStatus -t AdmT", "broker-a").len(), QUEUES);
}

fn settings(site: &Site) {
    let printed = site.run(&[
        "updateBrokerConfig -b BROKER -k flushConsumerOffsetInterval -v 4000",
        "getBrokerConfig -b BROKER",
        "getNamesrvConfig -n NAMESRV",
        "updateNamesrvConfig -n NAMESRV -k orderMessageEnable -v true",
        "updateOrderConf -m put -t AdmO -v broker-a:2",
        "topicRoute -t AdmO",
        "updateNamesrvConfig -n NAMESRV -k orderMessageEnable -v false",
        "updateOrderConf -m delete -t AdmO",
        "updateKvConfig -s AdmNames -k key -v value",
        "deleteKvConfig -s AdmNames -k key",
    ]);
    printed
        .has("updateBrokerConfig -b BROKER -k flushConsumerOffsetInterval -v 4000", &["success"]);
    let interval = printed.rows("getBrokerConfig -b BROKER", "flushConsumerOffsetInterval ");
    assert_eq!(interval[0][2], "4000");
    let order = printed.rows("getNamesrvConfig -n NAMESRV", "orderMessageEnable");
    assert_eq!(order[0][2], "false");
    printed.has("topicRoute -t AdmO", &["\"orderTopicConf\":\"broker-a:2\""]);
    printed.has("updateKvConfig -s AdmNames -k key -v value", &["success"]);
    printed.has("deleteKvConfig -s AdmNames -k key", &["success"]);
    if site.is_ours() {
        refused_settings(site);
    }
}

/// RocketMQ takes any of these, which is how it was taken over.
fn refused_settings(site: &Site) {
    let commands = [
        "updateBrokerConfig -b BROKER -k storePathRootDir -v /tmp/elsewhere",
        "updateBrokerConfig -b BROKER -k rocketmqHome -v /tmp/elsewhere",
        "updateBrokerConfig -b BROKER -k namesrvAddr -v 10.0.0.1:9876",
        "updateNamesrvConfig -n NAMESRV -k kvConfigPath -v /tmp/elsewhere",
    ];
    let bad_value = "updateBrokerConfig -b BROKER -k maxMessageSize -v 1";
    let mut all = commands.to_vec();
    all.push(bad_value);
    let printed = site.run(&all);
    for command in commands {
        let refusal = printed.refusal(command);
        assert!(refusal.contains("CODE: 16"), "{refusal}");
        assert!(refusal.contains("cannot be changed while the server runs"), "{refusal}");
    }
    assert!(printed.refusal(bad_value).contains("accepts a whole number from 1024"));
}

fn removal(site: &Site) {
    let printed = site.run(&[
        "deleteSubGroup -c DefaultCluster -g AdmSleeping -r true",
        "deleteTopic -c DefaultCluster -t AdmT",
        "deleteTopic -c DefaultCluster -t AdmO",
        "deleteTopic -c DefaultCluster -t SELF_TEST_TOPIC",
        "topicList",
        "topicStatus -t AdmT",
        "consumerProgress",
        "brokerConsumeStats -b BROKER",
    ]);
    printed.has("deleteSubGroup -c DefaultCluster -g AdmSleeping -r true", &["success"]);
    printed.has("deleteTopic -c DefaultCluster -t AdmT", &["success"]);
    printed.has("deleteTopic -c DefaultCluster -t AdmO", &["success"]);
    printed.refusal("deleteTopic -c DefaultCluster -t SELF_TEST_TOPIC");
    let left = printed.of("topicList");
    assert!(!left.contains("AdmT\n") && !left.contains("AdmO\n"), "{left}");
    assert!(left.contains("SELF_TEST_TOPIC"), "{left}");
    assert!(printed.refusal("topicStatus -t AdmT").contains("CODE: 17"));
    assert!(printed.rows("consumerProgress", "AdmSleeping").is_empty());
    assert!(printed.rows("brokerConsumeStats -b BROKER", "AdmT").is_empty());
}
