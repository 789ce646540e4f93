//! An unmodified Python program, with PyPI's `rocketmq` over the C++ client, uses our broker beside
//! our own client. The program is in `tests/interop/python`.
#![forbid(unsafe_code)]

use std::time::Duration;

use support::foreign::{
    Content, Foreign, Got, Site, check_delay, check_places, check_sent, contents, got, send, sent,
};
use support::{Recorder, member, unique};

const COUNT: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways() {
    let Some(python) = Foreign::python() else { return };
    let site = Site::open(&[]);
    let client = site.client().await;
    let topic = site.topic("python").await;
    let all_in_python = site.listen(&python, "listen", &[&unique("all"), &topic]);
    let tag_b_in_python = site.listen(&python, "listen", &[&unique("b"), &topic, "TagB || TagC"]);
    let in_rust = Recorder::new();
    let consumer = client.start_consumer(member(&unique("rust"), &topic), in_rust.clone()).await;
    let consumer = consumer.expect("a consumer");

    let ways = ["send", "send_async", "send_oneway", "send_orderly"];
    let run = |way: &&str| site.run(&python, way, &[&topic, way, "20"]);
    let told: Vec<_> = ways.iter().map(run).collect();
    let from_rust = send(&client.producer("p"), &topic, "rust", COUNT).await;

    let taken: Vec<Got> = in_rust.given(COUNT * 5).await.iter().map(Got::from).collect();
    let mut listeners = [all_in_python, tag_b_in_python];
    for (way, lines) in ways.iter().zip(&told) {
        let in_rust: Vec<Got> = taken.iter().filter(|got| got.is_of(way)).cloned().collect();
        assert_eq!(contents(&in_rust), Content::all(way, COUNT));
        let in_python = listeners[0].given(way, COUNT);
        assert_eq!(contents(&in_python), Content::all(way, COUNT));
        if *way != "send_oneway" {
            check_sent(&sent(lines), &in_rust);
            check_sent(&sent(lines), &in_python);
        }
        check_tag_b(&listeners[1].given(way, COUNT / 2), way);
    }
    check_sent(&from_rust, &listeners[0].given("rust", COUNT));
    check_tag_b(&listeners[1].given("rust", COUNT / 2), "rust");

    let pulled = got(&site.run(&python, "pull", &[&unique("pull"), &topic]));
    assert_eq!(pulled.len(), COUNT * 5);
    let of_rust: Vec<Got> = pulled.into_iter().filter(|got| got.is_of("rust")).collect();
    assert_eq!(contents(&of_rust), Content::all("rust", COUNT));
    check_places(&from_rust, &of_rust);
    consumer.shutdown(Duration::from_secs(5)).await;
    client.shutdown().await;
}

fn check_tag_b(got: &[Got], who: &str) {
    let mut wanted = Content::all(who, COUNT);
    wanted.retain(|content| content.tags == "TagB");
    assert_eq!(contents(got), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_raises_gets_its_message_again_after_10_seconds() {
    let Some(python) = Foreign::python() else { return };
    let site = Site::open(&[]);
    let topic = site.topic("retry").await;
    let mut listener = site.listen(&python, "listen", &[&unique("retry"), &topic]);
    site.run(&python, "send", &[&topic, "throw", "1"]);
    let [first, second] = &listener.given("throw", 2)[..] else { panic!("more than two tries") };
    assert_eq!((first.times, second.times), (0, 1));
    assert_eq!((&first.topic, &second.topic), (&topic, &topic));
    assert_eq!((&first.id, &first.content), (&second.id, &second.content));
    // No later than the patience of the wait; how much later is the machine's affair.
    assert!(second.at_ms - first.at_ms >= 10_000, "{first:?} {second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_and_long_messages_arrive_and_too_long_ones_are_refused() {
    let Some(python) = Foreign::python() else { return };
    let site = Site::open(&[]);
    let topic = site.topic("bodies").await;
    let mut listener = site.listen(&python, "listen", &[&unique("bodies"), &topic]);

    let long = sent(&site.run(&python, "send_body", &[&topic, "long", "8000"]));
    check_sent(&long, &listener.given("long", 2));

    let lines = site.run(&python, "send_body", &[&topic, "huge", "6000000"]);
    assert!(lines[0].starts_with("REFUSED "), "{lines:?}");
    check_places(&sent(&lines), &listener.given("huge", 1));

    let delayed = sent(&site.run(&python, "send_delayed", &[&topic, "delayed", "2"]));
    check_delay(&delayed, &listener.given("delayed", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broadcast_listener_gets_all() {
    let Some(python) = Foreign::python() else { return };
    support::foreign::every_broadcast_listener_gets_all(&python, check_sent).await;
}
