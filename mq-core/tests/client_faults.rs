//! The client against a peer that refuses, hangs, hangs up and lies: a scripted name server and
//! broker in one, on loopback.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use mq_core::Error;
use mq_core::client::{
    Client, ClientOptions, ConsumeFrom, Consumer, ConsumerOptions, Handler, Outcome,
};
use mq_core::connection::FrameReader;
use mq_core::message::{Delivery, Outgoing};
use mq_core::names::MessageQueue;
use mq_core::properties;
use mq_core::protocol::body::{
    BrokerData, ConsumerIdList, HeartbeatData, QueueData, ResetOffsetBody, TopicRouteData,
    from_json, to_json,
};
use mq_core::protocol::header::{
    ConsumerGroupRequest, OffsetResponse, PullResponse, ResetOffsetRequest, SendResponse,
};
use mq_core::protocol::record::{NewRecord, Position, sys_flag};
use mq_core::protocol::{Command, Limits, RequestCode, ResponseCode};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(20);

/// What the peer does with a request.
enum Act {
    Answer(Command),
    /// Never answers.
    Hang,
    /// Closes the connection.
    HangUp,
    /// Sends these bytes.
    Raw(Vec<u8>),
}

type Scripted = Box<dyn Fn(&Command) -> Act + Send>;

/// A peer that answers decently, except to codes for which a test has something else in store.
struct Peer {
    address: String,
    heard: Mutex<Vec<Command>>,
    members: Arc<Mutex<Vec<String>>>,
    script: Mutex<BTreeMap<i32, VecDeque<Scripted>>>,
    _tasks: Mutex<JoinSet<()>>,
}

