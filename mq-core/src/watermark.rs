//! `Watermark`: a number that only grows and can be awaited. It is the one mechanism behind sync
//! acks, long polls, delayed delivery and virtual time. Not here: what is counted.
//!
//! Invariants: the value never falls; a waiter is woken exactly once, when its target is reached or
//! the mark is closed; no runtime is named, so that storage threads and async tasks wait on the
//! same mark.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A monotonic number with waiters. Clones share it.
#[derive(Clone)]
pub struct Watermark(Arc<Shared>);

/// The mark was closed; the text is the reason given to [`Watermark::close`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Closed(pub Arc<str>);

struct Shared {
    /// Read without the lock; written only under it.
    value: AtomicU64,
    waiting: Mutex<Waiting>,
    threads: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// By (target, ticket): the reached ones are a prefix.
    wakers: BTreeMap<(u64, u64), Waker>,
    next_ticket: u64,
    /// What blocked threads wait for; the condition variable is only signalled for a reached one.
    threads: Vec<u64>,
    closed: Option<Arc<str>>,
}

impl Watermark {
    /// A mark that stands at `at`.
    #[must_use]
    pub fn new(at: u64) -> Self {
        Self(Arc::new(Shared {
            value: AtomicU64::new(at),
            waiting: Mutex::default(),
            threads: Condvar::new(),
        }))
    }

    /// Where the mark stands.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.value.load(Ordering::Acquire)
    }

    /// Moves the mark up to `to` and wakes everyone whose target is reached. A smaller `to` changes
    /// nothing.
    pub fn advance(&self, to: u64) {
        let mut waiting = self.0.lock();
        if to <= self.0.value.load(Ordering::Relaxed) {
            return;
        }
        self.0.value.store(to, Ordering::Release);
        let reached = match to.checked_add(1) {
            Some(next) => {
                let beyond = waiting.wakers.split_off(&(next, 0));
                std::mem::replace(&mut waiting.wakers, beyond)
            }
            None => std::mem::take(&mut waiting.wakers),
        };
        self.0.release(waiting, reached);
    }

    /// Wakes everyone with `reason`; every later wait for a value that was not reached fails with
    /// it. The first reason stays.
    pub fn close(&self, reason: impl Into<Arc<str>>) {
        let mut waiting = self.0.lock();
        if waiting.closed.is_none() {
            waiting.closed = Some(reason.into());
        }
        let all = std::mem::take(&mut waiting.wakers);
        self.0.release(waiting, all);
    }

    /// Why the mark was closed, if it was.
    #[must_use]
    pub fn closed(&self) -> Option<Arc<str>> {
        self.0.lock().closed.clone()
    }

    /// The lowest value that a task waits for.
    #[must_use]
    pub fn next_target(&self) -> Option<u64> {
        self.0.lock().wakers.first_key_value().map(|((target, _), _)| *target)
    }

    /// Resolves to the current value once it is at least `target`. Dropping the future deregisters
    /// it.
    pub fn reached(&self, target: u64) -> Reached {
        Reached { mark: self.clone(), target, ticket: None }
    }

    /// Blocks the thread until the value is at least `target` or `timeout` has passed; returns the
    /// value then.
    ///
    /// # Errors
    /// [`Closed`] when the mark is closed below `target`.
    pub fn wait_reached(&self, target: u64, timeout: Duration) -> Result<u64, Closed> {
        let started = Instant::now();
        let mut waiting = self.0.lock();
        loop {
            let value = self.get();
            if value >= target {
                return Ok(value);
            }
            if let Some(reason) = &waiting.closed {
                return Err(Closed(reason.clone()));
            }
            let Some(left) = timeout.checked_sub(started.elapsed()).filter(|d| !d.is_zero()) else {
                return Ok(value);
            };
            waiting.threads.push(target);
            (waiting, _) =
                self.0.threads.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner);
            if let Some(own) = waiting.threads.iter().position(|waits_for| *waits_for == target) {
                waiting.threads.swap_remove(own);
            }
        }
    }
}

impl Shared {
    /// Every section under this lock is a few map operations that cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes outside the lock: a woken task may run at once and ask for it.
    fn release(&self, waiting: MutexGuard<'_, Waiting>, wakers: BTreeMap<(u64, u64), Waker>) {
        let value = self.value.load(Ordering::Relaxed);
        let threads =
            waiting.closed.is_some() || waiting.threads.iter().any(|target| *target <= value);
        drop(waiting);
        if threads {
            self.threads.notify_all();
        }
        wakers.into_values().for_each(Waker::wake);
    }
}

impl fmt::Debug for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watermark").field(&self.get()).finish()
    }
}

/// The future of [`Watermark::reached`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Reached {
    mark: Watermark,
    target: u64,
    ticket: Option<u64>,
}

impl Future for Reached {
    type Output = Result<u64, Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let value = self.mark.get();
        if value >= self.target {
            return Poll::Ready(Ok(value));
        }
        let shared = self.mark.0.clone();
        let mut waiting = shared.lock();
        // Again under the lock: `advance` may have passed between the look above and here.
        let value = self.mark.get();
        if value >= self.target {
            drop(waiting);
            self.ticket = None;
            return Poll::Ready(Ok(value));
        }
        if let Some(reason) = &waiting.closed {
            return Poll::Ready(Err(Closed(reason.clone())));
        }
        let ticket = *self.ticket.get_or_insert_with(|| {
            waiting.next_ticket += 1;
            waiting.next_ticket
        });
        waiting.wakers.insert((self.target, ticket), cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.mark.0.lock().wakers.remove(&(self.target, ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_only_the_reached() {
        let mark = Watermark::new(0);
        let mut near = Box::pin(mark.reached(5));
        let mut far = Box::pin(mark.reached(6));
        assert!(futures_util::poll!(&mut near).is_pending());
        assert!(futures_util::poll!(&mut far).is_pending());
        mark.advance(5);
        assert_eq!(near.await, Ok(5));
        assert!(futures_util::poll!(&mut far).is_pending());
        mark.advance(3);
        assert_eq!(mark.get(), 5);
        mark.close("stopped");
        assert_eq!(far.await, Err(Closed("stopped".into())));
        assert_eq!(mark.reached(5).await, Ok(5), "a reached value is reached for good");
    }

    #[test]
    fn dropping_a_wait_deregisters_it() {
        let mark = Watermark::new(0);
        let mut wait = Box::pin(mark.reached(1));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(&mut cx).is_pending());
        drop(wait);
        assert!(mark.0.lock().wakers.is_empty());
    }

    #[test]
    fn a_thread_waits_and_times_out() {
        let mark = Watermark::new(1);
        assert_eq!(mark.wait_reached(2, Duration::from_millis(1)), Ok(1));
        let other = mark.clone();
        let waiter = std::thread::spawn(move || other.wait_reached(2, Duration::from_secs(60)));
        mark.advance(7);
        assert_eq!(waiter.join().expect("the waiter does not panic"), Ok(7));
    }
}
