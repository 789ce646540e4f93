//! An unmodified Go program, with `github.com/apache/rocketmq-client-go/v2`, uses our broker beside
//! our own client. The program is in `tests/interop/go`.
#![forbid(unsafe_code)]

use std::time::Duration;

use support::foreign::{
    Content, Foreign, Got, Site, check_delay, check_places, check_sent, contents, got, send, sent,
};
use support::{Recorder, member, unique};

const COUNT: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways() {
    let Some(go) = Foreign::go() else { return };
    let site = Site::open(&[]);
    let client = site.client().await;
    let topic = site.topic("go").await;
    let mut all_in_go = site.listen(&go, "listen", &[&unique("all"), &topic, "*", ""]);
    let words = [&*unique("b"), &topic, "TagB", ""];
    let mut tag_b_in_go = site.listen(&go, "listen", &words);
    let in_rust = Recorder::new();
    let consumer = client.start_consumer(member(&unique("rust"), &topic), in_rust.clone()).await;
    let consumer = consumer.expect("a consumer");

    let ways = ["send", "async", "oneway", "batch", "queue", "sharded"];
    let run = |way: &&str| site.run(&go, way, &[&topic, way, "20"]);
    let told: Vec<_> = ways.iter().map(run).collect();
    let from_rust = send(&client.producer("p"), &topic, "rust", COUNT).await;

    let taken: Vec<Got> = in_rust.given(COUNT * 7).await.iter().map(Got::from).collect();
    for (way, lines) in ways.iter().zip(&told) {
        let in_rust: Vec<Got> = taken.iter().filter(|got| got.is_of(way)).cloned().collect();
        let in_go = all_in_go.given(way, COUNT);
        assert_eq!(contents(&in_rust), Content::all(way, COUNT));
        assert_eq!(contents(&in_go), Content::all(way, COUNT));
        // Nothing is told of one-way messages, and only the first offset of a batch.
        if !["oneway", "batch"].contains(way) {
            check_sent(&sent(lines), &in_rust);
            check_sent(&sent(lines), &in_go);
        }
        check_tag_b(&tag_b_in_go.given(way, COUNT / 2), way);
    }
    check_sent(&from_rust, &all_in_go.given("rust", COUNT));
    check_tag_b(&tag_b_in_go.given("rust", COUNT / 2), "rust");
    check_queues(&all_in_go.given("queue", COUNT), 4);
    check_queues(&all_in_go.given("sharded", COUNT), 3);
    check_batch(&sent(&told[3]), &all_in_go.given("batch", COUNT));
    check_pulls(&site, &go, &topic, &from_rust);
    consumer.shutdown(Duration::from_secs(5)).await;
    client.shutdown().await;
}

fn check_tag_b(got: &[Got], who: &str) {
    let mut wanted = Content::all(who, COUNT);
    wanted.retain(|content| content.tags == "TagB");
    assert_eq!(contents(got), wanted);
}

/// Messages whose numbers have the same rest lie in the same queue.
fn check_queues(got: &[Got], rests: usize) {
    for rest in 0..rests {
        let number = |got: &Got| got.content.number.parse::<usize>().expect("a number");
        let mut queues: Vec<i32> =
            got.iter().filter(|got| number(got) % rests == rest).map(|got| got.queue_id).collect();
        queues.dedup();
        assert_eq!(queues.len(), 1, "rest {rest}: {got:?}");
    }
}

/// A batch lies in one queue, in its order, from the offset that its sender was told.
fn check_batch(told: &[support::foreign::Sent], got: &[Got]) {
    let mut got = got.to_vec();
    got.sort_by_key(|got| got.queue_offset);
    for (number, got) in got.iter().enumerate() {
        assert_eq!(got.content, Content::of("batch", number));
        assert_eq!(Some(got.queue_id), told[0].queue_id);
        assert_eq!(got.queue_offset - told[0].queue_offset, i64::try_from(number).unwrap_or(-1));
    }
}

