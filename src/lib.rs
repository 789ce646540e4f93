//! Spring-style messaging for Rust with a RocketMQ-compatible broker inside.
//!
//! A handler is an async function with an attribute. `cargo run` is all the set-up there is: the
//! broker runs in the process, and keeps what it accepts on disk. One line of configuration points
//! the same program at an Apache RocketMQ cluster instead.
//!
//! ```no_run
//! use common_mq::prelude::*;
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message(topic = "product-shelf", tag = "on", key = "sku")]
//! pub struct OnShelf {
//!     pub sku: u64,
//!     pub title: String,
//! }
//!
//! #[mq_listener(group = "search-on-shelf")] // topic and tag come from the payload type
//! async fn index_product(evt: OnShelf, index: Bean<SearchIndex>) -> Result<(), std::io::Error> {
//!     index.upsert(evt.sku, &evt.title).await
//! }
//!
//! #[component]
//! pub struct SearchIndex {
//!     mq: Mq,
//!     #[init]
//!     titles: std::sync::Mutex<std::collections::BTreeMap<u64, String>>,
//! }
//!
//! #[component]
//! impl SearchIndex {
//!     #[post_construct] // after injection, before any listener starts
//!     async fn announce(&self) -> common_mq::Result {
//!         self.mq.send(&OnShelf { sku: 1, title: "first".to_owned() }).await?;
//!         Ok(())
//!     }
//!
//!     async fn upsert(&self, sku: u64, title: &str) -> Result<(), std::io::Error> {
//!         self.titles.lock().expect("no holder panics").insert(sku, title.to_owned());
//!         Ok(())
//!     }
//! }
//!
//! #[common_mq::main]
//! async fn main(app: App) -> common_mq::Result {
//!     app.run().await
//! }
//! ```
//!
//! # Listeners
//!
//! [`mq_listener`] stands on a free async function, or on a method of a [`component`] impl. The
//! parameters are taken out of the message: at most one payload (a type with [`Message`], [`Json`],
//! [`Bytes`], [`Text`]), and [`MsgId`], [`Key`], [`Tag`], [`Attempt`], [`BornAt`], [`Bean`],
//! [`Ext`], [`Mq`].
//!
//! | the function | the message |
//! |---|---|
//! | returns `()` or `Ok(())` | is done |
//! | returns `Err(..)` or panics | comes again after a growing delay; 16 attempts, then `%DLQ%group` |
//! | returns an [`Outcome`] | as it says |
//! | has a payload that does not decode | goes to `%DLQ%group` at once, with the cause |
//!
//! The function stays an ordinary function, and a unit test calls it:
//! `index_product(evt, Bean::new(index)).await`.
//!
//! # Sending
//!
//! ```no_run
//! # use common_mq::prelude::*;
//! # #[derive(Message, Serialize, Deserialize)] #[message(topic = "t")] struct Evt;
//! # async fn f(mq: Mq, evt: Evt) -> common_mq::Result {
//! mq.send(&evt).await?; // topic, tag and key of the type
//! mq.message(&evt).key("k1").delay_level(3).send().await?;
//! mq.to("legacy").tag("a").bytes(vec![1, 2]).send().await?;
//! # Ok(()) }
//! ```
//!
//! # Middleware
//!
//! Any [tower](https://docs.rs/tower) layer around a service of [`Call`] to [`Outcome`] stands
//! around every call of a
//! listener: `App::new().layer(TimeoutLayer::new(..))`. See [`App::layer`].
//!
//! # Components and beans
//!
//! The application makes one instance of each [`component`] and injects it by type, as
//! [`Bean<T>`](Bean); the compiler knows that it exists. A [`bean`] is a function that makes what a
//! component cannot be: a value of somebody else's type, or one that takes waiting. It is injected
//! as [`Ext<T>`](Ext), and whether somebody makes it is checked at the start. A trait with
//! `component` is injected as `Bean<dyn Trait>`. Marker types tell several of one type apart.
//!
//! ```no_run
//! use common_mq::prelude::*;
//! # mod sql { pub struct Pool; impl Pool {
//! #     pub async fn open(_: &str) -> std::io::Result<Self> { Ok(Pool) }
//! #     pub async fn close(&self) {}
//! # } }
//! use sql::Pool;
//!
//! struct Readonly;
//!
//! #[bean(destroy = Pool::close)]
//! async fn pool() -> std::io::Result<Pool> {
//!     Pool::open("orders").await
//! }
//!
//! #[bean(qualifier = Readonly)]
//! async fn replica() -> std::io::Result<Pool> {
//!     Pool::open("orders-replica").await
//! }
//!
//! #[component] // on a trait: some component provides it
//! trait OrderRepo: Send + Sync {}
//!
//! #[component(provides = dyn OrderRepo)]
//! struct SqlOrders {
//!     pool: Ext<Pool>,
//!     replica: Ext<Pool, Readonly>,
//! }
//!
//! impl OrderRepo for SqlOrders {}
//!
//! #[component(phase = 10)] // lower phases come first and go last
//! struct Dunning {
//!     orders: Bean<dyn OrderRepo>,
//! }
//! ```
//!
//! Beans are made after those they need, and otherwise in order of phase, crate, file and line.
//! Each is made, and its `post_construct` run, before the next.
//!
//! # Configuration
//!
//! `application.toml` in the working directory (under `cargo run`, else in the package's), then
//! `application-PROFILE.toml` for each profile in `MQ_PROFILE`, then the environment
//! (`MQ__EMBEDDED__STORE`), then `--set mq.embedded.store=..`. All keys
//! of the framework:
//!
//! ```toml
//! [mq]
//! mode = "embedded"                 # or "remote", which name_servers implies
//! # name_servers = ["10.0.0.1:9876"]
//! drain = "30s"                     # how long a stop may take
//!
//! [mq.embedded]
//! store = "./data/mq"
//! # listen = "127.0.0.1:9876"       # opens the broker to other programs
//!
//! [mq.embedded.settings]            # keys of broker.conf
//! flushDiskType = "ASYNC_FLUSH"
//!
//! [mq.listener.search-on-shelf]     # by id, which is the group unless written
//! concurrency = 8
//! autostart = true
//! ```
//!
//! An unknown key under `mq.` refuses the start. Other sections are the application's: a component
//! reads one through a field [`Cfg<T>`](Cfg), an attribute's string through `${key:default}`.
//!
//! # Starting and stopping
//!
//! The program does not start with wrong wiring: one group with two listeners, a bean that nobody
//! or that two could make, beans in a circle, unknown keys. All findings are printed together, with
//! file and line, and the exit code is 78. On SIGTERM or ctrl-c, listeners stop pulling and finish
//! what they have, the last phase first; then `pre_destroy` and `destroy` hooks run in reverse
//! order, then the broker stops.
//!
//! # Crates
//!
//! A library crate with listeners says [`component_crate!`] at its root, and the program names it:
//! `#[common_mq::main(scan(product_service))]`. Without a mention the linker leaves a crate out,
//! and its listeners with it.
//!
//! # Tests
//!
//! With the feature `test`, in an application's dev-dependencies, a test names what it wants to run
//! and gets it on a broker, a store and a clock of its own:
//!
//! ```
//! # #[cfg(feature = "test")] mod shown {
//! # use common_mq::prelude::*;
//! # #[mq_listener(topic = "t", group = "g")] async fn on_evt() {}
//! use common_mq::test::TestMq;
//! use std::time::Duration;
//!
//! #[common_mq::test(listeners = [on_evt])]
//! async fn a_delayed_message_comes_in_time(test: TestMq) {
//!     test.mq().to("t").text("hello").delay_level(5).send().await.unwrap(); // a minute
//!     test.advance(Duration::from_secs(61)).await;
//!     assert!(test.calls(def!(on_evt))[0].is_acked());
//! }
//! # }
//! ```
//!
//! What that needs comes along: components, and the factories of the program. What the test gives
//! the application stands in their place: [`App::provide`], [`App::provide_ext`], [`App::bean`].
//!
//! Without it, an application is started like any other: `App::bare().listener(def!(on_evt))`, with
//! `mq.embedded.store` set to a directory of the test's.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub use bytes::Bytes;
pub use mq_core::app::{
    App, Attempt, Bean, BornAt, Call, Cfg, Component, ConfigSection, Draft, Ext, FromDelivery,
    Inject, IntoOutcome, Json, Key, ListenerInfo, Message, Mq, MsgId, Running, Tag, Text,
};
pub use mq_core::client::Outcome;
pub use mq_core::clock::Clock;
pub use mq_core::component_crate;
pub use mq_core::error::Error;
pub use mq_core::message::{Delivery, SendReceipt, SendStatus};
pub use mq_macros::{
    Message, bean, component, def, main, mq_listener, post_construct, pre_destroy,
};

#[cfg(feature = "test")]
pub use mq_macros::test;

/// The test kit; see [`macro@test`] and [`test::TestMq`].
#[cfg(feature = "test")]
pub mod test {
    pub use mq_core::app::test::{Handled, TestMq, run};
}

/// The result of an application, and of anything else that fails with [`Error`].
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Everything a file with listeners and components needs.
pub mod prelude {
    pub use crate::{
        App, Attempt, Bean, BornAt, Bytes, Cfg, Clock, ConfigSection, Ext, Json, Key, Message, Mq,
        MsgId, Outcome, SendStatus, Tag, Text, bean, component, def, mq_listener, post_construct,
        pre_destroy,
    };
    pub use serde::{Deserialize, Serialize};
}

/// What generated code names. No promise of stability.
#[doc(hidden)]
pub use mq_core::__private;

#[cfg(feature = "broker")]
const _: () = {
    static BROKER: __private::BrokerDef = __private::BrokerDef {
        start: mq_broker::start_embedded,
        place: __private::Place { module: module_path!(), file: file!(), line: line!() },
    };
    __private::register!(__private::Definition::Broker(&BROKER));
};
