//! The product service: a product goes on the shelf or off it, and a message says so. Not here: SQL
//! (`db.rs`), who listens.
//!
//! Invariant: an answer to a change means that the row *and* the message are durable. The row is
//! saved first, marked pending; the mark goes once the broker has the message. Whatever is still
//! marked, after a crash or while the broker is away, is said later, and at worst twice.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::routing::{get, put};
use axum::{Json, Router};
use common_mq::prelude::*;
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::db::{self, Filter, Page, Product, Products};
use crate::messages::{OffShelf, OnShelf};
use crate::trail::{Step, Trail};
use crate::web::Problem;

/// Sent together, so that the broker makes them durable together.
const ANNOUNCED_TOGETHER: u32 = 100;
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// `[product]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProductConfig {
    /// Whether this process is a product service.
    pub(crate) enabled: bool,
    database: PathBuf,
}

impl ConfigSection for ProductConfig {
    const PREFIX: &str = "product";
}

impl Default for ProductConfig {
    fn default() -> Self {
        Self { enabled: true, database: "./data/products.db".into() }
    }
}

#[component]
pub(crate) struct Shelf {
    config: Cfg<ProductConfig>,
    mq: Mq,
    trail: Bean<Trail>,
    #[init]
    products: OnceLock<Products>,
    /// Held by the one who announces for all.
    #[init]
    announcing: Mutex<()>,
}

#[component]
impl Shelf {
    /// Runs when the sender is ready and before any listener starts: what was saved before the last
    /// stop but perhaps not said is said first. A shop whose broker is away opens all the same.
    #[post_construct]
    async fn open(&self) -> Result<(), Problem> {
        if !self.config.enabled {
            return Ok(());
        }
        let database = &self.config.database;
        std::fs::create_dir_all(database.parent().unwrap_or(database))?;
        let products = Products::open(database)?;
        products.import(db::catalogue()?).await?;
        self.products.get_or_init(|| products);
        self.announce().await.unwrap_or_else(warn_of_silence);
        Ok(())
    }

    /// Puts a product on the shelf or takes it off.
    async fn set(&self, sku: u64, on: bool) -> Result<Product, Problem> {
        let saved = self.products()?.set_shelf(sku, on).await?;
        let product = saved.ok_or(Problem::NoSuchProduct(sku))?;
        self.announce().await?;
        Ok(Product { pending: false, ..product })
    }

    /// Says all that is pending, whoever changed it: the next in line then has little left to say.
    async fn announce(&self) -> Result<(), Problem> {
        let products = self.products()?;
        let _turn = self.announcing.lock().await;
        loop {
            let pending = products.pending(ANNOUNCED_TOGETHER).await?;
            if pending.is_empty() {
                return Ok(());
            }
            let mut said = Vec::new();
            let mut failed = Ok(());
            for outcome in join_all(pending.into_iter().map(|product| self.say(product))).await {
                match outcome {
                    Ok(product) => said.push(product),
                    Err(problem) => failed = Err(problem),
                }
            }
            products.announced(said).await?;
            failed?;
        }
    }

    async fn say(&self, product: Product) -> Result<Product, Problem> {
        let Product { sku, version, .. } = product;
        let sent_ms = Clock::System.now_ms();
        let (tag, receipt) = match product.on_shelf {
            true => ("on", self.mq.send(&on_shelf(&product)).await?),
            false => ("off", self.mq.send(&OffShelf { sku, version }).await?),
        };
        if receipt.status != SendStatus::Ok {
            return Err(Problem::NotSafe(receipt.status));
        }
        let topic = OnShelf::TOPIC;
        self.trail.add(Step {
            msg_id: receipt.msg_id,
            topic,
            tag,
            sku,
            version,
            sent_ms,
            indexed: None,
        });
        Ok(product)
    }

    fn products(&self) -> Result<&Products, Problem> {
        self.products.get().ok_or(Problem::NotHere("product"))
    }
}

/// Says later what could not be said at once: the broker was away, or whoever asked has hung up.
#[component]
pub(crate) struct Relay {
    shelf: Bean<Shelf>,
    #[init]
    task: Mutex<JoinSet<()>>,
}

#[component]
impl Relay {
    #[post_construct]
    async fn start(&self) {
        if self.shelf.config.enabled {
            self.task.lock().await.spawn(announce_regularly(self.shelf.clone()));
        }
    }

    #[pre_destroy]
    async fn stop(&self) {
        self.task.lock().await.shutdown().await;
    }
}

async fn announce_regularly(shelf: Bean<Shelf>) {
    loop {
        Clock::System.sleep(SAID_AGAIN_AFTER).await;
        shelf.announce().await.unwrap_or_else(warn_of_silence);
    }
}

#[expect(clippy::needless_pass_by_value, reason = "unwrap_or_else gives the error away")]
fn warn_of_silence(problem: Problem) {
    tracing::warn!(%problem, "products are still to be announced");
}

fn on_shelf(product: &Product) -> OnShelf {
    let Product { sku, version, category, price_cents, title, description, .. } = product.clone();
    OnShelf { sku, version, category, price_cents, title, description }
}

pub(crate) fn routes(shelf: Bean<Shelf>) -> Router {
    Router::new()
        .route("/api/products", get(list))
        .route("/api/shelf/{sku}", put(put_on).delete(take_off))
        .with_state(shelf)
}

async fn list(
    State(shelf): State<Bean<Shelf>>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page>, Problem> {
    Ok(Json(shelf.products()?.page(filter).await?))
}

async fn put_on(
    State(shelf): State<Bean<Shelf>>,
    Path(sku): Path<u64>,
) -> Result<Json<Product>, Problem> {
    Ok(Json(shelf.set(sku, true).await?))
}

async fn take_off(
    State(shelf): State<Bean<Shelf>>,
    Path(sku): Path<u64>,
) -> Result<Json<Product>, Problem> {
    Ok(Json(shelf.set(sku, false).await?))
}
