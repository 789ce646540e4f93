//! What a peer sends wrongly costs its connection or gets an answer that names the fault; others
//! notice nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use mq_core::clock::Clock;
use mq_core::embedded::{EmbeddedBroker, EmbeddedOptions};
use mq_core::protocol::header::{PullRequest, RouteInfoRequest, SendRequest, SendRequestV2};
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

struct Server {
    broker: Arc<dyn EmbeddedBroker>,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = EmbeddedOptions {
            store: folder.path().to_owned(),
            listen: Some(([127, 0, 0, 1], 0).into()),
            settings: BTreeMap::new(),
            clock: Clock::System,
        };
        let broker = mq_broker::start_embedded(options).await.expect("the broker starts");
        Self { broker, _folder: folder }
    }

    async fn connect(&self) -> TcpStream {
        let address = self.broker.address().expect("it listens");
        TcpStream::connect(address).await.expect("it accepts")
    }
}

async fn send(stream: &mut TcpStream, command: &Command) {
    let mut frame = bytes::BytesMut::new();
    command.encode(&mut frame);
    stream.write_all(&frame).await.expect("the broker reads");
}

async fn receive(stream: &mut TcpStream) -> Command {
    let read = async {
        let length = stream.read_u32().await.expect("an answer comes");
        let mut frame = vec![0; length as usize];
        stream.read_exact(&mut frame).await.expect("the answer is whole");
        Command::decode(frame.into()).expect("the answer is a command")
    };
    timeout(LIMIT, read).await.expect("an answer in time")
}

async fn call(stream: &mut TcpStream, command: Command) -> Command {
    send(stream, &command).await;
    receive(stream).await
}

/// The other side ends the connection without an answer.
async fn assert_hung_up(mut stream: TcpStream, what: &str) {
    let mut rest = Vec::new();
    let ended = timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect(what);
    // A reset is an end, too: bytes that the broker did not want were still under way.
    assert!(ended.is_err() || rest.is_empty(), "{what}: answered {rest:?}");
}

#[tokio::test]
async fn a_broken_frame_costs_its_connection_only() {
    let server = Server::start().await;
    let mut bystander = server.connect().await;
    let broken: [(&str, Vec<u8>); 7] = [
        ("a length over the limit", vec![0x7f, 0xff, 0xff, 0xff]),
        ("a negative length", vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
        ("no room for a header", vec![0, 0, 0, 2, 0, 0]),
        ("a header longer than its frame", vec![0, 0, 0, 8, 0, 0, 0, 200, 1, 2, 3, 4]),
        ("a header that is no JSON", [&[0, 0, 0, 8, 0, 0, 0, 4][..], b"{\"a!"].concat()),
        ("an unknown serialize type", vec![0, 0, 0, 8, 9, 0, 0, 4, 1, 2, 3, 4]),
        ("a binary header cut short", vec![0, 0, 0, 8, 1, 0, 0, 4, 0, 10, 0, 0]),
    ];
    for (what, bytes) in broken {
        let mut stream = server.connect().await;
        stream.write_all(&bytes).await.expect("the broker reads");
        assert_hung_up(stream, what).await;
    }
    let route = RouteInfoRequest { topic: "TBW102", ..RouteInfoRequest::default() };
    let answer =
        call(&mut bystander, Command::with(RequestCode::GetRouteinfoByTopic, &route)).await;
    assert_eq!(answer.response_code(), ResponseCode::Success);
}

#[tokio::test]
async fn an_unknown_request_code_is_named_in_the_answer() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let mut request = Command::request(RequestCode::HeartBeat);
    request.code = 31_999;
    request.opaque = 77;
    let answer = call(&mut stream, request).await;
    assert_eq!(answer.response_code(), ResponseCode::RequestCodeNotSupported);
    assert_eq!(answer.opaque, 77);
    assert!(answer.remark.expect("a remark").contains("31999"));
}

