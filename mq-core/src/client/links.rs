//! Connections by address: made when first needed, made again when they have ended, not hammered
//! when they cannot be made. Not here: which address to ask, what to say on a new connection.
//!
//! Invariants: one connection an address, however many callers ask at once; after the n-th failure
//! in a row nobody dials for a random time of up to `REST_MIN * 2^n`, at most [`REST_MAX`].

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::id::random;
use crate::embedded::EmbeddedBroker;
use crate::error::Error;
use crate::remote::{Inbound, Remote, RemoteOptions};

const REST_MIN: Duration = Duration::from_millis(50);
const REST_MAX: Duration = Duration::from_secs(10);

/// How peers are reached.
#[derive(Debug)]
pub(super) enum Dial {
    Tcp(RemoteOptions),
    /// Whatever the address, the embedded broker is the peer.
    InProcess(Arc<dyn EmbeddedBroker>),
}

/// All connections of a client.
#[derive(Debug)]
pub(super) struct Links {
    dial: Dial,
    inbound: mpsc::Sender<Inbound>,
    table: RwLock<HashMap<String, Arc<Link>>>,
}

/// One address.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: String,
    current: RwLock<Option<Remote>>,
    /// Held while dialling, so that others wait for that attempt instead of making their own.
    dialling: tokio::sync::Mutex<()>,
    rest: Mutex<Rest>,
    /// Is `rest.until` set? Read by every send, so without the lock.
    has_failed: AtomicBool,
}

/// After failures.
#[derive(Debug, Default)]
struct Rest {
    failures: u32,
    until: Option<Instant>,
    reason: String,
}

impl Links {
    pub(super) fn new(dial: Dial, inbound: mpsc::Sender<Inbound>) -> Self {
        Self { dial, inbound, table: RwLock::default() }
    }

    /// The link to an address; nothing is dialled yet.
    pub(super) fn link(&self, address: &str) -> Arc<Link> {
        let address = match self.dial {
            Dial::Tcp(_) => address,
            Dial::InProcess(_) => "in-process",
        };
        let known = self.table.read().unwrap_or_else(PoisonError::into_inner).get(address).cloned();
        known.unwrap_or_else(|| {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            let link = || Arc::new(Link::new(address));
            table.entry(address.to_owned()).or_insert_with(link).clone()
        })
    }

    /// Forgets the links whose address is not `kept`; their connections end when nobody uses them.
    pub(super) fn retain(&self, kept: impl Fn(&str) -> bool) {
        if matches!(self.dial, Dial::Tcp(_)) {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            table.retain(|address, _| kept(address));
        }
    }

    /// Every link there is.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.values().cloned().collect()
    }

    /// The live connection of `link`, made now if there is none. `greet` is awaited on a new one
    /// before others see it.
    pub(super) async fn remote(
        &self,
        link: &Link,
        greet: impl AsyncFnOnce(&Remote),
    ) -> Result<Remote, Error> {
        if let Some(remote) = link.current() {
            return Ok(remote);
        }
        let _dialling = link.dialling.lock().await;
        if let Some(remote) = link.current() {
            return Ok(remote);
        }
        link.check_rest()?;
        match self.dial(&link.address).await {
            Ok(remote) => {
                greet(&remote).await;
                *link.current.write().unwrap_or_else(PoisonError::into_inner) =
                    Some(remote.clone());
                *link.rest() = Rest::default();
                link.has_failed.store(false, Ordering::Relaxed);
                Ok(remote)
            }
            Err(error) => {
                link.failed(&error);
                Err(error)
            }
        }
    }

    async fn dial(&self, address: &str) -> Result<Remote, Error> {
        match &self.dial {
            Dial::Tcp(options) => Remote::connect(address, options, self.inbound.clone()).await,
            Dial::InProcess(broker) => Ok(Remote::local(broker.connect(), self.inbound.clone())),
        }
    }
}

impl Link {
    fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            current: RwLock::default(),
            dialling: tokio::sync::Mutex::default(),
            rest: Mutex::default(),
            has_failed: AtomicBool::new(false),
        }
    }

    /// The connection, if there is one and it lives.
    pub(super) fn current(&self) -> Option<Remote> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|remote| !remote.is_closed()).cloned()
    }

    /// Did dialling fail a moment ago?
    pub(super) fn is_resting(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
            && self.rest().until.is_some_and(|until| Instant::now() < until)
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_rest(&self) -> Result<(), Error> {
        let rest = self.rest();
        match rest.until.is_some_and(|until| Instant::now() < until) {
            true => Err(Error::Connect {
                address: self.address.clone(),
                source: io::Error::other(format!("{} (a moment ago)", rest.reason)),
            }),
            false => Ok(()),
        }
    }

    fn failed(&self, error: &Error) {
        let mut rest = self.rest();
        let longest = REST_MIN.saturating_mul(1 << rest.failures.min(16)).min(REST_MAX);
        let jitter = f64::from(u32::try_from(random() >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        rest.failures = rest.failures.saturating_add(1);
        rest.until = Some(Instant::now() + longest.mul_f64(jitter));
        self.has_failed.store(true, Ordering::Relaxed);
        rest.reason = match error {
            Error::Connect { source, .. } => source.to_string(),
            other => other.to_string(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_address_rests() {
        let (inbound, _requests) = mpsc::channel(1);
        let links = Links::new(Dial::Tcp(RemoteOptions::default()), inbound);
        // Port 1 on loopback: nobody listens.
        let link = links.link("127.0.0.1:1");
        for _ in 0..20 {
            let failed = links.remote(&link, async |_: &Remote| {}).await;
            assert!(matches!(failed, Err(Error::Connect { .. })));
        }
        assert!(link.rest().failures < 20, "most attempts found the address resting");
        assert!(Arc::ptr_eq(&link, &links.link("127.0.0.1:1")));
    }
}
