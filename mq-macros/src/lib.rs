//! Attribute and derive macros of common-mq: entry points and their documentation only.
//!
//! The macros write only what a user could write by hand: the annotated item comes back unchanged,
//! and beside it stands a definition that names it. They reach the framework through
//! `common_mq::__private`, so a user needs no dependency besides `common-mq`.
#![forbid(unsafe_code)]

mod attr;
mod bean;
mod component;
mod listener;
mod main_fn;
mod message;
mod test_fn;

use proc_macro::TokenStream;

/// Makes an async function, or a method of a `#[component]` impl, the handler of a subscription.
///
/// ```no_run
/// # use common_mq::prelude::*;
/// # #[derive(Message, Serialize, Deserialize)] #[message(topic = "t")] struct OnShelf { sku: u64 }
/// # #[derive(Deserialize)] struct Order;
/// # #[component] struct SearchIndex {}
/// # impl SearchIndex { fn upsert(&self, _sku: u64) -> std::io::Result<()> { Ok(()) } }
/// #[mq_listener(group = "search-on-shelf")] // topic and tag from the payload type
/// async fn index_product(evt: OnShelf, index: Bean<SearchIndex>) -> std::io::Result<()> {
///     index.upsert(evt.sku)
/// }
///
/// #[mq_listener(topic = "${shop.topic:orders}", group = "billing", tags = "created || paid",
///               concurrency = 8)]
/// async fn on_paid(order: Json<Order>, attempt: Attempt) -> Outcome {
///     Outcome::Ack
/// }
/// # fn main() {}
/// ```
///
/// | argument | meaning | default |
/// |---|---|---|
/// | `group` | consumer group; one listener has one group of its own | required |
/// | `topic` | topic | the payload type's |
/// | `tags` | `*`, a tag, or `a \|\| b` | the payload type's tag, else `*` |
/// | `sql` | an SQL92 condition on the message's properties, in place of tags: `"region = 'eu' AND size > 3"` | |
/// | `concurrency` | messages handled at once: `8`, or `"${key:8}"` | the client's |
/// | `autostart` | `"true"`, `"false"`, or `"${key}"`: whether it starts with the application | `"true"` |
/// | `id` | name under `mq.listener.<id>` in the configuration | the group |
/// | `phase` | lower phases start first and drain last | 0 |
///
/// Strings may hold `${key}` and `${key:default}`, resolved from the configuration at start-up.
///
/// Parameters are taken out of the message one by one: at most one payload (a type with
/// `#[derive(Message)]`, `Json<T>`, `Bytes`, `Text`), and any of `MsgId`, `Key`, `Tag`, `Attempt`,
/// `BornAt`, `Bean<T>`, `Ext<T>`, `Mq`. A body that does not decode goes to the dead letters at
/// once.
///
/// The function returns nothing, a `Result`, an `Outcome`, or a `Result` of one. An error or a
/// panic means redelivery after a growing delay, and the dead letters after the last attempt.
///
/// The function stays an ordinary function: unit tests call it.
#[proc_macro_attribute]
pub fn mq_listener(arguments: TokenStream, item: TokenStream) -> TokenStream {
    listener::expand(arguments.into(), &item.into()).into()
}

