//! The broker inside an application: `start_embedded`. Not here: what an application sees of it
//! (`mq_core::embedded`), the program `mq`.
//!
//! Invariant: the broker runs on threads of its own, so that a handler that blocks or burns a core
//! stalls neither flushes nor heartbeats.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use mq_core::Error;
use mq_core::embedded::{EmbeddedBroker, EmbeddedOptions, LocalLink, local_link};
use tokio::runtime::{Builder, Runtime};
use tracing::warn;

use crate::broker::{Broker, RunningBroker, bind};
use crate::config::{BrokerConfig, Settings, Sources};
use crate::namesrv::NameServer;
use crate::store::OsDisk;

/// Threads of an embedded broker's runtime.
const WORKERS: usize = 2;

/// Starts a name server and a broker in this process.
#[must_use]
pub fn start_embedded(
    options: EmbeddedOptions,
) -> BoxFuture<'static, Result<Arc<dyn EmbeddedBroker>, Error>> {
    Box::pin(async move {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("mq-embedded")
            .enable_all()
            .build()
            .map_err(|error| Error::Config(format!("no threads for the broker: {error}")))?;
        let started = runtime.spawn(start(options)).await;
        match started.unwrap_or_else(|panic| Err(Error::Closed(panic.to_string()))) {
            Ok(running) => {
                let address = running.address();
                let state = Mutex::new(Some((runtime, running)));
                Ok(Arc::new(Embedded { address, state }) as Arc<dyn EmbeddedBroker>)
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    })
}

async fn start(options: EmbeddedOptions) -> Result<RunningBroker, Error> {
    let loaded = BrokerConfig::load(&Sources::pairs(&options.settings))
        .map_err(|error| Error::Config(error.to_string()))?;
    for warning in loaded.warnings {
        warn!("{warning}");
    }
    let mut config = loaded.config;
    config.store_path_root_dir = options.store;
    let listeners = match options.listen {
        Some(address) => bind(address).await?,
        None => Vec::new(),
    };
    let name_server = Arc::new(NameServer::new(Default::default(), options.clock.clone()));
    Broker::start(config, options.clock, Arc::new(OsDisk), listeners, Some(name_server))
}

#[derive(Debug)]
struct Embedded {
    address: Option<SocketAddr>,
    state: Mutex<Option<(Runtime, RunningBroker)>>,
}

impl Embedded {
    fn state(&self) -> MutexGuard<'_, Option<(Runtime, RunningBroker)>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Embedded {
    /// An application that did not stop it: threads end by themselves, the next start recovers.
    fn drop(&mut self) {
        if let Some((runtime, running)) = self.state().take() {
            running.broker().begin_stop();
            runtime.shutdown_background();
        }
    }
}

#[async_trait]
impl EmbeddedBroker for Embedded {
    fn connect(&self) -> LocalLink {
        match &mut *self.state() {
            Some((runtime, running)) => running.connect_on(runtime.handle()),
            // Stopped: the other end is dropped, and the link is closed from the start.
            None => local_link().0,
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    fn behind(&self) -> u64 {
        self.state().as_ref().map_or(0, |(_, running)| running.broker().behind())
    }

    async fn stop(&self) -> Result<(), Error> {
        let Some((runtime, running)) = self.state().take() else { return Ok(()) };
        let stopped = runtime.spawn(running.stop()).await;
        runtime.shutdown_background();
        stopped.unwrap_or_else(|panic| Err(Error::Closed(panic.to_string())))
    }
}
