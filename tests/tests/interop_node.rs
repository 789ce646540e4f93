//! An unmodified Node program, with npm's `ali-ons`, uses our broker beside our own client. The
//! program is in `tests/interop/node`.
#![forbid(unsafe_code)]

use std::time::Duration;

use support::foreign::{
    Content, Foreign, Got, Site, check_delay, check_places, contents, send, sent,
};
use support::{Recorder, member, unique};

const COUNT: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways() {
    let Some(node) = Foreign::node() else { return };
    let site = Site::open(&[]);
    let client = site.client().await;
    let topic = site.topic("node").await;
    let mut all_in_node = site.listen(&node, "listen", &[&unique("all"), &topic]);
    let mut tag_b_in_node = site.listen(&node, "listen", &[&unique("b"), &topic, "TagB || TagC"]);
    let in_rust = Recorder::new();
    let consumer = client.start_consumer(member(&unique("rust"), &topic), in_rust.clone()).await;
    let consumer = consumer.expect("a consumer");

    let ways = ["send", "async", "sharded"];
    let run = |way: &&str| site.run(&node, way, &[&topic, way, "20"]);
    let told: Vec<_> = ways.iter().map(run).collect();
    let from_rust = send(&client.producer("p"), &topic, "rust", COUNT).await;

    let taken: Vec<Got> = in_rust.given(COUNT * 4).await.iter().map(Got::from).collect();
    for (way, lines) in ways.iter().zip(&told) {
        let in_rust: Vec<Got> = taken.iter().filter(|got| got.is_of(way)).cloned().collect();
        let in_node = all_in_node.given(way, COUNT);
        assert_eq!(contents(&in_rust), Content::all(way, COUNT));
        assert_eq!(contents(&in_node), Content::all(way, COUNT));
        // This client knows messages by their places alone.
        check_places(&sent(lines), &in_rust);
        check_places(&sent(lines), &in_node);
        check_tag_b(&tag_b_in_node.given(way, COUNT / 2), way);
    }
    check_places(&from_rust, &all_in_node.given("rust", COUNT));
    check_tag_b(&tag_b_in_node.given("rust", COUNT / 2), "rust");
    check_shards(&all_in_node.given("sharded", COUNT));
    consumer.shutdown(Duration::from_secs(5)).await;
    client.shutdown().await;
}

fn check_tag_b(got: &[Got], who: &str) {
    let mut wanted = Content::all(who, COUNT);
    wanted.retain(|content| content.tags == "TagB");
    assert_eq!(contents(got), wanted);
}

/// Message n has the sharding key `shard-(n % 3)`; one key, one queue.
fn check_shards(got: &[Got]) {
    for shard in 0..3 {
        let number = |got: &Got| got.content.number.parse::<usize>().expect("a number");
        let mut queues: Vec<i32> =
            got.iter().filter(|got| number(got) % 3 == shard).map(|got| got.queue_id).collect();
        queues.dedup();
        assert_eq!(queues.len(), 1, "shard-{shard}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_fails_gets_its_message_again_after_10_seconds() {
    let Some(node) = Foreign::node() else { return };
    let site = Site::open(&[]);
    let topic = site.topic("retry").await;
    let mut listener = site.listen(&node, "listen", &[&unique("retry"), &topic]);
    for failure in ["later", "throw"] {
        site.run(&node, "send", &[&topic, failure, "1"]);
    }
    for failure in ["later", "throw"] {
        let [first, second] = &listener.given(failure, 2)[..] else { panic!("{failure}") };
        assert_eq!((first.times, second.times), (0, 1));
        assert_eq!(first.content, second.content);
        // No later than the patience of the wait; how much later is the machine's affair.
        assert!(second.at_ms - first.at_ms >= 10_000, "{first:?} {second:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_and_long_messages_arrive_and_too_long_ones_are_refused() {
    let Some(node) = Foreign::node() else { return };
    let site = Site::open(&[]);
    let topic = site.topic("bodies").await;
    let mut listener = site.listen(&node, "listen", &[&unique("bodies"), &topic]);

    let long = sent(&site.run(&node, "body", &[&topic, "long", "8000"]));
    check_places(&long, &listener.given("long", 2));

    let lines = site.run(&node, "body", &[&topic, "huge", "6000000"]);
    assert!(lines[0].starts_with("REFUSED 13 "), "{lines:?}");
    check_places(&sent(&lines), &listener.given("huge", 1));

    let delayed = sent(&site.run(&node, "delayed", &[&topic, "delayed", "2"]));
    check_delay(&delayed, &listener.given("delayed", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broadcast_listener_gets_all() {
    let Some(node) = Foreign::node() else { return };
    support::foreign::every_broadcast_listener_gets_all(&node, check_places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_a_prefix() {
    let Some(node) = Foreign::node() else { return };
    let site = Site::open(&[]);
    let topic = unique("named");
    site.make_topic(&format!("space%{topic}")).await;
    let words = [&*unique("named"), &topic, "*", "namespaced"];
    let mut listener = site.listen(&node, "listen", &words);
    let lines = site.run(&node, "namespaced", &[&topic, "named", "4"]);
    let arrived = listener.given("named", 4);
    check_places(&sent(&lines), &arrived);
    assert!(arrived.iter().all(|got| got.topic == format!("space%{topic}")), "{arrived:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_in_sql_choose_messages() {
    let Some(node) = Foreign::node() else { return };
    let site = Site::open(&[]);
    let topic = site.topic("sql").await;
    let words = [&*unique("sql"), &topic, "number > 15 AND TAGS = 'TagA'", "sql"];
    let mut listener = site.listen(&node, "listen", &words);
    site.run(&node, "send", &[&topic, "send", "20"]);
    let wanted = [Content::of("send", 16), Content::of("send", 18)];
    assert_eq!(contents(&listener.given("send", 2)), wanted);
}
