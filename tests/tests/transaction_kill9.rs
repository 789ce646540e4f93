//! `kill -9` of the broker, of the producer, and of both, at any moment of their transactions: what
//! the producer has committed is delivered, and nothing else ever is.
//!
//! The real program, a producer in a process of its own whose local transactions are lines of a
//! journal, synchronous flush, and quick checks. A third of the transactions is never told to the
//! broker, so that checks decide them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use mq_core::client::{Client, ClientOptions, TransactionChecker, TransactionState};
use mq_core::message::{Delivery, Outgoing};
use support::program::{MqDev, Program};
use support::{Recorder, eventually, member};

const KILLS: u64 = 36;
const SETTINGS: [&str; 3] =
    ["flushDiskType=SYNC_FLUSH", "transactionCheckInterval=200", "transactionTimeOut=300"];
const LAST: &str = "last";

/// A little pseudo-randomness (xorshift), so that a failure can tell how it was reached.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The shop: its folder, its broker, its producer.
struct Shop {
    folder: PathBuf,
    address: String,
    broker: Option<MqDev>,
    payer: Option<Program>,
    payers: u64,
}

impl Shop {
    fn open(folder: &Path) -> Self {
        let broker = MqDev::start_at(&folder.join("store"), "127.0.0.1:0", &SETTINGS);
        let address = broker.address.to_string();
        let (broker, folder) = (Some(broker), folder.to_owned());
        Self { folder, address, broker, payer: None, payers: 0 }
    }

    fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// The ids that were paid; a line that was not finished counts for nothing.
    fn paid(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.journal()).unwrap_or_default();
        text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n')).map(str::to_owned).collect()
    }

    fn start_what_is_missing(&mut self) {
        if self.broker.is_none() {
            let store = self.folder.join("store");
            self.broker = Some(MqDev::start_at(&store, &self.address, &SETTINGS));
        }
        if self.payer.is_none() {
            self.payers += 1;
            let mut command = Command::new(env!("CARGO_BIN_EXE_payer"));
            command.arg(&self.address).arg(self.journal()).arg(self.payers.to_string());
            self.payer = Some(Program::start(&mut command, self.folder.join("payer.log")));
        }
    }

    fn kill_payer(&mut self) {
        self.payer.take().expect("it runs").kill();
    }

    fn kill_broker(&mut self) {
        self.broker.take().expect("it runs").program.kill();
    }

    async fn client(&self) -> Client {
        let options =
            ClientOptions { name_servers: vec![self.address.clone()], ..ClientOptions::default() };
        Client::connect(options).await.expect("a client")
    }
}

/// Answers for all producers that were killed: what is not in the journal never happened.
struct Heir {
    paid: Vec<String>,
    last_asked: Mutex<u32>,
}

#[async_trait]
impl TransactionChecker for Heir {
    async fn check(&self, half: Delivery) -> TransactionState {
        let id = String::from_utf8_lossy(&half.body).into_owned();
        if id == LAST {
            let mut asked = self.last_asked.lock().expect("no check panics");
            *asked += 1;
            // The second time everything older has been asked about, and answered before.
            return if *asked > 1 { TransactionState::Commit } else { TransactionState::Unknown };
        }
        match self.paid.contains(&id) {
            true => TransactionState::Commit,
            false => TransactionState::Rollback,
        }
    }
}

/// Has all that is undecided decided, and reads what there is: how often each id came.
async fn settle(shop: &Shop) -> BTreeMap<String, usize> {
    let client = shop.client().await;
    let heir = Arc::new(Heir { paid: shop.paid(), last_asked: Mutex::new(0) });
    let producer = client.transaction_producer("payers", heir).await.expect("a producer");
    let last = producer.prepare(Outgoing::new("payments", LAST)).await.expect("it is stored");
    drop(last);
    let reader = Recorder::new();
    let consumer = client.start_consumer(member("readers", "payments"), reader.clone()).await;
    let consumer = consumer.expect("a consumer");
    let has = |what: &str| reader.seen().iter().any(|seen| seen.body == what.as_bytes());
    eventually("the last transaction is decided", || has(LAST)).await;
    // What is behind the messages of each queue comes behind them.
    let plain = client.producer("plain");
    for queue in plain.queues("payments").await.expect("queues") {
        let end = format!("end-{}", queue.queue_id);
        plain.send_to(Outgoing::new("payments", end.clone()), &queue).await.expect("stored");
        eventually("the end of a queue comes", || has(&end)).await;
    }
    consumer.shutdown(Duration::from_secs(10)).await;
    client.shutdown().await;
    let mut times = BTreeMap::new();
    for seen in reader.seen() {
        let id = String::from_utf8_lossy(&seen.body).into_owned();
        if id != LAST && !id.starts_with("end-") {
            *times.entry(id).or_default() += 1;
        }
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_outlives_kill_9_and_nothing_else_is_seen() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    #[expect(clippy::disallowed_methods, reason = "a seed that differs from run to run")]
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    println!("seed {seed}");
    let mut dice = Dice(seed | 1);
    let mut shop = Shop::open(folder.path());
    for kill in 0..KILLS {
        shop.start_what_is_missing();
        let before = shop.paid().len();
        eventually("something is paid", || shop.paid().len() > before).await;
        // The moment is to be any; there is no fact to wait for.
        tokio::time::sleep(Duration::from_millis(dice.below(500))).await;
        match kill % 3 {
            0 => shop.kill_broker(),
            1 => shop.kill_payer(),
            _ => {
                shop.kill_payer();
                shop.kill_broker();
            }
        }
    }
    if shop.payer.is_some() {
        shop.kill_payer();
    }
    let paid = shop.paid();
    if shop.broker.is_none() {
        let store = shop.folder.join("store");
        shop.broker = Some(MqDev::start_at(&store, &shop.address, &SETTINGS));
    }
    let delivered = settle(&shop).await;
    let (lost, unpaid): (Vec<_>, Vec<_>) = (
        paid.iter().filter(|id| !delivered.contains_key(*id)).collect(),
        delivered.keys().filter(|id| !paid.contains(id)).collect(),
    );
    let twice = delivered.values().filter(|times| **times > 1).count();
    println!("{KILLS} kills, {} paid, {} delivered, {twice} twice", paid.len(), delivered.len());
    assert!(unpaid.is_empty(), "delivered without a commit: {unpaid:?}");
    assert!(lost.is_empty(), "committed and lost: {lost:?}");
    assert!(paid.len() as u64 > KILLS, "there was no load");
}
