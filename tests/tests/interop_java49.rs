//! An unmodified Java program uses our broker beside our own client: everything that clients from
//! 4.9 on have, with the clients 4.9.8 and 5.5.0. The program is in `tests/interop/java49`.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use mq_core::client::{Client, Producer};
use support::foreign::{
    Content, Foreign, Got, Listener, Sent, Site, check_places, check_sent, contents, got, message,
    of_listener, send, sent,
};
use support::java::Java;
use support::{Recorder, eventually, member, unique};

const COUNT: usize = 20;
/// The ways in which the program sends `COUNT` messages, with an answer for each.
const ANSWERED: [&str; 4] = ["sync", "async", "queue", "sharded"];
/// All that the program sends: six times `COUNT`, a long one, one after it, a delayed one.
const ALL: usize = COUNT * 6 + 3;

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_with_4_9_8() {
    everything_works("4.9.8").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_with_5_5_0() {
    everything_works("5.5.0").await;
}

/// One after the other: Java programs that start together on a small machine keep each other from
/// starting.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn everything_works(version: &str) {
    let _turn = TURN.lock().await;
    let Some(java) = Java::with_client(version) else { return };
    let java = java.interop();
    let site = Site::open(&["transactionTimeOut=1000", "transactionCheckInterval=1000"]);
    let client = site.client().await;
    let producer = client.producer("p");
    let topics = ["all", "deals", "failures", "requests"].map(unique);
    for topic in &topics {
        site.make_topic(topic).await;
    }
    let [topic, deals, failures, requests] = topics.each_ref().map(String::as_str);
    let mut listeners = listen(&site, &java, &[topic, deals, failures, requests]);
    for failure in ["later", "throw", "null"] {
        producer.send(message(failures, failure, 0)).await.expect("a send");
    }
    let mut transactions = site.command(&java, "transact", &[deals]);
    let lines = site.run(&java, "send", &[topic]);

    check_ways(&mut listeners, &lines, &taken_in_rust(&client, topic).await);
    check_bodies(&mut listeners, &lines);
    check_filters(&mut listeners);
    check_order(&listeners.all_to("orderly", ALL + 1));
    check_half(&mut listeners);
    assert_eq!(listeners.all_to("broadcast", ALL).len(), ALL);
    check_deals(&mut transactions, &mut listeners, deals);
    check_failures(&mut listeners);
    check_both_ways(&mut listeners, &producer, topic).await;
    check_replies(&site, &java, &mut listeners, requests);
    check_queries(&site, &java, topic, &sent(&lines));
    check_pulls(&site, &java, topic);
    check_trace(&client, &sent(&lines)).await;
    client.shutdown().await;
}

fn listen(site: &Site, java: &Foreign, topics: &[&str; 4]) -> Listener {
    let [topic, deals, failures, requests] = topics;
    let listener = |name: &str, mode: &str, topic: &str, expression: &str| {
        format!("{name},{mode},{},{topic},{expression}", unique(name))
    };
    let all = [
        listener("plain", "", topic, "*"),
        listener("tagged", "", topic, "TagB || TagC"),
        listener("sql", "sql", topic, "number > 15 AND TAGS = 'TagA'"),
        listener("orderly", "orderly", topic, "*"),
        listener("half", "half", topic, "*"),
        listener("broadcast", "broadcast", topic, "*"),
        listener("deals", "", deals, "*"),
        listener("failures", "", failures, "*"),
        listener("replies", "reply", requests, "*"),
    ];
    site.listen(java, "listen", &all.each_ref().map(String::as_str))
}

async fn taken_in_rust(client: &Client, topic: &str) -> Vec<Got> {
    let recorder = Recorder::new();
    let consumer = client.start_consumer(member(&unique("rust"), topic), recorder.clone()).await;
    let taken = recorder.given(ALL).await;
    consumer.expect("a consumer").shutdown(Duration::from_secs(5)).await;
    taken.iter().map(Got::from).collect()
}

