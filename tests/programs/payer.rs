//! A producer of transactions for the tests that kill it: `payer ADDRESS JOURNAL NAME`. Its local
//! transactions are lines of a journal; its checker looks there.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::env;
use std::fs::{File, read_to_string};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mq_core::client::{Client, ClientOptions};
use mq_core::client::{TransactionChecker, TransactionProducer, TransactionState};
use mq_core::message::{Delivery, Outgoing};
use tokio::task::JoinSet;

const SENDERS: u64 = 6;

/// What was paid, by id; shared with the processes before and after this one.
struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    /// Branches that still run.
    open: Mutex<HashSet<String>>,
}

impl Journal {
    #[expect(clippy::disallowed_methods, reason = "a file of the test, not of the broker")]
    fn open(path: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&path).expect("a journal");
        Self { path, file: Mutex::new(file), open: Mutex::default() }
    }

    fn pay(&self, id: &str) {
        let mut file = self.file.lock().expect("no writer panics");
        file.write_all(format!("{id}\n").as_bytes()).expect("the journal takes a line");
    }

    fn is_paid(&self, id: &str) -> bool {
        let text = read_to_string(&self.path).expect("the journal is there");
        text.split_inclusive('\n').any(|line| line.strip_suffix('\n') == Some(id))
    }
}

#[async_trait]
impl TransactionChecker for Journal {
    async fn check(&self, half: Delivery) -> TransactionState {
        let id = String::from_utf8_lossy(&half.body).into_owned();
        // In this order: a branch that ends in between has written its line.
        let open = self.open.lock().expect("no branch panics").contains(&id);
        match (self.is_paid(&id), open) {
            (true, _) => TransactionState::Commit,
            (false, true) => TransactionState::Unknown,
            (false, false) => TransactionState::Rollback,
        }
    }
}

async fn pay_for_ever(producer: TransactionProducer, journal: Arc<Journal>, name: String) {
    for number in 0.. {
        let id = format!("{name}-{number}");
        let message = Outgoing::new("payments", id.clone());
        journal.open.lock().expect("no branch panics").insert(id.clone());
        let branch = |_| async {
            let (pays, tells) = [(true, true), (false, true), (true, false), (false, false)]
                [usize::try_from(number % 4).expect("a small number")];
            tokio::time::sleep(Duration::from_millis(number % 5)).await;
            if pays {
                journal.pay(&id);
            }
            match (tells, pays) {
                (false, _) => TransactionState::Unknown,
                (true, true) => TransactionState::Commit,
                (true, false) => TransactionState::Rollback,
            }
        };
        let sent = producer.send_in_transaction(message, branch).await;
        journal.open.lock().expect("no branch panics").remove(&id);
        if sent.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = env::args().skip(1);
    let mut argument = || arguments.next().expect("payer ADDRESS JOURNAL NAME");
    let (address, journal, name) = (argument(), argument(), argument());
    let options = ClientOptions {
        name_servers: vec![address],
        send_timeout: Duration::from_secs(2),
        ..ClientOptions::default()
    };
    let client = Client::connect(options).await.expect("a client");
    let journal = Arc::new(Journal::open(journal.into()));
    let producer = client.transaction_producer("payers", journal.clone()).await;
    let producer = producer.expect("a producer");
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let name = format!("{name}-{sender}");
        senders.spawn(pay_for_ever(producer.clone(), journal.clone(), name));
    }
    println!("paying");
    senders.join_all().await;
}