impl Peer {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Arc::new(Self {
            address: listener.local_addr().unwrap().to_string(),
            heard: Mutex::default(),
            members: Arc::default(),
            script: Mutex::default(),
            _tasks: Mutex::default(),
        });
        let accepting = Arc::downgrade(&peer);
        peer._tasks.lock().unwrap().spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let Some(peer) = accepting.upgrade() else { return };
                connections.spawn(async move { peer.serve(stream).await });
            }
        });
        peer
    }

    /// The next request of this code is treated like this.
    fn next(&self, code: RequestCode, act: impl Fn(&Command) -> Act + Send + 'static) {
        let mut script = self.script.lock().unwrap();
        script.entry(code.code()).or_default().push_back(Box::new(act));
    }

    async fn serve(&self, stream: TcpStream) {
        let (reader, mut writer) = stream.into_split();
        let mut reader = FrameReader::new(reader, Limits::default());
        let mut burst = Vec::new();
        while let Ok(true) = reader.read_burst(&mut burst).await {
            for request in burst.drain(..) {
                self.heard.lock().unwrap().push(request.clone());
                let mut out = BytesMut::new();
                match self.act(&request) {
                    Act::Answer(answer) if !request.is_oneway() => answer.encode(&mut out),
                    Act::Answer(_) | Act::Hang => {}
                    Act::HangUp => return,
                    Act::Raw(bytes) => out.extend_from_slice(&bytes),
                }
                if writer.write_all(&out).await.is_err() {
                    return;
                }
            }
        }
    }

    fn act(&self, request: &Command) -> Act {
        let scripted = {
            let mut script = self.script.lock().unwrap();
            script.get_mut(&request.code).and_then(VecDeque::pop_front)
        };
        match scripted {
            Some(act) => act(request),
            None => self.decently(request),
        }
    }

    fn decently(&self, request: &Command) -> Act {
        let success = Command::success(request);
        Act::Answer(match request.request_code() {
            // Unknown, and borrowed when it is sent to: so that all pulls are of the topic.
            RequestCode::GetRouteinfoByTopic if request.fields.get("topic") == Some("%RETRY%g") => {
                Command::response_to(request, ResponseCode::TopicNotExist)
            }
            RequestCode::GetRouteinfoByTopic => success.body(self.route()),
            RequestCode::HeartBeat => {
                let heartbeat: HeartbeatData = from_json(&request.body).unwrap();
                self.members.lock().unwrap().push(heartbeat.client_id);
                success
            }
            RequestCode::GetConsumerListByGroup => {
                let consumer_id_list = self.members.lock().unwrap().clone();
                success.body(to_json(&ConsumerIdList { consumer_id_list }))
            }
            RequestCode::QueryConsumerOffset => {
                Command::response_to(request, ResponseCode::QueryNotFound)
            }
            RequestCode::GetMinOffset | RequestCode::GetMaxOffset => {
                success.header(&OffsetResponse { offset: 0 })
            }
            RequestCode::SendMessageV2 => stored(request),
            RequestCode::PullMessage => return Act::Hang,
            _ => success,
        })
    }

    fn route(&self) -> Bytes {
        route(&[("b", self)])
    }

    fn of(&self, code: RequestCode) -> Vec<Command> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|request| request.code == code.code()).cloned().collect()
    }

    /// Waits for the `count`-th request of a code.
    async fn asked(&self, code: RequestCode, count: usize) -> Command {
        self.until(&format!("{code:?} number {count}"), || self.of(code).len() >= count).await;
        self.of(code).swap_remove(count - 1)
    }

    async fn until(&self, what: &str, fact: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !fact() {
            let heard: Vec<i32> = self.heard.lock().unwrap().iter().map(|c| c.code).collect();
            assert!(tokio::time::Instant::now() < deadline, "no {what}; heard {heard:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn client(&self) -> Client {
        Client::connect(ClientOptions {
            name_servers: vec![self.address.clone()],
            send_timeout: Duration::from_millis(1_000),
            ..ClientOptions::default()
        })
        .await
        .unwrap()
    }

    /// A consumer of the topic's one queue.
    async fn consumer(&self, client: &Client, handler: Arc<Listener>) -> Consumer {
        let mut options = ConsumerOptions::new("g").subscribe("t", "*");
        options.from = ConsumeFrom::First;
        client.start_consumer(options, handler).await.unwrap()
    }
}

/// A topic with a queue on each of these.
fn route(brokers: &[(&str, &Peer)]) -> Bytes {
    let queue = |(name, _): &(&str, &Peer)| QueueData {
        broker_name: (*name).to_owned(),
        read_queue_nums: 1,
        write_queue_nums: 1,
        perm: 6,
        ..QueueData::default()
    };
    let broker = |(name, peer): &(&str, &Peer)| BrokerData {
        broker_name: (*name).to_owned(),
        broker_addrs: [(0, peer.address.clone())].into(),
        ..BrokerData::default()
    };
    to_json(&TopicRouteData {
        queue_datas: brokers.iter().map(queue).collect(),
        broker_datas: brokers.iter().map(broker).collect(),
        ..TopicRouteData::default()
    })
}

fn stored(request: &Command) -> Command {
    Command::success(request).header(&SendResponse {
        msg_id: "7F00000100002A9F0000000000000001",
        queue_id: 0,
        queue_offset: 7,
        ..SendResponse::default()
    })
}

fn refusal(code: ResponseCode) -> impl Fn(&Command) -> Act {
    move |request| Act::Answer(Command::response_to(request, code).remark("the script says so"))
}

/// A pull's answer.
fn found(request: &Command, code: ResponseCode, next: i64, body: Vec<u8>) -> Act {
    let header = PullResponse {
        suggest_which_broker_id: 0,
        next_begin_offset: next,
        min_offset: 0,
        max_offset: next,
    };
    Act::Answer(Command::response_to(request, code).header(&header).body(body))
}

fn record(offset: i64, flags: i32, body: &[u8]) -> Vec<u8> {
    let host = "127.0.0.1:10911".parse().unwrap();
    let record = NewRecord {
        topic: "t",
        queue_id: 0,
        flag: 0,
        sys_flag: flags,
        born_timestamp_ms: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: "UNIQ_KEY\u{1}U\u{2}",
    };
    let mut bytes = Vec::new();
    let position =
        Position { physical_offset: 1_000 + offset, queue_offset: offset, store_timestamp_ms: 2 };
    record.encode(&mut bytes, position);
    bytes
}

#[derive(Default)]
struct Listener {
    seen: Mutex<Vec<String>>,
    fails: bool,
}

#[async_trait]
impl Handler for Listener {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        self.seen.lock().unwrap().push(String::from_utf8_lossy(&delivery.body).into_owned());
        match self.fails {
            true => Outcome::Retry { delay_level: 0, cause: "the test wants it".to_owned() },
            false => Outcome::Ack,
        }
    }
}

fn unique_key(request: &Command) -> String {
    properties::find(request.fields.get("i").unwrap(), "UNIQ_KEY").unwrap().to_owned()
}

