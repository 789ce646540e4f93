//! Middleware: tower layers around every call of a listener. Not here: layers themselves (tower and
//! its friends have them), panics and the consume time-out (`client/handling.rs`).
//!
//! Invariants: the layer given first is the outermost; an application without layers pays nothing;
//! a layer's error fails the attempt, it never loses the message.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, Service, ServiceExt};

use crate::app::handler::Erased;
use crate::app::listener::Listener;
use crate::client::{Handler, Outcome};
use crate::message::Delivery;

/// A message on its way to a listener, as a layer sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Whose it is.
    pub listener: Arc<ListenerInfo>,
    /// What came.
    pub delivery: Delivery,
}

/// A listener as the configuration made it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerInfo {
    /// Its id in the configuration.
    pub id: String,
    /// The function, or `Type::method`.
    pub name: &'static str,
    /// What it subscribes.
    pub topic: String,
    /// Its consumer group.
    pub group: String,
}

/// What a layer is put around: a call gives an outcome.
pub type Inner = BoxCloneSyncService<Call, Outcome, BoxError>;

/// Layers in the order they were given.
#[derive(Clone, Default)]
pub(crate) struct Layers(Vec<Arc<dyn Fn(Inner) -> Inner + Send + Sync>>);

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} layers", self.0.len())
    }
}

impl Layers {
    pub(crate) fn push<L>(&mut self, layer: L)
    where
        L: Layer<Inner> + Send + Sync + 'static,
        L::Service: Service<Call, Response = Outcome> + Clone + Send + Sync + 'static,
        <L::Service as Service<Call>>::Error: Into<BoxError>,
        <L::Service as Service<Call>>::Future: Send,
    {
        let around = move |inner| Inner::new(layer.layer(inner).map_err(Into::into));
        self.0.push(Arc::new(around));
    }

    /// The handler that a consumer calls.
    pub(crate) fn around(&self, listener: &Listener, handler: Erased) -> Arc<dyn Handler> {
        if self.0.is_empty() {
            return Arc::new(handler);
        }
        let innermost = Inner::new(Innermost(Arc::new(handler)).map_err(|never| match never {}));
        let service = self.0.iter().rev().fold(innermost, |inner, around| around(inner));
        let info = Arc::new(ListenerInfo {
            id: listener.id.clone(),
            name: listener.definition.name,
            topic: listener.subscription.topic.clone(),
            group: listener.group.clone(),
        });
        Arc::new(Layered { service, info })
    }
}

/// The listener itself.
#[derive(Clone)]
struct Innermost(Arc<Erased>);

impl Service<Call> for Innermost {
    type Response = Outcome;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Outcome, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let handler = Arc::clone(&self.0);
        Box::pin(async move { Ok(handler.handle(call.delivery).await) })
    }
}

struct Layered {
    service: Inner,
    info: Arc<ListenerInfo>,
}

#[async_trait]
impl Handler for Layered {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        let call = Call { listener: Arc::clone(&self.info), delivery };
        match self.service.clone().oneshot(call).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Retry { delay_level: 0, cause: format!("{error:#}") },
        }
    }
}