/// Makes a struct a component, of which the application builds one instance; on the struct's impl
/// block, gives the component its listeners and hooks.
///
/// ```no_run
/// # use common_mq::prelude::*;
/// # use std::{collections::HashSet, sync::Mutex, time::Instant};
/// # #[derive(Message, Serialize, Deserialize)] #[message(topic = "t")] pub struct OrderTimeout;
/// # #[component] pub struct OrderRepo {}
/// # #[derive(Deserialize)] pub struct OrderConfig {}
/// # impl ConfigSection for OrderConfig { const PREFIX: &'static str = "order"; }
/// #[component]
/// pub struct OrderService {
///     repo: Bean<OrderRepo>,                  // another component
///     mq: Mq,                                 // sends messages
///     cfg: Cfg<OrderConfig>,                  // a section of the configuration
///     #[init]
///     seen: Mutex<HashSet<u64>>,              // its default
///     #[init(Instant::now())]
///     since: Instant,                         // an expression
/// }
///
/// #[component]
/// impl OrderService {
///     #[post_construct]
///     async fn warm(&self) -> std::io::Result<()> { Ok(()) }
///
///     #[mq_listener(group = "order-timeout")]
///     async fn on_timeout(&self, timeout: OrderTimeout) {}
///
///     #[pre_destroy]
///     async fn flush(&self) {}
/// }
/// # fn main() {}
/// ```
///
/// | argument | meaning |
/// |---|---|
/// | `provided` | the instance comes from `App::provide`, or from a `#[bean]` that returns the type |
/// | `provides = dyn Trait` | it is also injected as `Bean<dyn Trait>`; the trait has `#[component]` |
/// | `qualifier = Marker` | tells several that provide one trait apart: `Ext<dyn Trait, Marker>` |
/// | `phase = 10` | lower phases are built first and destroyed last; needs come first in any case |
///
/// A type has at most one impl block with `#[component]`.
///
/// On a trait, it lets the trait be injected:
///
/// ```no_run
/// # use common_mq::prelude::*;
/// #[component]
/// pub trait OrderRepo: Send + Sync {
///     fn is_paid(&self, order: u64) -> bool;
/// }
///
/// #[component(provides = dyn OrderRepo)]
/// struct SqlOrders {}
///
/// impl OrderRepo for SqlOrders {
///     fn is_paid(&self, order: u64) -> bool { order > 7 }
/// }
///
/// #[component]
/// struct Dunning {
///     orders: Bean<dyn OrderRepo>,
/// }
/// # fn main() {}
/// ```
///
/// Two that provide one trait refuse the start, unless they are told apart. A test puts its own in
/// the place of both: `app.provide_ext(Ext::from(Arc::new(stub) as Arc<dyn OrderRepo>))`.
#[proc_macro_attribute]
pub fn component(arguments: TokenStream, item: TokenStream) -> TokenStream {
    component::expand(arguments.into(), &item.into()).into()
}

/// Makes a function the factory of what is injected as [`Ext<T>`](../common_mq/struct.Ext.html): a
/// value of a type that is not yours, or one that can only be made by waiting.
///
/// ```no_run
/// # use common_mq::prelude::*;
/// # use std::io;
/// # mod common { pub struct Pool; impl Pool {
/// #     pub async fn open(_: &str) -> std::io::Result<Self> { Ok(Pool) }
/// #     pub async fn close(&self) {}
/// # } }
/// # use common::Pool;
/// #[bean(destroy = Pool::close)] // an async function of `&Pool`, awaited at the stop
/// async fn pool() -> io::Result<Pool> {
///     Pool::open("orders").await
/// }
///
/// struct Readonly; // a qualifier is a type
///
/// #[bean(qualifier = Readonly)]
/// async fn replica(mq: Mq, pool: Ext<Pool>) -> io::Result<Pool> {
///     Pool::open("orders-replica").await
/// }
///
/// #[mq_listener(topic = "orders", group = "billing")]
/// async fn on_order(order: Text, pool: Ext<Pool>, replica: Ext<Pool, Readonly>) {}
/// # fn main() {}
/// ```
///
/// The function is async or not, and returns `T`, `Arc<T>` (also `Arc<dyn Trait>`), or a `Result`
/// of one of them; an error stops the start and names the factory. It is called once, after what
/// its parameters need (`Bean<T>`, `Ext<T>`, `Cfg<T>`, `Mq`) is there. Whether somebody makes what
/// is asked for is checked at the start, before anything is made.
///
/// | argument | meaning |
/// |---|---|
/// | `qualifier = Marker` | the value is injected as `Ext<T, Marker>` |
/// | `destroy = path` | an async function of `&T` that runs when the application stops, like `pre_destroy` |
/// | `phase = 10` | as in [`macro@component`] |
///
/// The function stays an ordinary function. A test puts its own in the place of what it makes:
/// `App::provide_ext`, or `App::bean(def!(other))`.
#[proc_macro_attribute]
pub fn bean(arguments: TokenStream, item: TokenStream) -> TokenStream {
    bean::expand(arguments.into(), &item.into()).into()
}

