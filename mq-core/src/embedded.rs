//! What a broker in the process is to an application: configuration in, connections out, a way to
//! stop. The broker's crate implements it, the facade hands one to the other, so that this crate
//! never names it. Not here: the broker, the client.
//!
//! Invariant: a connection carries `Command` values; nothing is encoded and no socket is opened for
//! it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::error::Error;
use crate::protocol::command::Command;

/// A call in either direction; one that expects no answer carries none.
#[derive(Debug)]
pub struct Call {
    /// The request.
    pub command: Command,
    /// Where the answer goes; `None` for a one-way request.
    pub reply: Option<oneshot::Sender<Command>>,
}

/// The client's end of a connection in the process.
#[derive(Debug)]
pub struct LocalLink {
    /// Requests to the broker.
    pub calls: mpsc::Sender<Call>,
    /// Requests from the broker.
    pub inbound: mpsc::Receiver<Call>,
}

/// The broker's end of a connection in the process.
#[derive(Debug)]
pub struct LocalPeer {
    /// Requests from the client.
    pub calls: mpsc::Receiver<Call>,
    /// Requests to the client.
    pub outbound: mpsc::Sender<Call>,
}

/// Requests that may wait on one connection before a caller has to.
const CALLS_WAITING_MAX: usize = 1_024;

/// A new connection: the two ends.
#[must_use]
pub fn local_link() -> (LocalLink, LocalPeer) {
    let (calls, from_client) = mpsc::channel(CALLS_WAITING_MAX);
    let (outbound, inbound) = mpsc::channel(CALLS_WAITING_MAX);
    (LocalLink { calls, inbound }, LocalPeer { calls: from_client, outbound })
}

/// How an application wants its broker.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The store's directory; made when it does not exist.
    pub store: PathBuf,
    /// The address to open for other programs; `None` opens no port.
    pub listen: Option<SocketAddr>,
    /// Settings by the keys of broker.conf.
    pub settings: BTreeMap<String, String>,
    /// The clock of the broker's timers.
    pub clock: Clock,
}

/// A running broker in this process.
#[async_trait]
pub trait EmbeddedBroker: Send + Sync + fmt::Debug {
    /// A new connection to it. After [`Self::stop`] the connection is closed from the start.
    fn connect(&self) -> LocalLink;
    /// Where it listens, when it does.
    fn address(&self) -> Option<SocketAddr>;
    /// How much is due by its clock and not done yet: bytes to be indexed, delayed messages to be
    /// delivered. At 0 nothing will happen before a request comes or time goes on.
    fn behind(&self) -> u64;
    /// Stops it in order: answers what waits, syncs, closes the store.
    ///
    /// # Errors
    /// What could not be written.
    async fn stop(&self) -> Result<(), Error>;
}

/// Starts a broker. Implemented by the broker's crate.
pub type StartEmbedded =
    fn(EmbeddedOptions) -> BoxFuture<'static, Result<Arc<dyn EmbeddedBroker>, Error>>;