/// Every way of sending, seen by Java and by Rust.
fn check_ways(listeners: &mut Listener, lines: &[String], in_rust: &[Got]) {
    assert_eq!(in_rust.len(), ALL);
    let told = sent(lines);
    for way in ANSWERED.into_iter().chain(["oneway", "batch"]) {
        let of_way = |got: &&Got| got.is_of(way);
        let in_rust: Vec<Got> = in_rust.iter().filter(of_way).cloned().collect();
        let in_java = listeners.given_to("plain", way, COUNT);
        assert_eq!(contents(&in_rust), Content::all(way, COUNT));
        assert_eq!(contents(&in_java), Content::all(way, COUNT));
        if ANSWERED.contains(&way) {
            let start = format!("{way} ");
            let told: Vec<Sent> =
                told.iter().filter(|one| one.body.starts_with(&start)).cloned().collect();
            check_sent(&told, &in_rust);
            check_sent(&told, &in_java);
        }
    }
    check_queues(&listeners.given_to("plain", "queue", COUNT), 4);
    check_queues(&listeners.given_to("plain", "sharded", COUNT), 3);
    let batch = told.iter().find(|one| one.body == "batch").expect("a batch was sent");
    let mut in_java = listeners.given_to("plain", "batch", COUNT);
    in_java.sort_by_key(|got| got.queue_offset);
    let ids: Vec<&str> = batch.id.split(',').collect();
    assert_eq!(ids, in_java.iter().map(|got| &*got.id).collect::<Vec<_>>());
    assert_eq!(batch.queue_offset, in_java[0].queue_offset);
}

/// Messages whose numbers have the same rest lie in the same queue.
fn check_queues(got: &[Got], rests: usize) {
    for rest in 0..rests {
        let number = |got: &Got| got.content.number.parse::<usize>().expect("a number");
        let of_rest = got.iter().filter(|got| number(got) % rests == rest);
        let queues: BTreeSet<i32> = of_rest.map(|got| got.queue_id).collect();
        assert_eq!(queues.len(), 1, "rest {rest}: {got:?}");
    }
}

/// A long body, one that is too long, the one after it, and a delayed message.
fn check_bodies(listeners: &mut Listener, lines: &[String]) {
    let told = sent(lines);
    let one = |start: &str| -> Vec<Sent> {
        told.iter().filter(|one| one.body.starts_with(start)).cloned().collect()
    };
    check_sent(&one("8000/"), &listeners.given_to("plain", "long", 1));
    assert!(lines.iter().any(|line| line == "REFUSED 13"), "{lines:?}");
    check_sent(&one("after "), &listeners.given_to("plain", "after", 1));
    let delayed = one("delayed ");
    let began_ms: i64 = delayed[0].body.rsplit(' ').next().expect("a time").parse().expect("ms");
    let arrived = listeners.given_to("plain", "delayed", 1);
    assert!(arrived[0].at_ms >= began_ms + 5_000, "{delayed:?} {arrived:?}");
}

fn check_filters(listeners: &mut Listener) {
    let tagged = listeners.all_to("tagged", COUNT * 3);
    assert_eq!(tagged.len(), COUNT * 3);
    assert!(tagged.iter().all(|got| got.content.tags == "TagB"));
    let by_sql = listeners.all_to("sql", 12);
    assert_eq!(by_sql.len(), 12);
    let wanted = |got: &Got| ["16", "18"].contains(&&*got.content.number);
    assert!(by_sql.iter().all(wanted), "{by_sql:?}");
}

/// The listener suspended its queue at `queue-5` once: it comes twice, and nothing overtakes.
fn check_order(got: &[Got]) {
    assert_eq!(got.len(), ALL + 1);
    for queue_id in 0..4 {
        let in_queue: Vec<&Got> = got.iter().filter(|got| got.queue_id == queue_id).collect();
        let again: Vec<&str> = in_queue
            .windows(2)
            .filter(|pair| pair[0].queue_offset == pair[1].queue_offset)
            .map(|pair| &*pair[0].content.keys)
            .collect();
        assert_eq!(again, if queue_id == 1 { vec!["queue-5"] } else { vec![] });
        let steps = |pair: &[&Got]| pair[1].queue_offset - pair[0].queue_offset;
        assert!(in_queue.windows(2).all(|pair| (0..=1).contains(&steps(pair))), "{in_queue:?}");
    }
}

/// Of each bundle the first message was acknowledged, and all others came once more.
fn check_half(listeners: &mut Listener) {
    let first_times = |got: &[Got]| got.iter().filter(|got| got.times == 0).count();
    listeners.until("all but the first of each bundle come again", |lines| {
        let all = got(&of_listener(lines, "half"));
        let bundles = lines.iter().filter(|line| line.starts_with("half TOOK ")).count();
        first_times(&all) == ALL && all.len() == ALL * 2 - bundles
    });
}

