//! The real program: killed with SIGKILL at the worst moments, as two processes, on a taken port.
//! What was answered is right after the restart, in the shop and in the index.

#![expect(clippy::unwrap_used, reason = "a test fails when its set-up does")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any test: nothing is indexed meanwhile.
const NOT_INDEXING: &str = "search.apply_delay_ms=3600000";
/// A handler that acknowledged too early is found out after this: the group's progress is given to
/// the broker every five seconds, and written to disk every five.
const PROGRESS_IS_STORED: Duration = Duration::from_secs(12);
/// "Vinyl One Turntable" starts on the shelf, "Summit Outdoor Watch" off it.
const ON: (u32, &str) = (2012, "turntable");
const OFF: (u32, &str) = (5004, "户外手表");
const ON_SHELF_AT_FIRST: u64 = 168;

struct Shop {
    process: Child,
    address: String,
}

impl Shop {
    fn start(directory: &Path, sets: &[&str]) -> Self {
        let sets = ["web.listen=127.0.0.1:0"].iter().chain(sets).flat_map(|set| ["--set", set]);
        let mut process = Command::new(env!("CARGO_BIN_EXE_product-listing"))
            .args(sets)
            .current_dir(directory)
            .env("CARGO_MANIFEST_DIR", directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .find_map(|line| line.unwrap().strip_prefix("shop: http://").map(str::to_owned))
            .expect("the program says where it listens");
        // Its output is read on, or it would stop at a full pipe.
        thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    /// SIGKILL, as `Drop` does it.
    fn kill(self) {}

    fn request(&self, method: &str, path: &str) -> (u16, Value) {
        self.try_request(method, path).unwrap()
    }

    fn try_request(&self, method: &str, path: &str) -> std::io::Result<(u16, Value)> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let cut_off = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut_off)?;
        let status = head[9..12].parse().unwrap();
        Ok((status, serde_json::from_str(body).map_err(|_| cut_off())?))
    }

    fn finds(&self, text: &str, sku: u32) -> bool {
        let text: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (_, answer) = self.request("GET", &format!("/api/search?text={text}"));
        answer["products"].as_array().unwrap().iter().any(|product| product["sku"] == sku)
    }

    fn listed(&self) -> u64 {
        self.request("GET", "/api/search").1["listed"].as_u64().unwrap()
    }

