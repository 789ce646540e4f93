//! Long bodies travel and are stored compressed, in the form that every client can read, and are
//! handed out as they were sent.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use mq_core::client::{Client, ClientOptions};
use mq_core::message::{Delivery, Outgoing};
use mq_core::protocol::record::sys_flag;
use support::{Cluster, Recorder, member, unique};

support::each_transport!(
    a_long_body_is_stored_compressed,
    what_does_not_shrink_is_left_alone,
    batches_are_not_compressed,
);

/// Sends bodies alone; returns them as they are received, in order of their length.
async fn through(cluster: &Cluster, client: &Client, bodies: &[Vec<u8>]) -> Vec<Delivery> {
    let topic = unique("topic");
    let recorder = Recorder::new();
    for body in bodies {
        client.producer("p").send(Outgoing::new(&topic, body.clone())).await.unwrap();
    }
    let reader = cluster.client().await;
    let options = member(&unique("group"), &topic);
    let _consumer = reader.start_consumer(options, recorder.clone()).await.unwrap();
    let mut given = recorder.given(bodies.len()).await;
    given.sort_by_key(|delivery| delivery.body.len());
    given
}

fn is_compressed(delivery: &Delivery) -> bool {
    // Without a type of compression it is zlib, also to clients that know nothing else.
    assert_eq!(delivery.sys_flag & sys_flag::COMPRESSION_MASK, 0);
    delivery.sys_flag & sys_flag::COMPRESSED != 0
}

async fn a_long_body_is_stored_compressed(cluster: Cluster) {
    let client = cluster.client().await;
    let text = |length: usize| b"to be or not to be ".iter().copied().cycle().take(length);
    let bodies: Vec<Vec<u8>> =
        [4_095, 4_096, 200_000].map(|length| text(length).collect()).to_vec();
    let given = through(&cluster, &client, &bodies).await;
    for (delivery, body) in given.iter().zip(&bodies) {
        assert_eq!(delivery.body, body.as_slice());
        assert_eq!(is_compressed(delivery), body.len() >= 4_096, "{} bytes", body.len());
    }
    let options = ClientOptions { compress_over: usize::MAX, ..cluster.options() };
    let never = Client::connect(options).await.unwrap();
    let given = through(&cluster, &never, &bodies).await;
    assert!(given.iter().all(|delivery| !is_compressed(delivery)));
}

async fn what_does_not_shrink_is_left_alone(cluster: Cluster) {
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let body: Vec<u8> = noise.take(20_000).collect();
    let client = cluster.client().await;
    let given = through(&cluster, &client, std::slice::from_ref(&body)).await;
    assert_eq!(given[0].body, body.as_slice());
    assert!(!is_compressed(&given[0]));
}

async fn batches_are_not_compressed(cluster: Cluster) {
    let topic = unique("topic");
    let client = cluster.client().await;
    let messages = (0..3).map(|_| Outgoing::new(&topic, vec![b'x'; 10_000])).collect();
    client.producer("p").send_batch(messages).await.unwrap();
    let recorder = Recorder::new();
    let options = member(&unique("group"), &topic);
    let _consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
    let given = recorder.given(3).await;
    assert!(given.iter().all(|one| one.body.len() == 10_000 && !is_compressed(one)));
}
