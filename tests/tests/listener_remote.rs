//! The same application uses a cluster instead of a broker of its own when the configuration names
//! one.

use common_mq::prelude::*;
use support::{Cluster, Notes, Time, unique};

#[mq_listener(topic = "${names.topic}", tags = "a || b", group = "${names.group}")]
async fn on_message(Text(text): Text, Tag(tag): Tag, notes: Bean<Notes>) {
    notes.take(format!("{text} {tag:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_used_by_naming_it() {
    let cluster = Cluster::over_tcp(Time::Real).await;
    let (topic, (notes, mut taken)) = (unique("topic"), Notes::new());
    let app = App::bare()
        .listener(def!(on_message))
        .provide(notes)
        .set("names.topic", &topic)
        .set("names.group", unique("group"))
        .set("mq.name_servers", cluster.options().name_servers.join(";"));
    let running = app.start().await.expect("it starts");
    assert_eq!(running.address(), None, "no broker was started");
    for (text, tag) in [("first", "c"), ("second", "b")] {
        running.mq().to(&topic).tag(tag).text(text).send().await.expect("it is stored");
    }
    assert_eq!(taken.next().await, r#"second Some("b")"#);
    running.stop().await.expect("it stops");
}
