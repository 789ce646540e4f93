//! Attribute and derive macros of common-mq: entry points and their documentation only.
//!
//! The macros write only what a user could write by hand: the annotated item comes back unchanged,
//! and beside it stands a definition that names it. They reach the framework through
//! `common_mq::__private`, so a user needs no dependency besides `common-mq`.
#![forbid(unsafe_code)]

mod attr;
mod component;
mod listener;
mod main_fn;
mod message;

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
/// | `concurrency` | messages handled at once | the client's |
/// | `autostart` | `"true"`, `"false"`, or `"${key}"`: whether it starts with the application | `"true"` |
/// | `id` | name under `mq.listener.<id>` in the configuration | the group |
///
/// Strings may hold `${key}` and `${key:default}`, resolved from the configuration at start-up.
///
/// Parameters are taken out of the message one by one: at most one payload (a type with
/// `#[derive(Message)]`, `Json<T>`, `Bytes`, `Text`), and any of `MsgId`, `Key`, `Tag`, `Attempt`,
/// `BornAt`, `Bean<T>`, `Mq`. A body that does not decode goes to the dead letters at once.
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
/// `#[component(provided)]` is for a type that the application cannot build: the program hands an
/// instance to `App::provide` before the start.
///
/// A type has at most one impl block with `#[component]`.
#[proc_macro_attribute]
pub fn component(arguments: TokenStream, item: TokenStream) -> TokenStream {
    component::expand(arguments.into(), &item.into()).into()
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

/// The definition of a listener, for `App::listener`. Takes the path of the module the function is
/// written in, or of the component: `def!(orders::on_paid)`, `def!(OrderService::on_timeout)`.
#[proc_macro]
pub fn def(path: TokenStream) -> TokenStream {
    main_fn::definition(path.into()).into()
}