    fn on_shelf(&self) -> u64 {
        self.request("GET", "/api/products?on_shelf=true").1["total"].as_u64().unwrap()
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A test that fails leaves no program behind either.
impl Drop for Shop {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A shop that has indexed all it began with, and is stopped.
fn filled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    shop.until("the catalogue is indexed", |shop| shop.listed() == ON_SHELF_AT_FIRST);
    shop.kill();
    directory
}

#[test]
fn put_on_the_shelf_answered_killed_and_found() {
    let directory = filled();
    let (sku, text) = OFF;
    let shop = Shop::start(directory.path(), &[NOT_INDEXING]);
    let (status, product) = shop.request("PUT", &format!("/api/shelf/{sku}"));
    assert_eq!((status, &product["on_shelf"]), (200, &Value::Bool(true)));
    thread::sleep(PROGRESS_IS_STORED);
    assert!(!shop.finds(text, sku));
    shop.kill();

    let shop = Shop::start(directory.path(), &[]);
    shop.until("the product is found", |shop| shop.finds(text, sku));
    assert_eq!(shop.listed(), ON_SHELF_AT_FIRST + 1);
    shop.kill();
}

#[test]
fn taken_off_the_shelf_answered_killed_and_gone() {
    let directory = filled();
    let (sku, text) = ON;
    let shop = Shop::start(directory.path(), &[NOT_INDEXING]);
    let (status, product) = shop.request("DELETE", &format!("/api/shelf/{sku}"));
    assert_eq!((status, &product["on_shelf"]), (200, &Value::Bool(false)));
    thread::sleep(PROGRESS_IS_STORED);
    assert!(shop.finds(text, sku));
    shop.kill();

    let shop = Shop::start(directory.path(), &[]);
    shop.until("the product is gone", |shop| !shop.finds(text, sku));
    assert_eq!(shop.listed(), ON_SHELF_AT_FIRST - 1);
    shop.kill();
}

/// The crash between the row and its message leaves exactly this row behind.
#[test]
fn saved_killed_before_the_message_and_found() {
    let directory = filled();
    let (sku, text) = OFF;
    leave_pending(directory.path(), sku);
    let shop = Shop::start(directory.path(), &[]);
    shop.until("the product is found", |shop| shop.finds(text, sku));
    shop.kill();
}

fn leave_pending(directory: &Path, sku: u32) {
    let database = rusqlite::Connection::open(directory.join("data/products.db")).unwrap();
    let change =
        "UPDATE product SET on_shelf = TRUE, version = version + 1, pending = TRUE WHERE sku = ?1";
    assert_eq!(database.execute(change, [sku]).unwrap(), 1);
}

/// A broker that was away, or a browser that hung up half-way, leaves the same row in a shop that
/// runs.
#[test]
fn saved_but_not_said_is_said_soon() {
    let directory = filled();
    let shop = Shop::start(directory.path(), &[]);
    leave_pending(directory.path(), OFF.0);
    shop.until("the product is found", |shop| shop.finds(OFF.1, OFF.0));
    shop.kill();
}

/// A product service with the broker inside, and a search service that reaches it over the network.
#[test]
fn two_processes_are_one_shop() {
    let directory = tempfile::tempdir().unwrap();
    let broker = free_address();
    let listen = format!("mq.embedded.listen={broker}");
    let products = Shop::start(directory.path(), &["search.enabled=false", &listen]);
    let names = format!("mq.name_servers={broker}");
    let search = Shop::start(directory.path(), &["product.enabled=false", &names]);

    search.until("the catalogue is indexed", |search| search.listed() == ON_SHELF_AT_FIRST);
    let (status, _) = products.request("PUT", &format!("/api/shelf/{}", OFF.0));
    assert_eq!(status, 200);
    search.until("the product is found", |search| search.finds(OFF.1, OFF.0));
    assert_eq!(products.request("GET", "/api/search").0, 404);
    assert_eq!(search.request("GET", "/api/products").0, 404);
    search.kill();

    products.request("DELETE", &format!("/api/shelf/{}", OFF.0));
    let search = Shop::start(directory.path(), &["product.enabled=false", &names]);
    search.until("the product is gone", |search| !search.finds(OFF.1, OFF.0));
    search.kill();
    products.kill();
}

fn free_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_taken_port_is_named_with_the_mend() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("web.listen={}", taken.local_addr().unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_product-listing"))
        .args(["--set", &listen])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("--set web.listen="), "{error}");
}

#[test]
fn killed_anywhere_under_load_the_index_ends_up_right() {
    let directory = filled();
    for round in 0..8 {
        let shop = Shop::start(directory.path(), &[]);
        thread::scope(|scope| {
            for worker in 0..4 {
                let shop = &shop;
                scope.spawn(move || flip_until_it_dies(shop, worker, round));
            }
            thread::sleep(Duration::from_millis(40 + 57 * round));
            Command::new("kill").args(["-9", &shop.process.id().to_string()]).status().unwrap();
        });
        shop.kill();
    }
    let shop = Shop::start(directory.path(), &[]);
    shop.until("shop and index agree", |shop| shop.listed() == shop.on_shelf());
    for page in 0..10 {
        let (_, page) = shop.request("GET", &format!("/api/products?page={page}"));
        for product in page["products"].as_array().unwrap() {
            let sku = product["sku"].as_u64().unwrap() as u32;
            let title = product["title"]["en"].as_str().unwrap();
            shop.until(title, |shop| shop.finds(title, sku) == (product["on_shelf"] == true));
        }
    }
    shop.kill();
}

/// Flips products of its own; every answer but the one that the kill cut off is a success.
fn flip_until_it_dies(shop: &Shop, worker: u64, round: u64) {
    for step in 0.. {
        let sku = 1000 * (1 + worker * 3 + step % 3) + 1 + (step + round) % 20;
        let method = if (step + round).is_multiple_of(2) { "DELETE" } else { "PUT" };
        match shop.try_request(method, &format!("/api/shelf/{sku}")) {
            Ok((status, answer)) => assert_eq!(status, 200, "{answer}"),
            Err(_) => return,
        }
    }
}
