//! HTTP: the routes of the services that this process runs, the page, and the stream of what
//! travelled. Not here: what the routes do.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use common_mq::prelude::*;
use futures_util::StreamExt;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use crate::product::{self, ProductConfig, Shelf};
use crate::search::{self, Search, SearchConfig};
use crate::trail::Trail;

/// `[web]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WebConfig {
    listen: SocketAddr,
}

impl ConfigSection for WebConfig {
    const PREFIX: &str = "web";
}

impl Default for WebConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) }
    }
}

#[component]
pub(crate) struct Web {
    config: Cfg<WebConfig>,
    product: Cfg<ProductConfig>,
    search: Cfg<SearchConfig>,
    shelf: Bean<Shelf>,
    finder: Bean<Search>,
    trail: Bean<Trail>,
    #[init]
    serving: Mutex<JoinSet<std::io::Result<()>>>,
    #[init(watch::channel(false).0)]
    stop: watch::Sender<bool>,
}

#[component]
impl Web {
    #[post_construct]
    async fn serve(&self) -> Result<(), String> {
        let listen = self.config.listen;
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            format!("cannot listen on {listen}: {error}; choose another with `--set web.listen=127.0.0.1:8090`")
        })?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let mut stop = self.stop.subscribe();
        let stopped = async move {
            // An error says that the component is gone, and that is a stop too.
            _ = stop.wait_for(|stop| *stop).await;
        };
        let server = axum::serve(listener, self.routes()).with_graceful_shutdown(stopped);
        self.serving.lock().await.spawn(async { server.await });
        println!("shop: http://{address}");
        Ok(())
    }

    #[pre_destroy]
    async fn finish(&self) {
        self.trail.close();
        self.stop.send_replace(true);
        while self.serving.lock().await.join_next().await.is_some() {}
    }

    fn routes(&self) -> Router {
        let shop = Shop {
            products: self.product.enabled.then(String::new),
            search: if self.search.enabled { Some(String::new()) } else { self.search.url.clone() },
        };
        let page = Router::new()
            .route("/", get(|| async { Html(include_str!("../page/page.html")) }))
            .route("/page.css", get(|| asset("text/css", include_str!("../page/page.css"))))
            .route("/page.js", get(|| asset("text/javascript", include_str!("../page/page.js"))))
            .route("/api/shop", get(|| async { Json(shop) }))
            .route("/api/travelled", get(travelled))
            .with_state(self.trail.clone());
        let products = product::routes(self.shelf.clone());
        page.merge(products).merge(search::routes(self.finder.clone()))
    }
}

/// Where the page finds each service: empty is here, absent is nowhere.
#[derive(Clone, Serialize)]
struct Shop {
    products: Option<String>,
    search: Option<String>,
}

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, format!("{kind}; charset=utf-8"))], text)
}

async fn travelled(State(trail): State<Bean<Trail>>) -> impl IntoResponse {
    let events = trail.watch().map(|step| Event::default().json_data(step));
    ([(ACCESS_CONTROL_ALLOW_ORIGIN, "*")], Sse::new(events).keep_alive(KeepAlive::default()))
}

/// Why a request could not be answered, or a message not be handled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("there is no product {0}")]
    NoSuchProduct(u64),
    #[error("this process is no {0} service; see `{0}.enabled`")]
    NotHere(&'static str),
    #[error("saved, but not announced yet: {0}; it will be as soon as the broker takes it")]
    NotSent(#[from] common_mq::Error),
    #[error("saved, but the broker does not hold the message safely yet ({0:?}); it is sent again")]
    NotSafe(SendStatus),
    #[error("the products' database failed: {0}")]
    Database(#[from] rusqlite::Error),
    #[error(transparent)]
    Index(#[from] crate::index::IndexError),
    #[error("the directory of the products' database: {0}")]
    Directory(#[from] std::io::Error),
    #[error("catalogue.json: {0}")]
    Catalogue(#[from] serde_json::Error),
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NoSuchProduct(_) | Self::NotHere(_) => StatusCode::NOT_FOUND,
            Self::NotSent(_) | Self::NotSafe(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(serde_json::json!({ "error": self.to_string() }))).into_response()
    }
}
