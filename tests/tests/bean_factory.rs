//! `#[bean]` factories: called once each, in the order of their needs, with async and errors;
//! injected into components, listeners and each other; destroyed and dropped in reverse.

use std::sync::Arc;

use common_mq::Error;
use common_mq::prelude::*;
use support::{Notes, application};

/// A type that the tests cannot put an attribute on, or so they pretend.
struct Pool {
    name: &'static str,
    notes: Notes,
}

impl Pool {
    async fn close(&self) {
        tokio::task::yield_now().await;
        self.notes.take(format!("{} is closed", self.name));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.notes.take(format!("{} is dropped", self.name));
    }
}

struct Readonly;

fn made(name: &'static str, notes: &Notes) -> Pool {
    notes.take(format!("{name} is made"));
    Pool { name, notes: notes.clone() }
}

#[expect(clippy::needless_pass_by_value, reason = "what is injected is given by value")]
#[bean(qualifier = Readonly)]
fn replica(pool: Ext<Pool>) -> Pool {
    assert_eq!(pool.name, "pool", "it is made before");
    made("replica", &pool.notes)
}

type Opened<T> = Result<Arc<T>, String>;

#[bean(destroy = Pool::close)]
async fn pool(notes: Bean<Notes>, mq: Mq) -> Opened<Pool> {
    mq.to("opened").text("pool").send().await.map_err(|error| error.to_string())?;
    Ok(Arc::new(made("pool", &notes)))
}

#[component]
struct Ledger {
    pool: Ext<Pool>,
    replica: Ext<Pool, Readonly>,
}

#[component]
impl Ledger {
    #[post_construct]
    async fn open(&self) {
        self.pool.notes.take(format!("ledger on {} and {}", self.pool.name, self.replica.name));
    }

    #[mq_listener(topic = "opened", group = "ledger")]
    async fn on_opened(&self, Text(what): Text, replica: Ext<Pool, Readonly>, own: Bean<Ledger>) {
        let same = std::ptr::eq(&*replica, &*own.replica);
        self.pool.notes.take(format!("{what} is heard, same replica: {same}"));
    }

    #[pre_destroy]
    async fn close(&self) {
        self.pool.notes.take("ledger is closed");
    }
}

#[tokio::test]
async fn factories_are_called_in_order_and_undone_in_reverse() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).component::<Ledger>().provide(notes);
    let running = app.start().await.expect("it starts");
    let up = ["pool is made", "replica is made", "ledger on pool and replica"];
    for expected in up.into_iter().chain(["pool is heard, same replica: true"]) {
        assert_eq!(taken.next().await, expected);
    }
    assert_eq!(running.ext::<Pool, ()>().map(|pool| pool.name), Some("pool"));
    running.stop().await.expect("it stops");
    let down = ["ledger is closed", "pool is closed", "replica is dropped", "pool is dropped"];
    assert_eq!(taken.rest(), down);
}

struct Vault;

#[bean]
async fn vault(pool: Ext<Pool>) -> Result<Vault, std::fmt::Error> {
    pool.notes.take("vault is tried");
    Err(std::fmt::Error)
}

#[tokio::test]
async fn a_factory_that_fails_stops_the_start_and_undoes_what_was_made() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).bean(def!(vault)).provide(notes);
    let error = app.start().await.expect_err("the vault stays shut");
    assert!(matches!(error, Error::Start(_)), "{error:?}");
    let text = error.to_string();
    let line = "`vault` could not be made: an error occurred when formatting an argument\n  ";
    assert!(text.starts_with(line) && text.contains("tests/bean_factory.rs:"), "{text}");
    let expected = ["pool is made", "vault is tried", "pool is closed", "pool is dropped"];
    assert_eq!(taken.rest(), expected);
}
