//! A shop in two services with one message between them; README.md tells the story.
//!
//! - `messages.rs`: what the services say to each other
//! - `product.rs`: the product service, over `db.rs`
//! - `search.rs`: the search service, over `index.rs`, `query.rs` and `tokenizer.rs`
//! - `web.rs`: HTTP for both; `trail.rs`: what the page shows of the messages
#![forbid(unsafe_code)]

mod db;
mod index;
mod messages;
mod product;
mod query;
mod search;
mod tokenizer;
mod trail;
mod web;

use common_mq::App;

#[common_mq::main]
async fn main(app: App) -> common_mq::Result {
    app.run().await
}