#[tokio::test]
async fn a_refused_send_is_tried_again_under_the_same_key() {
    let peer = Peer::start().await;
    peer.next(RequestCode::SendMessageV2, refusal(ResponseCode::ServiceNotAvailable));
    peer.next(RequestCode::SendMessageV2, |_| Act::HangUp);
    let producer = peer.client().await.producer("p");
    let receipt = producer.send(Outgoing::new("t", "x")).await.unwrap();
    let sends = peer.of(RequestCode::SendMessageV2);
    assert_eq!(sends.len(), 3);
    assert!(sends.iter().all(|send| unique_key(send) == receipt.msg_id));
}

#[tokio::test]
async fn what_cannot_get_better_is_not_tried_again() {
    let peer = Peer::start().await;
    let producer = peer.client().await.producer("p");
    for code in [ResponseCode::MessageIllegal, ResponseCode::SystemBusy] {
        peer.next(RequestCode::SendMessageV2, refusal(code));
        let refused = producer.send(Outgoing::new("t", "x")).await;
        assert!(
            matches!(&refused, Err(Error::Refused { code: c, .. }) if *c == code.code()),
            "{refused:?}"
        );
    }
    assert_eq!(peer.of(RequestCode::SendMessageV2).len(), 2);
}

#[tokio::test]
async fn a_broker_that_failed_is_avoided_where_that_is_wanted() {
    for avoid in [true, false] {
        let (first, second) = (Peer::start().await, Peer::start().await);
        let both = route(&[("b", &first), ("c", &second)]);
        first.next(RequestCode::GetRouteinfoByTopic, move |request| {
            Act::Answer(Command::success(request).body(both.clone()))
        });
        first.next(RequestCode::SendMessageV2, refusal(ResponseCode::SystemError));
        let client = Client::connect(ClientOptions {
            name_servers: vec![first.address.clone()],
            avoid_slow_brokers: avoid,
            ..ClientOptions::default()
        });
        let producer = client.await.unwrap().producer("p");
        for _ in 0..10 {
            producer.send(Outgoing::new("t", "x")).await.unwrap();
        }
        let sends = [&first, &second].map(|peer| peer.of(RequestCode::SendMessageV2).len());
        assert_eq!(sends[0] == 1, avoid, "the failed broker got {} of {sends:?}", sends[0]);
        assert_eq!(sends[0] + sends[1], 11);
    }
}

#[tokio::test]
async fn a_send_without_an_answer_says_that_it_may_have_been_stored() {
    let peer = Peer::start().await;
    peer.next(RequestCode::SendMessageV2, |_| Act::Hang);
    let producer = peer.client().await.producer("p");
    let failed = producer.send(Outgoing::new("t", "x")).await.unwrap_err();
    assert!(matches!(failed, Error::Timeout { .. }));
    assert!(failed.to_string().contains("may or may not have been stored"), "{failed}");
    producer.send(Outgoing::new("t", "x")).await.expect("the connection is still good");
}

#[tokio::test]
async fn a_broker_hears_who_we_are_before_anything_else() {
    let peer = Peer::start().await;
    let client = peer.client().await;
    let _consumer = peer.consumer(&client, Arc::default()).await;
    peer.asked(RequestCode::PullMessage, 1).await;
    // The pull's connection breaks; the next one begins with a heartbeat, too.
    peer.next(RequestCode::SendMessageV2, |_| Act::HangUp);
    client.producer("p").send(Outgoing::new("t", "x")).await.unwrap();
    let heard: Vec<i32> = peer.heard.lock().unwrap().iter().map(|request| request.code).collect();
    let at = |code: RequestCode| heard.iter().position(|heard| *heard == code.code()).unwrap();
    assert!(at(RequestCode::HeartBeat) < at(RequestCode::GetConsumerListByGroup));
    let broken = at(RequestCode::SendMessageV2);
    let next = heard.iter().skip(broken + 1).find(|code| **code != 105).unwrap();
    assert_eq!(*next, RequestCode::HeartBeat.code());
}

