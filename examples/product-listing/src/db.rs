//! The products in SQLite. Not here: HTTP, messages.
//!
//! A change of the shelf and the fact that nobody has been told yet are one `UPDATE`: `pending` is
//! set with the change and cleared once the message is stored. So no crash can part the two.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use crate::messages::Text;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS product (
        sku INTEGER PRIMARY KEY,
        category TEXT NOT NULL,
        price_cents INTEGER NOT NULL,
        title_en TEXT NOT NULL,
        title_zh TEXT NOT NULL,
        description_en TEXT NOT NULL,
        description_zh TEXT NOT NULL,
        on_shelf INTEGER NOT NULL,
        version INTEGER NOT NULL,
        pending INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS product_pending ON product (sku) WHERE pending;
";

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Product {
    pub(crate) sku: u64,
    pub(crate) category: String,
    pub(crate) price_cents: u64,
    pub(crate) title: Text,
    pub(crate) description: Text,
    pub(crate) on_shelf: bool,
    /// Counts the changes of the shelf.
    pub(crate) version: u64,
    /// The message about this version is not known to be stored yet.
    pub(crate) pending: bool,
}

/// A product as the shipped catalogue has it.
#[derive(Debug, Deserialize)]
pub(crate) struct CatalogueEntry {
    sku: u64,
    category: String,
    price_cents: u64,
    on_shelf: bool,
    title: Text,
    description: Text,
}

/// Which products to list; what is absent does not narrow.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Filter {
    category: Option<String>,
    on_shelf: Option<bool>,
    /// Part of a title or the number.
    text: Option<String>,
    #[serde(default)]
    page: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct Page {
    pub(crate) total: u64,
    pub(crate) page_size: u32,
    pub(crate) products: Vec<Product>,
}

#[derive(Debug, Clone)]
pub(crate) struct Products {
    connection: Arc<Mutex<Connection>>,
}

impl Products {
    pub(crate) const PAGE_SIZE: u32 = 24;

    pub(crate) fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Fills an empty shop. Whatever starts on the shelf has still to be announced.
    pub(crate) async fn import(&self, catalogue: Vec<CatalogueEntry>) -> rusqlite::Result<()> {
        self.with(move |db| {
            let import = db.transaction()?;
            for entry in catalogue {
                insert_if_new(&import, &entry)?;
            }
            import.commit()
        })
        .await
    }

    pub(crate) async fn page(&self, filter: Filter) -> rusqlite::Result<Page> {
        self.with(move |db| {
            let products = select_page(db, &filter)?;
            Ok(Page { total: count(db, &filter)?, page_size: Self::PAGE_SIZE, products })
        })
        .await
    }

    /// Puts a product on the shelf or takes it off; `None` if there is no such product. One that is
    /// there already keeps its version.
    pub(crate) async fn set_shelf(&self, sku: u64, on: bool) -> rusqlite::Result<Option<Product>> {
        self.with(move |db| {
            db.prepare_cached(
                "UPDATE product SET on_shelf = ?2, version = version + 1, pending = TRUE
                 WHERE sku = ?1 AND on_shelf <> ?2",
            )?
            .execute(params![sku, on])?;
            select(db, sku)
        })
        .await
    }

    /// Products whose last change is not known to have been announced.
    pub(crate) async fn pending(&self, limit: u32) -> rusqlite::Result<Vec<Product>> {
        self.with(move |db| {
            db.prepare_cached("SELECT * FROM product WHERE pending ORDER BY sku LIMIT ?1")?
                .query_map([limit], product)?
                .collect()
        })
        .await
    }

    /// The messages about these versions are stored. A product that has changed since stays
    /// pending.
    pub(crate) async fn announced(&self, products: Vec<Product>) -> rusqlite::Result<()> {
        self.with(move |db| {
            let done = db.transaction()?;
            for product in products {
                done.prepare_cached(
                    "UPDATE product SET pending = FALSE WHERE sku = ?1 AND version = ?2",
                )?
                .execute(params![product.sku, product.version])?;
            }
            done.commit()
        })
        .await
    }

    /// SQLite blocks, so it has its turn on a thread that may.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let connection = self.connection.clone();
        let work = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work)
            .await
            .expect("a query does not panic and is not cancelled")
    }
}

fn insert_if_new(db: &Connection, entry: &CatalogueEntry) -> rusqlite::Result<usize> {
    let CatalogueEntry { sku, category, price_cents, on_shelf, title, description } = entry;
    db.prepare_cached(
        "INSERT INTO product VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1, ?8) ON CONFLICT DO NOTHING",
    )?
    .execute(params![
        sku,
        category,
        price_cents,
        title.en,
        title.zh,
        description.en,
        description.zh,
        on_shelf
    ])
}