/// A method of a `#[component]` impl that runs once everything is injected and before any listener
/// starts. It may send messages, and its error stops the start.
#[proc_macro_attribute]
pub fn post_construct(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    component::stray_hook("post_construct", &item.into()).into()
}

/// A method of a `#[component]` impl that runs when the application stops: after the listeners have
/// drained, in the reverse order of `post_construct`.
#[proc_macro_attribute]
pub fn pre_destroy(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    component::stray_hook("pre_destroy", &item.into()).into()
}

/// Gives a payload type its topic, and if wanted its tag and the field that is its message key.
///
/// ```
/// # use common_mq::prelude::*;
/// #[derive(Message, Serialize, Deserialize)]
/// #[message(topic = "product-shelf", tag = "on", key = "sku")]
/// pub struct OnShelf {
///     pub sku: u64,
///     pub title: String,
/// }
/// ```
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(item: TokenStream) -> TokenStream {
    message::expand(item.into()).into()
}

/// The program's entry: builds a runtime and an `App` with everything that is registered.
///
/// ```no_run
/// # use common_mq::prelude::*;
/// # mod product_service { common_mq::component_crate!(); }
/// #[common_mq::main(scan(product_service))]
/// async fn main(app: App) -> common_mq::Result {
///     app.run().await
/// }
/// ```
///
/// A crate that the program never mentions is not linked, and neither are its listeners. `scan`
/// mentions it, so that a forgotten crate is a compile error; the crate itself says
/// `common_mq::component_crate!();` at its root.
///
/// `--set key=value` on the command line overrides a configuration key. The exit code is 78 if the
/// application is wired or configured wrongly, 1 on any other error.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    main_fn::expand(arguments.into(), &item.into()).into()
}

/// A test of an application: `async fn name(test: TestMq)`, started with what the test names on a
/// broker, a store and a clock of its own. Needs the feature `test` of common-mq.
///
/// ```
/// # mod orders {
/// #     use common_mq::prelude::*;
/// #     #[mq_listener(topic = "orders", group = "billing")] pub async fn on_order(text: Text) {}
/// # }
/// # use std::time::Duration;
/// use common_mq::def;
/// use common_mq::test::TestMq;
///
/// #[common_mq::test(listeners = [orders::on_order], set = ["mq.drain" = "1s"])]
/// async fn an_order_is_billed_after_a_quarter_of_an_hour(test: TestMq) {
///     test.mq().to("orders").text("7").delay_level(14).send().await.unwrap(); // 10 minutes
///     test.settled().await;
///     assert!(test.calls(def!(orders::on_order)).is_empty());
///     test.advance(Duration::from_secs(15 * 60)).await;
///     assert!(test.calls(def!(orders::on_order))[0].is_acked());
/// }
/// # fn main() {}
/// ```
///
/// | argument | meaning |
/// |---|---|
/// | `listeners = [a, Type::b]` | listeners to start; the components they need come along |
/// | `components = [Type]` | components with all their listeners |
/// | `provide = [value]` | instances of components, as stand-ins |
/// | `set = ["key" = "value"]` | configuration |
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    test_fn::expand(arguments.into(), &item.into()).into()
}

/// The definition of a listener, for `App::listener`, or of a `#[bean]`, for `App::bean`. Takes the
/// path of the module the function is written in, or of the component: `def!(orders::on_paid)`,
/// `def!(OrderService::on_timeout)`.
#[proc_macro]
pub fn def(path: TokenStream) -> TokenStream {
    main_fn::definition(path.into()).into()
}