#[tokio::test]
async fn a_message_that_cannot_be_decompressed_becomes_a_dead_letter() {
    let peer = Peer::start().await;
    peer.next(RequestCode::PullMessage, |request| {
        let mut body = record(0, 0, b"good");
        body.extend(record(1, sys_flag::COMPRESSED, b"this is not zlib"));
        body.extend(record(2, 0, b"good too"));
        found(request, ResponseCode::Success, 3, body)
    });
    let (client, listener) = (peer.client().await, Arc::new(Listener::default()));
    let consumer = peer.consumer(&client, listener.clone()).await;
    let back = peer.asked(RequestCode::ConsumerSendMsgBack, 1).await;
    assert_eq!(back.fields.get("delayLevel"), Some("-1"));
    assert_eq!(back.fields.get("offset"), Some("1001"));
    peer.until("handling", || listener.seen.lock().unwrap().len() == 2).await;
    consumer.shutdown(DEADLINE).await;
    assert_eq!(last_commit(&peer), "3");
}

/// The last offset of the topic that the broker was told outside of pulls.
fn last_commit(peer: &Peer) -> String {
    let mut commits = peer.of(RequestCode::UpdateConsumerOffset);
    commits.retain(|commit| commit.fields.get("topic") == Some("t"));
    commits.last().unwrap().fields.get("commitOffset").unwrap().to_owned()
}

#[tokio::test]
async fn what_cannot_be_given_back_is_sent_to_the_retry_topic() {
    let peer = Peer::start().await;
    peer.next(RequestCode::PullMessage, |request| {
        found(request, ResponseCode::Success, 1, record(0, 0, b"again"))
    });
    peer.next(RequestCode::ConsumerSendMsgBack, refusal(ResponseCode::SystemError));
    let listener = Arc::new(Listener { fails: true, ..Listener::default() });
    let client = peer.client().await;
    let consumer = peer.consumer(&client, listener).await;
    let again = peer.asked(RequestCode::SendMessageV2, 1).await;
    let field = |key| again.fields.get(key).unwrap();
    assert_eq!((field("b"), field("j")), ("%RETRY%g", "1"));
    assert_eq!(again.fields.get("l"), None, "the limit is the group's, which the broker knows");
    let property = |key| properties::find(field("i"), key);
    assert_eq!(property("RETRY_TOPIC"), Some("t"));
    assert_eq!(property("ORIGIN_MESSAGE_ID"), Some("7F00000100002A9F00000000000003E8"));
    assert_eq!((property("DELAY"), property("UNIQ_KEY")), (Some("3"), Some("U")));
    assert_eq!(&again.body[..], b"again");
    consumer.shutdown(DEADLINE).await;
    assert_eq!(last_commit(&peer), "1", "once it is acknowledged");
}

