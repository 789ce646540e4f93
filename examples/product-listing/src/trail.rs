//! What travelled: the last messages sent and indexed by this process, for the page to watch. In
//! memory only, and nothing depends on it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common_mq::prelude::*;
use futures_util::stream::{self, Stream, StreamExt};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::index::Applied;

const KEPT: usize = 200;

/// One end of a message's way. The page joins the two ends by `msg_id`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Step {
    pub(crate) msg_id: String,
    pub(crate) topic: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) sku: u64,
    pub(crate) version: u64,
    pub(crate) sent_ms: i64,
    /// How it arrived; absent at the sender's end.
    pub(crate) indexed: Option<Indexed>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Indexed {
    pub(crate) at_ms: i64,
    pub(crate) attempt: u32,
    pub(crate) applied: Applied,
}

#[component]
#[derive(Debug)]
pub(crate) struct Trail {
    #[init]
    kept: Mutex<VecDeque<Step>>,
    /// Gone once the process stops, which ends the streams.
    #[init(Mutex::new(Some(broadcast::channel(KEPT).0)))]
    live: Mutex<Option<broadcast::Sender<Step>>>,
}

#[component]
impl Trail {
    pub(crate) fn add(&self, step: Step) {
        let mut kept = lock(&self.kept);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(step.clone());
        if let Some(live) = &*lock(&self.live) {
            // An error says that nobody watches.
            _ = live.send(step);
        }
    }

    /// The steps that are kept, then each new one. Ends when the process stops, and for a reader
    /// that falls too far behind, who comes again.
    pub(crate) fn watch(&self) -> impl Stream<Item = Step> + use<> {
        let kept = lock(&self.kept);
        let live = lock(&self.live).as_ref().map(broadcast::Sender::subscribe);
        let live = stream::unfold(live, async |live| {
            let mut live = live?;
            let step = live.recv().await.ok()?;
            Some((step, Some(live)))
        });
        stream::iter(kept.clone()).chain(live)
    }

    pub(crate) fn close(&self) {
        lock(&self.live).take();
    }
}

/// A panic between two statements leaves a list of steps behind, which is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