fn select(db: &Connection, sku: u64) -> rusqlite::Result<Option<Product>> {
    db.prepare_cached("SELECT * FROM product WHERE sku = ?1")?.query_row([sku], product).optional()
}

const MATCHING: &str = "
    FROM product
    WHERE (?1 IS NULL OR category = ?1)
      AND (?2 IS NULL OR on_shelf = ?2)
      AND (?3 IS NULL OR instr(lower(title_en || ' ' || title_zh || ' ' || sku), lower(?3)))";

fn select_page(db: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Product>> {
    let Filter { category, on_shelf, text, page } = filter;
    let offset = u64::from(*page) * u64::from(Products::PAGE_SIZE);
    db.prepare_cached(&format!("SELECT * {MATCHING} ORDER BY sku LIMIT ?4 OFFSET ?5"))?
        .query_map(params![category, on_shelf, text, Products::PAGE_SIZE, offset], product)?
        .collect()
}

fn count(db: &Connection, filter: &Filter) -> rusqlite::Result<u64> {
    let Filter { category, on_shelf, text, .. } = filter;
    db.prepare_cached(&format!("SELECT count(*) {MATCHING}"))?
        .query_row(params![category, on_shelf, text], |row| row.get(0))
}

fn product(row: &Row<'_>) -> rusqlite::Result<Product> {
    Ok(Product {
        sku: row.get("sku")?,
        category: row.get("category")?,
        price_cents: row.get("price_cents")?,
        title: Text { en: row.get("title_en")?, zh: row.get("title_zh")? },
        description: Text { en: row.get("description_en")?, zh: row.get("description_zh")? },
        on_shelf: row.get("on_shelf")?,
        version: row.get("version")?,
        pending: row.get("pending")?,
    })
}

/// The products the shop ships with.
pub(crate) fn catalogue() -> serde_json::Result<Vec<CatalogueEntry>> {
    serde_json::from_str(include_str!("../catalogue.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEA: u64 = 11_001;
    const NOT_YET: u64 = 11_004;

    async fn shop() -> Products {
        let products = Products::open(Path::new(":memory:")).unwrap();
        products.import(catalogue().unwrap()).await.unwrap();
        products
    }

    async fn announce_all(products: &Products) {
        let pending = products.pending(1_000).await.unwrap();
        products.announced(pending).await.unwrap();
    }

    #[tokio::test]
    async fn the_catalogue_is_imported_once_and_what_is_on_the_shelf_is_pending() {
        let products = shop().await;
        let page = products.page(Filter::default()).await.unwrap();
        assert_eq!((page.total, page.products.len()), (240, 24));
        assert_eq!(products.pending(1_000).await.unwrap().len(), 168);

        products.set_shelf(TEA, false).await.unwrap();
        products.import(catalogue().unwrap()).await.unwrap();
        assert!(!products.set_shelf(TEA, false).await.unwrap().unwrap().on_shelf);
    }

    #[tokio::test]
    async fn a_change_is_pending_until_that_very_version_is_announced() {
        let products = shop().await;
        announce_all(&products).await;

        let first = products.set_shelf(NOT_YET, true).await.unwrap().unwrap();
        assert!(first.on_shelf && first.pending);
        let second = products.set_shelf(NOT_YET, false).await.unwrap().unwrap();
        assert_eq!(second.version, first.version + 1);

        products.announced(vec![first]).await.unwrap();
        assert_eq!(products.pending(10).await.unwrap().len(), 1);
        products.announced(vec![second]).await.unwrap();
        assert_eq!(products.pending(10).await.unwrap().len(), 0);
    }

    #[tokio::test]
    async fn putting_it_where_it_is_changes_nothing() {
        let products = shop().await;
        announce_all(&products).await;
        let product = products.set_shelf(TEA, true).await.unwrap().unwrap();
        assert_eq!((product.version, product.pending), (1, false));
        assert!(products.set_shelf(1, true).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn filters_narrow() {
        let products = shop().await;
        let food =
            |on_shelf| Filter { category: Some("food".to_owned()), on_shelf, ..Filter::default() };
        assert_eq!(products.page(food(None)).await.unwrap().total, 20);
        assert_eq!(products.page(food(Some(true))).await.unwrap().total, 14);
        for text in ["龙井", "longjing", "11001"] {
            let filter = Filter { text: Some(text.to_owned()), ..Filter::default() };
            assert_eq!(products.page(filter).await.unwrap().products[0].sku, TEA, "{text}");
        }
        let last = Filter { page: 9, ..Filter::default() };
        assert_eq!(products.page(last).await.unwrap().products.len(), 24);
    }
}
