//! The full-text index: what is on the shelf, searchable in English and Chinese. Not here: the
//! messages' way to it (`search.rs`), HTTP.
//!
//! * Per product the highest version wins, in whatever order and however often changes arrive. So
//!   one that is off the shelf stays in the index as its number and version alone, and is never
//!   found.
//! * A change is durable and visible when `apply` returns; changes that wait together share one
//!   commit.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tantivy::collector::{Count, TopDocs};
use tantivy::query::TermQuery;
use tantivy::schema::{
    Field, INDEXED, IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions, Value,
};
use tantivy::{
    Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, TantivyDocument, TantivyError, Term,
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, oneshot};

use crate::messages::{OffShelf, OnShelf};
use crate::query::{Searched, Spelling};
use crate::tokenizer;

const TOKENIZER: &str = "shop";
const WRITER_BYTES: usize = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("the search index failed: {0}")]
    Index(#[from] TantivyError),
    #[error("the product in the search index cannot be read: {0}")]
    Product(#[from] serde_json::Error),
    #[error("the commit this change waited for failed; see the log")]
    NotCommitted,
}

#[derive(Debug)]
pub(crate) enum Change {
    On(OnShelf),
    Off(OffShelf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Applied {
    /// The index was changed.
    Changed,
    /// The index knew this version or a later one.
    Known,
}

#[derive(Debug, Serialize)]
pub(crate) struct Found {
    pub(crate) total: usize,
    pub(crate) products: Vec<OnShelf>,
}

#[derive(Clone)]
pub(crate) struct SearchIndex {
    fields: Fields,
    reader: IndexReader,
    writer: Arc<AsyncMutex<IndexWriter>>,
    waiting: Arc<Mutex<Vec<Waiting>>>,
}

type Waiting = (Change, oneshot::Sender<Applied>);

#[derive(Clone)]
struct Fields {
    sku: Field,
    version: Field,
    /// Whether it is on the shelf.
    listed: Field,
    /// The product as it was announced, for the answer.
    product: Field,
    searched: Searched,
}

impl SearchIndex {
    pub(crate) fn open(directory: &Path) -> Result<Self, IndexError> {
        std::fs::create_dir_all(directory).map_err(TantivyError::from)?;
        let (schema, fields) = schema();
        let directory =
            tantivy::directory::MmapDirectory::open(directory).map_err(TantivyError::from)?;
        let index = Index::open_or_create(directory, schema)?;
        index.tokenizers().register(TOKENIZER, tokenizer::analyzer());
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        let writer = index.writer_with_num_threads(1, WRITER_BYTES)?;
        Ok(Self {
            fields,
            reader,
            writer: Arc::new(AsyncMutex::new(writer)),
            waiting: Arc::default(),
        })
    }

    /// Returns once the change is durable and can be found. Whoever gets the writer commits for all
    /// that wait by then; the others find it done.
    pub(crate) async fn apply(&self, change: Change) -> Result<Applied, IndexError> {
        let (done, mut applied) = oneshot::channel();
        lock(&self.waiting).push((change, done));
        tokio::select! {
            biased;
            applied = &mut applied => applied.map_err(|_| IndexError::NotCommitted),
            writer = self.writer.clone().lock_owned() => {
                let index = self.clone();
                let commit = tokio::task::spawn_blocking(move || index.commit_waiting(writer));
                commit.await.map_err(|_| IndexError::NotCommitted)??;
                applied.await.map_err(|_| IndexError::NotCommitted)
            }
        }
    }

    fn commit_waiting(&self, mut writer: OwnedMutexGuard<IndexWriter>) -> Result<(), IndexError> {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        if waiting.is_empty() {
            return Ok(());
        }
        let (changes, done): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        match self.commit(&mut writer, &changes) {
            Ok(applied) => {
                for (done, applied) in done.into_iter().zip(applied) {
                    // An error says that the handler was given up meanwhile.
                    _ = done.send(applied);
                }
                Ok(())
            }
            Err(error) => {
                writer.rollback()?;
                Err(error)
            }
        }
    }

    fn commit(
        &self,
        writer: &mut IndexWriter,
        changes: &[Change],
    ) -> Result<Vec<Applied>, IndexError> {
        let applied = self.write(writer, changes)?;
        writer.commit()?;
        self.reader.reload()?;
        Ok(applied)
    }

    fn write(&self, writer: &IndexWriter, changes: &[Change]) -> Result<Vec<Applied>, IndexError> {
        let searcher = self.reader.searcher();
        let mut known = HashMap::new();
        let write = |change| self.write_one(writer, &searcher, &mut known, change);
        changes.iter().map(write).collect()
    }

    fn write_one(
        &self,
        writer: &IndexWriter,
        searcher: &Searcher,
        known: &mut HashMap<u64, u64>,
        change: &Change,
    ) -> Result<Applied, IndexError> {
        let (sku, version) = change.sku_and_version();
        let before = match known.get(&sku) {
            Some(version) => *version,
            None => self.committed_version(searcher, sku)?,
        };
        if version <= before {
            return Ok(Applied::Known);
        }
        known.insert(sku, version);
        writer.delete_term(Term::from_field_u64(self.fields.sku, sku));
        writer.add_document(self.document(change)?)?;
        Ok(Applied::Changed)
    }

    fn committed_version(&self, searcher: &Searcher, sku: u64) -> Result<u64, IndexError> {
        let term = Term::from_field_u64(self.fields.sku, sku);
        let query = TermQuery::new(term, IndexRecordOption::Basic);
        let top = searcher.search(&query, &TopDocs::with_limit(1).order_by_score())?;
        let Some((_, address)) = top.first() else { return Ok(0) };
        let document: TantivyDocument = searcher.doc(*address)?;
        Ok(document.get_first(self.fields.version).and_then(|v| v.as_u64()).unwrap_or(0))
    }

    fn document(&self, change: &Change) -> Result<TantivyDocument, IndexError> {
        let (sku, version) = change.sku_and_version();
        let mut document = TantivyDocument::new();
        document.add_u64(self.fields.sku, sku);
        document.add_u64(self.fields.version, version);
        document.add_bool(self.fields.listed, matches!(change, Change::On(_)));
        if let Change::On(product) = change {
            document.add_text(self.fields.product, serde_json::to_string(product)?);
            for text in [&product.title.en, &product.title.zh] {
                document.add_text(self.fields.searched.title, text);
            }
            for text in [&product.description.en, &product.description.zh] {
                document.add_text(self.fields.searched.description, text);
            }
        }
        Ok(document)
    }

    /// The best products for what somebody types. Words are looked for as typed first; only if
    /// nothing has them, words with one letter wrong count too.
    pub(crate) fn search(&self, text: &str, limit: usize) -> Result<Found, IndexError> {
        let found = self.run(text, Spelling::AsTyped, limit)?;
        if found.total > 0 { Ok(found) } else { self.run(text, Spelling::Forgiving, limit) }
    }

    /// How many products there are to find.
    pub(crate) fn listed(&self) -> Result<usize, IndexError> {
        let term = Term::from_field_bool(self.fields.listed, true);
        let query = TermQuery::new(term, IndexRecordOption::Basic);
        Ok(self.reader.searcher().search(&query, &Count)?)
    }

    fn run(&self, text: &str, spelling: Spelling, limit: usize) -> Result<Found, IndexError> {
        let query = self.fields.searched.query(text, spelling);
        let searcher = self.reader.searcher();
        let (total, top) =
            searcher.search(&query, &(Count, TopDocs::with_limit(limit).order_by_score()))?;
        let products = top.into_iter().map(|(_, address)| self.product(&searcher.doc(address)?));
        Ok(Found { total, products: products.collect::<Result<_, _>>()? })
    }

    fn product(&self, document: &TantivyDocument) -> Result<OnShelf, IndexError> {
        let stored =
            document.get_first(self.fields.product).and_then(|v| v.as_str()).unwrap_or_default();
        Ok(serde_json::from_str(stored)?)
    }
}

impl Change {
    pub(crate) fn sku_and_version(&self) -> (u64, u64) {
        match self {
            Self::On(product) => (product.sku, product.version),
            Self::Off(product) => (product.sku, product.version),
        }
    }
}

fn schema() -> (Schema, Fields) {
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(TOKENIZER)
        .set_index_option(IndexRecordOption::WithFreqs);
    let searched = TextOptions::default().set_indexing_options(indexing);
    let fields = Fields {
        sku: schema.add_u64_field("sku", INDEXED),
        version: schema.add_u64_field("version", STORED),
        listed: schema.add_bool_field("listed", INDEXED),
        product: schema.add_text_field("product", STORED),
        searched: Searched {
            title: schema.add_text_field("title", searched.clone()),
            description: schema.add_text_field("description", searched),
        },
    };
    (schema.build(), fields)
}

/// A list of changes is whole whatever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Text;

    fn product(sku: u64, version: u64, en: &str, zh: &str) -> OnShelf {
        let text = |en: &str, zh: &str| Text { en: en.to_owned(), zh: zh.to_owned() };
        OnShelf {
            sku,
            version,
            category: "audio".to_owned(),
            price_cents: 100,
            title: text(en, zh),
            description: text("", ""),
        }
    }

    async fn shop(directory: &Path) -> SearchIndex {
        let index = SearchIndex::open(directory).unwrap();
        for product in [
            product(1, 1, "Nocturne Wireless Headphones, Black", "夜曲 无线蓝牙耳机 黑色"),
            product(2, 1, "In-Ear Earphones, USB-C", "USB-C 有线耳机"),
            product(3, 1, "Aurora X3 5G Phone, 256 GB", "极光 X3 手机 256GB"),
            product(4, 1, "Phone Case for Aurora X3", "极光 X3 手机壳"),
            product(5, 1, "Longjing Green Tea", "龙井 绿茶"),
        ] {
            index.apply(Change::On(product)).await.unwrap();
        }
        index
    }

    fn skus(index: &SearchIndex, text: &str) -> Vec<u64> {
        let mut skus: Vec<u64> =
            index.search(text, 10).unwrap().products.iter().map(|p| p.sku).collect();
        skus.sort_unstable();
        skus
    }

    #[tokio::test]
    async fn finds_english_chinese_and_both_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let index = shop(directory.path()).await;
        for (text, expected) in [
            ("wireless headphones", vec![1]),
            ("HEADPHONE", vec![1]),
            ("wirel", vec![1]),
            ("hedphones", vec![1]),
            ("无线耳机", vec![1]),
            ("耳机", vec![1, 2]),
            ("手机", vec![3, 4]),
            ("手机壳", vec![4]),
            ("茶", vec![5]),
            ("usb-c 耳机", vec![2]),
            ("aurora 手机", vec![3, 4]),
            ("256gb手机", vec![3]),
            ("the phone", vec![3, 4]),
            ("submarine", vec![]),
            ("潜水艇", vec![]),
            ("  ", vec![]),
        ] {
            assert_eq!(skus(&index, text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn the_highest_version_wins_in_any_order() {
        let directory = tempfile::tempdir().unwrap();
        let index = SearchIndex::open(directory.path()).unwrap();
        let off = |version| Change::Off(OffShelf { sku: 5, version });
        let on = |version| Change::On(product(5, version, "Longjing Green Tea", "龙井 绿茶"));

        assert_eq!(index.apply(off(2)).await.unwrap(), Applied::Changed);
        assert_eq!(index.apply(on(1)).await.unwrap(), Applied::Known);
        assert!(skus(&index, "tea").is_empty());

        assert_eq!(index.apply(on(3)).await.unwrap(), Applied::Changed);
        assert_eq!(index.apply(on(3)).await.unwrap(), Applied::Known);
        assert_eq!(index.apply(off(2)).await.unwrap(), Applied::Known);
        assert_eq!(skus(&index, "tea"), [5]);
    }

    #[tokio::test]
    async fn changes_that_wait_together_are_all_applied() {
        let directory = tempfile::tempdir().unwrap();
        let index = SearchIndex::open(directory.path()).unwrap();
        let mut changes = tokio::task::JoinSet::new();
        for (sku, version) in (1..=20).flat_map(|sku| [(sku, 2), (sku, 1)]) {
            let index = index.clone();
            let change = Change::On(product(sku, version, "Longjing Green Tea", "龙井 绿茶"));
            changes.spawn(async move { index.apply(change).await.unwrap() });
        }
        changes.join_all().await;
        let found = index.search("tea", 100).unwrap();
        assert_eq!(found.total, 20);
        assert!(found.products.iter().all(|product| product.version == 2));
    }

    #[tokio::test]
    async fn what_was_applied_is_there_when_the_index_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        drop(shop(directory.path()).await);
        let index = SearchIndex::open(directory.path()).unwrap();
        assert_eq!(skus(&index, "green tea"), [5]);
        let known = product(5, 1, "Longjing Green Tea", "龙井 绿茶");
        assert_eq!(index.apply(Change::On(known)).await.unwrap(), Applied::Known);
    }
}
