//! A server asks its peers: an answer reaches the one who asked, silence ends in time, and an
//! answer that nobody waits for is dropped.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::sync::Arc;
use std::time::Duration;

use mq_core::error::Error;
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::{Inbound, Remote, RemoteOptions};
use mq_core::server::{Peer, Replies, Server, ServerOptions, Service};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(30);

/// Answers every request with what the peer says when it is asked the same; "briefly" gives it
/// little time.
struct Mirror;

impl Service for Mirror {
    fn burst(_: &Arc<Self>, peer: &Arc<Peer>, burst: &mut Vec<Command>, replies: &mut Replies) {
        for request in burst.drain(..) {
            let briefly = request.body == "briefly";
            let limit = if briefly { Duration::from_millis(50) } else { PATIENCE };
            let peer = peer.clone();
            replies.later(async move {
                let asked = Command::request(RequestCode::GetConsumerRunningInfo);
                let said = peer.call(asked.body(request.body.clone()), limit).await;
                let answer = match said {
                    Ok(answer) => Command::success(&request).body(answer.body),
                    Err(error @ Error::Timeout { .. }) => {
                        Command::response_to(&request, ResponseCode::ConsumeMsgTimeout)
                            .remark(error.to_string())
                    }
                    Err(error) => Command::response_to(&request, ResponseCode::SystemError)
                        .remark(error.to_string()),
                };
                vec![answer]
            });
        }
    }

    fn closed(_: &Arc<Self>, _: &Arc<Peer>) {}
}

async fn dial() -> (Server, Remote, mpsc::Receiver<Inbound>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut server = Server::new(ServerOptions::default());
    server.accept(listener, &Arc::new(Mirror));
    let (inbound, requests) = mpsc::channel(64);
    let remote = Remote::connect(&address, &RemoteOptions::default(), inbound).await.unwrap();
    (server, remote, requests)
}

fn question(body: &str) -> Command {
    Command::request(RequestCode::HeartBeat).body(body.to_owned())
}

#[tokio::test]
async fn an_answer_reaches_the_one_who_asked() {
    let (server, remote, mut requests) = dial().await;
    let answering = async {
        // The last one asked is answered first.
        let first = requests.recv().await.unwrap();
        let second = requests.recv().await.unwrap();
        for asked in [second, first] {
            let answer = Command::success(&asked.command).body(asked.command.body.clone());
            asked.answer(answer).await;
        }
    };
    let (one, two, ()) = tokio::join!(
        remote.call(question("one"), PATIENCE),
        remote.call(question("two"), PATIENCE),
        answering
    );
    assert_eq!(&one.unwrap().body[..], b"one");
    assert_eq!(&two.unwrap().body[..], b"two");
    server.stop().await;
}

#[tokio::test]
async fn a_silent_peer_costs_the_time_that_was_given() {
    let (server, remote, mut requests) = dial().await;
    let answer = remote.call(question("briefly"), PATIENCE).await.unwrap();
    assert_eq!(answer.response_code(), ResponseCode::ConsumeMsgTimeout);
    assert!(answer.remark.unwrap().contains("GetConsumerRunningInfo"));
    // It comes too late: nobody is disturbed.
    let late = requests.recv().await.unwrap();
    let answer = Command::success(&late.command);
    late.answer(answer).await;
    let next = async {
        let asked = requests.recv().await.unwrap();
        let answer = Command::success(&asked.command).body("in time");
        asked.answer(answer).await;
    };
    let (answer, ()) = tokio::join!(remote.call(question("again"), PATIENCE), next);
    assert_eq!(&answer.unwrap().body[..], b"in time");
    server.stop().await;
}