#[tokio::test]
async fn a_missing_or_malformed_field_is_named_in_the_answer() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let answer = call(&mut stream, Command::request(RequestCode::PullMessage)).await;
    assert_ne!(answer.response_code(), ResponseCode::Success);
    assert!(answer.remark.expect("a remark").contains("consumerGroup"));
    let mut request = Command::with(RequestCode::PullMessage, &PullRequest::default());
    request.fields = Default::default();
    for (name, value) in [("consumerGroup", "g"), ("topic", "t"), ("queueId", "many")] {
        request.fields.push(name, value);
    }
    let answer = call(&mut stream, request).await;
    assert!(answer.remark.expect("a remark").contains("queueId"));
    let heartbeat = Command::request(RequestCode::HeartBeat).body(&b"{broken"[..]);
    let answer = call(&mut stream, heartbeat).await;
    assert_eq!(answer.response_code(), ResponseCode::SystemError);
    assert!(answer.remark.is_some());
}

fn a_send(topic: &'static str) -> SendRequest<'static> {
    SendRequest {
        producer_group: "g",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        ..SendRequest::default()
    }
}

async fn refused_send(stream: &mut TcpStream, header: SendRequest<'_>, body: Vec<u8>) -> Command {
    let request = Command::with(RequestCode::SendMessageV2, &SendRequestV2(header)).body(body);
    let answer = call(stream, request).await;
    assert_ne!(answer.response_code(), ResponseCode::Success, "{header:?}");
    answer
}

#[tokio::test]
async fn a_send_that_cannot_be_stored_is_refused_with_its_reason() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let cases = [
        (a_send("../../../etc"), "../../../etc"),
        (a_send(""), "empty"),
        (a_send("SCHEDULE_TOPIC_XXXX"), "closed"),
        (SendRequest { queue_id: 4_000, ..a_send("t") }, "4000"),
        (SendRequest { default_topic: "nothing", ..a_send("new") }, "new"),
    ];
    for (header, named) in cases {
        let answer = refused_send(&mut stream, header, b"x".to_vec()).await;
        let remark = answer.remark.expect("a remark");
        assert!(remark.contains(named), "{named:?} is not named in {remark:?}");
    }
    let answer = refused_send(&mut stream, a_send("t"), vec![0; (4 << 20) + 1]).await;
    assert_eq!(answer.response_code(), ResponseCode::MessageIllegal);
    let properties = format!("a\u{1}{}\u{2}", "b".repeat(40_000));
    let header = SendRequest { properties: Some(&properties), ..a_send("t") };
    let answer = refused_send(&mut stream, header, b"x".to_vec()).await;
    assert_eq!(answer.response_code(), ResponseCode::MessageIllegal);
    // The connection is still good, and so is the broker.
    let request = Command::with(RequestCode::SendMessageV2, &SendRequestV2(a_send("t")));
    let answer = call(&mut stream, request.body(&b"x"[..])).await;
    assert_eq!(answer.response_code(), ResponseCode::Success, "{:?}", answer.remark);
}

#[tokio::test]
async fn one_illegal_message_leaves_the_others_of_its_burst_alone() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let mut frames = bytes::BytesMut::new();
    for opaque in 0..10 {
        let properties = "p".repeat(if opaque == 5 { 40_000 } else { 10 });
        let properties = format!("a\u{1}{properties}\u{2}");
        let header = SendRequest { properties: Some(&properties), ..a_send("burst") };
        let mut request = Command::with(RequestCode::SendMessageV2, &SendRequestV2(header));
        request.opaque = opaque;
        request.body(&b"x"[..]).encode(&mut frames);
    }
    stream.write_all(&frames).await.expect("the broker reads");
    for _ in 0..10 {
        let answer = receive(&mut stream).await;
        let expected =
            if answer.opaque == 5 { ResponseCode::MessageIllegal } else { ResponseCode::Success };
        assert_eq!(answer.response_code(), expected, "{}: {:?}", answer.opaque, answer.remark);
    }
}

#[tokio::test]
async fn a_one_way_request_is_never_answered() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let mut unknown = Command::request(RequestCode::HeartBeat).oneway();
    unknown.code = 31_999;
    send(&mut stream, &unknown).await;
    let route = RouteInfoRequest { topic: "TBW102", ..RouteInfoRequest::default() };
    let mut request = Command::with(RequestCode::GetRouteinfoByTopic, &route);
    request.opaque = 5;
    assert_eq!(call(&mut stream, request).await.opaque, 5);
}
