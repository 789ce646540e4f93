//! The search service: two listeners in two groups keep the index right, and whoever asks is
//! answered from it. Not here: the index (`index.rs`), who sends.
//!
//! Up to 32 changes are applied at once, because those that wait together share one commit of the
//! index. The listeners share nothing but the index, and their messages may overtake each other.
//! That does no harm: the index keeps the highest version of each product.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use common_mq::prelude::*;

use crate::index::{Change, SearchIndex};
use crate::messages::{OffShelf, OnShelf};
use crate::trail::{Indexed, Step, Trail};
use crate::web::Problem;

const HITS: usize = 30;
/// What is typed beyond this is not looked for.
const TEXT_CHARS: usize = 100;

/// `[search]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SearchConfig {
    /// Whether this process is a search service.
    pub(crate) enabled: bool,
    /// Where the search service is, if not here; for the page.
    pub(crate) url: Option<String>,
    index: PathBuf,
    /// Waits before each change, to watch messages being on their way.
    apply_delay_ms: u64,
}

impl ConfigSection for SearchConfig {
    const PREFIX: &str = "search";
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self { enabled: true, url: None, index: "./data/index".into(), apply_delay_ms: 0 }
    }
}

#[component]
pub(crate) struct Search {
    config: Cfg<SearchConfig>,
    trail: Bean<Trail>,
    #[init]
    index: OnceLock<SearchIndex>,
}

#[component]
impl Search {
    #[post_construct]
    async fn open(&self) -> Result<(), Problem> {
        if self.config.enabled {
            let index = SearchIndex::open(&self.config.index)?;
            self.index.get_or_init(|| index);
        }
        Ok(())
    }

    #[mq_listener(
        group = "search-on-shelf",
        concurrency = 32,
        autostart = "${search.enabled:true}"
    )]
    async fn on_shelf(
        &self,
        product: OnShelf,
        id: MsgId,
        born: BornAt,
        attempt: Attempt,
    ) -> Result<(), Problem> {
        self.apply(Change::On(product), "on", (id, born, attempt)).await
    }

    #[mq_listener(
        group = "search-off-shelf",
        concurrency = 32,
        autostart = "${search.enabled:true}"
    )]
    async fn off_shelf(
        &self,
        product: OffShelf,
        id: MsgId,
        born: BornAt,
        attempt: Attempt,
    ) -> Result<(), Problem> {
        self.apply(Change::Off(product), "off", (id, born, attempt)).await
    }

    /// An error brings the message back later; `Ok` acknowledges it, and by then the change is
    /// durable.
    async fn apply(
        &self,
        change: Change,
        tag: &'static str,
        (MsgId(msg_id), BornAt(sent_ms), Attempt(attempt)): (MsgId, BornAt, Attempt),
    ) -> Result<(), Problem> {
        Clock::System.sleep(Duration::from_millis(self.config.apply_delay_ms)).await;
        let (sku, version) = change.sku_and_version();
        let applied = self.index()?.apply(change).await?;
        let indexed = Indexed { at_ms: Clock::System.now_ms(), attempt, applied };
        let topic = OnShelf::TOPIC;
        self.trail.add(Step { msg_id, topic, tag, sku, version, sent_ms, indexed: Some(indexed) });
        Ok(())
    }

    fn index(&self) -> Result<&SearchIndex, Problem> {
        self.index.get().ok_or(Problem::NotHere("search"))
    }
}

pub(crate) fn routes(search: Bean<Search>) -> Router {
    Router::new().route("/api/search", get(find)).with_state(search)
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    text: String,
}

#[derive(Serialize)]
struct Answer {
    /// How many products match, of how many there are to find.
    total: usize,
    listed: usize,
    products: Vec<OnShelf>,
}

/// Anybody may ask, as the page of a product service elsewhere does.
async fn find(
    State(search): State<Bean<Search>>,
    Query(Asked { text }): Query<Asked>,
) -> Result<impl IntoResponse, Problem> {
    let index = search.index()?;
    let text: String = text.chars().take(TEXT_CHARS).collect();
    let found = index.search(&text, HITS)?;
    let answer = Answer { total: found.total, listed: index.listed()?, products: found.products };
    Ok(([(ACCESS_CONTROL_ALLOW_ORIGIN, "*")], Json(answer)))
}