fn check_deals(transactions: &mut Listener, listeners: &mut Listener, topic: &str) {
    let told = sent(&transactions.lines("SENT ", 4));
    let checks = transactions.lines("CHECK ", 2);
    for (number, who) in [(2, "unknown-commit"), (3, "unknown-rollback")] {
        let about = format!("{topic} {} {who} {number}", told[number].id);
        assert!(checks.iter().any(|line| line.contains(&about)), "{about}: {checks:?}");
    }
    let committed = listeners.all_to("deals", 2);
    let wanted = [Content::of("commit", 0), Content::of("unknown-commit", 2)];
    assert_eq!(contents(&committed), wanted);
}

fn check_failures(listeners: &mut Listener) {
    for failure in ["later", "throw", "null"] {
        let tries = listeners.given_to("failures", failure, 2);
        let [first, second] = &tries[..] else { panic!("{tries:?}") };
        assert_eq!((first.times, second.times), (0, 1));
        assert_eq!(
            (&first.topic, &first.id, &first.content),
            (&second.topic, &second.id, &second.content)
        );
        // No later than the patience of the wait; how much later is the machine's affair.
        assert!(second.at_ms - first.at_ms >= 10_000, "{tries:?}");
    }
}

/// Three requests, each with its own reply.
fn check_replies(site: &Site, java: &Foreign, listeners: &mut Listener, topic: &str) {
    let answers = site.run(java, "request", &[topic]);
    let wanted = (0..3).map(|number| format!("ANSWER reply to request {number}"));
    assert_eq!(answers, wanted.collect::<Vec<_>>());
    assert_eq!(contents(&listeners.all_to("replies", 3)), Content::all("request", 3));
}

async fn check_both_ways(listeners: &mut Listener, producer: &Producer, topic: &str) {
    let from_rust = send(producer, topic, "rust", COUNT).await;
    check_sent(&from_rust, &listeners.given_to("plain", "rust", COUNT));
}

/// By its id, by its place's id, by its key: always the same message; and its queue's ends.
fn check_queries(site: &Site, java: &Foreign, topic: &str, told: &[Sent]) {
    let wanted = told.iter().find(|one| one.body == "sync 7").expect("it was sent");
    let queue_id = wanted.queue_id.expect("Java tells the queue").to_string();
    let lines = site.run(java, "query", &[topic, &wanted.id, "sync-7", &queue_id]);
    for way in ["unique", "offset", "key"] {
        let start = format!("{way} GOT ");
        let found: Vec<String> = lines
            .iter()
            .filter(|line| line.starts_with(&start))
            .filter_map(|line| line.split_once(' ').map(|(_, line)| line.to_owned()))
            .collect();
        assert_eq!(contents(&got(&found)), [Content::of("sync", 7)], "{way}: {lines:?}");
        check_places(std::slice::from_ref(wanted), &got(&found));
    }
    let ends = lines.iter().find_map(|line| line.strip_prefix("ENDS ")).expect("the ends");
    let ends: Vec<usize> = ends.split(' ').map(|end| end.parse().expect("an offset")).collect();
    assert_eq!((ends[0], ends[2]), (0, 0));
    assert!(ends[1] > COUNT, "{ends:?}");
}

fn check_pulls(site: &Site, java: &Foreign, topic: &str) {
    let count = ALL + COUNT;
    let lines = site.run(java, "pull", &[&unique("pull"), topic, &count.to_string()]);
    let pulled = lines.iter().filter(|line| line.starts_with("pull GOT ")).count();
    assert_eq!(pulled, count);
    assert!(lines.contains(&format!("COMMITTED {count}")), "{lines:?}");
}

/// The program's producer traces what it sends, in RocketMQ's own form.
async fn check_trace(client: &Client, told: &[Sent]) {
    let recorder = Recorder::new();
    let options = member(&unique("trace"), "RMQ_SYS_TRACE_TOPIC");
    let consumer = client.start_consumer(options, recorder.clone()).await.expect("a consumer");
    let mut wanted: BTreeSet<&str> =
        told.iter().filter(|one| one.body.starts_with("sync ")).map(|one| &*one.id).collect();
    eventually("every message is traced", || {
        for trace in recorder.seen() {
            let body = String::from_utf8_lossy(&trace.body).into_owned();
            for record in body.split('\u{2}').filter(|record| record.starts_with("Pub\u{1}")) {
                let id = record.split('\u{1}').nth(5).unwrap_or_default();
                wanted.remove(id);
            }
        }
        wanted.is_empty()
    })
    .await;
    consumer.shutdown(Duration::from_secs(5)).await;
}
