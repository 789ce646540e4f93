//! Where a group without an offset starts: at the first message of a young queue, else where its
//! members say (the broker answers that it knows nothing).
#![expect(clippy::unwrap_used, reason = "a test fails when its set-up does")]

use std::collections::BTreeMap;
use std::time::Duration;

use mq_core::clock::Clock;
use mq_core::embedded::EmbeddedOptions;
use mq_core::protocol::header::{
    OffsetResponse, QueryConsumerOffsetRequest, QueueRequest, SendRequest, SendRequestV2,
};
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::Remote;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(30);

/// The answer for a group on a queue with one message.
async fn first_offset(ratio: &str) -> Command {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("accessMessageInMemoryMaxRatio".to_owned(), ratio.to_owned())];
    let broker = mq_broker::start_embedded(EmbeddedOptions {
        store: folder.path().to_owned(),
        listen: None,
        settings: BTreeMap::from(settings),
        clock: Clock::System,
    })
    .await
    .unwrap();
    let (inbound, _none) = mpsc::channel(1);
    let remote = Remote::local(broker.connect(), inbound);
    let send = SendRequestV2(SendRequest {
        producer_group: "p",
        topic: "t",
        default_topic: "TBW102",
        default_topic_queue_nums: 1,
        ..SendRequest::default()
    });
    let request = Command::with(RequestCode::SendMessageV2, &send).body("hello");
    assert_eq!(remote.call(request, LIMIT).await.unwrap().response_code(), ResponseCode::Success);
    let queue = QueueRequest { topic: "t", queue_id: 0 };
    loop {
        let end = Command::with(RequestCode::GetMaxOffset, &queue);
        let end = remote.call(end, LIMIT).await.unwrap();
        if end.decode_header::<OffsetResponse>().unwrap().offset == 1 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let question = QueryConsumerOffsetRequest {
        consumer_group: "g",
        topic: "t",
        queue_id: 0,
        set_zero_if_not_found: None,
    };
    let question = Command::with(RequestCode::QueryConsumerOffset, &question);
    remote.call(question, LIMIT).await.unwrap()
}

#[tokio::test]
async fn a_young_queue_is_read_from_its_start() {
    let answer = first_offset("40").await;
    assert_eq!(answer.response_code(), ResponseCode::Success);
    assert_eq!(answer.decode_header::<OffsetResponse>().unwrap().offset, 0);
}

#[tokio::test]
async fn on_an_old_queue_the_members_decide() {
    assert_eq!(first_offset("0").await.response_code(), ResponseCode::QueryNotFound);
}