#[tokio::test]
async fn what_nobody_takes_back_is_not_committed() {
    let peer = Peer::start().await;
    peer.next(RequestCode::PullMessage, |request| {
        let mut body = record(0, 0, b"a");
        body.extend(record(1, 0, b"b"));
        found(request, ResponseCode::Success, 2, body)
    });
    for _ in 0..50 {
        peer.next(RequestCode::ConsumerSendMsgBack, refusal(ResponseCode::SystemError));
        peer.next(RequestCode::SendMessageV2, refusal(ResponseCode::SystemBusy));
    }
    let listener = Arc::new(Listener { fails: true, ..Listener::default() });
    let client = peer.client().await;
    let consumer = peer.consumer(&client, listener).await;
    peer.asked(RequestCode::SendMessageV2, 2).await;
    let report = consumer.shutdown(Duration::from_millis(100)).await;
    assert_eq!(report.cut_off, 2);
    assert_eq!(last_commit(&peer), "0");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_costs_only_itself() {
    let peer = Peer::start().await;
    let broken = || {
        let mut broken = record(1, 0, b"broken");
        broken[4] = 0;
        broken
    };
    peer.next(RequestCode::PullMessage, move |request| {
        let body = [record(0, 0, b"first"), broken(), record(2, 0, b"last")].concat();
        found(request, ResponseCode::Success, 3, body)
    });
    peer.next(RequestCode::PullMessage, move |request| {
        assert_eq!(request.fields.get("queueOffset"), Some("1"));
        assert_eq!(request.fields.get("maxMsgNums"), Some("1"));
        found(request, ResponseCode::Success, 2, broken())
    });
    peer.next(RequestCode::PullMessage, |request| {
        assert_eq!(request.fields.get("queueOffset"), Some("2"));
        found(request, ResponseCode::Success, 3, record(2, 0, b"last"))
    });
    let (client, listener) = (peer.client().await, Arc::new(Listener::default()));
    let _consumer = peer.consumer(&client, listener.clone()).await;
    peer.until("both", || *listener.seen.lock().unwrap() == ["first", "last"]).await;
}

#[tokio::test]
async fn an_offset_the_broker_does_not_have_is_moved() {
    let peer = Peer::start().await;
    peer.next(RequestCode::PullMessage, |request| {
        found(request, ResponseCode::PullOffsetMoved, 500, Vec::new())
    });
    peer.next(RequestCode::PullMessage, |request| {
        assert_eq!(request.fields.get("queueOffset"), Some("500"));
        found(request, ResponseCode::Success, 501, record(500, 0, b"here"))
    });
    let (client, listener) = (peer.client().await, Arc::new(Listener::default()));
    let _consumer = peer.consumer(&client, listener.clone()).await;
    peer.until("a message", || *listener.seen.lock().unwrap() == ["here"]).await;
}

/// A request that the peer sends by itself.
fn notice(command: Command) -> Act {
    let mut bytes = BytesMut::new();
    command.oneway().encode(&mut bytes);
    Act::Raw(bytes.to_vec())
}

#[tokio::test]
async fn a_broker_resets_offsets_while_a_pull_is_parked() {
    let peer = Peer::start().await;
    peer.next(RequestCode::PullMessage, |_| {
        let header = ResetOffsetRequest {
            group: "g",
            topic: "t",
            timestamp: 0,
            is_force: true,
            queue_id: None,
            offset: None,
        };
        let offset_table = [(MessageQueue::new("t", "b", 0), 40)].into_iter().collect();
        let body = to_json(&ResetOffsetBody { offset_table });
        notice(Command::with(RequestCode::ResetConsumerClientOffset, &header).body(body))
    });
    let client = peer.client().await;
    let _consumer = peer.consumer(&client, Arc::default()).await;
    let next = peer.asked(RequestCode::PullMessage, 2).await;
    assert_eq!(next.fields.get("queueOffset"), Some("40"));
    peer.asked(RequestCode::UpdateConsumerOffset, 1).await;
    assert_eq!(last_commit(&peer), "40");
}

#[tokio::test]
async fn a_change_of_members_deals_queues_anew() {
    let peer = Peer::start().await;
    let members = peer.members.clone();
    peer.next(RequestCode::PullMessage, move |_| {
        // A member that sorts before all others takes the only queue.
        members.lock().unwrap().push("!".to_owned());
        let header = ConsumerGroupRequest { consumer_group: "g" };
        notice(Command::with(RequestCode::NotifyConsumerIdsChanged, &header))
    });
    let client = peer.client().await;
    let _consumer = peer.consumer(&client, Arc::default()).await;
    peer.asked(RequestCode::UpdateConsumerOffset, 1).await;
    assert_eq!(last_commit(&peer), "0", "its last owner says how far it came");
    assert_eq!(peer.of(RequestCode::PullMessage).len(), 1);
}

#[tokio::test]
async fn nonsense_costs_the_connection_and_nothing_else() {
    let peer = Peer::start().await;
    let nonsense: [&[u8]; 4] = [
        &[0x7F; 64],
        &[0, 0, 0, 1, 9],
        b"HTTP/1.1 400 Bad Request\r\n",
        &[0, 0, 0, 8, 9, 0, 0, 4, 1],
    ];
    for bytes in nonsense {
        peer.next(RequestCode::SendMessageV2, move |_| Act::Raw(bytes.to_vec()));
    }
    let producer = peer.client().await.producer("p");
    for _ in 0..2 {
        let _may_fail = producer.send(Outgoing::new("t", "x")).await;
    }
    producer.send(Outgoing::new("t", "x")).await.unwrap();
}

#[tokio::test]
async fn a_fields_less_answer_is_an_error_not_a_panic() {
    let peer = Peer::start().await;
    peer.next(RequestCode::SendMessageV2, |request| Act::Answer(Command::success(request)));
    peer.next(RequestCode::GetRouteinfoByTopic, |request| {
        Act::Answer(Command::success(request).body("{\"queueDatas\":7"))
    });
    let producer = peer.client().await.producer("p");
    assert!(producer.send(Outgoing::new("t", "x")).await.is_err(), "the route is nonsense");
    let refused = producer.send(Outgoing::new("t", "x")).await.unwrap_err();
    assert!(refused.to_string().contains("is stored"), "{refused}");
}
