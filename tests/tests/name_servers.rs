//! Any name server may be down.

use std::time::Duration;

use mq_core::Error;
use mq_core::client::{Client, ClientOptions};
use mq_core::message::Outgoing;
use support::{Cluster, Time, unique};

/// Nobody listens on port 1 of loopback.
const NOBODY: &str = "127.0.0.1:1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_name_server_is_passed_over() {
    let cluster = Cluster::over_tcp(Time::Real).await;
    let mut options = cluster.options();
    options.name_servers.insert(0, NOBODY.to_owned());
    let client = Client::connect(options).await.unwrap();
    client.producer("p").send(Outgoing::new(unique("topic"), "x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_name_server_a_send_fails_in_time() {
    let options = ClientOptions {
        name_servers: vec![NOBODY.to_owned()],
        send_timeout: Duration::from_millis(500),
        ..ClientOptions::default()
    };
    let client = Client::connect(options).await.unwrap();
    let started = tokio::time::Instant::now();
    let failed = client.producer("p").send(Outgoing::new("topic", "x")).await;
    assert!(matches!(failed, Err(Error::Connect { .. })), "{failed:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}
