//! Members of one group that subscribe differently are told to the operator, with who says what,
//! for as long as they do.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::collections::BTreeMap;
use std::time::Duration;

use mq_core::client::ConsumerOptions;
use mq_core::protocol::body::{KvTable, from_json};
use mq_core::protocol::{Command, RequestCode};
use mq_core::remote::Remote;
use support::{Cluster, Recorder, Time, unique};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(30);

async fn runtime_info(cluster: &Cluster) -> BTreeMap<String, String> {
    let (inbound, _none) = mpsc::channel(8);
    let broker = cluster.broker.as_ref().expect("the bundled broker");
    let remote = Remote::local(broker.connect(), inbound);
    let request = Command::request(RequestCode::GetBrokerRuntimeInfo);
    let answer = remote.call(request, PATIENCE).await.unwrap();
    from_json::<KvTable>(&answer.body).unwrap().table.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_what_is_told_until_they_agree() {
    let Some(cluster) = Cluster::in_process(Time::Real).await else { return };
    let (topic, group) = (unique("topic"), unique("group"));
    let count = |info: &BTreeMap<String, String>| info["groupsOfDifferentSubscriptions"].clone();
    let told = format!("differentSubscriptions_{group}");
    let (first, second, third) =
        (cluster.client().await, cluster.client().await, cluster.client().await);
    let options = |tags: &str| ConsumerOptions::new(&group).subscribe(&topic, tags);
    let _first = first.start_consumer(options("a"), Recorder::new()).await.unwrap();
    let _third = third.start_consumer(options("a"), Recorder::new()).await.unwrap();
    let info = runtime_info(&cluster).await;
    assert_eq!((count(&info).as_str(), info.get(&told)), ("0", None));

    let by_sql = ConsumerOptions::new(&group).subscribe_sql(&topic, "size > 3");
    let other = second.start_consumer(by_sql, Recorder::new()).await.unwrap();
    let info = runtime_info(&cluster).await;
    assert_eq!(count(&info), "1");
    for part in [
        format!("{}: {topic} `a`", first.id()),
        format!("{}: {topic} `a`", third.id()),
        format!("{}: {topic} SQL92 `size > 3`", second.id()),
    ] {
        assert!(info[&told].contains(&part), "{part} is not in {}", info[&told]);
    }

    other.shutdown(PATIENCE).await;
    let info = runtime_info(&cluster).await;
    assert_eq!((count(&info).as_str(), info.get(&told)), ("0", None));
}
