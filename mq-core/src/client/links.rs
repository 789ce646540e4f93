//! Connections by address: made when first needed, made again when they have ended, not hammered
//! when they cannot be made. Not here: which address to ask, what to say on a new connection.
//!
//! Here it is also known which address is better not chosen for a send: one that cannot be reached,
//! and one that has been slow. Who chooses asks [`Link::is_resting`].
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

/// A send that took so long, and for how long others are then preferred: RocketMQ's table.
const AVOIDED: [(Duration, Duration); 5] = [
    (Duration::from_millis(550), Duration::from_secs(30)),
    (Duration::from_secs(1), Duration::from_secs(60)),
    (Duration::from_secs(2), Duration::from_secs(120)),
    (Duration::from_secs(3), Duration::from_secs(180)),
    (Duration::from_secs(15), Duration::from_secs(600)),
];
/// A send that failed counts like one that took so long.
const FAILED_AS: Duration = Duration::from_secs(10);

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
    /// Is `rest.until` or `rest.slow_until` set? Read by every send, so without the lock.
    has_failed: AtomicBool,
}

/// After failures.
#[derive(Debug, Default)]
struct Rest {
    failures: u32,
    until: Option<Instant>,
    /// Others are preferred until then.
    slow_until: Option<Instant>,
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
                link.reached();
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

    /// Did dialling fail a moment ago, or was a send slow?
    pub(super) fn is_resting(&self) -> bool {
        let rests = || {
            let (now, rest) = (Instant::now(), self.rest());
            rest.until.max(rest.slow_until).is_some_and(|until| now < until)
        };
        self.has_failed.load(Ordering::Relaxed) && rests()
    }

    /// A send took so long, or failed: others are preferred for a while, or no longer.
    pub(super) fn took(&self, latency: Duration, failed: bool) {
        let avoided = avoided_for(if failed { FAILED_AS } else { latency });
        // The usual case leaves no trace.
        if avoided.is_zero() && !self.has_failed.load(Ordering::Relaxed) {
            return;
        }
        let mut rest = self.rest();
        rest.slow_until = (!avoided.is_zero()).then(|| Instant::now() + avoided);
        self.has_failed.store(rest.until.is_some() || !avoided.is_zero(), Ordering::Relaxed);
    }

    fn reached(&self) {
        let mut rest = self.rest();
        let slow_until = rest.slow_until;
        *rest = Rest { slow_until, ..Rest::default() };
        self.has_failed.store(slow_until.is_some(), Ordering::Relaxed);
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

fn avoided_for(latency: Duration) -> Duration {
    let row = AVOIDED.iter().rfind(|(at_least, _)| latency >= *at_least);
    row.map_or(Duration::ZERO, |(_, avoided)| *avoided)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_is_avoided_until_its_time_is_over_or_it_is_fast() {
        let (inbound, _requests) = mpsc::channel(1);
        let link = Links::new(Dial::Tcp(RemoteOptions::default()), inbound).link("a:1");
        let ms = Duration::from_millis;
        for (latency_ms, avoided_s) in [(0, 0), (549, 0), (550, 30), (2_500, 120), (99_999, 600)] {
            link.took(ms(latency_ms), false);
            assert_eq!(link.is_resting(), avoided_s > 0, "{latency_ms} ms");
            tokio::time::advance(Duration::from_secs(avoided_s)).await;
            assert!(!link.is_resting(), "{latency_ms} ms, {avoided_s} s later");
        }
        link.took(ms(1), true);
        link.reached();
        assert!(link.is_resting(), "a connection alone does not make it fast");
        link.took(ms(1), false);
        assert!(!link.is_resting());
    }

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