/// Two kinds of pulling: by offsets of one's own, and by assigned queues from a time on.
fn check_pulls(site: &Site, go: &Foreign, topic: &str, from_rust: &[support::foreign::Sent]) {
    let of_rust = |lines: &[String]| -> Vec<Got> {
        got(lines).into_iter().filter(|got| got.is_of("rust")).collect()
    };
    let pulled = site.run(go, "pull", &[&unique("pull"), topic, "*"]);
    assert_eq!(got(&pulled).len(), COUNT * 7);
    check_places(from_rust, &of_rust(&pulled));
    let tagged = site.run(go, "pull", &[&unique("pull"), topic, "TagB"]);
    assert_eq!(got(&tagged).len(), COUNT * 7 / 2);
    let polled = site.run(go, "poll", &[&unique("poll"), topic, "140"]);
    assert_eq!(got(&polled).len(), COUNT * 7);
    check_places(from_rust, &of_rust(&polled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_fails_gets_its_message_again_after_10_seconds() {
    let Some(go) = Foreign::go() else { return };
    let site = Site::open(&[]);
    let topic = site.topic("retry").await;
    let mut listener = site.listen(&go, "listen", &[&unique("retry"), &topic, "*", ""]);
    for failure in ["later", "throw"] {
        site.run(&go, "send", &[&topic, failure, "1"]);
    }
    for failure in ["later", "throw"] {
        let [first, second] = &listener.given(failure, 2)[..] else { panic!("{failure}") };
        assert_eq!((first.times, second.times), (0, 1));
        assert_eq!((&first.topic, &second.topic), (&topic, &topic));
        assert_eq!((&first.id, &first.content), (&second.id, &second.content));
        // No later than the patience of the wait; how much later is the machine's affair.
        assert!(second.at_ms - first.at_ms >= 10_000, "{first:?} {second:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_and_long_messages_arrive_and_too_long_ones_are_refused() {
    let Some(go) = Foreign::go() else { return };
    let site = Site::open(&[]);
    let topic = site.topic("bodies").await;
    let mut listener = site.listen(&go, "listen", &[&unique("bodies"), &topic, "*", ""]);

    let lines = site.run(&go, "body", &[&topic, "long", "8000"]);
    let mut arrived = listener.given("long", 1);
    arrived.extend(listener.given("long-after", 1));
    check_sent(&sent(&lines), &arrived);

    let lines = site.run(&go, "body", &[&topic, "huge", "6000000"]);
    assert!(lines[0].starts_with("REFUSED CODE: 13"), "{lines:?}");
    check_sent(&sent(&lines), &listener.given("huge-after", 1));

    let delayed = sent(&site.run(&go, "delayed", &[&topic, "delayed", "2"]));
    check_delay(&delayed, &listener.given("delayed", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broadcast_listener_gets_all() {
    let Some(go) = Foreign::go() else { return };
    support::foreign::every_broadcast_listener_gets_all(&go, check_sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_a_prefix() {
    let Some(go) = Foreign::go() else { return };
    let site = Site::open(&[]);
    let client = site.client().await;
    let topic = unique("named");
    let full = format!("space%{topic}");
    site.make_topic(&full).await;
    let words = [&*unique("named"), &topic, "*", "namespaced"];
    let mut listener = site.listen(&go, "listen", &words);
    let lines = site.run(&go, "namespaced", &[&topic, "named", "4"]);
    check_sent(&sent(&lines), &listener.given("named", 4));
    let in_rust = Recorder::new();
    let consumer = client.start_consumer(member(&unique("rust"), &full), in_rust.clone()).await;
    let taken: Vec<Got> = in_rust.given(4).await.iter().map(Got::from).collect();
    check_sent(&sent(&lines), &taken);
    consumer.expect("a consumer").shutdown(Duration::from_secs(5)).await;
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_committed_transactions_are_seen_and_the_undecided_are_asked_for() {
    let Some(go) = Foreign::go() else { return };
    let site = Site::open(&["transactionTimeOut=1000", "transactionCheckInterval=1000"]);
    let topic = site.topic("transactions").await;
    let mut listener = site.listen(&go, "listen", &[&unique("deals"), &topic, "*", ""]);
    let mut deals = site.command(&go, "transact", &[&topic]);
    let told = sent(&deals.lines("SENT ", 4));
    let checks = deals.lines("CHECK ", 2);
    for (number, who) in [(2, "unknown-commit"), (3, "unknown-rollback")] {
        let about = format!("{topic} {} {who} {number}", told[number].id);
        assert!(checks.iter().any(|line| line.contains(&about)), "{about}: {checks:?}");
    }
    let committed = listener.given("commit", 1);
    assert_eq!(contents(&committed), [Content::of("commit", 0)]);
    let asked = listener.given("unknown-commit", 1);
    assert_eq!(contents(&asked), [Content::of("unknown-commit", 2)]);
    assert_eq!((&committed[0].id, &asked[0].id), (&told[0].id, &told[2].id));
    // What came after the decision to roll back is there, so that would be too.
    site.run(&go, "send", &[&topic, "fence", "8"]);
    listener.given("fence", 8);
    assert!(!listener.so_far().iter().any(|got| got.content.body.contains("rollback")));
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_in_sql_choose_messages() {
    let Some(go) = Foreign::go() else { return };
    let site = Site::open(&[]);
    let topic = site.topic("sql").await;
    let words = [&*unique("sql"), &topic, "number > 15 AND TAGS = 'TagA'", "sql"];
    let mut listener = site.listen(&go, "listen", &words);
    site.run(&go, "send", &[&topic, "send", "20"]);
    let wanted = [Content::of("send", 16), Content::of("send", 18)];
    assert_eq!(contents(&listener.given("send", 2)), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_queue_goes_on_in_order() {
    let Some(go) = Foreign::go() else { return };
    let site = Site::open(&[]);
    let topic = site.topic("orderly").await;
    let mut listener = site.listen(&go, "listen", &[&unique("orderly"), &topic, "*", "orderly"]);
    site.run(&go, "send", &[&topic, "before", "8"]);
    site.run(&go, "queue", &[&topic, "suspend", "1"]);
    site.run(&go, "send", &[&topic, "behind", "8"]);
    assert_eq!(listener.given("suspend", 2).len(), 2);
    assert_eq!(contents(&listener.given("before", 8)), Content::all("before", 8));
    assert_eq!(contents(&listener.given("behind", 8)), Content::all("behind", 8));
    let all = listener.so_far();
    for queue_id in 0..4 {
        let of_queue = all.iter().filter(|got| got.queue_id == queue_id);
        let offsets: Vec<i64> = of_queue.map(|got| got.queue_offset).collect();
        assert!(offsets.is_sorted(), "{all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered() {
    let Some(go) = Foreign::go() else { return };
    let site = Site::open(&[]);
    let topic = site.topic("requests").await;
    let mut listener = site.listen(&go, "reply", &[&unique("requests"), &topic]);
    let lines = site.run(&go, "request", &[&topic, "request", "3"]);
    assert_eq!(lines.iter().filter(|line| line.starts_with("ANSWER ")).count(), 3);
    assert_eq!(contents(&listener.given("request", 3)), Content::all("request", 3));
}
